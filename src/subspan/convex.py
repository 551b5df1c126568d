"""Proximal maps and the two ADMM loops of convex self-expression (layer 1): pure functions on tensors.

Rows are samples. Both loops have two blocks, so they converge for any fixed penalty; the penalty is balanced
(Boyd et al. 2011, Sec. 3.4.1) during the first half of the iterations only. A result carries its residuals and the
reason it stopped; nothing is raised when the iterations run out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

StopReason = Literal["converged", "max_iter"]

_CHECK_EVERY = 10  # iterations between two looks at the optimality conditions
_RELAX = 1.6  # over-relaxation (Boyd et al. 2011, Sec. 3.4.3)
_BALANCE_AT, _BALANCE_BY = 2.0, 5.0
_TINY = 1e-300


@dataclass(frozen=True)
class Solution:
    """What an ADMM loop returns.

    Attributes
    ----------
    codes : Tensor
        The minimiser; its meaning is said by the function that returns it.
    primal, dual : float
        Last relative residuals of the splitting.
    kkt : float
        Violation of the optimality conditions, in the units that the function states.
    n_iter : int
    stop_reason : "converged" or "max_iter"
    """

    codes: Tensor
    primal: float
    dual: float
    kkt: float
    n_iter: int
    stop_reason: StopReason


def soft_threshold(X: Tensor, threshold: Tensor | float) -> Tensor:
    """Proximal map of ``threshold * ||X||_1``: every entry shrunk towards zero; same shape as ``X``."""
    return X.sign() * (X.abs() - threshold).clamp_min(0.0)


def group_threshold(X: Tensor, threshold: Tensor | float) -> Tensor:
    """Proximal map of ``threshold * ||X||_{2,1}``: every row of ``X`` (n, d) shortened by ``threshold``."""
    norms = X.norm(dim=1, keepdim=True)
    return X * (1.0 - threshold / norms.clamp_min(_tiny(X))).clamp_min(0.0)


def singular_value_threshold(X: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Proximal map of ``threshold * ||X||_*``.

    Parameters
    ----------
    X : Tensor of shape (n, r)
    threshold : float, above 0

    Returns
    -------
    Y : Tensor of shape (n, r)
    singular_values : Tensor
        Those of ``Y`` that are left, all above zero.
    """
    if X.shape[0] < X.shape[1]:
        Y, values = singular_value_threshold(X.T, threshold)
        return Y.T, values
    # the Gram matrix is enough: rounding reaches singular values near sqrt(eps) of the largest, which are cut
    squares, V = torch.linalg.eigh(X.T @ X)
    values = squares.clamp_min(0.0).sqrt()
    kept = values > max(threshold, 0.0)
    values, V = values[kept], V[:, kept]
    return (X @ V * (1.0 - threshold / values)) @ V.T, values - threshold


