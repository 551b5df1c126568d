"""Self-training of soft assignments (layer 1), as in DEC (Xie, Girshick, Farhadi, ICML 2016); equations are DEC's."""

from __future__ import annotations

import torch
from torch import Tensor

from subspan.centroids import squared_distances


def log_assignments(Z: Tensor, centers: Tensor, alpha: float = 1.0) -> Tensor:
    """Logarithm of Eq. 1, Student's t kernel with ``alpha`` degrees of freedom around each centre.

    ``q_ij = (1 + ||z_i - mu_j||^2 / alpha)^(-(alpha + 1) / 2)``, each row divided by its sum.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
    centers : Tensor of shape (k, d)
    alpha : float

    Returns
    -------
    Tensor of shape (n, k)
    """
    kernel = -(alpha + 1) / 2 * torch.log1p(squared_distances(Z, centers) / alpha)
    return kernel.log_softmax(dim=1)


def target_distribution(Q: Tensor) -> Tensor:
    """Eq. 3: ``p_ij = q_ij^2 / f_j`` with ``f_j = sum_i q_ij``, each row divided by its sum.

    Squares strengthen what is confident; f_j keeps large clusters from growing. ``Q`` (n, k) holds *all* samples.
    """
    P = Q.square() / Q.sum(dim=0).clamp_min(torch.finfo(Q.dtype).tiny)
    return P / P.sum(dim=1, keepdim=True)


def divergence(P: Tensor, log_Q: Tensor) -> Tensor:
    """Eq. 2, ``KL(P || Q) = sum_ij p_ij log(p_ij / q_ij)``, divided by the number of rows (b, k)."""
    return (torch.special.xlogy(P, P) - P * log_Q).sum() / len(P)
