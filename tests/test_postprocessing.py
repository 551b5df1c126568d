from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from subspan.errors import InvalidInputError
from subspan.postprocessing import (
    coefficient_affinity,
    factor_affinity,
    keep_largest,
    raise_to_power,
    scale_rows_to_one,
    symmetrise,
    truncate_rank,
)


def coefficients(n=9, seed=0, density=0.6):
    rng = np.random.default_rng(seed)
    C = rng.normal(size=(n, n)) * (rng.random((n, n)) < density)
    np.fill_diagonal(C, 0.0)
    C[2] = 0.0
    return C


def naive_keep(C, share):
    """Row by row, entry by entry: take the largest until the sum of those taken exceeds the share."""
    kept = np.zeros_like(C)
    for row, out in zip(C, kept, strict=True):
        order = sorted(range(len(row)), key=lambda j: -abs(row[j]))
        taken = 0.0
        for j in order:
            out[j] = row[j]
            taken += abs(row[j])
            if taken > share * np.abs(row).sum():
                break
    return kept


@pytest.mark.parametrize("share", [0.04, 0.2, 0.5, 0.93])
@pytest.mark.parametrize("seed", [0, 1])
def test_keep_largest_equals_the_loop(seed, share):
    C = coefficients(seed=seed)
    np.testing.assert_array_equal(keep_largest(C, share), naive_keep(C, share))
    np.testing.assert_array_equal(keep_largest(sparse.csr_array(C), share).toarray(), naive_keep(C, share))
    np.testing.assert_array_equal(keep_largest(C, share, axis=0), naive_keep(C.T, share).T)


def test_keep_largest_by_hand():
    C = np.array([[0, 5.0, -3, 2], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]])
    np.testing.assert_array_equal(
        keep_largest(C, 0.5), [[0, 5, -3, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]
    )  # 5 is half of 10 and does not exceed it, so -3 comes too
    assert keep_largest(C, 1.0) is C


def test_symmetrise_and_scale_by_hand():
    C = np.array([[0, -2.0, 1], [0, 0, 4], [0, 0, 0]])
    np.testing.assert_array_equal(symmetrise(C), [[0, 1, 0.5], [1, 0, 2], [0.5, 2, 0]])
    np.testing.assert_array_equal(scale_rows_to_one(C), [[0, -1, 0.5], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(raise_to_power(symmetrise(C), 2.0) * 16, [[0, 4, 1], [4, 0, 16], [1, 16, 0]])


def naive_rank(C, rank, power):
    """DSC-Net's affinity with a full SVD."""
    U, S, _ = np.linalg.svd((C + C.T) / 2)
    F = U[:, :rank] * np.sqrt(S[:rank])
    F = F / np.linalg.norm(F, axis=1, keepdims=True)
    A = np.maximum(F @ F.T, 0) ** power
    return A / A.max()


@pytest.mark.parametrize(("rank", "power"), [(3, 1.0), (4, 3.5), (9, 8.0)])
def test_rank_truncation_and_power_equal_the_svd_formula(rank, power):
    C = coefficients(density=1.0)
    C[2] = np.random.default_rng(7).normal(size=9)
    expected = naive_rank(C, rank, power)
    for matrix in (C, sparse.csr_array(C)):
        np.testing.assert_allclose(coefficient_affinity(matrix, rank=rank, power=power), expected, atol=1e-10)


def test_iterative_eigenvectors_give_the_same_affinity(monkeypatch):
    rng = np.random.default_rng(0)
    F = rng.normal(size=(60, 4))
    C = F @ np.diag([9.0, -7, 5, 3]) @ F.T
    dense = truncate_rank(C, 4)
    monkeypatch.setattr("subspan.postprocessing._DENSE_EIGEN", 10)
    np.testing.assert_allclose(truncate_rank(C, 4), dense, atol=1e-8)
    np.testing.assert_allclose(truncate_rank(sparse.csr_array(C), 4), dense, atol=1e-8)


def test_zero_rows_stay_zero():
    A = factor_affinity(np.array([[3.0, 0], [0, 0], [-1, 1]]))
    np.testing.assert_allclose(A, [[1, 0, 0], [0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("options", [{}, {"keep": 0.5}, {"scale_rows": True, "power": 2.0}, {"keep": 0.9, "rank": 4}])
def test_affinity_is_symmetric_non_negative_and_sparse_equals_dense(options):
    C = coefficients(12, seed=3)
    kept = C.copy()
    A = coefficient_affinity(C, **options)
    B = coefficient_affinity(sparse.csr_array(C), **options)
    np.testing.assert_array_equal(C, kept)
    np.testing.assert_allclose(A, A.T, atol=1e-12)
    assert A.min() >= 0
    np.testing.assert_allclose(B.toarray() if sparse.issparse(B) else B, A, atol=1e-9)
    assert sparse.issparse(B) == ("rank" not in options)


def test_steps_come_in_their_order():
    # scaling rows after thresholding differs from before only through what is kept; rank comes after both
    C = coefficients(8, seed=5, density=1.0)
    expected = truncate_rank(scale_rows_to_one(naive_keep(C, 0.5)), 3) ** 2
    A = coefficient_affinity(C, keep=0.5, scale_rows=True, rank=3, power=2.0)
    np.testing.assert_allclose(A, expected / expected.max(), atol=1e-10)


def test_float32_stays_float32():
    C = coefficients().astype(np.float32)
    assert coefficient_affinity(C, keep=0.5, scale_rows=True).dtype == np.float32


@pytest.mark.parametrize(
    "options", [{"keep": 0.0}, {"keep": 1.5}, {"rank": 0}, {"power": 0.0}, {"keep": 0.5, "keep_axis": 2}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(InvalidInputError):
        coefficient_affinity(coefficients(), **options)
    with pytest.raises(InvalidInputError, match="square"):
        coefficient_affinity(np.zeros((2, 3)))
