"""What sets vectors apart: the features in which a cluster, or a sample, differs most from all samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOP = 4
_BLOCK = 20_000


@dataclass(frozen=True)
class Features:
    """Names, means and standard deviations of the columns of X (n, p), and the mean of every cluster (k, p)."""

    names: list[str]
    mean: np.ndarray
    deviation: np.ndarray
    cluster_means: np.ndarray

    def of_cluster(self, cluster: int) -> np.ndarray:
        """Columns in which the mean of the cluster is furthest from the mean of all, in standard deviations."""
        return self._top(self.cluster_means[cluster])

    def of_sample(self, x: np.ndarray) -> np.ndarray:
        """Columns in which a sample (p,) is furthest from the mean of all."""
        return self._top(x)

    def _top(self, x: np.ndarray) -> np.ndarray:
        z = np.abs(x - self.mean) / self.deviation
        return np.argsort(-z, kind="stable")[:TOP]


def read_features(X: np.ndarray, labels: np.ndarray, k: int, columns: list[str] | None) -> Features:
    """Column statistics of X (n, p), read block by block; a constant column never stands out."""
    n, p = X.shape
    sums, squares = np.zeros((k, p)), np.zeros(p)
    shift = np.asarray(X[0], dtype=np.float64)
    for i in range(0, n, _BLOCK):
        block = np.asarray(X[i : i + _BLOCK], dtype=np.float64) - shift
        squares += (block**2).sum(axis=0)
        for cluster in np.unique(labels[i : i + _BLOCK]):
            sums[cluster] += block[labels[i : i + _BLOCK] == cluster].sum(axis=0)
    sizes = np.bincount(labels, minlength=k)[:, None]
    mean = sums.sum(axis=0) / n
    deviation = np.sqrt(np.maximum(squares / n - mean**2, 0.0))
    names = columns if columns is not None else [f"x{j}" for j in range(p)]
    means = np.where(sizes > 0, sums / np.maximum(sizes, 1), mean) + shift
    return Features(names, mean + shift, np.where(deviation > 0, deviation, np.inf), means)
