"""What a loader returns, and the checks that every loader shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from subspan.errors import InvalidInputError

#: Names under which a file may hold its labels, and its sample names (compared in lower case).
LABEL_KEYS = ("y", "label", "labels", "class", "target", "targets")
NAME_KEYS = ("name", "names", "file", "filename")


class Skipped(NamedTuple):
    """A file that was left out, and why."""

    path: str
    reason: str


class DatasetInfo(NamedTuple):
    """One line of ``subspan datasets``."""

    name: str
    n: int
    shape: tuple[int, ...]
    classes: int | None
    available: bool
    origin: str


@dataclass(frozen=True)
class Dataset:
    """Samples, with whatever else the source says about them.

    Attributes
    ----------
    name : str
        Name of the set, file or folder.
    X : ndarray of shape (n, p), (n, h, w) or (n, h, w, c)
        The samples; may be a read-only memory map.
    y : ndarray of shape (n,) or None
        True labels as integers, for evaluation only.
    names : list of str or None
        One name per sample (file paths relative to the folder).
    classes : list of str or None
        Names of the labels, where the source has names: ``classes[y[i]]``.
    columns : list of str or None
        Names of the features of a table.
    skipped : list of Skipped
        Files that could not be read.
    """

    name: str
    X: np.ndarray
    y: np.ndarray | None = None
    names: list[str] | None = None
    classes: list[str] | None = None
    columns: list[str] | None = None
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """``"vectors"`` or ``"images"``."""
        return "vectors" if self.X.ndim == 2 else "images"


def encode_labels(raw: np.ndarray, n: int, where: str) -> tuple[np.ndarray, list[str] | None]:
    """Labels as integers: whole numbers stay as they are, anything else is numbered in sorted order.

    Parameters
    ----------
    raw : array of shape (n,) or (n, 1)
    n : int
        Number of samples they belong to.
    where : str
        For the message.

    Returns
    -------
    y : int64 array of shape (n,)
    classes : list of str or None

    Raises
    ------
    InvalidInputError
        If there is not exactly one label per sample.
    """
    raw = np.asarray(raw)
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.shape != (n,):
        raise InvalidInputError(
            f"{where} holds labels of shape {raw.shape} for {n} samples: give one label per sample."
        )
    if raw.dtype.kind in "iub" or (raw.dtype.kind == "f" and np.isfinite(raw).all() and (raw == np.floor(raw)).all()):
        return raw.astype(np.int64), None
    values, codes = np.unique(raw, return_inverse=True)
    return codes.astype(np.int64), [str(value) for value in values]


def check_samples(X: np.ndarray, where: str) -> np.ndarray:
    """Reject what no estimator could take: other than 2-4 axes, an empty axis, values that are not real numbers."""
    if X.dtype.kind not in "iufb":
        raise InvalidInputError(f"{where} holds values of type {X.dtype}: give real numbers.")
    if X.ndim not in (2, 3, 4):
        raise InvalidInputError(
            f"{where} holds an array of shape {X.shape}: give vectors (n, p) or images (n, h, w), (n, h, w, c)."
        )
    if 0 in X.shape:
        raise InvalidInputError(f"{where} is empty (shape {X.shape}): give at least one sample.")
    return X
