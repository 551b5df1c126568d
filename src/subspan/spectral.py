"""Spectral clustering of a given affinity (layer 1), dense or sparse: the one last stage of all affinity methods.

``L = I - D^-1/2 A D^-1/2``; its k lowest eigenvectors embed the samples (Ng, Jordan, Weiss 2002), and k-means on the
rows of unit length, or a pivoted QR (Damle, Minden, Ying 2019), turns them into labels.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy import sparse
from scipy.linalg import eigh, qr, svd
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from subspan.errors import InvalidInputError, SelfExpressionError

Solver = Literal["auto", "dense", "arpack"]
Assign = Literal["kmeans", "cluster_qr"]

_DENSE_LIMIT = 2000  # up to this n LAPACK's subset of eigenvectors is quick and never fails
_SAME, _GLANCE = 1e-5, 1e-3  # difference of eigenvalues that does not count, and accuracy of a look for missed ones,
_MORE = 20  # of which so many are sought at once


def spectral_labels(
    A: Any,
    n_clusters: int,
    *,
    seed: int,
    assign: Assign = "kmeans",
    n_init: int = 10,
    solver: Solver = "auto",
) -> np.ndarray:
    """Labels of the samples of an affinity.

    Parameters
    ----------
    A : ndarray or sparse matrix of shape (n, n)
        Symmetric and non-negative; the diagonal counts. Not modified.
    n_clusters : int
        1 <= n_clusters <= n.
    seed : int
        Of k-means and of the eigensolver's start.
    assign : {"kmeans", "cluster_qr"}
    n_init : int
        Starts of k-means; the one of lowest inertia is kept.
    solver : {"auto", "dense", "arpack"}
        See :func:`spectral_embedding`.

    Returns
    -------
    ndarray of shape (n,), int64
        In 0 .. n_clusters - 1; a cluster stays empty where the embedding has fewer distinct rows than clusters.

    Raises
    ------
    InvalidInputError
        ``A`` is not a symmetric non-negative matrix, or an option is unknown.
    SelfExpressionError
        The eigenvectors could not be computed.
    """
    if assign not in ("kmeans", "cluster_qr"):
        raise InvalidInputError(f"assign_labels is {assign!r}; choose 'kmeans' or 'cluster_qr'.")
    _, vectors = spectral_embedding(A, n_clusters, seed=seed, solver=solver)
    if n_clusters == 1:
        return np.zeros(len(vectors), dtype=np.int64)
    if assign == "cluster_qr":
        return cluster_qr(vectors)
    rows = unit_rows(vectors)
    kmeans = KMeans(n_clusters, n_init=n_init, random_state=np.random.RandomState(seed))
    with threadpool_limits(1, user_api="openmp"):  # several threads add up in any order
        return kmeans.fit_predict(rows).astype(np.int64)


def spectral_embedding(
    A: Any, n_components: int, *, seed: int, solver: Solver = "auto", tol: float = 1e-8
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest eigenpairs of the normalised Laplacian.

    Samples without neighbours have degree zero: their row of ``D^-1/2 A D^-1/2`` is zero.

    Parameters
    ----------
    A : ndarray or sparse matrix of shape (n, n)
    n_components : int
    seed : int
        Of the start vector of ARPACK.
    solver : {"auto", "dense", "arpack"}
        "dense" is LAPACK on the full matrix; "auto" takes it up to n = 2000, or if almost all vectors are wanted.
    tol : float
        Relative accuracy of the eigenvalues that ARPACK stops at.

    Returns
    -------
    values : ndarray of shape (n_components,)
        Eigenvalues of ``L``, ascending, in [0, 2].
    vectors : ndarray of shape (n, n_components)
        Orthonormal columns, float64.

    Raises
    ------
    InvalidInputError, SelfExpressionError
        As in :func:`spectral_labels`.
    """
    _check(A, n_components, solver)
    n = A.shape[0]
    degrees = np.asarray(A.sum(axis=1, dtype=np.float64)).ravel()
    scale = np.where(degrees > 0, 1.0 / np.sqrt(np.where(degrees > 0, degrees, 1.0)), 0.0)
    if solver == "dense" or n_components >= n - 1 or (solver == "auto" and n <= _DENSE_LIMIT):
        N = (A.toarray() if sparse.issparse(A) else np.asarray(A)).astype(np.float64)
        N *= scale[:, None]
        N *= scale
        values, vectors = eigh(N, subset_by_index=[n - n_components, n - 1], overwrite_a=True)
    else:
        values, vectors = _largest(A, scale, n_components, seed, tol)
    order = np.argsort(-values, kind="stable")
    return 1.0 - values[order], vectors[:, order]


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows (n, d) divided by their length; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


