"""The results file: one JSON line per cell, appended when the cell is done, safe against kill -9."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subspan._json import to_json
from subspan.errors import DataNotFoundError, InvalidInputError

FORMAT = 1
Record = dict[str, Any]


def read_records(path: str | Path) -> list[Record]:
    """Records of a results file, the last one of each cell; a last line that was cut off is passed over.

    Raises
    ------
    DataNotFoundError
        There is no such file.
    InvalidInputError
        A whole line is not a record of this format.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(f"There is no results file {path}: give the --out of 'subspan bench run'.")
    whole, _ = _split(path.read_bytes())
    return list({record["key"]: record for record in _parse(whole, path)}.values())


class Journal:
    """A results file open for appending: checked, mended and locked.

    Opening it drops a last line that was cut off (its cell is done again) and refuses a file that another run holds.

    Attributes
    ----------
    finished : dict of str to str
        Status of every cell that is in the file, by key.

    Raises
    ------
    InvalidInputError
        The file cannot be written, holds something else, or is in use.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InvalidInputError(f"{path} cannot be written ({error.strerror}): choose another --out.") from error
        try:
            _lock(self._file, self.path)
            whole, torn = _split(self.path.read_bytes())
            self.finished = {record["key"]: record["status"] for record in _parse(whole, self.path)}
            if torn:
                if not _is_ours(torn):
                    raise InvalidInputError(
                        f"The last line of {path} is not a result of 'subspan bench run': choose another --out."
                    )
                os.ftruncate(self._file, len(whole))
        except BaseException:
            os.close(self._file)
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line and wait until it is on disk."""
        line = json.dumps(to_json({"format": FORMAT, **record}), ensure_ascii=False) + "\n"
        rest = memoryview(line.encode())
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)
        self.finished[record["key"]] = record["status"]

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _split(content: bytes) -> tuple[bytes, bytes]:
    """Whole lines, and what follows the last line break."""
    end = content.rfind(b"\n") + 1
    return content[:end], content[end:]


def _is_ours(torn: bytes) -> bool:
    """Whether a line that was cut off begins as :meth:`Journal.append` begins it."""
    start = json.dumps({"format": FORMAT, "key": ""})[:-2].encode()
    return torn[: len(start)] == start[: len(torn)]


def _parse(whole: bytes, path: Path) -> list[Record]:
    records = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = json.loads(line)
            known = record["format"] == FORMAT and isinstance(record["key"], str) and isinstance(record["status"], str)
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise InvalidInputError(
                f"Line {number} of {path} is not a result of 'subspan bench run': remove it, or give another file."
            )
        records.append(record)
    return records


def _lock(file: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on Windows: two runs into one file are then the user's to avoid
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InvalidInputError(f"{path} is in use by another 'subspan bench run': wait, or choose another.") from error
