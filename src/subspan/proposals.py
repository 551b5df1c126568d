"""Labels that tell most about neighbours, searched for on the graph of positive pairs alone (layer 2).

Which of k groups a sample is in should tell as much as possible about the group of its neighbours
(:func:`subspan.merging.label_information`). The search has three steps.

1. *Cells.* Eigenvectors of the graph's Laplacian embed the samples, in k and more dimensions: the first k suffice for
   clusters that hardly touch, others need some more. K-means divides the embedding into small cells, finer and coarser.
2. *Groups.* The cells are joined to k groups by the information bottleneck (:mod:`subspan.merging`).
3. *Recombination.* Groupings fail in different places. Where the best of them agree lie new cells; these are joined
   again, and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import faiss
import numpy as np
import torch
from torch import Tensor
from torch.special import xlogy

from subspan.merging import (
    CELLS_PER_CLUSTER,
    MAX_CELLS,
    UNEVEN,
    Consensus,
    are_groups,
    label_flow,
    label_information,
    merge_clusters,
    mutual_information,
)
from subspan.pairs import Pairs
from subspan.spectral import spectral_embedding

DIMENSIONS = (1, 2, 3)  # of the embedding, as multiples of k,
WIDE = 100_000  # but only k with more samples: more eigenvectors take too long
ACCURACY = 1e-2  # of the eigenvalues, enough for cells
SEEDS = 3  # of k-means, for each number of dimensions and of cells
ITERATIONS = 25  # of k-means,
POINTS_PER_CENTROID = {"min_points_per_centroid": 1, "max_points_per_centroid": 2000}  # that sees at most so many
RANDOM_BEGINNINGS = 2  # of joining the cells of one division
KEPT = 2  # groupings of one division
ROUNDS, PARENTS = 3, (3, 5, 8)  # of recombination, and how many of the best groupings meet
CLEARER = 0.75  # uneven groups leave at most this share of what even ones leave open, see propose
DIFFERENT = 0.02  # share of the samples by which proposals should differ


def propose(
    pairs: Pairs,
    k: int,
    gen: torch.Generator,
    limit: int = 1,
    compression: float | None = None,
    known: Sequence[Tensor] = (),
) -> Consensus:
    """Labels with the largest :func:`~subspan.merging.label_information` that are found.

    Parameters
    ----------
    pairs : Pairs
        Positive pairs of n samples.
    k : int
        Number of groups.
    gen : torch.Generator
    limit : int
    compression : float, optional
        Weight of the entropy of the groups, see :mod:`subspan.merging`. None: zero, unless labels found with 0.85 are
        k groups without outliers and far clearer. What counts is the share of a label's entropy that the label of a
        neighbour leaves open, ``1 - I(T; T') / H(T)``: it must be below 0.75 of that of the best labels with zero.
    known : sequence of Tensors of shape (n,)
        Labels found elsewhere, which take part.

    Returns
    -------
    Consensus
        At most ``limit`` labels: first those that differ from all before in more than 2 % of the samples, by falling
        information, then others.
    """
    cells = list(spectral_cells(pairs, k, gen))
    found, beta = _search(cells, pairs, k, gen, compression or 0.0, known), compression or 0.0
    if compression is None and k > 1:
        uneven = _search(cells[::SEEDS], pairs, k, gen, UNEVEN, known)
        if are_groups(uneven[0], k) and left_open(uneven[0], pairs, k) < CLEARER * left_open(found[0], pairs, k):
            found, beta = _search(cells, pairs, k, gen, UNEVEN, [*known, *uneven]), UNEVEN
    if beta > 0:  # outliers are the cheapest groups
        found.sort(key=lambda labels: not are_groups(labels, k))
    return Consensus(torch.stack(different_first(found, k)[:limit]), beta)


def spectral_cells(pairs: Pairs, k: int, gen: torch.Generator) -> Iterable[Tensor]:
    """Divisions of the n samples into cells, each (n,), by k-means in the spectral embedding; seeds vary fastest."""
    widest = _width(pairs.n, k)
    vectors = spectral_embedding(pairs.symmetric(), widest, seed=0, tol=ACCURACY)[1].astype(np.float32)
    device = pairs.partners.device
    counts = sorted({min(r * k, _most_cells(k), pairs.n) for r in CELLS_PER_CLUSTER})
    for d in sorted({min(r * k, widest) for r in DIMENSIONS}):
        rows = vectors[:, :d]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.ascontiguousarray(rows / np.where(norms > 0, norms, 1.0))
        for count in counts:
            for _ in range(SEEDS):
                yield divide(rows, count, int(torch.randint(2**31 - 1, (1,), generator=gen))).to(device)


def _most_cells(k: int) -> int:
    return max(min(CELLS_PER_CLUSTER) * k, MAX_CELLS)


def _width(n: int, k: int) -> int:
    widest = max(DIMENSIONS) * k if n <= WIDE else k
    return max(min(widest, n // 2), min(k, n))


def memory_bytes(n: int, k: int) -> int:
    """Expected peak memory of :func:`propose`: ARPACK's basis, the embedding and its parts, cells and labels."""
    divisions = len(DIMENSIONS) * len(CELLS_PER_CLUSTER) * SEEDS
    return n * ((2 * 8 + 8 + 3 * 4) * _width(n, k) + 8 * divisions * (1 + KEPT))


def divide(rows: np.ndarray, count: int, seed: int) -> Tensor:
    """Cell of each of the rows (n, d), int64 (n,), by k-means with at most ``count`` cells."""
    kmeans = faiss.Kmeans(rows.shape[1], count, niter=ITERATIONS, seed=seed, **POINTS_PER_CENTROID)
    kmeans.train(rows)
    return torch.from_numpy(kmeans.index.search(rows, 1)[1][:, 0])


def _search(
    cells: Iterable[Tensor], pairs: Pairs, k: int, gen: torch.Generator, compression: float, known: Sequence[Tensor]
) -> list[Tensor]:
    """Labels (n,) by falling information, all of different information, from divisions into cells."""
    found: dict[float, Tensor] = {}

    def add(labels: Tensor) -> None:
        found.setdefault(round(label_information(labels, pairs, k, compression), 9), labels)

    def join(cell: Tensor) -> None:
        flow = label_flow(cell, pairs, int(cell.max()) + 1).cpu()
        for group in merge_clusters(flow, k, gen, compression, RANDOM_BEGINNINGS)[:KEPT]:
            add(group.to(cell.device)[cell])

    for labels in known:
        add(labels)

    for cell in cells:
        join(cell)
    limit = min(max(CELLS_PER_CLUSTER) * k, _most_cells(k))
    for _ in range(ROUNDS):
        best = [found[value] for value in sorted(found, reverse=True)]
        for count in PARENTS:
            join(shared_cells(torch.stack(best[:count]), limit))
    return [found[value] for value in sorted(found, reverse=True)]


def shared_cells(labels: Tensor, limit: int) -> Tensor:
    """Cells (n,) of the samples on which several labels (R, n) agree.

    The ``limit`` most frequent combinations of labels are cells; samples of other combinations go to the cell with
    which they share most labels.
    """
    combinations, member, counts = torch.unique(labels.T, dim=0, return_inverse=True, return_counts=True)
    kept = combinations[counts.argsort(descending=True, stable=True)[:limit]]
    shared = torch.zeros(len(combinations), len(kept), dtype=torch.int16, device=labels.device)
    for mine, theirs in zip(combinations.T, kept.T, strict=True):
        shared += mine[:, None] == theirs
    return shared.argmax(dim=1)[member]


def left_open(labels: Tensor, pairs: Pairs, k: int) -> float:
    """Share of the entropy of a sample's label (n,) that the label of a neighbour leaves open, in [0, 1]."""
    flow = label_flow(labels, pairs, k)
    margin = flow.sum(dim=1)
    entropy = float(-xlogy(margin, margin).sum())
    return 1 - float(mutual_information(flow)) / entropy if entropy > 0 else 1.0


def different_first(found: Sequence[Tensor], k: int) -> list[Tensor]:
    """Labels in the given order, but those that are almost the same as earlier ones after all others."""
    chosen: list[Tensor] = []
    late: list[Tensor] = []
    for labels in found:
        (chosen if all(_differ(labels, other, k) > DIFFERENT for other in chosen) else late).append(labels)
    return chosen + late


def _differ(labels: Tensor, other: Tensor, k: int) -> float:
    """Share of the samples whose group in ``other`` is not the most frequent one of their group in ``labels``."""
    table = torch.bincount(labels * k + other, minlength=k * k).view(k, k)
    return 1 - float(table.max(dim=1).values.sum()) / len(labels)
