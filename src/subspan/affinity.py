"""Affinities of the two collaborators and the pairs that each is sure of (layer 1).

``A_s`` comes from self-expression (Eq. 4), ``A_c`` from the classifier (Eq. 1); both are (n, n) with values in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from subspan.errors import InvalidInputError


def subspace_affinity(C: Tensor, *, symmetric: bool = False, positive: bool = False) -> Tensor:
    """Subspace affinity ``A_s`` (Eq. 4, normalised as in Sec. 4 of the paper).

    ``(|C| + |C|^T) / 2`` with every row divided by its own largest off-diagonal entry, and ones on the diagonal.
    The row maxima differ, so ``A_s`` is not symmetric; row i says whom sample i trusts.

    Parameters
    ----------
    C : Tensor of shape (n, n)
        Self-expression coefficients. The diagonal is ignored.
    symmetric : bool
        Return ``(A_s + A_s^T) / 2``.
    positive : bool
        Negative coefficients count as zero instead of by their size.

    Returns
    -------
    Tensor of shape (n, n)
        In [0, 1], differentiable. Rows without any coefficient are zero off the diagonal.

    Raises
    ------
    InvalidInputError
        ``C`` is not a square matrix.
    """
    _check_square(C, "C")
    A = C.clamp_min(0.0) if positive else C.abs()
    A = (A + A.T).fill_diagonal_(0.0)  # the 1/2 cancels in the division
    top = A.amax(dim=1, keepdim=True)  # (n, 1)
    top = torch.where(top > 0, top, 1.0)
    # without a graph the division may overwrite: n = 5000 is 100 MB a copy
    A = A / top if A.requires_grad else A.div_(top)
    A.fill_diagonal_(1.0)
    return (A + A.T) / 2 if symmetric else A


def normalise_scores(p: Tensor) -> Tensor:
    """Softmax scores ``p`` (..., k) divided by the l2 norm of each row: ``nu`` of Eq. 1."""
    return torch.nn.functional.normalize(p, dim=-1)


def classifier_affinity(nu: Tensor) -> Tensor:
    """Classifier affinity ``A_c = nu nu^T`` (Eq. 1).

    Parameters
    ----------
    nu : Tensor of shape (n, k)
        Rows of non-negative scores with unit l2 norm, see :func:`normalise_scores`.

    Returns
    -------
    Tensor of shape (n, n)
        In [0, 1] up to rounding, differentiable.

    Raises
    ------
    InvalidInputError
        ``nu`` is not a matrix.
    """
    if nu.ndim != 2:
        raise InvalidInputError(f"nu is {tuple(nu.shape)}; give one row of scores per sample.")
    return nu @ nu.T


def positive_mask(A_s: Tensor, u: float) -> Tensor:
    """Indicator ``M_s`` of Eq. 6, bool (n, n): off-diagonal pairs with ``A_s > u``.

    Raises
    ------
    InvalidInputError
        ``A_s`` is not square, or ``u`` is outside [0, 1].
    """
    _check_square(A_s, "A_s")
    _check_threshold(u, "u")
    return (A_s.detach() > u).fill_diagonal_(False)


def negative_mask(A_c: Tensor, l: float) -> Tensor:  # noqa: E741
    """Indicator ``M_c`` of Eq. 7, bool (n, n): off-diagonal pairs with ``A_c < l``.

    Raises
    ------
    InvalidInputError
        ``A_c`` is not square, or ``l`` is outside [0, 1].
    """
    _check_square(A_c, "A_c")
    _check_threshold(l, "l")
    return (A_c.detach() < l).fill_diagonal_(False)


def positive_pairs(A_s: Tensor, u: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs that self-expression is sure to be of one cluster, with the soft mask ``M_s * A_s`` (Eq. 6).

    Parameters
    ----------
    A_s : Tensor of shape (n, n)
    u : float in [0, 1]

    Returns
    -------
    i, j : int64 Tensors of shape (m,)
        Ordered pairs, never ``i == j``.
    weight : Tensor of shape (m,)
        ``A_s[i, j]`` without gradient: the teacher is not trained.

    Raises
    ------
    InvalidInputError
        As :func:`positive_mask`.
    """
    i, j = positive_mask(A_s, u).nonzero(as_tuple=True)
    return i, j, A_s.detach()[i, j]


def negative_pairs(A_c: Tensor, l: float) -> tuple[Tensor, Tensor, Tensor]:  # noqa: E741
    """Pairs that the classifier is sure to be of two clusters, with the soft mask ``M_c * (1 - A_c)`` (Eq. 7).

    Most pairs are negative, so for large n the index tensors outweigh :func:`negative_mask` sixteen times.

    Parameters
    ----------
    A_c : Tensor of shape (n, n)
    l : float in [0, 1]

    Returns
    -------
    i, j : int64 Tensors of shape (m,)
        Ordered pairs, never ``i == j``.
    weight : Tensor of shape (m,)
        ``1 - A_c[i, j]`` without gradient: the teacher is not trained.

    Raises
    ------
    InvalidInputError
        As :func:`negative_mask`.
    """
    i, j = negative_mask(A_c, l).nonzero(as_tuple=True)
    return i, j, 1.0 - A_c.detach()[i, j]


def _check_square(A: Tensor, name: str) -> None:
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise InvalidInputError(f"{name} is {tuple(A.shape)}; give a square matrix.")


def _check_threshold(value: float, name: str) -> None:
    if not 0.0 <= value <= 1.0:
        raise InvalidInputError(f"{name} is {value}; give a threshold from 0 to 1.")
