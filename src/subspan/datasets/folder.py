"""A folder of images as one uint8 array."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from subspan.datasets._types import Dataset, Skipped
from subspan.datasets.label_files import labels_from_names
from subspan.errors import InvalidInputError, ResourceError

FALLBACK_SIZE = (32, 32)
_GRAY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)


class _Header(NamedTuple):
    name: str
    size: tuple[int, int]  # height, width, upright
    gray: bool  # no colour channel; False for "perhaps coloured"


def load_folder(
    root: Path, *, labels: str = "auto", image_size: int | tuple[int, int] | None = None, color: str = "auto"
) -> Dataset:
    """Every image below a folder, in alphabetical order of its path, upright (EXIF) and of one size.

    Hidden files and folders are passed over; a file that Pillow cannot read is left out and listed in ``skipped``.
    Transparent parts become white, 16-bit gray becomes 8-bit, and of several frames the first is taken.

    Parameters
    ----------
    root : Path
    labels : str
        ``"auto"``: the first folder below ``root`` is the label, if every image lies in one and there are two or more.
        ``"none"``: no labels.
    image_size : int, (height, width) or None
        Size to resize to, without keeping the aspect ratio. None: the images' own size if all are equal, else 32 x 32.
    color : {"auto", "gray", "rgb"}
        ``"auto"``: rgb if one pixel of one image has a colour.

    Returns
    -------
    Dataset with uint8 X of shape (n, h, w) or (n, h, w, 3)

    Raises
    ------
    InvalidInputError
        If no image is found, or a parameter is wrong.
    ResourceError
        If the array would not fit into this machine's memory.
    """
    size = _parse_size(image_size)
    if color not in ("auto", "gray", "rgb"):
        raise InvalidInputError(f"color is {color!r}: choose 'auto', 'gray' or 'rgb'.")
    if labels not in ("auto", "none"):
        raise InvalidInputError(f"labels is {labels!r}: for a folder of images choose 'auto' or 'none'.")
    paths = _list_files(root)
    headers, skipped = _partition(paths, lambda name: _read_header(root, name))
    if not headers:
        raise InvalidInputError(f"No readable image in {root} ({len(skipped)} other files): give a folder of images.")
    sizes = {header.size for header in headers}
    size = size or (sizes.pop() if len(sizes) == 1 else FALLBACK_SIZE)
    rgb = color == "rgb" or (color == "auto" and not all(header.gray for header in headers))
    X, names, damaged = _decode_all(root, headers, size, rgb)
    if not names:
        raise InvalidInputError(f"All {len(damaged)} images in {root} are damaged: give a folder of readable images.")
    if color == "auto" and rgb and _is_gray(X):
        X = np.ascontiguousarray(X[..., 0])
    y, classes = labels_from_names(names) if labels == "auto" else (None, None)
    return Dataset(name=root.resolve().name, X=X, y=y, names=names, classes=classes, skipped=sorted(skipped + damaged))


def _parse_size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise InvalidInputError(f"image_size is {image_size!r}: give a positive number of pixels, or height and width.")
    return size


def _list_files(root: Path) -> list[str]:
    names: list[str] = []
    above: dict[str, set[str]] = {}
    for folder, subfolders, files in os.walk(root, followlinks=True):
        above[folder] = above.get(str(Path(folder).parent), set()) | {os.path.realpath(folder)}
        subfolders[:] = [
            name
            for name in subfolders
            if not (name.startswith(".") or _is_run(Path(folder) / name))
            and os.path.realpath(Path(folder) / name) not in above[folder]  # a link back to a folder that it is in
        ]
        names += [(Path(folder) / name).relative_to(root).as_posix() for name in files if not name.startswith(".")]
    return sorted(names)


def _is_run(folder: Path) -> bool:
    """Whether a folder is that of a run of ours, whose pictures are no samples."""
    return (folder / "config.json").is_file() and any((folder / name).is_dir() for name in ("model", "checkpoint"))


def _partition(items: list, read: Callable[[Any], Any]) -> tuple[list, list[Skipped]]:
    """Apply ``read`` to every item in a few threads; a str answer is the reason why the item is left out."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        answers = list(pool.map(read, items))
    kept = [answer for answer in answers if not isinstance(answer, str)]
    names = [item if isinstance(item, str) else item.name for item in items]
    return kept, [Skipped(name, answer) for name, answer in zip(names, answers, strict=True) if isinstance(answer, str)]


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _read_header(root: Path, name: str) -> _Header | str:
    from PIL import Image

    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8: rename it"
    try:
        with Image.open(root / name) as image:
            width, height = image.size
            # for a PNG without it in the header, Pillow would decode all pixels to look behind them
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            sideways = exif.get(_ORIENTATION) in _SIDEWAYS
            size = (width, height) if sideways else (height, width)
            return _Header(name, size, image.mode in _GRAY_MODES)
    except Exception as error:  # a damaged file may raise anything from within a decoder, and must not stop the others
        return _reason(error)


