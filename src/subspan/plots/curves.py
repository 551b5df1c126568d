"""Training curves: every named loss term, then selected pairs, live clusters and the other figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subspan.errors import InvalidInputError
from subspan.plots._style import COLOURS, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOT_TERMS = {"epoch", "phase", "step", "steps", "seed", "n", "restart", "start", "seconds"}
_COUNTS = {  # drawn from zero, after the loss terms
    "positives_per_sample": "positive pairs per sample",
    "negatives_per_sample": "negative pairs per sample",
    "live_clusters": "live clusters",
}


def training_curves(history: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """One small plot for every numeric term of the history, over all epochs, coloured by phase.

    Parameters
    ----------
    history : sequence of dict
        One record per epoch, with the key ``phase`` and named numbers; a dict inside a record counts as further terms.
    path : str or Path, optional
        Where to save the picture.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InvalidInputError
        If there is nothing to plot.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    terms = history_terms(history)
    if not terms:
        raise InvalidInputError("The history holds no numbers to plot: fit the estimator first.")
    phase = np.array([str(record.get("phase", "training")) for record in history])
    phases = list(dict.fromkeys(phase.tolist()))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(phases)}
    columns = min(3, len(terms))
    lines = -(-len(terms) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.4, 2.1 * lines + 0.8), dpi=120, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for ax, (term, y) in zip(axes.flat, terms.items(), strict=False):
        _draw_term(ax, term, y, phase, colours)
    for ax in axes.flat[len(terms) :]:
        ax.set_visible(False)
    for ax in axes.flat[max(0, len(terms) - columns) : len(terms)]:
        ax.set_xlabel("epoch", fontsize=8)
        ax.tick_params(labelbottom=True)
    handles = [Line2D([], [], color=colours[name], linewidth=2, label=name) for name in phases]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(phases), 5), fontsize=8, frameon=False)
    return save(figure, path)


def history_terms(history: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Every numeric term of a history, in order of appearance and counts last; empty for a method without training.

    Parameters
    ----------
    history : sequence of dict
        As for :func:`training_curves`.

    Returns
    -------
    dict of arrays of shape (n_records,)
        NaN where a record lacks the term.
    """
    records = [_flatten(record) for record in history]
    found = list(dict.fromkeys(key for record in records for key, value in record.items() if _is_term(key, value)))
    terms = [term for term in found if term not in _COUNTS] + [term for term in _COUNTS if term in found]
    return {
        term: np.array([float(r[term]) if _is_term(term, r.get(term)) else np.nan for r in records]) for term in terms
    }


def _flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat.update(value) if isinstance(value, Mapping) else flat.update({key: value})
    return flat


def _is_term(key: str, value: Any) -> bool:
    numeric = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return numeric and key not in _NOT_TERMS


def _draw_term(ax: Axes, term: str, y: np.ndarray, phase: np.ndarray, colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator

    x = np.arange(1, len(y) + 1)
    for name, colour in colours.items():
        mine = (phase == name) & np.isfinite(y)
        ax.plot(x[mine], y[mine], color=colour, linewidth=1.5, marker="o" if mine.sum() < 3 else None, markersize=3)
    finite = y[np.isfinite(y)]
    if term in _COUNTS:
        ax.set_ylim(0, 1.1 * max(finite.max(initial=0.0), 1.0))
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    elif len(finite) and finite.min() > 0 and finite.max() > 100 * finite.min():
        ax.set_yscale("log")
    else:
        _calm(ax, finite)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.set_title(_COUNTS.get(term, term), fontsize=9, loc="left")
    ax.tick_params(labelsize=7)
    ax.grid(color="0.9", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _calm(ax: Axes, values: np.ndarray) -> None:
    """Numbers without an offset, and no change magnified that is below two percent of the values."""
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    least = 0.02 * np.abs(values).max(initial=0.0)
    if len(values) and np.ptp(values) < least:
        middle = (values.max() + values.min()) / 2
        ax.set_ylim(middle - least, middle + least)
