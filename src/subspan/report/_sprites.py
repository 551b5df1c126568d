"""Thumbnails of chosen samples, packed into few WebP sheets whose total size is bounded."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from subspan._validation import channels_first

LARGEST_SIDE = 96  # pixels of a thumbnail
SHEET_BYTES = 9_000_000  # of all sheets together, before base64 adds a third
_SHEET_PIXELS = 3_000  # side of a sheet
_ALL_PIXELS = 30_000_000
_LADDER = (96, 80, 64, 48, 40, 32, 24, 16)
_QUALITY = 84
BORDER = 1  # pixels around a thumbnail that repeat its edge, so that no neighbour shines in when it is scaled


@dataclass(frozen=True)
class Sprites:
    """Sheets of thumbnails.

    Attributes
    ----------
    rows : int array of shape (m,)
        The samples shown, ascending; sample ``rows[s]`` has slot s.
    sheets : list of str
        ``data:`` addresses.
    height, width : int
        Of one thumbnail without its border, in pixels.
    columns, per_sheet : int
        Thumbnails in a line of a sheet, and on a sheet.
    """

    rows: np.ndarray
    sheets: list[str]
    height: int
    width: int
    columns: int
    per_sheet: int

    def place(self, row: int) -> tuple[int, int, int]:
        """Sheet, column and line of a sample."""
        slot = int(np.searchsorted(self.rows, row))
        sheet, rest = divmod(slot, self.per_sheet)
        return sheet, rest % self.columns, rest // self.columns


def make_sprites(X: np.ndarray, rows: np.ndarray, limit: int = SHEET_BYTES) -> Sprites:
    """Thumbnails of the images ``X[rows]``, made smaller until all sheets fit into ``limit`` bytes.

    Parameters
    ----------
    X : array of shape (n, h, w), (n, h, w, c) or (n, c, h, w)
    rows : int array of shape (m,)
        Ascending.
    limit : int
    """
    h, w, gray = _format(X)
    low, high = value_range(X, rows)
    for side in _sides(max(h, w), len(rows)):
        scale = side / max(h, w)
        size = (max(1, round(h * scale)), max(1, round(w * scale)))
        columns = max(1, min(len(rows), _SHEET_PIXELS // (size[1] + 2 * BORDER)))
        per_sheet = columns * max(1, _SHEET_PIXELS // (size[0] + 2 * BORDER))
        blocks = [rows[i : i + per_sheet] for i in range(0, len(rows), per_sheet)]
        sheets = [_sheet(X, block, size, columns, (low, high), gray) for block in blocks]
        if sum(map(len, sheets)) <= limit:
            break
    encoded = [f"data:image/webp;base64,{base64.b64encode(sheet).decode()}" for sheet in sheets]
    return Sprites(rows, encoded, *size, columns, per_sheet)


def _sides(native: int, count: int) -> list[int]:
    """Sizes to try, largest first: not above the images' own, nor above the pixels that a browser holds with ease."""
    start = min(native, LARGEST_SIDE)
    sides = [start, *(side for side in _LADDER if side < start)]
    fitting = [side for side in sides if side * side * count <= _ALL_PIXELS]
    return fitting or sides[-1:]


def _channels(X: np.ndarray) -> str:
    """Where the colour channels are: "none", "last" or "first"."""
    if X.ndim == 3:
        return "none"
    return "first" if channels_first(X.shape) else "last"


def _format(X: np.ndarray) -> tuple[int, int, bool]:
    """Height, width, and whether the thumbnails are gray."""
    place = _channels(X)
    h, w = X.shape[2:4] if place == "first" else X.shape[1:3]
    count = {"none": 1, "last": X.shape[-1], "first": X.shape[1]}[place]
    return h, w, count != 3


def value_range(X: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Values shown as black and as white: 0 and 255 for bytes that use the range, else the extremes of ``rows``."""
    lows, highs = zip(*((X[i : i + 1].min(), X[i : i + 1].max()) for i in rows.tolist()), strict=True)
    low, high = float(min(lows)), float(max(highs))
    return (0.0, 255.0) if X.dtype == np.uint8 and high > 127 else (low, high)


def _sheet(
    X: np.ndarray, rows: np.ndarray, size: tuple[int, int], columns: int, values: tuple[float, float], gray: bool
) -> bytes:
    """One sheet as WebP; small gray thumbnails (digits, letters) without loss."""
    from PIL import Image

    h, w = size[0] + 2 * BORDER, size[1] + 2 * BORDER
    sheet = Image.new("L" if gray else "RGB", (w * columns, h * -(-len(rows) // columns)), 0)
    for slot, row in enumerate(rows.tolist()):
        image = Image.fromarray(_pixels(X[row], _channels(X), values, gray))
        if image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.LANCZOS)
        widths = [(BORDER, BORDER)] * 2 + [(0, 0)] * (not gray)
        bordered = Image.fromarray(np.pad(np.asarray(image), widths, mode="edge"))
        sheet.paste(bordered, (slot % columns * w, slot // columns * h))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", lossless=gray and max(size) <= 32, quality=_QUALITY, method=2)
    return buffer.getvalue()


def _pixels(image: np.ndarray, place: str, values: tuple[float, float], gray: bool) -> np.ndarray:
    """uint8 (h, w) or (h, w, 3); of channels that are no colours, the mean."""
    pixels = np.asarray(image, dtype=np.float32)
    if place == "first":
        pixels = np.moveaxis(pixels, 0, -1)
    if gray and place != "none":
        pixels = pixels.mean(axis=-1)
    low, high = values
    return np.clip((pixels - low) * (255 / max(high - low, 1e-12)), 0, 255).round().astype(np.uint8)
