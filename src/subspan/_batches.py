"""Samples that come batch by batch, kept in a temporary file (layer 0)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from typing import IO, Any

import numpy as np
import torch

from subspan.errors import InvalidInputError, ResourceError

ARRAY_LIKE = ("__array__", "__getitem__", "shape")  # what has one of these is data, not a series of batches


def is_series(X: Any) -> bool:
    """Whether X is an iterable of batches: a generator, a DataLoader, but no array, list, frame, set or string."""
    return (
        hasattr(X, "__iter__")
        and not isinstance(X, str | bytes | dict | set | frozenset)
        and not any(hasattr(X, name) for name in ARRAY_LIKE)
    )


def spool(batches: Iterable[Any]) -> np.ndarray:
    """All samples of a series of batches as a read-only memory map; one batch is in memory at a time.

    The file is in the folder for temporary files (``TMPDIR``) and vanishes with the last reference to the array.

    Parameters
    ----------
    batches : iterable of array-like of shape (b, ...)
        ndarrays or torch tensors of one dtype that differ in b alone, each as it is or as the one entry of a list or
        tuple, which is what the ``DataLoader`` of a ``TensorDataset`` gives.

    Raises
    ------
    InvalidInputError
        No batch, a batch that is no array, or batches of different sample shapes or types.
    ResourceError
        The disk is full, or there is no folder for temporary files.
    """
    first: np.ndarray | None = None
    count = 0
    with _temporary_file() as file:
        for number, batch in enumerate(batches):
            rows = _as_rows(batch, number)
            first = rows[:1] if first is None else first
            if rows.shape[1:] != first.shape[1:] or rows.dtype != first.dtype:
                raise InvalidInputError(
                    f"batch {number} holds {rows.dtype} samples of shape {rows.shape[1:]}, but the first one "
                    f"{first.dtype} of shape {first.shape[1:]}: all batches must agree."
                )
            _write(file, rows)
            count += len(rows)
        if first is None or count == 0:
            raise InvalidInputError(
                "X yields no samples: an iterator that was used up gives nothing. Make it anew, or give an array "
                "or an iterable that can be read again."
            )
        return np.memmap(file, dtype=first.dtype, mode="r", shape=(count, *first.shape[1:]))


def from_torch(X: torch.Tensor) -> np.ndarray:
    """The same numbers as an ndarray, without a copy where they are on the CPU.

    Raises
    ------
    TypeError
        Sparse tensor.
    """
    if X.layout != torch.strided:
        raise TypeError("Sparse data was passed, but dense data is required. Use X.to_dense() to convert it.")
    X = X.detach().cpu()
    return (X.float() if X.dtype == torch.bfloat16 else X).resolve_conj().resolve_neg().numpy()


def _temporary_file() -> IO[bytes]:
    try:
        # without a buffer: what did not fit would be written again when the file is closed, and fail again there
        return tempfile.TemporaryFile(prefix="subspan-", buffering=0)
    except OSError as error:
        raise ResourceError(
            f"the batches of X need a temporary file, which cannot be made ({error}): set TMPDIR to a folder that can "
            "be written, and start Python again."
        ) from error


def _as_rows(batch: Any, number: int) -> np.ndarray:
    if isinstance(batch, list | tuple) and len(batch) == 1 and isinstance(batch[0], torch.Tensor | np.ndarray):
        batch = batch[0]
    if isinstance(batch, torch.Tensor):
        batch = from_torch(batch)
    plain = isinstance(batch, np.ndarray) and not isinstance(batch, np.ma.MaskedArray)
    if not plain or batch.ndim < 2 or batch.dtype.kind not in "biuf":
        what = f"an array of shape {batch.shape}" if plain else f"a {type(batch).__name__}"
        raise InvalidInputError(
            f"batch {number} of X is {what}: yield numeric arrays or tensors of shape (b, ...), without labels, for "
            "example (x for x, _ in loader)."
        )
    return np.ascontiguousarray(batch)


def _write(file: IO[bytes], rows: np.ndarray) -> None:
    try:
        rest = rows.reshape(-1).view(np.uint8).data
        while len(rest):  # a file without a buffer may take a part
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise ResourceError(
            f"the batches of X do not fit into {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a folder on a "
            "larger disk."
        ) from error
