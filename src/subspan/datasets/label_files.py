"""True labels for evaluation: from a file, or from the folders in which images lie."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from subspan.datasets._types import LABEL_KEYS, NAME_KEYS, encode_labels
from subspan.datasets.tables import find_delimiter
from subspan.errors import DataNotFoundError, InvalidInputError


class LabelFile(NamedTuple):
    """Labels of shape (n,), and the sample names that they belong to if the file has them."""

    y: np.ndarray
    names: list[str] | None


def labels_from_names(names: list[str]) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels from relative paths: the first folder, if every file lies in one and there are two or more.

    Parameters
    ----------
    names : list of str
        Paths with ``/`` between the parts.

    Returns
    -------
    y : int64 array of shape (n,) or None
    classes : list of str or None
        ``classes[y[i]]`` is the folder of ``names[i]``.
    """
    folders = [name.split("/", 1)[0] if "/" in name else "" for name in names]
    if "" in folders or len(set(folders)) < 2:
        return None, None
    return encode_labels(np.array(folders), len(folders), "folder")


def read_label_file(path: Path) -> LabelFile:
    """Read labels from a .csv, .npy or .npz file.

    A .csv file (comma, semicolon or tab) has one column, or a header with a column named y, label(s), class or
    target(s) and possibly one named name(s) or file(name), or without a name. An .npz file has an array of such a name,
    or one array only.

    Raises
    ------
    DataNotFoundError
        If there is no such file.
    InvalidInputError
        If the file holds no labels.
    """
    if not path.is_file():
        raise DataNotFoundError(f"There is no file {path}: give a .csv, .npy or .npz file with the labels.")
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            raw, names = _from_csv(path)
        elif suffix == ".npy":
            raw, names = np.load(path, allow_pickle=False), None
        elif suffix == ".npz":
            raw, names = _from_npz(path), None
        else:
            raise InvalidInputError(f"{path} is not a label file: give a .csv, .npy or .npz file.")
    except InvalidInputError:
        raise
    except (ValueError, EOFError, OSError, csv.Error) as error:
        raise InvalidInputError(f"{path} is damaged or not a {suffix} file: save the labels again.") from error
    if raw.ndim == 0 or raw.size == 0:
        raise InvalidInputError(f"{path} holds no labels: give one label per sample.")
    return LabelFile(encode_labels(raw, len(raw), str(path))[0], names)


def _from_csv(path: Path) -> tuple[np.ndarray, list[str] | None]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = [line for line in stream if line.strip()]
    delimiter = find_delimiter(lines[0]) if lines else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    if not rows:
        return np.empty(0), None
    head = [cell.lower() for cell in rows[0]]
    label = next((head.index(key) for key in LABEL_KEYS if key in head), None)
    name = next((head.index(key) for key in (*NAME_KEYS, "") if key in head), None)  # "": an index that pandas wrote
    if label is None:
        if len(head) != 1:
            raise InvalidInputError(f"{path} has {len(head)} columns and none called 'label': add a header line.")
        label = 0
    else:
        rows = rows[1:]
    if any(len(row) != len(head) for row in rows):
        raise InvalidInputError(f"{path} has lines of different lengths: give {len(head)} cells in each.")
    raw = np.array([row[label] for row in rows])
    with contextlib.suppress(ValueError):
        raw = raw.astype(np.float64)
    return raw, None if name is None else [row[name] for row in rows]


def _from_npz(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        by_name = {key.lower(): key for key in archive.files}
        found = next((by_name[key] for key in LABEL_KEYS if key in by_name), None)
        if found is None and len(archive.files) == 1:
            found = archive.files[0]
        if found is None:
            raise InvalidInputError(f"{path} has no array called 'y' or 'label': save the labels under that name.")
        return archive[found]