def cluster_qr(vectors: np.ndarray) -> np.ndarray:
    """Labels without iteration or randomness, from orthonormal eigenvectors (Damle, Minden, Ying 2019).

    Parameters
    ----------
    vectors : ndarray of shape (n, k)

    Returns
    -------
    ndarray of shape (n,), int64
    """
    k = vectors.shape[1]
    _, _, pivots = qr(vectors.T, pivoting=True, mode="economic")
    left, _, right = svd(vectors[pivots[:k]].T)  # the polar factor of the k pivot rows
    return np.abs(vectors @ (left @ right)).argmax(axis=1).astype(np.int64)


def _largest(A: Any, scale: np.ndarray, k: int, seed: int, tol: float) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenpairs of ``diag(scale) A diag(scale)`` by ARPACK, without a scaled copy of a dense A.

    Clusters that do not touch, or hardly, have the same eigenvalue, of which Lanczos' method shows one vector or a few.
    So it is asked again for what is left without the known ones, until nothing larger appears.
    """
    n = A.shape[0]
    dtype = np.float64
    if sparse.issparse(A):
        S = sparse.diags_array(scale)
        N = sparse.csr_array(S @ A @ S)
    else:
        narrow = scale.astype(A.dtype) if A.dtype.kind == "f" else scale
        N = LinearOperator(
            (n, n), matvec=lambda x: narrow * (A @ (narrow * x.ravel().astype(narrow.dtype))), dtype=dtype
        )
    rng = np.random.default_rng(seed)
    values, vectors = _lanczos(N, k, rng, tol)
    same, limit = max(tol, _SAME), min(k, _MORE)
    while _lanczos(_without(N, values, vectors), 1, rng, max(tol, _GLANCE))[0][0] > values.min() + same:
        more, found = _lanczos(_without(N, values, vectors), limit, rng, tol)
        missed = more > values.min() + same
        if not missed.any():
            break
        values, vectors = _rayleigh_ritz(N, np.hstack([vectors, found[:, missed]]), k)
    return values, vectors


def _lanczos(N: Any, k: int, rng: np.random.Generator, tol: float) -> tuple[np.ndarray, np.ndarray]:
    """k large eigenpairs of N. From one start vector only one vector of each eigenspace can be seen."""
    n = N.shape[0]
    start = rng.uniform(-1.0, 1.0, n)
    for vectors, rounds in ((max(2 * k + 1, 20), 10), (max(6 * k, 100), 50)):  # a wider basis when the gap is small
        try:
            return eigsh(N, k=k, which="LA", v0=start, ncv=min(n, vectors), maxiter=rounds * n, tol=tol)
        except ArpackError:
            continue
    raise SelfExpressionError(
        "The eigenvectors of the affinity did not converge: use solver 'dense', or an affinity with fewer components."
    )


def _without(N: Any, values: np.ndarray, vectors: np.ndarray) -> LinearOperator:
    """N with the eigenvalues of known vectors (n, k) moved to -2, below all others."""

    def matvec(x: np.ndarray) -> np.ndarray:
        x = x.ravel()
        return N @ x - vectors @ ((values + 2.0) * (vectors.T @ x))

    return LinearOperator(N.shape, matvec=matvec, dtype=np.float64)


def _rayleigh_ritz(N: Any, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenpairs of N in the span of the vectors (n, m)."""
    basis = qr(vectors, mode="economic")[0]
    values, mixed = eigh(basis.T @ (N @ basis), subset_by_index=[basis.shape[1] - k, basis.shape[1] - 1])
    return values, basis @ mixed


def _check(A: Any, n_components: int, solver: str) -> None:
    if solver not in ("auto", "dense", "arpack"):
        raise InvalidInputError(f"solver is {solver!r}; choose 'auto', 'dense' or 'arpack'.")
    if A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape[0] == 0:
        raise InvalidInputError(f"The affinity has shape {A.shape}; give a square matrix.")
    if not 1 <= n_components <= A.shape[0]:
        raise InvalidInputError(f"{n_components} clusters were asked of {A.shape[0]} samples; ask for 1 to that many.")
    entries = A.data if sparse.issparse(A) else A
    low, high = (entries.min(), entries.max()) if entries.size else (0.0, 0.0)
    if not (low >= 0 and np.isfinite(high)):  # NaN fails the first comparison
        raise InvalidInputError("The affinity has negative, NaN or infinite entries: pass (|C| + |C|^T) / 2.")
    gap = abs(A - A.T).max() if sparse.issparse(A) else _asymmetry(np.asarray(A))
    if gap > 1e-5 * high:
        raise InvalidInputError("The affinity is not symmetric: pass (A + A^T) / 2.")


def _asymmetry(A: np.ndarray, block: int = 512) -> float:
    """``max |A - A^T|``, block of rows by block of rows."""
    parts = (range(start, min(start + block, len(A))) for start in range(0, len(A), block))
    return max(float(np.abs(A[p.start : p.stop] - A[:, p.start : p.stop].T).max()) for p in parts)
