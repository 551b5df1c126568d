"""Arrays in .npy (memory-mapped) and .npz files. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from subspan.datasets._types import LABEL_KEYS, NAME_KEYS, Dataset, check_samples, encode_labels
from subspan.errors import InvalidInputError

_SAMPLE_KEYS = ("x", "images", "data", "features", "embeddings")
_READ_ERRORS = (ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def load_npy(path: Path) -> Dataset:
    """An .npy file as a read-only memory map: rows are read when they are used, the file is never copied whole.

    Raises
    ------
    InvalidInputError
        If the file is damaged, holds Python objects, or not 2 to 4 axes of real numbers.
    """
    try:
        X = np.load(path, mmap_mode="r", allow_pickle=False)
    except _READ_ERRORS as error:
        raise InvalidInputError(
            f"{path} is not a readable .npy array of numbers: save it again with numpy.save."
        ) from error
    return Dataset(name=path.stem, X=check_samples(X, str(path)))


def load_npz(path: Path, labels: str = "auto") -> Dataset:
    """Samples, and labels if there are any, from an .npz file.

    The samples are the array called X, images, data, features or embeddings, else the first with two axes or more. The
    labels are the array called y, label(s), class or target(s), or the one that ``labels`` names.

    Parameters
    ----------
    path : Path
    labels : str
        ``"auto"``, ``"none"`` or the key of an array.

    Raises
    ------
    InvalidInputError
        If the file is damaged, holds Python objects, or has no such arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _from_archive(archive, path, labels)
    except InvalidInputError:
        raise
    except _READ_ERRORS as error:
        raise InvalidInputError(
            f"{path} holds no readable arrays of numbers: save it again with numpy.savez."
        ) from error


def _from_archive(archive: np.lib.npyio.NpzFile, path: Path, labels: str) -> Dataset:
    key_y = pick_label(archive.files, labels, str(path))
    key_x = _pick_samples(archive, path, key_y)
    X = check_samples(archive[key_x], str(path))
    key_names = next((key for key in archive.files if key.lower() in NAME_KEYS), None)
    names = None
    if key_names is not None and key_names != key_x and archive[key_names].shape == (len(X),):
        names = [str(name) for name in archive[key_names]]
    if key_y is None:
        return Dataset(name=path.stem, X=X, names=names)
    y, classes = encode_labels(archive[key_y], len(X), f"'{key_y}' of {path}")
    return Dataset(name=path.stem, X=X, y=y, names=names, classes=classes)


def _pick_samples(archive: np.lib.npyio.NpzFile, path: Path, key_y: str | None) -> str:
    # labels never become features, also where they are not asked for
    candidates = [key for key in archive.files if key != key_y and key.lower() not in LABEL_KEYS]
    for wanted in _SAMPLE_KEYS:
        for key in candidates:
            if key.lower() == wanted:
                return key
    shapes = _headers(path)
    for key in candidates:
        if len(shapes.get(key, ())) >= 2:
            return key
    raise InvalidInputError(f"{path} has no array of two or more axes ({archive.files}): save the samples as 'X'.")


def pick_label(keys: list[str], labels: str, where: str) -> str | None:
    """The key that holds the labels, None for none; ``labels`` is ``"auto"``, ``"none"`` or the key itself."""
    if labels == "none":
        return None
    if labels != "auto":
        if labels not in keys:
            raise InvalidInputError(f"{where} has no labels '{labels}': choose one of {', '.join(map(repr, keys))}.")
        return labels
    for wanted in LABEL_KEYS:
        for key in keys:
            if key.lower() == wanted:
                return key
    return None


def npz_summary(path: Path) -> tuple[tuple[int, ...], int | None]:
    """Shape of the samples and number of classes of an .npz file, without reading the samples."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            key_y = pick_label(archive.files, "auto", str(path))
            shape = _headers(path)[_pick_samples(archive, path, key_y)]
            return shape, None if key_y is None else len(np.unique(archive[key_y]))
    except InvalidInputError:
        raise
    except _READ_ERRORS as error:
        raise InvalidInputError(
            f"{path} holds no readable arrays of numbers: save it again with numpy.savez."
        ) from error


def _headers(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every array in an .npz file, from the headers alone."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shapes[member.removesuffix(".npy")] = read(stream)[0]
    return shapes
