"""Losses of Neural Collaborative Subspace Clustering, Eqs. 5-9, and the two that keep it from collapsing (layer 1).

``H(p || q)`` carries its minus sign. Logarithms are taken of ``x.clamp_min(eps)``, eps = 1e-6 (1e-12 in float64): the
loss is bounded, and a student value below eps gets no gradient. For ``A_s = 1`` in Eq. 7 nothing is lost by that,
since the maximum of a row is 1 whatever ``C`` is.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from subspan.affinity import negative_mask, positive_pairs
from subspan.errors import InvalidInputError

Reduction = Literal["mean", "sum"]


class OmegaTerms(NamedTuple):
    """Sums over the selected pairs of Eqs. 6 and 7 (scalar tensors), and how many pairs were selected."""

    L_pos: Tensor
    L_neg: Tensor
    n_pos: int
    n_neg: int


def omega_terms(A_s: Tensor, A_c: Tensor, u: float, l: float) -> OmegaTerms:  # noqa: E741
    """Both collaboration terms as sums, with their pair counts, from one selection of pairs.

    Parameters
    ----------
    A_s, A_c : Tensors of shape (n, n)
        In Eq. 6 ``A_s`` teaches ``A_c``, in Eq. 7 ``A_c`` teaches ``A_s``; a teacher gets no gradient.
    u, l : float in [0, 1]

    Returns
    -------
    OmegaTerms

    Raises
    ------
    InvalidInputError
        The affinities differ in shape or are not square, or a threshold is outside [0, 1].
    """
    pos, n_pos = _positive(A_s, A_c, u)
    neg, n_neg = _negative(A_c, A_s, l)
    return OmegaTerms(pos, neg, n_pos, n_neg)


def L_pos(A_s: Tensor, A_c: Tensor, u: float, *, reduction: Reduction = "mean") -> Tensor:
    """Positive collaboration, Eq. 6: ``-log A_c`` weighted by the soft mask ``M_s * A_s``.

    Parameters
    ----------
    A_s : Tensor of shape (n, n)
        Teacher, without gradient.
    A_c : Tensor of shape (n, n)
        Student.
    u : float in [0, 1]
        Off-diagonal pairs with ``A_s > u`` are selected.
    reduction : {"mean", "sum"}
        Over the selected pairs; their number, not their weight, divides.

    Returns
    -------
    Tensor
        Scalar; 0, still in the graph, when no pair is selected.

    Raises
    ------
    InvalidInputError
        As :func:`omega_terms`.
    """
    return _reduce(*_positive(A_s, A_c, u), reduction)


def L_neg(A_c: Tensor, A_s: Tensor, l: float, *, reduction: Reduction = "mean") -> Tensor:  # noqa: E741
    """Negative collaboration, Eq. 7: ``-log(1 - A_s)`` weighted by the soft mask ``M_c * (1 - A_c)``.

    Parameters
    ----------
    A_c : Tensor of shape (n, n)
        Teacher, without gradient.
    A_s : Tensor of shape (n, n)
        Student.
    l : float in [0, 1]
        Off-diagonal pairs with ``A_c < l`` are selected.
    reduction : {"mean", "sum"}
        Over the selected pairs; their number, not their weight, divides.

    Returns
    -------
    Tensor
        Scalar; 0, still in the graph, when no pair is selected.

    Raises
    ------
    InvalidInputError
        As :func:`omega_terms`.
    """
    return _reduce(*_negative(A_c, A_s, l), reduction)


def Omega(
    A_s: Tensor,
    A_c: Tensor,
    u: float,
    l: float,  # noqa: E741
    *,
    alpha: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Collaboration, Eq. 5: ``L_pos + alpha * L_neg``.

    With sums the paper's ``alpha`` is the number of positive pairs over the number of negative ones. With means the
    counts are divided out already and the same balance is ``alpha = 1``: the mean form is the sum form over the number
    of positive pairs.

    Parameters
    ----------
    A_s, A_c : Tensors of shape (n, n)
    u, l : float in [0, 1]
    alpha : float, optional
        Multiplies the reduced ``L_neg``; by default the paper's balance as above.
    reduction : {"mean", "sum"}

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    InvalidInputError
        As :func:`omega_terms`.
    """
    pos, neg, n_pos, n_neg = omega_terms(A_s, A_c, u, l)
    if alpha is None:
        alpha = 1.0 if reduction == "mean" else n_pos / max(n_neg, 1)
    return _reduce(pos, n_pos, reduction) + alpha * _reduce(neg, n_neg, reduction)


def L_sub(C: Tensor, Z: Tensor, X: Tensor, Xhat: Tensor, lambda_1: Tensor | float) -> Tensor:
    """Subspace loss, Eq. 9: ``||C||_F^2 + lambda_1 / 2 ||Z - C Z||_F^2 + 1/2 ||X - Xhat||_F^2``.

    Parameters
    ----------
    C : Tensor of shape (n, n)
    Z : Tensor of shape (n, d)
    X, Xhat : Tensors of one shape (n, ...)
        Input and reconstruction.
    lambda_1 : Tensor or float
        ``2 / rho`` for the ridge weight ``rho`` of the closed form.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    InvalidInputError
        ``X`` and ``Xhat`` differ in shape.
    """
    return L_sub_from_terms(C.square().sum(), (Z - C @ Z).square().sum(), X, Xhat, lambda_1)


