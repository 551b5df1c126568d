"""Codes in the plane of their two principal components, coloured by cluster and by true label (Fig. 4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subspan.errors import InvalidInputError
from subspan.plots._style import save, sign

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 5000
_LEGEND_ROWS = 20
_LEGEND_ENTRIES = 60
_APART = 0.05  # of the width of the cloud: numbers nearer than this would overlap


def latent_figure(
    Z: np.ndarray,
    labels: np.ndarray,
    path: str | Path | None = None,
    *,
    truth: np.ndarray | None = None,
    max_points: int = MAX_POINTS,
) -> Figure:
    """The two principal components of the codes, coloured by cluster and, beside it, by true label.

    A label has the colour of the cluster that shares most samples with it (one to one), so that dots of another colour
    in the second panel are the mistakes.

    Parameters
    ----------
    Z : array of shape (n, d)
        Codes, as ``transform`` gives them.
    labels : int array of shape (n,)
    path : str or Path, optional
        Where to save the picture.
    truth : array of shape (n,), optional
        True labels, of any type.
    max_points : int
        If there are more samples, so many are drawn, chosen at random (the same ones every time).

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InvalidInputError
        If there are less than two samples, the shapes do not fit or Z is not finite.
    """
    from matplotlib.figure import Figure

    Z, labels = np.asarray(Z, dtype=np.float64), np.asarray(labels)
    n = len(Z)
    if Z.ndim != 2 or n < 2 or labels.shape != (n,) or (truth is not None and np.shape(truth) != (n,)):
        raise InvalidInputError(
            f"Z has shape {Z.shape} and labels {labels.shape}: give (n, d) codes of two samples or more, and n labels."
        )
    if not np.isfinite(Z).all():
        raise InvalidInputError("Z holds NaN or infinite numbers: give finite codes.")
    kept = np.random.default_rng(0).permutation(n)[:max_points]  # in random order no cluster covers the others
    points, shares = _principal(Z[kept])
    groups: list[tuple[np.ndarray, str, dict[Any, int] | None]] = [(labels[kept], "cluster", None)]
    if truth is not None:
        truth = np.asarray(truth)[kept]
        groups.append((truth, "label", match_signs(labels[kept], truth)))
    figure = Figure(figsize=(6.6 * len(groups), 5.2), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for ax, (group, what, signs) in zip(axes, groups, strict=True):
        _draw_groups(ax, points, group, what, signs)
        ax.set_xlabel(f"first principal component ({100 * shares[0]:.0f} % of the variance)", fontsize=9)
    axes[0].set_ylabel(f"second principal component ({100 * shares[1]:.0f} %)", fontsize=9)
    return save(figure, path)


def _principal(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (m, 2) and the shares of the variance; zeros where there is no second component."""
    from sklearn.decomposition import PCA

    found = PCA(min(2, *Z.shape), random_state=0)
    points, shares = np.zeros((len(Z), 2)), np.zeros(2)
    with np.errstate(invalid="ignore"):  # 0 / 0 where all codes are equal
        count = found.fit(Z).n_components_
    points[:, :count] = found.transform(Z)
    shares[:count] = np.nan_to_num(found.explained_variance_ratio_)
    return points, shares


def match_signs(labels: np.ndarray, truth: np.ndarray) -> dict[Any, int]:
    """A number for each true label: that of its cluster under the one-to-one map that shares most samples.

    Labels without a cluster get the numbers after the last cluster.
    """
    from scipy.optimize import linear_sum_assignment

    clusters, columns = np.unique(labels, return_inverse=True)
    classes, rows = np.unique(truth, return_inverse=True)
    shared = np.zeros((len(classes), len(clusters)), dtype=np.int64)
    np.add.at(shared, (rows, columns), 1)
    signs = {classes[i]: int(clusters[j]) for i, j in zip(*linear_sum_assignment(-shared), strict=True)}
    rest = [value for value in classes if value not in signs]
    return signs | {value: int(clusters[-1]) + 1 + i for i, value in enumerate(rest)}


def _draw_groups(ax: Axes, points: np.ndarray, group: np.ndarray, what: str, signs: dict[Any, int] | None) -> None:
    """One dot for each point; colour and marker say the group, the legend which."""
    from matplotlib.lines import Line2D

    values = np.unique(group)
    looks = {value: sign(int(value) if signs is None else signs[value]) for value in values}
    for marker in dict.fromkeys(marker for _, marker in looks.values()):
        mine = np.isin(group, [value for value in values if looks[value][1] == marker])
        colours = [looks[value][0] for value in group[mine]]
        size = float(np.clip(20_000 / len(points), 6, 22))
        ax.scatter(points[mine, 0], points[mine, 1], c=colours, marker=marker, s=size, alpha=0.75, linewidths=0)
    _write_numbers(ax, points, group, values)
    handles = [
        Line2D([], [], linestyle="", color=looks[value][0], marker=looks[value][1], markersize=5, label=str(value))
        for value in values[:_LEGEND_ENTRIES]
    ]
    legend = ax.legend(
        handles=handles,
        title=what if len(values) <= _LEGEND_ENTRIES else f"{what}, {_LEGEND_ENTRIES} of {len(values)}",
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        ncols=-(-len(handles) // _LEGEND_ROWS),
        fontsize=8,
        title_fontsize=9,
        frameon=False,
        handletextpad=0.1,
        columnspacing=0.8,
        borderaxespad=0.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may hold dollar signs
    ax.set_title(f"Codes by {what}", fontsize=12)
    ax.tick_params(labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)


def _write_numbers(ax: Axes, points: np.ndarray, group: np.ndarray, values: np.ndarray) -> None:
    """The name of each group at its median, the largest groups first, where it meets no other."""
    from matplotlib.patheffects import withStroke

    spread = np.maximum(np.ptp(points, axis=0), 1e-12)
    placed: list[np.ndarray] = []
    for value in sorted(values, key=lambda value: -np.count_nonzero(group == value)):
        middle, text = np.median(points[group == value], axis=0), str(value)
        here = middle / spread
        room = _APART * max(1.0, len(text) / 2)
        if len(text) > 12 or any(np.abs(here - other).max() < room for other in placed):
            continue
        placed.append(here)
        ax.text(
            middle[0],
            middle[1],
            text,
            fontsize=10,
            fontweight="bold",
            ha="center",
            va="center",
            parse_math=False,
            path_effects=[withStroke(linewidth=3.5, foreground="white")],
        )
