"""The pictures of a run, for ``subspan fit`` and ``subspan figures``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from subspan import _cli_common as common
from subspan.datasets import Dataset
from subspan.errors import InvalidInputError

_AFFINITY_SAMPLES = 600
_SCORED_SAMPLES = 100_000  # above, one more pass over the data is too much for a picture


def draw(folder: Path, estimator: Any, data: Dataset, truth: np.ndarray | None = None) -> list[Path]:
    """Clusters (images only), codes, training curves, and affinities with the pairs selected from them.

    True labels colour a second panel of the codes; they are for ``subspan figures``, after the fit.

    Returns
    -------
    list of Path
        What was written.
    """
    from subspan import plots

    labels = np.asarray(estimator.labels_)
    written = []
    if data.kind == "images":
        sure = hasattr(estimator, "predict_proba") and len(labels) <= _SCORED_SAMPLES
        scores = estimator.predict_proba(data.X) if sure else None
        written.append(folder / "clusters.png")
        plots.contact_sheet(data.X, labels, written[-1], scores=scores)
    if plots.history_terms(estimator.history_):  # a closed form has no curves
        written.append(folder / "training.png")
        plots.training_curves(estimator.history_, written[-1])
    if hasattr(estimator, "transform"):
        index = _some(len(labels), plots.MAX_POINTS)
        written.append(folder / "latent.png")
        plots.latent_figure(
            estimator.transform(data.X[index]),
            labels[index],
            written[-1],
            truth=None if truth is None else truth[index],
        )
    if hasattr(estimator, "affinities"):
        written += _draw_affinities(folder / "affinities.png", estimator, data, labels)
    return written


def _draw_affinities(path: Path, estimator: Any, data: Dataset, labels: np.ndarray) -> list[Path]:
    from subspan import plots

    index = _some(len(labels), _AFFINITY_SAMPLES)
    try:
        A_s, A_c = estimator.affinities(data.X, index)
    except InvalidInputError as error:  # coefficients of n x n are not saved with a model
        common.say(f"No new affinities.png: {error}")
        return []
    more: dict[str, Any] = {"titles": ("Affinity", "Same cluster")}
    if hasattr(estimator, "pair_rule"):
        more = estimator.pair_rule()
    plots.affinity_figure(A_s, A_c, labels[index], path, **more)
    return [path]


def _some(n: int, size: int) -> np.ndarray:
    """Indices of at most ``size`` samples in rising order, the same ones every time."""
    return np.sort(np.random.default_rng(0).choice(n, size=min(size, n), replace=False))
