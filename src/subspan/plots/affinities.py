"""Affinity matrices and the pairs that are selected from them, samples sorted by cluster (Figs. 1 and 2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subspan.errors import InvalidInputError
from subspan.plots._style import COLOURS, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = ("Subspace affinity $A_s$", "Classifier affinity $A_c$")
_DOTS = 700  # matrices up to this size show every single pair


def select_pairs(
    A_s: np.ndarray,
    A_c: np.ndarray,
    *,
    u: float,
    l: float,  # noqa: E741
    limit: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that each collaborator is sure of: ``A_s > u`` (Eq. 6) and ``A_c < l`` (Eq. 7), off the diagonal.

    Parameters
    ----------
    A_s, A_c : array of shape (n, n)
    u, l : float
    limit : int, optional
        Positive pairs of a row at most: those with the largest ``A_s``.

    Returns
    -------
    positive, negative : bool array of shape (n, n)
    """
    A = np.array(A_s, dtype=np.float64)
    np.fill_diagonal(A, -np.inf)
    positive = u < A
    if limit is not None and limit < len(A):
        top = np.argpartition(A, -limit, axis=1)[:, -limit:]
        kept = np.zeros_like(positive)
        np.put_along_axis(kept, top, True, axis=1)
        positive &= kept
    negative = np.asarray(A_c) < l
    np.fill_diagonal(negative, False)
    return positive, negative


def affinity_figure(
    A_s: np.ndarray,
    A_c: np.ndarray,
    labels: np.ndarray,
    path: str | Path | None = None,
    *,
    u: float | None = None,
    l: float | None = None,  # noqa: E741
    limit: int | None = None,
    titles: tuple[str, str] = _TITLES,
) -> Figure:
    """The subspace affinity (Eq. 4) beside the classifier affinity (Eq. 1), samples sorted by cluster.

    With thresholds, a second row shows the pairs selected from each, see :func:`select_pairs`.

    Parameters
    ----------
    A_s, A_c : array of shape (n, n)
        Entries in [0, 1].
    labels : int array of shape (n,)
        Clusters, for the order and the lines between them.
    path : str or Path, optional
        Where to save the picture.
    u, l : float, optional
        Thresholds of positive and of negative pairs; both or none.
    limit : int, optional
        Positive pairs of a row at most.
    titles : (str, str)
        Of the two matrices.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InvalidInputError
        If the shapes do not fit, or one threshold is missing.
    """
    from matplotlib.figure import Figure

    labels = np.asarray(labels)
    n = len(labels)
    for name, A in (("A_s", A_s), ("A_c", A_c)):
        if np.shape(A) != (n, n):
            raise InvalidInputError(f"{name} has shape {np.shape(A)}: give ({n}, {n}), one row for each label.")
    if (u is None) != (l is None):
        raise InvalidInputError("One of the thresholds u and l is missing: give both, or none.")
    order = np.argsort(labels, kind="stable")
    A_s, A_c, labels = np.asarray(A_s)[np.ix_(order, order)], np.asarray(A_c)[np.ix_(order, order)], labels[order]
    rows = 1 if u is None else 2
    figure = Figure(figsize=(11, 5.2 * rows), dpi=150, layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    for ax, A, title in zip(axes[0], (A_s, A_c), titles, strict=True):
        image = ax.imshow(A, cmap="magma", vmin=0, vmax=1, interpolation="antialiased")
        ax.set_title(title, fontsize=12)
        _cluster_axis(ax, labels, "white")
        figure.colorbar(image, cax=ax.inset_axes((1.02, 0.0, 0.035, 1.0))).ax.tick_params(labelsize=8)
    if u is not None and l is not None:
        _draw_pairs(axes[1], select_pairs(A_s, A_c, u=u, l=l, limit=limit), labels, _captions(u, l, limit))
    for ax in axes[:, 0]:
        ax.set_ylabel("cluster")
    for ax in axes[-1]:
        ax.set_xlabel(f"cluster ({n:,} samples)")
    return save(figure, path)


def _captions(u: float, l: float, limit: int | None) -> tuple[str, str]:  # noqa: E741
    positive = f"Positive pairs: $A_s > {u:g}$" + ("" if limit is None else f", at most {limit} a row")
    if u == 0 and limit is not None:
        positive = f"Positive pairs: the {limit} largest $A_s$ of a row"
    return positive, f"Negative pairs: $A_c < {l:g}$"


def _draw_pairs(axes: np.ndarray, masks: tuple[np.ndarray, np.ndarray], labels: np.ndarray, captions) -> None:
    """Both masks as dots; under the caption, how many there are and how many agree with the clusters."""
    from matplotlib.colors import ListedColormap

    same = labels[:, None] == labels
    kinds = ((masks[0], same, "within a cluster", COLOURS[0]), (masks[1], ~same, "between clusters", COLOURS[5]))
    for ax, (mask, right, where, colour), caption in zip(axes, kinds, captions, strict=True):
        count = int(mask.sum())
        share = f", {100 * (mask & right).sum() / count:.1f} % {where}" if count else ""
        ax.imshow(
            mask,
            cmap=ListedColormap(["white", colour]),
            vmin=0,
            vmax=1,
            alpha=0.8,
            interpolation="nearest" if len(mask) <= _DOTS else "antialiased",
        )
        ax.set_title(f"{caption}\n{count:,} pairs{share}", fontsize=11)
        _cluster_axis(ax, labels, "0.6")


def _cluster_axis(ax: Axes, labels: np.ndarray, colour: str) -> None:
    """Lines between the clusters of sorted labels, and their numbers in the middle of each where there is room."""
    clusters, starts = np.unique(labels, return_index=True)
    n, last = len(labels), -np.inf
    for edge in starts[1:] - 0.5:
        ax.axhline(edge, color=colour, linewidth=0.5, alpha=0.7)
        ax.axvline(edge, color=colour, linewidth=0.5, alpha=0.7)
    centres = (starts + np.append(starts[1:], n) - 1) / 2
    shown = []
    for i, centre in enumerate(centres):
        if centre - last >= 0.035 * n:
            shown.append(i)
            last = centre
    ax.set_xticks(centres[shown], [str(c) for c in clusters[shown]], fontsize=8)
    ax.set_yticks(centres[shown], [str(c) for c in clusters[shown]], fontsize=8)
    ax.tick_params(length=0)
