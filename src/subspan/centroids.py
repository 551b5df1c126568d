"""Centres of clusters (layer 1): k-means, coarse cells of many samples, and the nearest of given centres."""

from __future__ import annotations

import faiss
import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from subspan.errors import DivergenceError


def kmeans_centers(Z: Tensor, k: int, *, n_init: int, gen: torch.Generator, max_iter: int = 300) -> tuple[Tensor, int]:
    """Best of ``n_init`` runs of k-means, by its objective.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
        Not changed, apart from rounding: scikit-learn centres it in place and back, which saves a copy.
    k, n_init, max_iter : int
    gen : torch.Generator

    Returns
    -------
    centers : Tensor of shape (k, d)
        float32, on the device of Z.
    n_iter : int
        Iterations of the best run.

    Raises
    ------
    DivergenceError
        Z is not finite.
    """
    if not bool(Z.isfinite().all()):
        raise DivergenceError("the codes to cluster are not finite: lower the learning rates, or scale the data")
    seed = int(torch.randint(2**31 - 1, (1,), generator=gen))
    model = KMeans(k, n_init=n_init, max_iter=max_iter, copy_x=False, random_state=seed)
    with threadpool_limits(1, user_api="openmp"):  # several threads add up in any order
        model.fit(Z.detach().cpu().numpy())
    return torch.from_numpy(model.cluster_centers_).float().to(Z.device), int(model.n_iter_)


def kmeans_cells(
    rows: np.ndarray, count: int, *, iterations: int, most: int, gen: torch.Generator, spherical: bool = False
) -> Tensor:
    """Division of samples into cells by one rough k-means.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
    count : int
        Cells at most.
    iterations : int
    most : int
        Samples of each cell that k-means sees at most.
    gen : torch.Generator
    spherical : bool
        Centres have unit length.

    Returns
    -------
    Tensor of shape (n,), int64
        Cell of each sample.
    """
    points = {"min_points_per_centroid": 1, "max_points_per_centroid": most}
    seed = int(torch.randint(2**31 - 1, (1,), generator=gen))
    kmeans = faiss.Kmeans(rows.shape[1], count, niter=iterations, seed=seed, spherical=spherical, **points)
    kmeans.train(rows)
    return torch.from_numpy(kmeans.index.search(rows, 1)[1][:, 0])


def squared_distances(Z: Tensor, centers: Tensor) -> Tensor:
    """Squared distances (n, k) of codes (n, d) to centres (k, d), with gradients."""
    D = Z.square().sum(1, keepdim=True) + centers.square().sum(1) - 2 * (Z @ centers.T)
    return D.clamp_min(0.0)


def nearest(Z: Tensor, centers: Tensor) -> Tensor:
    """Index (n,) of the nearest of the centres (k, d) to each code (n, d)."""
    middle = centers.mean(dim=0)  # far from zero the products would lose the digits in which samples differ
    return squared_distances(Z - middle, centers - middle).argmin(dim=1)
