"""Samples by cluster, one row each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subspan._validation import channels_first
from subspan.errors import InvalidInputError
from subspan.plots._style import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS_PER_BLOCK = 20
_SIDE = 120  # pixels of an image on the sheet that are enough


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
        sure; without, it takes samples at even steps through the data. Samples whose confidence is NaN are left out.
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
    return save(_draw_sheet(rows, sizes, per_cluster, title or f"{len(X):,} images in {k} clusters", note), path)


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
        members = members[~np.isnan(sure[members])]
        members = members[np.argsort(-sure[members], kind="stable")]
    if len(members) <= count:
        return members
    return members[np.linspace(0, len(members) - 1, count).round().astype(int)]


def _thumbnails(X: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The chosen images as floats in [0, 1], shape (m, h, w, 3); large ones are made smaller, one by one."""
    small = [_thumbnail(np.asarray(X[i]), channels_first(X.shape)) for i in index.tolist()]
    if not small:
        return np.zeros((0, 1, 1, 3))
    images = np.stack(small)
    low, high = (0.0, 255.0) if X.dtype == np.uint8 and images.max() > 127 else (images.min(), images.max())
    return np.broadcast_to((images - low) / max(high - low, 1e-12), (*images.shape[:-1], 3))


def _thumbnail(image: np.ndarray, first: bool) -> np.ndarray:
    """An image as floats (h, w, 1) or (h, w, 3), the means of blocks of pixels if it is larger than is shown."""
    pixels = image[..., None] if image.ndim == 2 else np.moveaxis(image, 0, -1) if first else image
    step = max(1, min(pixels.shape[:2]) // _SIDE)
    h, w = (side - side % step for side in pixels.shape[:2])
    pixels = pixels[:h, :w].reshape(h // step, step, w // step, step, -1).mean(axis=(1, 3), dtype=np.float64)
    return pixels if pixels.shape[-1] in (1, 3) else pixels.mean(axis=-1, keepdims=True)


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