def orthogonal_factor(*, atoms: Tensor | None = None, gram: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Factor ``U`` with orthogonal columns and ``U U^T = D D^T`` for atoms ``D`` (rows), or for a given Gram matrix.

    Parameters
    ----------
    atoms : Tensor of shape (m, d), optional
    gram : Tensor of shape (m, m), optional
        Symmetric, positive semi-definite up to rounding. Give one of the two.

    Returns
    -------
    U : Tensor of shape (m, r)
    s : Tensor of shape (r,)
        Squared column norms, the non-zero eigenvalues of the Gram matrix.
    """
    if atoms is not None and len(atoms) > atoms.shape[1]:
        s, V = torch.linalg.eigh(atoms.T @ atoms)
        kept = _nonzero(s)
        return atoms @ V[:, kept], s[kept]
    if gram is None:
        assert atoms is not None
        gram = atoms @ atoms.T
    s, Q = torch.linalg.eigh(gram)
    kept = _nonzero(s)
    return Q[:, kept] * s[kept].sqrt(), s[kept]


def lasso_admm(
    cross: Tensor,
    factor: tuple[Tensor, Tensor],
    weight: float,
    *,
    own: Tensor | None = None,
    total: Tensor | None = None,
    tol: float = 1e-4,
    max_iter: int = 1000,
) -> Solution:
    """Lasso codes of a block of samples over shared atoms: ``min ||c||_1 + weight/2 ||x - c D||^2`` for every row.

    Only inner products enter, so the atoms may live in the feature space of a kernel.

    Parameters
    ----------
    cross : Tensor of shape (b, m)
        Inner products ``x_i . d_j`` of samples and atoms.
    factor : pair of Tensors
        ``U`` (m, r) and ``s`` (r,) from :func:`orthogonal_factor` of the atoms.
    weight : float, above 0
    own : Tensor of shape (b,), optional
        The atom that row i may not use (itself).
    total : Tensor of shape (m,), optional
        Adds the constraint ``c . total = 1`` (affine subspaces).
    tol : float
        The loop ends when :func:`lasso_kkt` is at most this.
    max_iter : int

    Returns
    -------
    Solution
        ``codes`` (b, m), exactly zero where the l1 norm puts zeros; ``kkt`` from :func:`lasso_kkt`.
    """
    U, s = factor
    rho = weight * float(U.square().sum()) / len(U) if len(U) else 1.0
    rho = rho or 1.0
    J = torch.zeros_like(cross)
    Y = torch.zeros_like(cross)  # multiplier of A = J
    primal = dual = kkt = math.inf
    for n_iter in range(1, max_iter + 1):
        A = _ridge_solve(weight * cross + rho * J - Y, U, s, weight, rho)
        if total is not None:
            along = _ridge_solve(total[None, :], U, s, weight, rho)  # (1, m)
            A += (1.0 - A @ total)[:, None] / (along @ total) * along
        relaxed = _RELAX * A + (1.0 - _RELAX) * J
        before, J = J, soft_threshold(relaxed + Y / rho, 1.0 / rho)
        if own is not None:
            J[torch.arange(len(J), device=J.device), own] = 0.0
        Y += rho * (relaxed - J)
        if n_iter % _CHECK_EVERY and n_iter < max_iter:
            continue
        primal = _ratio((A - J).norm(), torch.maximum(A.norm(), J.norm()))
        dual = _ratio(rho * (J - before).norm(), Y.norm())
        kkt = lasso_kkt(J, cross, U, weight, own=own, total=total)
        if kkt <= tol:
            return Solution(J, primal, dual, kkt, n_iter, "converged")
        if n_iter <= max_iter // 2:
            rho *= _balance(primal, dual)
    return Solution(J, primal, dual, kkt, max_iter, "max_iter")


def lasso_kkt(
    C: Tensor, cross: Tensor, U: Tensor, weight: float, *, own: Tensor | None = None, total: Tensor | None = None
) -> float:
    """Largest violation of the Lasso's optimality conditions, where a subgradient of the l1 norm lies in [-1, 1].

    With ``g = weight (cross - C U U^T)``: ``g_j = sign(c_j)`` on the support and ``|g_j| <= 1`` off it. With ``total``
    the multiplier ``nu`` of the constraint is subtracted, ``g - nu total``, and ``|c . total - 1|`` counts as well.

    Parameters
    ----------
    C, cross : Tensors of shape (b, m)
    U : Tensor of shape (m, r)
    weight, own, total
        As in :func:`lasso_admm`.
    """
    if C.numel() == 0:
        return 0.0
    g = weight * (cross - (C @ U) @ U.T)
    support = C != 0
    worst = 0.0
    if total is not None:
        tied = support & (total != 0)
        nu = ((g - C.sign()) * tied).sum(1) / (tied * total).sum(1).clamp_min(1.0)
        g = g - nu[:, None] * total
        worst = float((C @ total - 1.0).abs().max())
    gap = torch.where(support, (g - C.sign()).abs(), (g.abs() - 1.0).clamp_min(0.0))
    if own is not None:
        gap[torch.arange(len(C), device=C.device), own] = 0.0
    return float(gap.max().clamp_min(worst))  # NaN stays


def low_rank_admm(X: Tensor, lam: float, *, tol: float = 1e-5, max_iter: int = 1000) -> tuple[Solution, Tensor]:
    """Low-rank codes with sample-wise noise: ``min ||C||_* + lam ||E||_{2,1}  s.t.  X = C X + E``.

    The rows of the optimal ``C`` lie in the column space of ``X = U S V^T``, so ``C = W U^T`` with ``W`` (n, r), and
    ``E`` may be rotated into ``E V`` (n, r); nothing of size n x n appears.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    lam : float, above 0
    tol : float
        Bound on both relative residuals.
    max_iter : int

    Returns
    -------
    solution : Solution
        ``codes`` is ``W`` (n, r), of exactly low rank; ``kkt`` is the larger of the two residuals.
    basis : Tensor of shape (n, r)
        ``U``; ``C = W U^T``.
    """
    U, S, _ = thin_svd(X)
    F = U * S  # X V
    rho = 1.0
    W = torch.zeros_like(F)
    u1, u2 = torch.zeros_like(F), torch.zeros_like(F)  # scaled multipliers of W = J and F = W S + E
    J = W
    primal = dual = math.inf
    for n_iter in range(1, max_iter + 1):
        J, _ = singular_value_threshold(W + u1, 1.0 / rho)
        E = group_threshold(F - W * S + u2, lam / rho)
        before, W = W, ((J - u1) + (F - E + u2) * S) / (1.0 + S * S)
        u1 += W - J
        u2 += F - W * S - E
        r1, r2 = (W - J).norm(), (F - W * S - E).norm()
        primal = _ratio(torch.hypot(r1, r2), torch.hypot(torch.maximum(W.norm(), J.norm()), F.norm()))
        step = W - before
        dual = _ratio(torch.hypot(step.norm(), (step * S).norm()), torch.hypot(u1.norm(), u2.norm()))
        if max(primal, dual) <= tol:
            return Solution(J, primal, dual, max(primal, dual), n_iter, "converged"), U
        if n_iter % _CHECK_EVERY == 0 and n_iter <= max_iter // 2:
            factor = _balance(primal, dual)
            rho, u1, u2 = rho * factor, u1 / factor, u2 / factor
    return Solution(J, primal, dual, max(primal, dual), max_iter, "max_iter"), U


def thin_svd(X: Tensor, tolerance: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """``U`` (n, r), ``S`` (r,), ``V`` (d, r) with ``X = U S V^T`` up to singular values below ``tolerance * S[0]``.

    By default that is rounding noise of the dtype; r is at least 1.
    """
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    if tolerance is None:
        tolerance = max(X.shape) * torch.finfo(X.dtype).eps
    r = max(1, int((S / S[0].clamp_min(_TINY) > tolerance).sum()))
    return U[:, :r], S[:r], Vh[:r].T


def _ridge_solve(R: Tensor, U: Tensor, s: Tensor, weight: float, rho: float) -> Tensor:
    """``R (weight U U^T + rho I)^-1`` for ``R`` (b, m), by Woodbury in the orthogonal factor."""
    return (R - ((R @ U) * (weight / (rho + weight * s))) @ U.T) / rho


def _nonzero(s: Tensor) -> Tensor:
    """Mask of the eigenvalues (ascending) that are more than rounding noise."""
    return s > s[-1].clamp_min(0.0) * len(s) * torch.finfo(s.dtype).eps


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part) / max(float(whole), _TINY)


def _balance(primal: float, dual: float) -> float:
    """Factor for the penalty: larger when the constraint lags, smaller when the minimiser does."""
    if primal <= _BALANCE_AT * dual and dual <= _BALANCE_AT * primal:
        return 1.0
    ratio = math.sqrt(max(primal, _TINY) / max(dual, _TINY))
    return min(max(ratio, 1.0 / _BALANCE_BY), _BALANCE_BY)


def _tiny(X: Tensor) -> float:
    return torch.finfo(X.dtype).tiny
