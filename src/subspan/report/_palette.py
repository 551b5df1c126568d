"""Colours of clusters: few from a palette that colour-blind readers can tell apart, more by greatest distance."""

from __future__ import annotations

import numpy as np

# Okabe-Ito without black, which vanishes on a dark page
_FIRST = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#8C8C8C")
_LIGHTNESS = (0.48, 0.82)  # of further colours, so that they stand out from a white page and from a dark one
_MOST = 256


def cluster_colours(k: int) -> list[str]:
    """Hexadecimal colours of k clusters; from the 257th on they repeat.

    Examples
    --------
    >>> cluster_colours(2)
    ['#0072B2', '#E69F00']
    """
    if k <= len(_FIRST):
        return list(_FIRST[:k])
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(grid)
    usable = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1]) & (np.hypot(lab[:, 1], lab[:, 2]) > 0.05)
    grid, lab = grid[usable], lab[usable]
    chosen = [np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in _FIRST]
    nearest = np.min([np.linalg.norm(lab - _oklab(c), axis=1) for c in chosen], axis=0)
    for _ in range(min(k, _MOST) - len(_FIRST)):
        far = int(nearest.argmax())
        chosen.append(grid[far])
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[far], axis=1))
    colours = ["#{:02X}{:02X}{:02X}".format(*map(int, rgb)) for rgb in chosen]
    return [colours[i % len(colours)] for i in range(k)]


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """Oklab coordinates (..., 3) of sRGB values 0 to 255: distances there follow what the eye sees."""
    c = np.asarray(rgb) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
