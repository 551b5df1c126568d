"""Which samples a report shows: the most typical and most doubtful of a cluster, those between two, points of a map."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from subspan.report._scores import PROBABILITY, Scores

MAP_POINTS = 4_000
PER_CLUSTER = 8  # typical ones, and doubtful ones
PER_SIDE = 4  # of a pair
PAIRS, PAIRS_ANYWAY = 12, 3
LEAST_CONFUSION = 0.001  # mean probabilities below it are hardly worth a look
_ALL_SHOWN = 2_400  # of all clusters together
_AT_LEAST = 10  # points of a cluster on the map


class Members(NamedTuple):
    """Samples of one cluster to show."""

    typical: np.ndarray  # falling confidence
    doubtful: np.ndarray  # rising confidence; none of them is typical


class Pair(NamedTuple):
    """Two clusters that are near each other; of each the samples that lean most to the other."""

    first: int
    second: int
    closeness: float
    of_first: np.ndarray
    of_second: np.ndarray


def choose_members(scores: Scores, k: int) -> list[Members]:
    """The most typical and the most doubtful samples of every cluster; fewer of each if there are many clusters."""
    count = int(np.clip(_ALL_SHOWN // (2 * max(k, 1)), 2, PER_CLUSTER))
    chosen = []
    for cluster in range(k):
        rows = np.flatnonzero(scores.labels == cluster)
        order = rows[np.argsort(-scores.confidence[rows], kind="stable")]
        rest = order[count:]
        chosen.append(Members(order[:count], rest[::-1][:count]))
    return chosen


def choose_pairs(scores: Scores, most: int = PAIRS) -> list[Pair]:
    """The nearest pairs of clusters, nearest first, with samples at their boundary.

    Of probabilities, only three pairs are kept whatever their value; the others must reach ``LEAST_CONFUSION``.
    """
    least = LEAST_CONFUSION if scores.measure == PROBABILITY else 0.0
    a, b = np.triu_indices(len(scores.closeness), 1)
    values = scores.closeness[a, b]
    order = np.argsort(-values, kind="stable")[:most]
    kept = order[(values[order] > 0) & ((values[order] >= least) | (np.arange(len(order)) < PAIRS_ANYWAY))]
    return [
        Pair(first, second, value, _leaning(scores, first, second), _leaning(scores, second, first))
        for first, second, value in zip(a[kept].tolist(), b[kept].tolist(), values[kept].tolist(), strict=True)
    ]


def _leaning(scores: Scores, own: int, other: int) -> np.ndarray:
    """Samples of ``own`` that lean most to ``other``."""
    rows = np.flatnonzero(scores.labels == own)
    return rows[np.argsort(scores.gap(rows, own, other), kind="stable")[:PER_SIDE]]


def choose_map_rows(labels: np.ndarray, k: int, most: int = MAP_POINTS) -> np.ndarray:
    """All samples if they are at most ``most``, else so many at random, with ten of every cluster if possible."""
    n = len(labels)
    if n <= most:
        return np.arange(n)
    order = np.random.default_rng(0).permutation(n)
    by_cluster = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[by_cluster], np.arange(k))
    ends = np.append(starts[1:], n)
    few = min(_AT_LEAST, most // max(k, 1))
    kept = np.concatenate([by_cluster[s : min(s + few, e)] for s, e in zip(starts, ends, strict=True)])
    others = order[~np.isin(order, kept)]
    return np.sort(np.concatenate([kept, others[: most - len(kept)]]))


def project(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two principal components of codes (m, d): points (m, 2), and their shares of the variance (2,)."""
    from sklearn.decomposition import PCA

    count = min(2, *codes.shape)
    points, shares = np.zeros((len(codes), 2)), np.zeros(2)
    if not np.ptp(codes, axis=0).any():
        return points, shares  # all codes are equal
    pca = PCA(count, random_state=0)
    points[:, :count] = pca.fit_transform(codes.astype(np.float64))
    shares[:count] = pca.explained_variance_ratio_
    return points, shares
