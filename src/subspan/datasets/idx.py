"""IDX files, the format of MNIST, and a checksum that ignores the order of samples."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

from subspan.errors import InvalidInputError

_UBYTE = 0x08


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, compressed or not.

    Parameters
    ----------
    path : Path
        A file whose name may end in ``.gz``.

    Returns
    -------
    uint8 array with the shape that the header gives

    Raises
    ------
    InvalidInputError
        If the file is cut short, damaged or not of this format.
    """
    damaged = f"{path} is damaged or not an IDX file of unsigned bytes: download it again."
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidInputError(damaged) from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _UBYTE]):
        raise InvalidInputError(damaged)
    start = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], dtype=">u4"))
    if len(shape) != content[3] or len(content) != start + math.prod(shape):
        raise InvalidInputError(damaged)
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def unordered_digest(X: np.ndarray) -> str:
    """SHA-256 of the multiset of samples: equal for any order of the rows, different if one byte of one sample differs.

    Parameters
    ----------
    X : uint8 array of shape (n, ...)

    Returns
    -------
    str of 64 hexadecimal digits
    """
    rows = np.ascontiguousarray(X).reshape(len(X), -1)
    digests = sorted(hashlib.blake2b(row.data, digest_size=16).digest() for row in rows)
    return hashlib.sha256(b"".join(digests)).hexdigest()
