from __future__ import annotations

import numpy as np
import pytest
import torch
from self_expressive_laws import SelfExpressiveLaws, planted
from sklearn.linear_model import orthogonal_mp
from sklearn.utils.estimator_checks import parametrize_with_checks

import subspan.sparse_codes
from subspan.errors import InvalidInputError
from subspan.methods.ssc_omp import SSCOMP, omp_codes


class TestLaws(SelfExpressiveLaws):
    estimator = SSCOMP


PLANE = "samples with two features are all spanned by any two others, so greedy codes say nothing about blobs"


@parametrize_with_checks([SSCOMP()], expected_failed_checks=lambda _: {"check_clustering": PLANE})
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def unit_rows(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def naive_omp(X, i, k, eps):
    """Algorithm 1, one sample."""
    chosen, c, q = [], np.zeros(0), X[i]
    while len(chosen) < k and np.linalg.norm(q) > eps:
        inner = np.abs(X @ q)
        inner[[i, *chosen]] = -1.0
        chosen.append(int(inner.argmax()))
        c = np.linalg.lstsq(X[chosen].T, X[i], rcond=None)[0]
        q = X[i] - c @ X[chosen]
    row = np.zeros(len(X))
    row[chosen] = c
    return row


@pytest.mark.parametrize(("k", "eps"), [(1, 1e-6), (4, 1e-6), (4, 0.5), (100, 1e-6)])
def test_codes_equal_the_algorithm(k, eps, monkeypatch):
    X, _, _ = planted(0, k=3, dim=3, p=9, m=10, noise=0.3)
    Z = unit_rows(X)
    expected = np.array([naive_omp(Z, i, k, eps) for i in range(len(Z))])
    C = omp_codes(torch.from_numpy(Z), k, eps)
    np.testing.assert_allclose(C.toarray(), expected, atol=1e-8)
    assert (C.diagonal() == 0).all()
    monkeypatch.setattr(subspan.sparse_codes.row_blocks, "__defaults__", (70,))  # two samples a block
    np.testing.assert_allclose(omp_codes(torch.from_numpy(Z), k, eps).toarray(), expected, atol=1e-8)


def test_codes_equal_scikit_learn():
    X, _, _ = planted(1, k=3, dim=3, p=15, m=10, noise=0.3)
    Z = unit_rows(X)
    C = omp_codes(torch.from_numpy(Z), 5, 1e-9).toarray()
    for i in range(len(Z)):
        expected = orthogonal_mp(np.delete(Z, i, axis=0).T, Z[i], n_nonzero_coefs=5)
        np.testing.assert_allclose(np.delete(C[i], i), expected, atol=1e-8)


def test_a_sample_is_done_when_it_is_spanned():
    # noiseless planes: two atoms are enough, and a duplicate needs one
    X, _, _ = planted(2, k=3, dim=2, m=10)
    X[1] = -3.0 * X[0]
    C = SSCOMP(3, random_state=0).fit(X).coefficients_
    counts = np.diff(C.indptr)
    assert counts.max() == 2
    np.testing.assert_array_equal(counts[:2], 1)


def test_nothing_of_size_n_by_n_is_expected():
    # 70,000 digits of 784 pixels stay below 1 GB, and twice the samples take twice the memory
    model = SSCOMP(10)
    needed = model._bytes(70_000, 784)
    assert needed < 1e9
    assert model._bytes(140_000, 784) < 2.1 * needed
    assert 6 * needed < 4 * 70_000**2


def test_wrong_options_are_named():
    for bad in ({"n_nonzero": 2.5}, {"n_nonzero": 0}, {"eps": -1.0}):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            SSCOMP(2, **bad).fit(np.eye(4))
