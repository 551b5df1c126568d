from __future__ import annotations

import pytest
import torch
from sklearn.cluster import KMeans

from subspan._random import generator
from subspan.centroids import kmeans_cells, kmeans_centers, nearest, squared_distances
from subspan.errors import DivergenceError


def blobs(n=300, k=4, d=5, noise=0.3, seed=0):
    gen = generator(seed)
    means = 3 * torch.randn(k, d, generator=gen)
    y = torch.arange(n) % k
    return means[y] + noise * torch.randn(n, d, generator=gen), y, means


def test_distances_and_nearest_are_those_of_a_double_loop():
    Z, _, means = blobs(20)
    slow = torch.tensor([[float(((z - m) ** 2).sum()) for m in means] for z in Z])
    torch.testing.assert_close(squared_distances(Z, means), slow, rtol=1e-4, atol=1e-4)
    assert torch.equal(nearest(Z, means), slow.argmin(1))
    assert float(squared_distances(means, means).min()) >= 0  # rounding may not make a distance negative


def test_samples_far_from_zero_keep_their_nearest_centre():
    Z, y, means = blobs(noise=0.1)
    assert torch.equal(nearest(Z + 10_000.0, means + 10_000.0), nearest(Z, means))
    assert torch.equal(nearest(Z, means), y)


def test_centres_are_the_means_of_what_they_attract_and_planted_ones_are_found():
    Z, y, means = blobs()
    centers, n_iter = kmeans_centers(Z.clone(), 4, n_init=5, gen=generator(0))
    labels = nearest(Z, centers)
    torch.testing.assert_close(centers, torch.stack([Z[labels == j].mean(0) for j in range(4)]), atol=1e-4, rtol=1e-4)
    assert len({(int(a), int(b)) for a, b in zip(y, labels, strict=True)}) == 4
    assert float(squared_distances(means, centers).amin(1).max()) < 0.1
    assert n_iter >= 1


def test_objective_is_scikit_learns_and_restarts_help():
    Z, _, _ = blobs(200, k=9, d=2, noise=0.6, seed=3)

    def objective(n_init, seed):
        centers, _ = kmeans_centers(Z.clone(), 9, n_init=n_init, gen=generator(seed))
        return float(squared_distances(Z, centers).amin(1).sum())

    best = KMeans(9, n_init=50, random_state=0).fit(Z.numpy()).inertia_
    assert max(objective(50, s) for s in range(4)) == pytest.approx(best, rel=1e-3)
    assert max(objective(1, s) for s in range(4)) > best * 1.01


def test_codes_that_are_not_finite_are_refused():
    Z, _, _ = blobs(20)
    Z[3, 1] = float("inf")
    with pytest.raises(DivergenceError, match="not finite"):
        kmeans_centers(Z, 2, n_init=1, gen=generator(0))


@pytest.mark.parametrize("spherical", [False, True])
def test_cells_keep_neighbours_together_and_are_decided_by_the_generator(spherical):
    Z, y, _ = blobs(noise=0.05)
    options = {"iterations": 10, "most": 1000, "spherical": spherical}
    cell = kmeans_cells(Z.numpy(), 20, gen=generator(0), **options)
    assert cell.dtype == torch.int64
    assert 4 < len(cell.unique()) <= 20
    assert all(len(y[cell == one].unique()) == 1 for one in cell.unique())
    assert torch.equal(cell, kmeans_cells(Z.numpy(), 20, gen=generator(0), **options))
    assert not torch.equal(cell, kmeans_cells(Z.numpy(), 20, gen=generator(1), **options))
