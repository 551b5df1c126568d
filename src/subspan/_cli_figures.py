"""The pictures of a run, for ``subspan fit`` and ``subspan figures``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from subspan import _cli_common as common
from subspan.datasets import Dataset
from subspan.errors import InvalidInputError

_AFFINITY_SAMPLES = 600
_SCORED_SAMPLES = 5000  # of which confidence is asked: another pass over all data is too much for a picture


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
        written.append(folder / "clusters.png")
        plots.contact_sheet(data.X, labels, written[-1], scores=_confidence(estimator, data, labels))
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


def _confidence(estimator: Any, data: Dataset, labels: np.ndarray) -> np.ndarray | None:
    """Probability of the cluster of each sample, (n,): of as many of each cluster as there is time for, else NaN."""
    if not hasattr(estimator, "predict_proba"):
        return None
    sure, clusters = np.full(len(labels), np.nan), np.unique(labels)
    for cluster in clusters:
        members = np.flatnonzero(labels == cluster)
        some = members[_some(len(members), max(_SCORED_SAMPLES // len(clusters), 12))]
        sure[some] = estimator.predict_proba(data.X[some])[:, cluster]
    return sure


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
