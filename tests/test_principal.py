"""Leading eigenpairs of large matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackNoConvergence

from subspan import principal
from subspan.principal import leading_eigenpairs


def scatter(n: int, rank: int) -> np.ndarray:
    """Lower triangle of a scatter matrix of the given rank; entries above it must not be read."""
    rows = np.random.default_rng(0).normal(size=(rank, n)) * np.geomspace(1, 1e-3, rank)[:, None]
    return np.tril(rows.T @ rows) + np.triu(np.full((n, n), 7.0), 1)


def refuse(*args, **options):
    raise ArpackNoConvergence("no convergence", np.empty(0), np.empty((0, 0)))


@pytest.mark.parametrize("n", [40, principal.LARGE])
@pytest.mark.parametrize("rank", [3, 30, 200])
@pytest.mark.parametrize("converges", [True, False])
def test_leading_eigenpairs(n, rank, converges, monkeypatch):
    if not converges:
        monkeypatch.setattr(principal, "eigsh", refuse)
    matrix = scatter(n, rank)
    values, vectors = leading_eigenpairs(matrix, 4, principal.CPU)
    expected, others = eigh(matrix, lower=True, subset_by_index=[n - 4, n - 1])
    np.testing.assert_allclose(values, expected, atol=1e-10 * expected[-1])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=1e-10)
    found = min(rank, 4)  # beyond the rank any directions will do
    np.testing.assert_allclose(np.abs((vectors.T @ others).diagonal()[-found:]), 1, atol=1e-8)
    again = leading_eigenpairs(matrix, 4, principal.CPU)
    assert np.array_equal(values, again[0])
    assert np.array_equal(vectors, again[1])


def test_zero_matrix():
    values, vectors = leading_eigenpairs(np.zeros((principal.LARGE, principal.LARGE)), 3, principal.CPU)
    assert (values == 0).all()
    assert np.isfinite(vectors).all()
