"""Labels that tell most about neighbours, searched for on the graph of positive pairs alone (layer 2).

Which of k groups a sample is in should tell as much as possible about the group of its neighbours
(:func:`subspan.information.label_information`). The search has three steps.

1. *Cells.* Eigenvectors of the graph's Laplacian embed the samples, in k and more dimensions: the first k suffice for
   clusters that hardly touch, others need some more. K-means divides the embedding into small cells, finer and coarser.
2. *Groups.* The cells are joined to k groups by the information bottleneck (:mod:`subspan.merging`).
3. *Recombination.* Groupings fail in different places. Where the best of them agree lie new cells; these are joined
   again, and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from subspan._validation import iter_slices
from subspan.centroids import kmeans_cells
from subspan.information import (
    EFFECTIVE,
    UNEVEN,
    are_groups,
    effective_groups,
    group_flow,
    information_share,
    label_flow,
    label_information,
    mutual_information,
)
from subspan.merging import BLOCK, Consensus, cell_counts, merge_each
from subspan.pairs import Pairs
from subspan.spectral import spectral_embedding, unit_rows

DIMENSIONS = (1, 2, 3)  # of the embedding, as multiples of k,
WIDE, BROAD = 100_000, 2_000_000  # but only k with more samples, or more samples times clusters: that takes too long
ACCURACY = 1e-2  # of the eigenvalues, enough for cells
SEEDS = 3  # of k-means, for each number of dimensions and of cells
ITERATIONS, MOST = 25, 2000  # of k-means, and samples of each cell that it sees at most
RANDOM_BEGINNINGS = 2  # of joining the cells of one division
KEPT = 2  # groupings of one division
ROUNDS, PARENTS = 3, (3, 5, 8)  # of recombination, and how many of the best groupings meet
MILD = 0.45  # compression where nothing is known about sizes, as a share of what labels tell: see propose
CLEARER = 0.75  # uneven groups leave at most this share of what others leave open, see propose,
OPEN = 0.01  # and others leave at least so much: below, the share says nothing
FEWEST = 0.4  # effective groups of each of k, if a few classes hold most samples
DIFFERENT = 0.02  # share of the samples by which proposals should differ


def propose(
    pairs: Pairs,
    k: int,
    gen: torch.Generator,
    limit: int = 1,
    compression: float | None = None,
    known: Sequence[Tensor] = (),
) -> Consensus:
    """Labels with the largest :func:`~subspan.information.label_information` that are found.

    Parameters
    ----------
    pairs : Pairs
        Positive pairs of n samples.
    k : int
        Number of groups.
    gen : torch.Generator
    limit : int
    compression : float, optional
        Weight of the entropy of the groups, see :mod:`subspan.information`. None: 0.45 I / H of the best labels of no
        compression, so that to divide a class has to tell, for each nat of entropy, at least 0.45 of what labels tell
        on average; or 0.85, if labels found with it are k groups without outliers and far clearer. What counts is the
        share of a label's entropy that the label of a neighbour leaves open, ``1 - I(T; T') / H(T)``: it must be below
        0.75 of that of the best labels with the milder weight, and below less if a few groups hold most samples: where
        the effective number of groups is E k, E from 0.4 to 0.7, below 0.75 E / 0.7. Where these leave less than 0.01
        open, they stay: samples in more than k pieces, such as series of almost equal images, can be grouped in many
        ways that leave nothing open, and of these the ones with the largest pieces together leave least.
    known : sequence of Tensors of shape (n,)
        Labels found elsewhere, which take part.

    Returns
    -------
    Consensus
        At most ``limit`` labels, the best first; but those that differ from a better one in less than 2 % of the
        samples come last.
    """

    def known_share(labels: Tensor) -> float:
        return information_share(label_flow(labels, pairs, k))

    cells = list(spectral_cells(pairs, k, gen))
    beta, unknown = compression or 0.0, compression is None and k > 1
    if unknown:
        beta = MILD * known_share(_search(cells[::SEEDS], pairs, k, gen, 0.0, known)[0])
    found, fewest = _search(cells, pairs, k, gen, beta, known), EFFECTIVE
    if unknown and (left := 1 - known_share(found[0])) >= OPEN:
        uneven = _search(cells[::SEEDS], pairs, k, gen, UNEVEN, known)
        clearer = CLEARER * min(1.0, effective_groups(uneven[0], k) / (EFFECTIVE * k))
        if 1 - known_share(uneven[0]) < clearer * left and are_groups(uneven[0], k, FEWEST):
            found, beta = _search(cells, pairs, k, gen, UNEVEN, [*known, *uneven]), UNEVEN
            fewest = fewest_groups(uneven[0], k)
    if beta >= UNEVEN:  # outliers are the cheapest groups
        found = [labels for labels in found if are_groups(labels, k, fewest)] or found
        found.sort(key=lambda labels: -label_information(labels, pairs, k, beta))
    return Consensus(torch.stack(different_first(found, k)[:limit]), beta)


def fewest_groups(labels: Tensor, k: int) -> float:
    """Effective groups of each of k that labels must have at least to compete with these ones, see :func:`propose`."""
    return EFFECTIVE if are_groups(labels, k) else FEWEST


def spectral_cells(pairs: Pairs, k: int, gen: torch.Generator) -> Iterable[Tensor]:
    """Divisions of the n samples into cells, each (n,), by k-means in the spectral embedding; seeds vary fastest."""
    dimensions, device = _dimensions(pairs.n, k), pairs.partners.device
    vectors = spectral_embedding(pairs.symmetric(), max(dimensions), seed=0, tol=ACCURACY)[1].astype(np.float32)
    counts = sorted({min(count, pairs.n) for count in cell_counts(k)})
    for d in dimensions:
        rows = np.ascontiguousarray(unit_rows(vectors[:, :d]))
        for count in counts:
            for _ in range(SEEDS):
                yield kmeans_cells(rows, count, iterations=ITERATIONS, most=MOST, gen=gen).to(device)


def _dimensions(n: int, k: int) -> list[int]:
    scales = DIMENSIONS if n <= WIDE and n * k <= BROAD else DIMENSIONS[:1]
    return sorted({max(min(r * k, n // 2), min(k, n)) for r in scales})


def count_divisions(n: int, k: int) -> int:
    """How many divisions :func:`spectral_cells` makes."""
    return len(_dimensions(n, k)) * len(cell_counts(k)) * SEEDS


def memory_bytes(n: int, k: int) -> int:
    """Expected peak memory of :func:`propose`: ARPACK's basis, the embedding and its parts, cells and labels."""
    divisions, joins = count_divisions(n, k), count_divisions(n, k) + ROUNDS * len(PARENTS)
    return n * ((2 * 8 + 8 + 3 * 4) * max(_dimensions(n, k)) + 8 * (divisions + 3 * KEPT * joins))


