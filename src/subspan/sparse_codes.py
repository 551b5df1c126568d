"""Sparse self-expression of many samples, block by block, into one sparse matrix (layer 1).

Two solvers of the same Lasso, ``min ||c_i||_1 + weight/2 ||x_i - c_i D||^2`` with atom i forbidden to sample i:
ADMM on blocks of rows (:func:`blockwise_admm`), and scikit-learn's coordinate descent per sample on a growing set of
atoms (:func:`active_set_lasso`), exact because every other atom is checked before a sample is closed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from sklearn.linear_model import lars_path_gram, lasso_path
from torch import Tensor

from subspan.convex import StopReason, lasso_admm, lasso_kkt

COHERENT = 1e-6  # inner products of unit vectors below this are rounding noise
BLOCK_ENTRIES = 1 << 22  # entries of one (rows x atoms) block, 32 MiB in float64
_ADDED = 50  # atoms that join the active set of a sample at a time
_ROUNDS = 100  # of growing an active set
_EXACT = 1e-5  # slack of the optimality conditions inside an active set


@dataclass(frozen=True)
class SparseCodes:
    """Codes of all samples.

    Attributes
    ----------
    C : csr_array of shape (n, m)
        Float64.
    kkt : float
        Largest violation of the optimality conditions, see :func:`subspan.convex.lasso_kkt`.
    n_iter : int
        Largest number of iterations (rounds) of any block.
    stop_reason : "converged" or "max_iter"
    """

    C: sparse.csr_array
    kkt: float
    n_iter: int
    stop_reason: StopReason


def row_blocks(n: int, width: int, entries: int = BLOCK_ENTRIES) -> Iterator[slice]:
    """Slices that cover range(n), each of at most ``entries / width`` rows."""
    size = max(1, entries // max(1, width))
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def blockwise_admm(
    samples: Tensor | None,
    atoms: Tensor | None,
    factor: tuple[Tensor, Tensor],
    weight: float,
    *,
    gram: Tensor | None = None,
    total: Tensor | None = None,
    tol: float,
    max_iter: int,
) -> SparseCodes:
    """:func:`subspan.convex.lasso_admm` for all samples; sample i may not use atom i.

    Parameters
    ----------
    samples : Tensor of shape (n, d), or None with ``gram``
    atoms : Tensor of shape (m, d), or None with ``gram``
        The first n atoms are the samples.
    factor : pair of Tensors
        See :func:`subspan.convex.orthogonal_factor`.
    weight : float
    gram : Tensor of shape (n, n), optional
        Kernel values, in the place of samples and atoms.
    total, tol, max_iter
        See :func:`subspan.convex.lasso_admm`.

    Returns
    -------
    SparseCodes
        ``C`` has shape (n, m).
    """
    n, m = (len(gram), len(gram)) if gram is not None else (len(samples), len(atoms))  # type: ignore[arg-type]
    parts, kkt, n_iter, stop = [], 0.0, 0, "converged"
    for rows in row_blocks(n, m):
        cross = gram[rows] if gram is not None else samples[rows] @ atoms.T  # type: ignore[index, union-attr]
        own = torch.arange(rows.start, rows.stop, device=cross.device)
        found = lasso_admm(cross, factor, weight, own=own, total=total, tol=tol, max_iter=max_iter)
        parts.append(sparse.csr_array(found.codes.cpu().numpy()))
        kkt, n_iter = float(np.maximum(kkt, found.kkt)), max(n_iter, found.n_iter)
        stop = found.stop_reason if found.stop_reason != "converged" else stop
    return SparseCodes(sparse.csr_array(sparse.vstack(parts)), kkt, n_iter, stop)  # type: ignore[arg-type]


def active_set_lasso(samples: Tensor, atoms: Tensor, weight: float, *, tol: float = 1e-6) -> SparseCodes:
    """The same codes by scikit-learn's coordinate descent on active sets; memory and time suit large n.

    Parameters
    ----------
    samples : Tensor of shape (n, d)
    atoms : Tensor of shape (m, d)
        The first n atoms are the samples.
    weight : float, above 0
    tol : float
        An atom joins while its optimality condition is violated by more than this.

    Returns
    -------
    SparseCodes
        ``C`` has shape (n, m). ``stop_reason`` is "max_iter" where coordinate descent left violations above ``tol``.
    """
    D = atoms.cpu().numpy()
    parts, kkt, rounds = [], 0.0, 0
    for rows in row_blocks(len(samples), len(atoms)):
        own = np.arange(rows.start, rows.stop)
        block = _ActiveBlock(samples[rows], atoms, D, own, weight, tol)
        n_rounds = block.solve()
        C = block.codes()
        dense = torch.from_numpy(C.toarray()).to(samples)
        cross = samples[rows] @ atoms.T
        # C D D^T needs no factor of its own here: with U = D the Gram matrix is D D^T
        found = lasso_kkt(dense, cross, atoms, weight, own=torch.from_numpy(own).to(samples.device))
        kkt = float(np.maximum(kkt, found))
        rounds = max(rounds, n_rounds)
        parts.append(C)
    stop: StopReason = "converged" if kkt <= tol else "max_iter"
    return SparseCodes(sparse.csr_array(sparse.vstack(parts)), kkt, rounds, stop)


class _ActiveBlock:
    """Active sets and codes of one block of samples."""

    def __init__(
        self, samples: Tensor, atoms: Tensor, D: np.ndarray, own: np.ndarray, weight: float, tol: float
    ) -> None:
        self.samples, self.atoms, self.D, self.own = samples, atoms, D, own
        self.X = samples.cpu().numpy()
        self.weight, self.tol = weight, tol
        self.sets: list[np.ndarray] = [np.zeros(0, dtype=np.int64) for _ in own]
        self.values: list[np.ndarray] = [np.zeros(0) for _ in own]

    def solve(self) -> int:
        """Grow and solve until no atom outside violates its condition; rounds taken."""
        residual = self.X.copy()
        is_open = np.arange(len(self.own))
        for n_round in range(_ROUNDS):
            # |g_j| <= 1 for every atom of every open sample, one matrix product for all of them
            g = self.weight * (torch.from_numpy(residual[is_open]).to(self.atoms) @ self.atoms.T).abs()
            g[torch.arange(len(is_open)), torch.from_numpy(self.own[is_open]).to(g.device)] = 0.0
            top, which = (part.cpu().numpy() for part in g.topk(min(_ADDED, g.shape[1]), dim=1))
            still = []
            for row, i in enumerate(is_open.tolist()):
                new = np.setdiff1d(which[row][top[row] > 1.0 + self.tol], self.sets[i], assume_unique=True)
                if len(new) == 0:
                    continue
                self._update(i, new)
                residual[i] = self.X[i] - self.values[i] @ self.D[self.sets[i]]
                still.append(i)
            if not still:
                return n_round
            is_open = np.array(still)
        return _ROUNDS

    def codes(self) -> sparse.csr_array:
        """Codes of the block, shape (b, m), without explicit zeros."""
        ends = np.cumsum([0, *(len(chosen) for chosen in self.sets)])
        entries = (np.concatenate(self.values), np.concatenate(self.sets), ends)
        C = sparse.csr_array(entries, shape=(len(self.sets), len(self.D)))
        C.eliminate_zeros()
        return C

    def _update(self, i: int, new: np.ndarray) -> None:
        # nothing leaves a set, so it can be visited finitely often only
        chosen = np.concatenate([self.sets[i], new])
        start = np.concatenate([self.values[i], np.zeros(len(new))])
        self.sets[i], self.values[i] = chosen, _small_lasso(self.X[i], self.D[chosen], self.weight, start)


def _small_lasso(x: np.ndarray, atoms: np.ndarray, weight: float, start: np.ndarray) -> np.ndarray:
    """Lasso codes (t,) of ``x`` (d,) over ``atoms`` (t, d): scikit-learn's, then exact on the support it found.

    Coordinate descent finds the support of most samples at once; where atoms are too coherent for it, LARS follows
    the path; where atoms are dependent, so that no path is unique, coordinate descent goes on.
    """
    gram, cross = np.ascontiguousarray(atoms @ atoms.T), atoms @ x
    alpha = 1.0 / (weight * len(x))  # scikit-learn divides the squared error by 2 d

    def descend(codes: np.ndarray, tol: float, max_iter: int) -> np.ndarray:
        _, path, _ = lasso_path(
            np.asfortranarray(atoms.T),
            x,
            alphas=[alpha],
            precompute=gram,
            Xy=cross,
            coef_init=codes,
            random_state=np.random.RandomState(0),  # or scikit-learn draws from the global one, cyclic or not
            tol=tol,
            max_iter=max_iter,
        )
        return path[:, 0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimality conditions are checked and reported
        codes = descend(start, 1e-7, 300)
        exact = _exact_on_support(codes, gram, cross, weight)
        if exact is None:
            _, _, path = lars_path_gram(cross, gram, n_samples=len(x), alpha_min=alpha, method="lasso")
            exact = _exact_on_support(path[:, -1], gram, cross, weight)
        return descend(codes, 1e-13, 3000) if exact is None else exact


def _exact_on_support(codes: np.ndarray, gram: np.ndarray, cross: np.ndarray, weight: float) -> np.ndarray | None:
    """The minimiser among codes of these signs, or None if its signs differ or it is not the only one."""
    support = codes.nonzero()[0]
    if len(support) == 0:
        return codes
    sign = np.sign(codes[support])
    try:
        values = cho_solve(cho_factor(gram[np.ix_(support, support)]), cross[support] - sign / weight)
    except LinAlgError:  # dependent atoms, such as duplicated samples
        return None
    if not (np.sign(values) == sign).all():  # NaN fails as well
        return None
    exact = np.zeros_like(codes)
    exact[support] = values
    g = weight * (cross - gram @ exact)
    return exact if np.abs(g).max() <= 1.0 + _EXACT else None