def L_sub_from_terms(norm: Tensor, residual: Tensor, X: Tensor, Xhat: Tensor, lambda_1: Tensor | float) -> Tensor:
    """Eq. 9 from ``norm = ||C||_F^2`` and ``residual = ||Z - C Z||_F^2``, which need no n x n matrix.

    Raises
    ------
    InvalidInputError
        ``X`` and ``Xhat`` differ in shape.
    """
    if X.shape != Xhat.shape:
        raise InvalidInputError(
            f"X is {tuple(X.shape)} but Xhat is {tuple(Xhat.shape)}; reconstruct the input's shape."
        )
    return norm + lambda_1 / 2 * residual + (X - Xhat).square().sum() / 2


def L(sub: Tensor, omega: Tensor, lambda_cl: float) -> Tensor:
    """Whole loss, Eq. 8: ``L_sub + lambda_cl * Omega``, from the values of Eqs. 9 and 5."""
    return sub + lambda_cl * omega


def pair_confidence_loss(log_p_i: Tensor, log_p_j: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean of ``-log(p_i . p_j)`` over pairs: Eq. 6 without the l2 norm, so it asks for confidence too.

    Parameters
    ----------
    log_p_i, log_p_j : Tensors of shape (m, k), or (R, m, k) for R starts at once
        Log-softmax scores of the two samples of each pair.
    weight : Tensor of shape (m,) or (R, m), optional
        Non-negative, treated as constant; all ones by default.

    Returns
    -------
    Tensor
        Scalar, or (R,); 0, still in the graph, without pairs or with all weights zero.
    """
    value = -torch.logsumexp(log_p_i + log_p_j, dim=-1)  # (..., m)
    weight = torch.ones_like(value) if weight is None else weight.detach().to(value).expand_as(value)
    return (weight * value).sum(dim=-1) / weight.sum(dim=-1).clamp_min(torch.finfo(value.dtype).tiny)


def balance_loss(log_p: Tensor, prior: Tensor | None = None) -> Tensor:
    """``KL(mean p || prior)``: keeps all points from sharing one cluster.

    For the uniform prior this is ``log k - H(mean p)``.

    Parameters
    ----------
    log_p : Tensor of shape (m, k), or (R, m, k) for R starts at once
        Log-softmax scores.
    prior : Tensor of shape (k,), or (R, k) with one row per start, optional
        Expected cluster sizes, positive, normalised here; uniform by default.

    Returns
    -------
    Tensor
        Scalar, or (R,).

    Raises
    ------
    InvalidInputError
        ``prior`` has another length than k, or an entry that is not positive and finite.
    """
    m, k = log_p.shape[-2:]
    log_mean = torch.logsumexp(log_p, dim=-2) - math.log(m)  # (..., k)
    if prior is None:
        return (log_mean.exp() * log_mean).sum(dim=-1) + math.log(k)
    if prior.shape not in ((k,), (*log_p.shape[:-2], k)) or not bool(((prior > 0) & prior.isfinite()).all()):
        raise InvalidInputError(f"prior must hold {k} positive finite numbers, one per cluster.")
    return (log_mean.exp() * (log_mean - (prior / prior.sum(dim=-1, keepdim=True)).log())).sum(dim=-1)


def _positive(A_s: Tensor, A_c: Tensor, u: float) -> tuple[Tensor, int]:
    """Sum of Eq. 6 over the selected pairs, and their number. Positives are few, so they are gathered."""
    _check_same(A_s, A_c)
    i, j, weight = positive_pairs(A_s, u)
    return -(weight * _log(A_c[i, j])).sum(), len(i)


def _negative(A_c: Tensor, A_s: Tensor, l: float) -> tuple[Tensor, int]:  # noqa: E741
    """Sum of Eq. 7 over the selected pairs, and their number. Negatives are most pairs, so they stay a dense mask."""
    _check_same(A_s, A_c)
    mask = negative_mask(A_c, l)
    weight = (1.0 - A_c.detach()).mul_(mask)
    return -(weight * _log(1.0 - A_s)).sum(), int(mask.sum())


def _log(x: Tensor) -> Tensor:
    return x.clamp_min(1e-12 if x.dtype == torch.float64 else 1e-6).log()


def _reduce(total: Tensor, count: int, reduction: Reduction) -> Tensor:
    if reduction not in ("mean", "sum"):
        raise InvalidInputError(f"reduction is {reduction!r}; choose 'mean' or 'sum'.")
    return total / max(count, 1) if reduction == "mean" else total


def _check_same(A_s: Tensor, A_c: Tensor) -> None:
    if A_s.shape != A_c.shape:
        raise InvalidInputError(
            f"A_s is {tuple(A_s.shape)} but A_c is {tuple(A_c.shape)}; use the same samples for both."
        )
