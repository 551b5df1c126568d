"""Samples whose nearest neighbours are coincidences."""

from __future__ import annotations

import numpy as np


def coincidences(n=1200, k=6, groups=70, seed=0):
    """Samples of k topics, each with one of many rare features that has nothing to do with its topic."""
    rng = np.random.default_rng(seed)
    y, X = np.arange(n) % k, 0.1 * rng.standard_normal((n, 80))
    X[np.arange(n), y] += 0.5 + rng.random(n)
    X[np.arange(n), k + rng.integers(groups, size=n)] += 0.9
    return X.astype(np.float32), y
