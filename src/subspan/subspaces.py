"""Subspaces of fitted clusters, and the residual of new samples to each of them (layer 1).

For a cluster with samples ``X_k`` the ridge reconstruction of x from them is ``x P_k`` with
``P_k = V diag(w) V^T``, ``w = s^2 / (s^2 + rho_k)`` for ``X_k = U diag(s) V^T``. Its squared residual is
``||x||^2 - ||x B_k||^2`` with ``B_k = V diag(2 w - w^2)^(1/2)``, so a cluster is one matrix, with or without a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from subspan.convex import orthogonal_factor

_SMALLEST_WEIGHT = 1e-6  # directions that explain less than this share are dropped


def ridge_bases(Z: Tensor, labels: Tensor, n_clusters: int, gamma: float) -> list[Tensor]:
    """One weighted basis ``B_k`` for each cluster.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
    labels : Tensor of shape (n,), int64
    n_clusters : int
    gamma : float, above 0
        Relative ridge, ``rho_k = gamma * trace(X_k^T X_k) / d``.

    Returns
    -------
    list of n_clusters Tensors of shape (d, r_k)
        An empty cluster has r_k = 0: it explains nothing.
    """
    return [_ridge_basis(Z[labels == k], gamma) for k in range(n_clusters)]


def kernel_ridge_bases(gram: Tensor, labels: Tensor, n_clusters: int, gamma: float) -> list[Tensor]:
    """The same in the feature space of a kernel; rows of kernel values take the place of x.

    Parameters
    ----------
    gram : Tensor of shape (n, n)
        Kernel values of the training samples.
    labels : Tensor of shape (n,), int64
    n_clusters : int
    gamma : float, above 0
        ``rho_k = gamma * trace(K_kk) / n_k``, relative to the mean eigenvalue.

    Returns
    -------
    list of n_clusters Tensors of shape (n_k, r_k)
        To be multiplied by the kernel values of new samples with those of cluster k, in training order.
    """
    bases = []
    for k in range(n_clusters):
        members = (labels == k).nonzero().ravel()
        if len(members) == 0:
            bases.append(gram.new_zeros(0, 0))
            continue
        block = gram[members][:, members]
        U, s = orthogonal_factor(gram=block)
        weight, kept = _weights(s, gamma * float(block.diagonal().mean()))
        bases.append(U[:, kept] * (weight / s[kept] ** 2).sqrt())  # U = Q s^1/2, directions Q s^-1/2
    return bases


def squared_residuals(square_norms: Tensor, features: Tensor | Sequence[Tensor], bases: Sequence[Tensor]) -> Tensor:
    """Squared ridge residual of every sample to every cluster.

    Parameters
    ----------
    square_norms : Tensor of shape (b,)
    features : Tensor of shape (b, d), or a sequence of k Tensors of shape (b, n_k)
        The samples, or their kernel values with each cluster.
    bases : sequence of k Tensors

    Returns
    -------
    Tensor of shape (b, k)
        At least zero; the smallest entry of a row names its cluster.
    """
    parts = []
    for k, basis in enumerate(bases):
        rows = features if isinstance(features, Tensor) else features[k]
        explained = (rows @ basis).square().sum(1) if basis.numel() else torch.zeros_like(square_norms)
        parts.append((square_norms - explained).clamp_min(0.0))
    return torch.stack(parts, dim=1)


def _ridge_basis(X: Tensor, gamma: float) -> Tensor:
    """``B`` (d, r) of the samples ``X`` (m, d) of one cluster."""
    m, d = X.shape
    rho = gamma * float(X.square().sum()) / d
    if m == 0 or rho == 0:
        return X.new_zeros(d, 0)
    if m >= d:
        s, V = torch.linalg.eigh(X.T @ X)
        weight, kept = _weights(s, rho)
        return V[:, kept] * weight.sqrt()
    U, s = orthogonal_factor(atoms=X)  # U = Q s^1/2, so V = X^T U / s
    weight, kept = _weights(s, rho)
    return X.T @ (U[:, kept] * (weight.sqrt() / s[kept]))


def _weights(s: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """``2 w - w^2`` of the directions worth keeping, and their mask; ``s`` holds eigenvalues (squared)."""
    w = s.clamp_min(0.0) / (s.clamp_min(0.0) + rho)
    weight = 2.0 * w - w * w
    kept = weight > _SMALLEST_WEIGHT
    return weight[kept], kept
