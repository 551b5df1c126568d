from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.csgraph import laplacian
from sklearn.cluster._spectral import cluster_qr as sklearn_cluster_qr
from sklearn.metrics import adjusted_rand_score

from subspan.errors import InvalidInputError, SelfExpressionError
from subspan.spectral import cluster_qr, spectral_embedding, spectral_labels


def affinity(n, seed=0, density=1.0):
    rng = np.random.default_rng(seed)
    A = rng.random((n, n)) * (rng.random((n, n)) < density)
    return np.triu(A, 1) + np.triu(A, 1).T


def blocks(sizes, seed=0, bridge=0.0):
    A = np.full((sum(sizes), sum(sizes)), bridge)
    start = 0
    for size in sizes:
        A[start : start + size, start : start + size] = affinity(size, seed) + 0.1
        start += size
    return A, np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize("solver", ["dense", "arpack"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_eigenpairs_are_those_of_the_normalised_laplacian(form, solver):
    A = affinity(40)
    L = laplacian(A, normed=True)
    expected = np.linalg.eigvalsh(L)[:5]
    values, vectors = spectral_embedding(form(A), 5, seed=0, solver=solver)
    np.testing.assert_allclose(values, expected, atol=1e-9)
    np.testing.assert_allclose(L @ vectors, vectors * values, atol=1e-7)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(5), atol=1e-9)


@pytest.mark.parametrize("assign", ["kmeans", "cluster_qr"])
@pytest.mark.parametrize("solver", ["dense", "arpack"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("bridge", [0.0, 0.01])
def test_blocks_are_found(form, solver, assign, bridge):
    A, y = blocks([12, 30, 20], bridge=bridge)
    order = np.random.default_rng(0).permutation(len(A))
    labels = spectral_labels(form(A[order][:, order]), 3, seed=0, assign=assign, solver=solver)
    assert labels.dtype == np.int64
    assert adjusted_rand_score(y[order], labels) == 1.0


def test_large_affinities_go_to_the_iterative_solver(monkeypatch):
    A = affinity(40)
    calls = []
    monkeypatch.setattr(
        "subspan.spectral._largest", lambda *args: calls.append(args) or (np.zeros(3), np.zeros((40, 3)))
    )
    spectral_embedding(A, 3, seed=0)
    assert not calls
    monkeypatch.setattr("subspan.spectral._DENSE_LIMIT", 30)
    spectral_embedding(A, 3, seed=0)
    assert len(calls) == 1
    spectral_embedding(A, 39, seed=0)  # almost all vectors: dense again
    assert len(calls) == 1


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("bridge", [0.0, 1e-9, 1e-6])
@pytest.mark.parametrize("tol", [1e-8, 1e-2])
def test_clusters_that_hardly_touch_all_have_their_eigenvector(form, bridge, tol):
    """30 clusters have 30 eigenvalues of (almost) zero, and Lanczos' method sees one vector of an eigenspace."""
    rng, c, size = np.random.default_rng(0), 30, 20
    i = np.repeat(np.arange(c * size), 5)
    A = np.zeros((c * size, c * size))
    A[i, i // size * size + rng.integers(size, size=len(i))] = 1.0
    first = np.arange(c - 1) * size
    A[first, first + size] = bridge
    A = A + A.T
    values, vectors = spectral_embedding(form(A), c, seed=0, solver="arpack", tol=tol)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(laplacian(A, normed=True))[:c], atol=tol)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(c), atol=1e-9)
    labels = spectral_labels(form(A), c, seed=0, solver="arpack")
    assert adjusted_rand_score(np.arange(c * size) // size, labels) == 1.0


def test_isolated_samples_do_no_harm():
    A, y = blocks([10, 10])
    A[3] = A[:, 3] = 0.0
    values, vectors = spectral_embedding(A, 2, seed=0)
    np.testing.assert_allclose(values, 0.0, atol=1e-12)
    assert np.isfinite(vectors).all()
    labels = spectral_labels(A, 2, seed=0)
    others = np.arange(20) != 3
    assert adjusted_rand_score(y[others], labels[others]) == 1.0


def test_affinity_is_left_alone_and_seeds_decide():
    A = affinity(50, density=0.2)
    kept = A.copy()
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = spectral_labels(A, 4, seed=1, solver="arpack")
    np.testing.assert_array_equal(first, spectral_labels(A, 4, seed=1, solver="arpack"))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.testing.assert_array_equal(A, kept)


@pytest.mark.parametrize("seed", [0, 1])
def test_cluster_qr_equals_scikit_learn(seed):
    vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(30, 4)))[0]
    np.testing.assert_array_equal(cluster_qr(vectors), sklearn_cluster_qr(vectors))


def test_cluster_counts_at_the_ends():
    A = affinity(6)
    np.testing.assert_array_equal(spectral_labels(A, 1, seed=0), 0)
    assert len(set(spectral_labels(A, 6, seed=0))) == 6


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize(
    ("A", "message"),
    [
        (np.array([[0, 1.0], [0.5, 0]]), "symmetric"),
        (np.array([[0, -1.0], [-1, 0]]), "negative"),
        (np.array([[0, np.nan], [np.nan, 0]]), "NaN"),
        (np.array([[0, np.inf], [np.inf, 0]]), "infinite"),
    ],
)
def test_what_is_no_affinity_is_refused(form, A, message):
    with pytest.raises(InvalidInputError, match=message):
        spectral_labels(form(A), 2, seed=0)


def test_wrong_arguments_are_named():
    A = affinity(4)
    for call in (
        lambda: spectral_labels(A, 5, seed=0),
        lambda: spectral_labels(A[:3], 2, seed=0),
        lambda: spectral_labels(A, 2, seed=0, assign="discretize"),
        lambda: spectral_labels(A, 2, seed=0, solver="lobpcg"),
    ):
        with pytest.raises(InvalidInputError):
            call()


def test_a_failing_eigensolver_is_a_named_error(monkeypatch):
    from scipy.sparse.linalg import ArpackError

    def fail(*args, **kwargs):
        raise ArpackError(-9999)

    monkeypatch.setattr("subspan.spectral.eigsh", fail)
    with pytest.raises(SelfExpressionError, match="did not converge"):
        spectral_embedding(affinity(40), 3, seed=0, solver="arpack")
