"""How sure every sample belongs to its cluster, and which clusters are near each other. No true label is involved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

PROBABILITY, MARGIN = "probability", "margin"
_BLOCK = 20_000
_FAR = 1e6  # stands for an infinite closeness: JSON has none


@dataclass(frozen=True)
class Scores:
    """What a fitted estimator says about n samples in k clusters.

    Attributes
    ----------
    measure : str
        ``"probability"``: of ``predict_proba``. ``"margin"``: from distances to the cluster means, for estimators
        without it.
    support : float array of shape (n, k)
        Probabilities; or distances to the means, infinite for an empty cluster.
    labels : int array of shape (n,)
    confidence : float array of shape (n,)
        The probability of the sample's own cluster; or (b - a) / max(a, b) with the distances a to its own mean and b
        to the nearest other one (the simplified silhouette, -1 to 1).
    runner_up : int array of shape (n,)
        The best other cluster; the own one if there is no other.
    closeness : float array of shape (k, k)
        Symmetric, zero diagonal. Mean of p_i[b] over a plus mean of p_i[a] over b; or, of distances, the sum of the
        mean distances within a and b over the distance of their means (the similarity in the Davies-Bouldin index).
    codes : float array of shape (n, d) or None
        What the distances were taken between.
    """

    measure: str
    support: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    runner_up: np.ndarray
    closeness: np.ndarray
    codes: np.ndarray | None = None

    def gap(self, rows: np.ndarray, own: int, other: int) -> np.ndarray:
        """By how much ``rows`` belong to cluster ``own`` rather than ``other``; small at the boundary."""
        first, second = self.support[rows, own], self.support[rows, other]
        return first - second if self.measure == PROBABILITY else _margin(first, second)


def read_scores(estimator: Any, X: np.ndarray, labels: np.ndarray, k: int) -> Scores:
    """Scores by ``predict_proba`` if the estimator has it, else from distances between codes.

    Parameters
    ----------
    estimator : fitted estimator
    X : array of shape (n, ...)
    labels : int array of shape (n,)
    k : int
        Number of clusters, empty ones included.
    """
    if hasattr(estimator, "predict_proba"):
        return from_probabilities(np.asarray(estimator.predict_proba(X)), labels)
    codes = read_codes(estimator, X)
    return replace(from_codes(codes, labels, k), codes=codes)


def read_codes(estimator: Any, X: np.ndarray) -> np.ndarray:
    """``transform(X)``, or X itself as vectors (n, p) if there is no such method."""
    if hasattr(estimator, "transform"):
        return np.asarray(estimator.transform(X))
    return np.asarray(X, dtype=np.float32).reshape(len(X), -1)


def from_probabilities(P: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores from probabilities P (n, k)."""
    n, k = P.shape
    confidence = P[np.arange(n), labels].astype(np.float64)
    means = np.stack([P[labels == a].mean(axis=0) if (labels == a).any() else np.zeros(k) for a in range(k)])
    occupied = np.bincount(labels, minlength=k) > 0
    closeness = np.where(occupied[:, None] & occupied, means + means.T, 0.0)
    np.fill_diagonal(closeness, 0.0)
    others = P.copy()
    others[np.arange(n), labels] = -1.0
    runner_up = labels if k == 1 else others.argmax(axis=1)
    return Scores(PROBABILITY, P, labels, confidence, runner_up, closeness)


def from_codes(codes: np.ndarray, labels: np.ndarray, k: int) -> Scores:
    """Scores from distances of codes (n, d) to the means of the clusters."""
    n = len(codes)
    sizes = np.bincount(labels, minlength=k)
    means = np.stack([codes[labels == a].mean(axis=0, dtype=np.float64) for a in np.flatnonzero(sizes)])
    D = np.full((n, k), np.inf, dtype=np.float32)
    D[:, sizes > 0] = _distances(codes, means)
    own = D[np.arange(n), labels]
    others = D.copy()
    others[np.arange(n), labels] = np.inf
    alone = len(means) == 1
    runner_up = labels if alone else others.argmin(axis=1)
    confidence = _margin(own, others.min(axis=1))
    return Scores(MARGIN, D, labels, confidence, runner_up, _closeness(own, labels, means, sizes))


def _distances(codes: np.ndarray, means: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    parts = [cdist(codes[i : i + _BLOCK].astype(np.float64), means) for i in range(0, len(codes), _BLOCK)]
    return np.concatenate(parts)


def _margin(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(b - a) / max(a, b); 1 where there is no other cluster, 0 where both distances vanish."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    finite = np.isfinite(b)
    b_ = np.where(finite, b, 0.0)
    return np.where(finite, (b_ - a) / np.maximum(np.maximum(a, b_), 1e-12), 1.0)


def _closeness(own: np.ndarray, labels: np.ndarray, means: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    live = np.flatnonzero(sizes)
    spread = np.bincount(labels, weights=own, minlength=len(sizes))[live] / sizes[live]
    between = cdist(means, means)
    found = np.minimum((spread[:, None] + spread) / np.maximum(between, 1e-12), _FAR)
    closeness = np.zeros((len(sizes), len(sizes)))
    closeness[np.ix_(live, live)] = found
    np.fill_diagonal(closeness, 0.0)
    return closeness