def decode_files(
    root: Path, names: list[str], image_size: int | tuple[int, int], *, rgb: bool
) -> tuple[np.ndarray, list[str], list[Skipped]]:
    """Images whose names are known, in that order, resized as :func:`load_folder` does.

    Returns
    -------
    X : uint8 array of shape (n, h, w) or (n, h, w, 3)
    names : list of n str
        Of the images that could be read.
    skipped : list of Skipped

    Raises
    ------
    InvalidInputError
        If ``image_size`` is wrong.
    ResourceError
        If the array would not fit into this machine's memory.
    """
    size = _parse_size(image_size)
    assert size is not None
    return _decode_all(root, [_Header(name, size, not rgb) for name in names], size, rgb)


def _decode_all(
    root: Path, headers: list[_Header], size: tuple[int, int], rgb: bool
) -> tuple[np.ndarray, list[str], list[Skipped]]:
    shape = (len(headers), *size, 3) if rgb else (len(headers), *size)
    _check_memory(shape)
    X = np.empty(shape, dtype=np.uint8)

    def decode(row: int) -> int | str:
        try:
            X[row] = _decode(root / headers[row].name, size, rgb)
            return row
        except Exception as error:  # as in _read_header
            return _reason(error)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        answers = list(pool.map(decode, range(len(headers))))
    rows = [answer for answer in answers if isinstance(answer, int)]
    damaged = [Skipped(headers[i].name, answer) for i, answer in enumerate(answers) if isinstance(answer, str)]
    for target, row in enumerate(rows):  # close the gaps in place
        if target != row:
            X[target] = X[row]
    return X[: len(rows)], [headers[row].name for row in rows], damaged


def _check_memory(shape: tuple[int, ...]) -> None:
    needed = int(np.prod(shape, dtype=np.int64))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else needed
    if needed > total:
        raise ResourceError(
            f"{shape[0]} images of {shape[1]} x {shape[2]} pixels take {needed / 2**30:.1f} GiB: choose a smaller "
            "image_size (--image-size)."
        )


def _decode(path: Path, size: tuple[int, int], rgb: bool) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        image = _to_8_bit(ImageOps.exif_transpose(opened), rgb, full=opened.format in ("PNG", "PPM"))
    if (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(image)


def _to_8_bit(image: Any, rgb: bool, full: bool = False) -> Any:
    """An image of 8 bits. ``full``: wider integers use all of 16 bits, as these formats say, however dark it is."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode != "F" and (full or ";16" in image.mode or values.max() > 255) else 255.0
        top = 1.0 if image.mode == "F" and values.max() <= 1 else top
        image = Image.fromarray(np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB" if rgb else "L")


def _is_gray(X: np.ndarray, chunk: int = 1024) -> bool:
    """Whether red, green and blue agree everywhere; X is (n, h, w, 3)."""
    for start in range(0, len(X), chunk):
        part = X[start : start + chunk]
        if not ((part[..., 0] == part[..., 1]).all() and (part[..., 0] == part[..., 2]).all()):
            return False
    return True
