"""A fit and what is printed of it."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from subspan import evaluate

CHOSEN = ("gamma_", "positive_", "n_neighbors_")  # what an estimator has chosen itself, where it has


def fitted(model: Any, X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Fit without warnings: scores of the labels against y in %, what was chosen, and the seconds it took."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X)
    scores = {m: round(100 * v, 2) for m, v in evaluate(y, model.labels_).items() if m != "n"}
    chosen = {m: getattr(model, m) for m in CHOSEN if hasattr(model, m)}
    return scores | chosen | {"seconds": round(time.perf_counter() - began, 1)}
