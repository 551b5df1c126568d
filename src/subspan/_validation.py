"""The one border (layer 0): the caller's arrays come in, float32 tensors are used inside.

Nothing here copies a whole data set: checks and statistics stream over slices of about two megabytes.
"""

from __future__ import annotations

import mmap
import numbers
import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_array

from subspan._batches import from_torch, is_series, spool
from subspan._scaling import Scaling
from subspan.errors import InvalidInputError

SMALLEST = 1e-140  # spread of vectors; the squares of smaller ones vanish
CHUNK_ENTRIES = 1 << 18  # entries of X that a streaming pass holds at a time (2 MiB in float64)

Layout = Literal["np", "nhw", "nhwc", "nchw"]


@dataclass(frozen=True, eq=False)
class Samples:
    """Read-only view of n samples; batches are float32 copies, the whole is never copied.

    Made by :func:`check_samples`.

    Attributes
    ----------
    n : int
    shape : tuple of int
        Shape of one sample inside: (p,) or (c, h, w).
    kind : "vector" or "image"
    layout : "np", "nhw", "nhwc" or "nchw"
        How the caller stored the samples.
    scaling : Scaling
        Applied to every batch; the identity until :meth:`with_scaling`.
    """

    _data: np.ndarray
    layout: Layout
    scaling: Scaling = field(default_factory=Scaling)

    def __len__(self) -> int:
        return self.n

    @property
    def n(self) -> int:
        return self._data.shape[0]

    @property
    def kind(self) -> Literal["vector", "image"]:
        return "vector" if self.layout == "np" else "image"

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        size = self._data.shape[1:]
        if self.layout == "nhw":
            return (1, *size)
        return (size[2], size[0], size[1]) if self.layout == "nhwc" else size

    def with_scaling(self, scaling: Scaling) -> Samples:
        """The same samples (no copy) whose batches are scaled by ``scaling``."""
        return replace(self, scaling=scaling)

    def subset(self, index: np.ndarray | torch.Tensor) -> Samples:
        """The samples ``index``, copied."""
        return replace(self, _data=_gather(self._data, np.asarray(index)))

    def batch(self, index: slice | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Scaled samples as a fresh float32 tensor of shape (b, p) or (b, c, h, w).

        Parameters
        ----------
        index : slice, or 1-D LongTensor or integer ndarray
            Memory maps are read in ascending order, whatever the order of ``index``.
        """
        rows = self._data[index] if isinstance(index, slice) else _gather(self._data, np.asarray(index))
        if self.layout == "nhw":
            rows = rows[:, None]
        elif self.layout == "nhwc":
            rows = np.moveaxis(rows, -1, 1)
        return torch.from_numpy(self.scaling.apply(rows))

    def checksum(self) -> int:
        """CRC-32 of all scaled samples, read batch by batch: another value means other data."""
        value = 0
        for rows in _chunk_slices(self._data):
            value = zlib.crc32(self.batch(rows).numpy().tobytes(), value)
        return value


def check_samples(X: Any, *, channel_axis: Literal["auto", 1, -1] = "auto") -> Samples:
    """Check the caller's data once and return a view of it.

    Parameters
    ----------
    X : array-like of shape (n, p), (n, h, w), (n, h, w, c) or (n, c, h, w)
        ndarray, memory map, torch tensor, nested lists or a data frame; bool, integer or float entries. Or an iterable
        of batches, arrays or tensors (b, ...), which are written to a temporary file: :func:`subspan._batches.spool`.
        A list or tuple is read as samples, also if it holds arrays: for batches give ``iter(list)``.
    channel_axis : "auto", 1 or -1
        Where the channels of 4-D data are. "auto" takes the smaller of axis 1 and axis -1 (the last one at a tie).

    Returns
    -------
    Samples

    Raises
    ------
    InvalidInputError
        Wrong number of axes, entries that are not real numbers, NaN or infinite entries, too few samples.
    ResourceError
        Batches that do not fit on the disk, or no folder for them.
    TypeError
        Sparse input.
    ValueError
        scikit-learn's own messages for 2-D data.
    """
    if channel_axis not in ("auto", 1, -1) or isinstance(channel_axis, bool):
        raise InvalidInputError(f"channel_axis={channel_axis!r} is unknown: use 'auto', 1 or -1.")
    array = _as_array(X)
    layout = _layout(array.shape, channel_axis)
    _check_finite(array)
    view = array.view()
    view.flags.writeable = False
    return Samples(view, layout)


def fit_scaling(samples: Samples) -> Scaling:
    """Scaling of the data, from one streaming pass with float64 sums.

    Images of whole numbers from 0 on: shift 0, scale = the largest entry (255 for photographs, 16 for scikit-learn's
    digits). Other images: shift = min, scale = max - min over all entries.
    Vectors: shift = mean of each feature, scale = root mean square of all centred entries (one scalar, so that
    angles are kept). The scale of constant data is 1.

    Raises
    ------
    InvalidInputError
        When the entries are so large that these sums overflow.
    """
    if samples.kind == "vector":
        return _fit_vectors(samples._data)
    if samples.dtype == np.uint8:
        top = max(int(part.max()) for part in _chunks(samples._data))
        return Scaling(scale=float(max(top, 1)), whole=top > 1)
    low, high, whole = np.inf, -np.inf, True
    for part in _chunks(samples._data):
        low, high = min(low, float(part.min())), max(high, float(part.max()))
        whole = whole and (part.dtype.kind != "f" or not (part % 1).any())
    whole = whole and high > 1
    low = 0.0 if whole and low > 0 else low  # black, as in uint8
    return replace(_checked_scaling(np.array(low), high - low), whole=whole)


def is_divided(samples: Samples, scaling: Scaling) -> bool:
    """Whether samples are images of floats in [0, 1], not all zero, and the scaling is of whole numbers beyond 1."""
    if not scaling.whole or samples.dtype.kind != "f":
        return False
    inside = all(part.min() >= 0 and part.max() <= 1 for part in _chunks(samples._data))
    return inside and bool(samples._data.any())


def check_n_clusters(n_clusters: Any, n_samples: int) -> int:
    """``n_clusters`` as an int with 1 <= n_clusters <= n_samples; anything else raises InvalidInputError."""
    if isinstance(n_clusters, bool) or not isinstance(n_clusters, numbers.Integral) or int(n_clusters) < 1:
        raise InvalidInputError(f"n_clusters={n_clusters!r} must be an integer of at least 1.")
    if int(n_clusters) > n_samples:
        raise InvalidInputError(
            f"n_clusters={n_clusters} must be at most the number of samples n_samples={n_samples}: "
            "ask for fewer clusters or give more data."
        )
    return int(n_clusters)


def check_distinct(samples: Samples, n_clusters: int) -> None:
    """Raise InvalidInputError if all samples are the same, warn if fewer than ``n_clusters`` of them differ."""
    seen: set[bytes] = set()
    for part in _chunks(samples._data):
        for row in part:
            seen.add(row.tobytes())
            if len(seen) >= n_clusters:
                return
    if len(seen) == 1:
        raise InvalidInputError(
            f"All {samples.n} samples of X are the same, there is nothing to cluster: check how X was read."
        )
    warnings.warn(
        f"X has only {len(seen)} different samples for {n_clusters} clusters: some clusters are empty, or split copies "
        "of a sample; ask for fewer clusters.",
        UserWarning,
        stacklevel=3,
    )


def check_same_features(samples: Samples, expected_shape: tuple[int, ...], estimator_name: str) -> None:
    """Raise InvalidInputError unless new samples have the sample shape that was seen in fit."""
    expected = tuple(expected_shape)
    if samples.shape == expected:
        return
    if len(expected) == 1 and samples.kind == "vector":
        raise InvalidInputError(
            f"X has {samples.shape[0]} features, but {estimator_name} is expecting {expected[0]} features as input."
        )
    raise InvalidInputError(
        f"X has {_describe(samples.shape)}, but {estimator_name} was fitted on {_describe(expected)}: "
        "reshape or resize X to what fit saw."
    )


def iter_slices(n: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` items that cover range(n) once, in order."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _as_array(X: Any) -> np.ndarray:
    """X as a numeric ndarray of 2 to 4 axes, without a copy where X is an array or a CPU tensor."""
    if isinstance(X, str | os.PathLike):
        raise InvalidInputError(f"X is the path {os.fspath(X)!r}: give subspan.load_dataset(path).X.")
    if isinstance(X, np.lib.npyio.NpzFile):
        raise InvalidInputError(f"X is an .npz file: give one of its arrays {X.files}.")
    if hasattr(X, "X") and not hasattr(X, "shape"):  # a Dataset
        raise InvalidInputError(f"X is a {type(X).__name__}: give its attribute X, the array.")
    if is_series(X):
        X = spool(X)
    if isinstance(X, torch.Tensor):
        X = from_torch(X)
    if isinstance(X, np.ma.MaskedArray):
        raise InvalidInputError("X is a masked array: fill or drop the masked entries first.")
    if isinstance(X, np.ndarray):
        array = X
    elif isinstance(X, list | tuple):
        array = _from_lists(X)
    else:
        array = None  # data frames, sparse matrices and other types are left to scikit-learn
    if array is None or array.ndim < 3:
        # scikit-learn's own checks and messages; finiteness is checked below in a stream
        array = check_array(X if array is None else array, ensure_all_finite=False)
    elif array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"X has entries that are not numbers ({error}): convert it first.") from error
    if array.dtype.kind == "c":
        raise InvalidInputError("Complex data not supported: pass real numbers, for example the modulus.")
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(f"X has entries of type {array.dtype}: convert it to integers or floats.")
    return np.asarray(array)


def _from_lists(X: list | tuple) -> np.ndarray:
    if X and all(isinstance(entry, str | os.PathLike) for entry in X):
        raise InvalidInputError("X is a list of names, not of numbers: for images give subspan.load_dataset(folder).X.")
    try:
        return np.asarray(X)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(
            "X is a ragged list: a list is read as samples, which must all have the same shape; for batches give "
            "iter(list)."
        ) from error


def _layout(shape: tuple[int, ...], channel_axis: Literal["auto", 1, -1]) -> Layout:
    if len(shape) > 4:
        raise InvalidInputError(
            f"X has {len(shape)} axes: reshape it to (n, p), (n, h, w), (n, h, w, c) or (n, c, h, w)."
        )
    if 0 in shape:  # 2-D data was checked by scikit-learn; the same words for images
        what = "sample(s)" if shape[0] == 0 else "pixel(s) or channel(s)"
        raise InvalidInputError(f"Found array with 0 {what} (shape={shape}) while a minimum of 1 is required.")
    if len(shape) == 2:
        return "np"
    if len(shape) == 3:
        return "nhw"
    if channel_axis == "auto":
        channel_axis = 1 if channels_first(shape) else -1
    return "nchw" if channel_axis == 1 else "nhwc"


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images are (n, c, h, w), not (n, h, w, c): the channels are the fewer of the second and the last axis."""
    return len(shape) == 4 and shape[1] < shape[-1]


def _check_finite(array: np.ndarray) -> None:
    if array.dtype.kind != "f":
        return
    nan_rows = inf_rows = 0
    for part in _chunks(array):
        if np.isfinite(part).all():
            continue
        flat = part.reshape(len(part), -1)
        nan_rows += int(np.isnan(flat).any(1).sum())
        inf_rows += int(np.isinf(flat).any(1).sum())
    found = [f"NaN in {nan_rows}"] * (nan_rows > 0) + [f"infinity in {inf_rows}"] * (inf_rows > 0)
    if found:
        raise InvalidInputError(
            f"Input X contains {' and '.join(found)} of {len(array)} rows: drop these rows or fill the entries in."
        )


def _gather(data: np.ndarray, index: np.ndarray) -> np.ndarray:
    """data[index]; a memory map is read in ascending order."""
    if not _is_memmap(data):
        return data[index]
    order = np.argsort(index, kind="stable")
    rows = np.empty((len(index), *data.shape[1:]), data.dtype)
    rows[order] = data[index[order]]
    return rows


def _is_memmap(data: Any) -> bool:
    while data is not None:
        if isinstance(data, np.memmap | mmap.mmap):
            return True
        data = getattr(data, "base", None)
    return False


def _chunk_slices(data: np.ndarray) -> Iterator[slice]:
    return iter_slices(len(data), max(1, CHUNK_ENTRIES // data[0].size))


def _chunks(data: np.ndarray) -> Iterator[np.ndarray]:
    return (data[part] for part in _chunk_slices(data))


def _fit_vectors(data: np.ndarray) -> Scaling:
    """Mean per feature and total sum of squares, merged chunk by chunk (Chan, Golub and LeVeque 1979).

    Deviations are taken from the first sample, so that constant features have a spread of exactly zero.
    """
    anchor = data[0].astype(np.float64)
    mean, squares, count = np.zeros_like(anchor), 0.0, 0
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is reported below, by name
        for part in _chunks(data):
            rows = part.astype(np.float64) - anchor
            part_mean = rows.mean(0)
            rows -= part_mean
            gap = part_mean - mean
            total = count + len(rows)
            squares += float(np.vdot(rows, rows)) + float(gap @ gap) * count * len(rows) / total
            mean += gap * (len(rows) / total)
            count = total
        scale = float(np.sqrt(squares / data.size))
    if scale < SMALLEST and any((part != data[0]).any() for part in _chunks(data)):
        raise InvalidInputError("X has differences too small to be squared in float64: multiply X by a constant first.")
    return _checked_scaling(anchor + mean, scale)


def _checked_scaling(shift: np.ndarray, scale: float) -> Scaling:
    if not (np.isfinite(shift).all() and np.isfinite(scale)):
        raise InvalidInputError("X has entries too large to be averaged in float64: divide X by a constant first.")
    return Scaling(shift, scale if scale > 0 else 1.0)


def _describe(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return f"vectors of {shape[0]} features"
    return f"images of {shape[1]} x {shape[2]} pixels with {shape[0]} channel(s)"