def _search(
    cells: Sequence[Tensor], pairs: Pairs, k: int, gen: torch.Generator, compression: float, known: Sequence[Tensor]
) -> list[Tensor]:
    """Labels (n,) by falling information, all of different information, from divisions into cells."""
    found: dict[float, Tensor] = {}

    def join(cells: Sequence[Tensor]) -> None:
        flows = [label_flow(cell, pairs, int(cell.max()) + 1).cpu() for cell in cells]
        merged = merge_each(flows, k, gen, compression, RANDOM_BEGINNINGS)
        for cell, flow, groups in zip(cells, flows, merged, strict=True):
            for group in groups[:KEPT]:
                value = float(mutual_information(group_flow(flow, group, k), compression))
                found.setdefault(round(value, 9), group.to(cell.device)[cell])

    for labels in known:
        found.setdefault(round(float(mutual_information(label_flow(labels, pairs, k), compression)), 9), labels)

    join(cells)
    for _ in range(ROUNDS):
        best = [found[value] for value in sorted(found, reverse=True)]
        join([shared_cells(torch.stack(best[:count]), max(cell_counts(k))) for count in PARENTS])
    return [found[value] for value in sorted(found, reverse=True)]


def shared_cells(labels: Tensor, limit: int) -> Tensor:
    """Cells (n,) of the samples on which several labels (R, n) agree.

    The ``limit`` most frequent combinations of labels are cells; samples of other combinations go to the cell with
    which they share most labels.
    """
    combinations, member, counts = torch.unique(labels.T, dim=0, return_inverse=True, return_counts=True)
    kept = combinations[counts.argsort(descending=True, stable=True)[:limit]]
    cell = torch.empty(len(combinations), dtype=torch.int64, device=labels.device)
    for rows in iter_slices(len(combinations), BLOCK):
        shared = torch.zeros(len(combinations[rows]), len(kept), dtype=torch.int16, device=labels.device)
        for mine, theirs in zip(combinations[rows].T, kept.T, strict=True):
            shared += mine[:, None] == theirs
        cell[rows] = shared.argmax(dim=1)
    return cell[member]


def different_first(found: Sequence[Tensor], k: int) -> list[Tensor]:
    """Labels in the given order, but those that are almost the same as earlier ones after all others."""
    chosen: list[Tensor] = []
    late: list[Tensor] = []
    for labels in found:
        (chosen if all(difference(labels, other, k) > DIFFERENT for other in chosen) else late).append(labels)
    return chosen + late


def difference(labels: Tensor, other: Tensor, k: int) -> float:
    """Share of the samples whose group in one of two labels (n,) is not the most frequent one of their other group.

    The larger of the two shares: that a group is only divided is a difference too.
    """
    table = torch.bincount(labels * k + other, minlength=k * k).view(k, k)
    return 1 - min(float(table.max(dim=d).values.sum()) for d in (0, 1)) / len(labels)
