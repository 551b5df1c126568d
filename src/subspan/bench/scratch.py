"""The temporary folder of a run: gone when the run ends, or, after kill -9, when the next one starts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_PREFIX = "subspan-bench-"
_LOCK = "lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for one run; those that killed runs of this user left behind are removed first.

    A run holds a lock in its folder, which the system releases when the process ends in whatever way. A number of a
    process would not do: containers may share the folder of temporary files, and number their processes anew.
    """
    _remove_left_behind()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with (folder / "new").open("w") as file:
            if _try_lock(file):
                os.rename(folder / "new", folder / _LOCK)  # so a free lock of that name always is a dead run's
            yield folder


def _remove_left_behind() -> None:
    if os.name != "posix":  # nobody holds locks, so none is a sign of death
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # no lock, not ours to open, or gone meanwhile
            if folder.lstat().st_uid != os.getuid():
                continue
            with (folder / _LOCK).open("r+") as file:
                if _try_lock(file):
                    shutil.rmtree(folder, ignore_errors=True)


def _try_lock(file: IO[str]) -> bool:
    """Whether this process now holds the lock of the file, until it is closed."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another, or a file system without locks
        return False
    return True
