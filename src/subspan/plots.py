"""Pictures (layer 8): samples by cluster, affinity matrices, training curves. No pyplot, so no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subspan.errors import InvalidInputError
from subspan.runs import friendly_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe-Ito palette: distinguishable with the common kinds of colour blindness
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_NOT_TERMS = {"epoch", "phase", "step", "steps", "seed", "n", "restart"}
_ROWS_PER_BLOCK = 20


def contact_sheet(
    X: np.ndarray,
    labels: np.ndarray,
    path: str | Path | None = None,
    *,
    scores: np.ndarray | None = None,
    per_cluster: int = 12,
    title: str = "",
) -> Figure:
    """Samples of every cluster, one row each, with the number and the size of the cluster.

    Parameters
    ----------
    X : array of shape (n, h, w), (n, h, w, c) or (n, c, h, w)
        Images with 1 (gray) or 3 (colour) channels; of others the mean is shown.
    labels : int array of shape (n,)
        Clusters 0, 1, ...; a number that does not occur gives an empty row.
    path : str or Path, optional
        Where to save the picture.
    scores : array of shape (n,) or (n, k), optional
        Confidence of every sample, or its probabilities. With it, a row goes evenly from the surest sample to the least
        sure; without, it takes samples at even steps through the data.
    per_cluster : int
        Images in a row.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InvalidInputError
        If X holds vectors, or the lengths differ.
    """
    X, labels = np.asanyarray(X), np.asarray(labels)
    if X.ndim not in (3, 4):
        raise InvalidInputError(
            f"A contact sheet needs images, and X has shape {X.shape}: reshape vectors to (n, h, w)."
        )
    if labels.shape != (len(X),) or per_cluster < 1:
        raise InvalidInputError(f"Give one label for each of the {len(X)} images, and per_cluster of at least 1.")
    sure = _confidence(scores, len(X))
    k = int(labels.max()) + 1
    chosen = [_choose(np.flatnonzero(labels == cluster), sure, per_cluster) for cluster in range(k)]
    thumbs = _thumbnails(X, np.concatenate(chosen))
    rows = np.split(thumbs, np.cumsum([len(index) for index in chosen])[:-1])
    sizes = np.bincount(labels, minlength=k)
    note = "each row from the surest sample (left) to the least sure" if sure is not None else ""
    return _save(_draw_sheet(rows, sizes, per_cluster, title or f"{len(X):,} images in {k} clusters", note), path)


def _confidence(scores: np.ndarray | None, n: int) -> np.ndarray | None:
    if scores is None:
        return None
    scores = np.asarray(scores)
    if scores.ndim not in (1, 2) or len(scores) != n:
        raise InvalidInputError(f"scores has shape {scores.shape}: give ({n},) or ({n}, k).")
    return scores.max(axis=1) if scores.ndim == 2 else scores


def _choose(members: np.ndarray, sure: np.ndarray | None, count: int) -> np.ndarray:
    """At most ``count`` of ``members`` at even steps, in falling order of confidence if there is one."""
    if sure is not None:
        members = members[np.argsort(-sure[members], kind="stable")]
    if len(members) <= count:
        return members
    return members[np.linspace(0, len(members) - 1, count).round().astype(int)]


def _thumbnails(X: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The chosen images as floats in [0, 1], shape (m, h, w, 3)."""
    images = np.asarray(X[index], dtype=np.float64)
    if images.ndim == 3:
        images = images[..., None]
    elif images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.shape[-1] not in (1, 3):
        images = images.mean(axis=-1, keepdims=True)
    low, high = (0.0, 255.0) if X.dtype == np.uint8 and images.max() > 127 else (images.min(), images.max())
    images = (images - low) / max(high - low, 1e-12)
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def _draw_sheet(rows: list[np.ndarray], sizes: np.ndarray, per_cluster: int, title: str, note: str) -> Figure:
    from matplotlib.figure import Figure

    k = len(rows)
    blocks = -(-k // _ROWS_PER_BLOCK)
    per_block = -(-k // blocks)
    h, w = rows[0].shape[1:3]
    cell = 0.5  # inches
    width = blocks * (per_cluster * cell * min(w / h, 2) + 1.0) + 0.2
    height = per_block * cell * 1.06 + 0.8
    figure = Figure(figsize=(max(width, 4.0), height), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    if note:
        figure.supxlabel(note, fontsize=8, color="0.35")
    axes = figure.subplots(1, blocks, squeeze=False)[0]
    for block, ax in enumerate(axes):
        part = range(block * per_block, min((block + 1) * per_block, k))
        canvas, centres = _canvas([rows[i] for i in part], per_block, per_cluster, h, w)
        ax.imshow(canvas, interpolation="nearest" if h < 48 else "antialiased", aspect=1.0 if w <= 2 * h else "auto")
        ax.set_yticks(
            centres[: len(part)],
            [_caption(i, sizes[i]) for i in part],
        )
        ax.tick_params(axis="y", length=0, labelsize=8)
        ax.set_xticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)
    return figure


def _caption(cluster: int, size: int) -> str:
    return f"cluster {cluster}\n" + ("empty" if size == 0 else "1 image" if size == 1 else f"{size:,} images")


def _canvas(rows: list[np.ndarray], n_rows: int, n_columns: int, h: int, w: int) -> tuple[np.ndarray, list[float]]:
    """Paste rows of images onto white; also the height of the middle of every row."""
    gap = max(1, round(0.06 * h))
    canvas = np.ones((n_rows * (h + gap) - gap, n_columns * (w + gap) - gap, 3))
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            canvas[i * (h + gap) : i * (h + gap) + h, j * (w + gap) : j * (w + gap) + w] = image
    return canvas, [i * (h + gap) + (h - 1) / 2 for i in range(n_rows)]


def affinity_figure(A_s: np.ndarray, A_c: np.ndarray, labels: np.ndarray, path: str | Path | None = None) -> Figure:
    """The subspace affinity (Eq. 4) beside the classifier affinity (Eq. 1), samples sorted by cluster.

    Parameters
    ----------
    A_s, A_c : array of shape (n, n)
        Entries in [0, 1].
    labels : int array of shape (n,)
        Clusters, for the order and the lines between them.
    path : str or Path, optional

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InvalidInputError
        If the shapes do not fit.
    """
    from matplotlib.figure import Figure

    labels = np.asarray(labels)
    n = len(labels)
    for name, A in (("A_s", A_s), ("A_c", A_c)):
        if np.shape(A) != (n, n):
            raise InvalidInputError(f"{name} has shape {np.shape(A)}: give ({n}, {n}), one row for each label.")
    order = np.argsort(labels, kind="stable")
    clusters, starts = np.unique(labels[order], return_index=True)
    ends = np.append(starts[1:], n)
    figure = Figure(figsize=(11, 5.2), dpi=150, layout="constrained")
    axes = figure.subplots(1, 2)
    panels = ((A_s, "Subspace affinity $A_s$"), (A_c, "Classifier affinity $A_c$"))
    for ax, (A, title) in zip(axes, panels, strict=True):
        image = ax.imshow(
            np.asarray(A)[np.ix_(order, order)], cmap="magma", vmin=0, vmax=1, interpolation="antialiased"
        )
        ax.set_title(title, fontsize=12)
        _cluster_axis(ax, clusters, starts, ends)
        figure.colorbar(image, ax=ax, fraction=0.046, pad=0.02)
    axes[0].set_ylabel("cluster")
    return _save(figure, path)


def _cluster_axis(ax: Axes, clusters: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    """Lines between the clusters and their numbers in the middle of each, where there is room for them."""
    for edge in starts[1:] - 0.5:
        ax.axhline(edge, color="white", linewidth=0.5, alpha=0.7)
        ax.axvline(edge, color="white", linewidth=0.5, alpha=0.7)
    n, last = int(ends[-1]), -np.inf
    shown = []
    for i, centre in enumerate((starts + ends - 1) / 2):
        if centre - last >= 0.035 * n:
            shown.append(i)
            last = centre
    centres = ((starts + ends - 1) / 2)[shown]
    ax.set_xticks(centres, [str(c) for c in clusters[shown]], fontsize=8)
    ax.set_yticks(centres, [str(c) for c in clusters[shown]], fontsize=8)
    ax.tick_params(length=0)
    ax.set_xlabel("cluster")


def training_curves(history: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """One small plot for every numeric term of the history, over all epochs, coloured by phase.

    Parameters
    ----------
    history : sequence of dict
        One record per epoch, with the key ``phase`` and named numbers; a dict inside a record counts as further terms.
    path : str or Path, optional

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InvalidInputError
        If there is nothing to plot.
    """
    from matplotlib.figure import Figure

    terms = history_terms(history)
    if not terms:
        raise InvalidInputError("The history holds no numbers to plot: fit the estimator first.")
    phase = np.array([str(record.get("phase", "training")) for record in history])
    phases = list(dict.fromkeys(phase.tolist()))
    colours = {phase: _COLOURS[i % len(_COLOURS)] for i, phase in enumerate(phases)}
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
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colours[phase], linewidth=2, label=phase) for phase in phases]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(phases), 5), fontsize=8, frameon=False)
    return _save(figure, path)


def history_terms(history: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Every numeric term of a history, in order of appearance: arrays of shape (n_records,), NaN where it is missing.

    Parameters
    ----------
    history : sequence of dict
        As for :func:`training_curves`.
    """
    records = [_flatten(record) for record in history]
    terms = dict.fromkeys(key for record in records for key, value in record.items() if _is_term(key, value))
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
    x = np.arange(1, len(y) + 1)
    for name, colour in colours.items():
        mine = (phase == name) & np.isfinite(y)
        ax.plot(x[mine], y[mine], color=colour, linewidth=1.5, marker="o" if mine.sum() < 3 else None, markersize=3)
    finite = y[np.isfinite(y)]
    if len(finite) and finite.min() > 0 and finite.max() > 100 * finite.min():
        ax.set_yscale("log")
    ax.set_title(term, fontsize=9, loc="left")
    ax.tick_params(labelsize=7)
    ax.grid(color="0.9", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        path = Path(path)
        with friendly_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
    return figure
