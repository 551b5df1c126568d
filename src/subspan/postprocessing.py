"""From coefficients to an affinity (layer 1): each published step under its own name, none hidden in a method.

``C`` is a dense array or a SciPy sparse matrix of shape (n, n), row i the coefficients of sample i. Without options
:func:`coefficient_affinity` is the raw affinity ``(|C| + |C|^T) / 2``. Much of the published gain of some methods
comes from these steps (Haeffele, You, Vidal 2021), so results are worth printing with and without.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh

from subspan.errors import InvalidInputError

Matrix = Any  # ndarray or scipy.sparse matrix of shape (n, n)

_BLOCK_ENTRIES = 1 << 22  # that are sorted at a time
_DENSE_EIGEN = 3000  # up to this n a full eigendecomposition is quick


def coefficient_affinity(
    C: Matrix,
    *,
    keep: float | None = None,
    keep_axis: int = 1,
    scale_rows: bool = False,
    rank: int | None = None,
    power: float | None = None,
) -> Matrix:
    """Affinity of coefficients: optional steps in the order of the arguments, then symmetrisation.

    Parameters
    ----------
    C : ndarray or sparse matrix of shape (n, n)
        Not modified.
    keep, keep_axis
        See :func:`keep_largest`.
    scale_rows : bool
        See :func:`scale_rows_to_one`.
    rank : int, optional
        See :func:`truncate_rank`; the result is dense.
    power : float, optional
        See :func:`raise_to_power`.

    Returns
    -------
    ndarray or csr_array of shape (n, n)
        Symmetric, non-negative, zero diagonal unless ``rank`` is used.

    Raises
    ------
    InvalidInputError
        ``C`` is not square, or an option is out of range.
    """
    _check_square(C)
    if keep is not None:
        C = keep_largest(C, keep, axis=keep_axis)
    if scale_rows:
        C = scale_rows_to_one(C)
    A = symmetrise(C) if rank is None else truncate_rank(C, rank)
    return A if power is None else raise_to_power(A, power)


def keep_largest(C: Matrix, share: float, *, axis: int = 1) -> Matrix:
    """Keep the largest entries of every row that together reach a share of its l1 norm; the rest becomes zero.

    The entry that crosses the share is kept too (SSC's and DSC-Net's published step).

    Parameters
    ----------
    C : ndarray or sparse matrix of shape (n, n)
    share : float in (0, 1]
        1 keeps everything.
    axis : 1 or 0
        1: among the coefficients of a sample. 0: along columns, which is what DSC-Net's released code does to its C.

    Returns
    -------
    Same kind as ``C``.

    Raises
    ------
    InvalidInputError
        ``share`` or ``axis`` is out of range.
    """
    if not 0.0 < share <= 1.0:
        raise InvalidInputError(f"keep is {share}; give a share of the l1 norm above 0 and at most 1.")
    if axis not in (0, 1):
        raise InvalidInputError(f"axis is {axis}; use 1 (rows) or 0 (columns).")
    if share == 1.0:
        return C
    if axis == 0:
        return keep_largest(C.T, share).T
    if not sparse.issparse(C):
        size = max(1, _BLOCK_ENTRIES // C.shape[1])
        return np.concatenate([_keep_in_rows(C[i : i + size], share) for i in range(0, len(C), size)])
    C = sparse.csr_array(C, copy=True)
    for start, stop in zip(C.indptr[:-1], C.indptr[1:], strict=True):
        if stop > start:
            C.data[start:stop] = _keep_in_rows(C.data[None, start:stop], share)[0]
    C.eliminate_zeros()
    return C


def scale_rows_to_one(C: Matrix) -> Matrix:
    """Divide every row by its largest absolute entry (Elhamifar and Vidal 2013, Alg. 1, step 2); zero rows stay."""
    if sparse.issparse(C):
        C = sparse.csr_array(C)
        top = np.asarray(abs(C).max(axis=1).todense()).ravel()
        return sparse.csr_array(sparse.diags_array(1.0 / np.where(top > 0, top, 1.0)) @ C)
    top = np.abs(C).max(axis=1, keepdims=True)
    return C / np.where(top > 0, top, 1.0).astype(C.dtype, copy=False)


def symmetrise(C: Matrix) -> Matrix:
    """``(|C| + |C|^T) / 2``."""
    A = abs(sparse.csr_array(C)) if sparse.issparse(C) else np.abs(C)
    return sparse.csr_array((A + A.T) * 0.5) if sparse.issparse(A) else (A + A.T) * A.dtype.type(0.5)


def truncate_rank(C: Matrix, rank: int) -> np.ndarray:
    """Cosine affinity of the leading spectral factors of C, negative parts cut.

    With ``(C + C^T) / 2 ~ U S U^T`` over the ``rank`` eigenvalues of largest modulus, the rows of ``U |S|^(1/2)`` are
    scaled to unit length and multiplied: the step of LRR (Liu et al. 2013, Alg. 2) and of DSC-Net, whose rank is
    ``d k + 1`` for k subspaces of dimension d.

    Parameters
    ----------
    C : ndarray or sparse matrix of shape (n, n)
    rank : int, at least 1
        At most n is used.

    Returns
    -------
    ndarray of shape (n, n)
        In [0, 1].
    """
    if rank < 1:
        raise InvalidInputError(f"rank is {rank}; give at least 1.")
    n = C.shape[0]
    M = (C + C.T) * 0.5
    if n <= _DENSE_EIGEN or rank >= n - 1:
        M = M.toarray() if sparse.issparse(M) else np.asarray(M, dtype=np.float64)
        values, vectors = eigh(M)
        leading = np.argsort(-np.abs(values), kind="stable")[: min(rank, n)]
        values, vectors = values[leading], vectors[:, leading]
    else:
        values, vectors = eigsh(M, k=rank, which="LM", v0=np.ones(n, dtype=M.dtype))
    return factor_affinity(vectors * np.sqrt(np.abs(values)))


def factor_affinity(F: np.ndarray) -> np.ndarray:
    """``max(F F^T, 0)`` for factors ``F`` (n, r) whose rows are scaled to unit length; zero rows stay."""
    norms = np.linalg.norm(F, axis=1, keepdims=True)
    F = F / np.where(norms > np.finfo(F.dtype).eps * norms.max(initial=0.0), norms, np.inf)
    return np.maximum(F @ F.T, 0.0)


def raise_to_power(A: Matrix, power: float) -> Matrix:
    """Every entry divided by the largest one, then raised to ``power`` (above 0)."""
    if not power > 0:
        raise InvalidInputError(f"power is {power}; give a number above 0.")
    top = A.max()
    if not top > 0:
        return A
    if not sparse.issparse(A):
        return (A / top) ** power
    A = sparse.csr_array(A, copy=True)
    A.data = (A.data / top) ** power
    return A


def _keep_in_rows(rows: np.ndarray, share: float) -> np.ndarray:
    """:func:`keep_largest` along the last axis of a dense array (b, m)."""
    size = np.abs(rows)
    order = np.argsort(-size, axis=1, kind="stable")
    ordered = np.take_along_axis(size, order, axis=1)
    reached = np.cumsum(ordered, axis=1, dtype=np.float64)
    kept_ordered = (reached - ordered) <= share * reached[:, -1:]  # the sum before this entry has not crossed
    kept = np.empty_like(kept_ordered)
    np.put_along_axis(kept, order, kept_ordered, axis=1)
    return np.where(kept, rows, rows.dtype.type(0))


def _check_square(C: Matrix) -> None:
    if C.ndim != 2 or C.shape[0] != C.shape[1] or C.shape[0] == 0:
        raise InvalidInputError(f"C has shape {C.shape}; give a square matrix of coefficients.")
