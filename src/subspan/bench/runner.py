"""Runs cells in processes of their own, with limits, and writes one line for each.

Limits: wall-clock seconds from the start of the process, and resident memory (RSS) of its process group, looked at
every 0.2 s through /proc. A short peak between two looks is not seen. Without /proc (macOS, Windows) there is no memory
limit. RLIMIT_AS is not used: torch and CUDA reserve address space far beyond what they touch.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from subspan.bench.records import Journal
from subspan.bench.scratch import scratch_folder
from subspan.bench.settings import Cell
from subspan.bench.worker import environment, side_file
from subspan.errors import InvalidInputError
from subspan.methods import METHODS

_LOOK = 0.2  # seconds between two looks at a cell
_KEPT_OUTPUT = 2000  # characters of the output of a process that died
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How cells are run; nothing here changes what a cell computes, but for the device."""

    jobs: int = 1
    device: str = "auto"
    plugins: tuple[str, ...] = ()  # modules that register further methods
    retry: bool = False  # cells that are in the file but not "ok"
    cache: str | None = None  # folder of auto-encoders and codes that cells share


@dataclass
class Plan:
    """What there is to do: cells to run, cells that are in the file already, and cells whose method is not there."""

    todo: list[Cell] = field(default_factory=list)
    done: list[Cell] = field(default_factory=list)
    missing: list[Cell] = field(default_factory=list)


def make_plan(cells: Iterable[Cell], finished: dict[str, str], options: Options) -> Plan:
    """Sort cells by what is to be done with them; ``finished`` holds the status of cells by key."""
    plan = Plan()
    for cell in cells:
        status = finished.get(cell.key)
        if status is not None and not (options.retry and status != "ok"):
            plan.done.append(cell)
        elif cell.method not in METHODS:
            plan.missing.append(cell)
        else:
            plan.todo.append(cell)
    return plan


def load_plugins(names: Sequence[str]) -> None:
    """Import modules that call ``METHODS.register``.

    Raises
    ------
    InvalidInputError
        There is no such module.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InvalidInputError(f"The module '{name}' cannot be imported ({error}): set PYTHONPATH.") from error


def run_plan(plan: Plan, journal: Journal, options: Options, say: Say) -> Counter[str]:
    """Run what is to do and append it to the journal; how many cells ended in which status.

    Cells of a data set that is not on this machine are "missing" and leave no line. On Ctrl-C the cells that run are
    killed, and what is finished stays.
    """
    stop, lock, tally = threading.Event(), threading.Lock(), Counter[str]()
    absent: dict[str, str] = {}

    def work(cell: Cell, scratch: Path) -> None:
        if stop.is_set():
            return
        record = {"status": "missing", "error": absent[cell.data]} if cell.data in absent else None
        record = record or run_limited(cell, options, stop, scratch)
        if record is None:
            return
        with lock:
            tally[record["status"]] += 1
            if record["status"] == "missing":
                absent[cell.data] = record["error"]
            else:
                journal.append(record)
            say(f"[{sum(tally.values())}/{len(plan.todo)}] {cell.label}: {describe(record)}")

    with scratch_folder() as scratch, ThreadPoolExecutor(max_workers=options.jobs) as pool:
        running = [pool.submit(work, cell, scratch) for cell in plan.todo]
        try:
            for future in as_completed(running):
                future.result()
        except BaseException:
            stop.set()
            raise
    return tally


def describe(record: dict[str, Any]) -> str:
    """A record in a few words."""
    if record["status"] != "ok":
        return f"{record['status']} ({record['error']})"
    scores = " / ".join(f"{100 * record[name]:.1f}" for name in ("acc", "nmi", "ari"))
    return f"{scores} in {record['seconds']['total']:.1f} s"


def run_limited(cell: Cell, options: Options, stop: threading.Event, scratch: Path) -> dict[str, Any] | None:
    """Record of one cell: run in a process, killed at its limits; None if ``stop`` was set meanwhile.

    Of a cell that has no result the record holds what its process had written of it before.
    """
    started, begin = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        request, result, log = (Path(folder) / name for name in ("request.json", "result.json", "output.txt"))
        asked = {"cell": cell.to_json(), "device": options.device, "plugins": options.plugins}
        asked["cache"] = options.cache or str(Path(folder) / "models")  # removed with the folder, also after a kill
        request.write_text(json.dumps(asked), encoding="utf-8")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "subspan.bench.worker", str(request), str(result)],
                stdin=subprocess.PIPE,  # the process ends when this end closes, also by kill -9
                stdout=output,
                stderr=output,
                env=_environment(options.jobs),
                start_new_session=True,
            )
            try:
                verdict, peak = _watch(process, begin + cell.time_limit, cell.memory_limit_gb * 1e9, stop)
            finally:
                _kill(process)
        if verdict == "stopped":
            return None
        if verdict == "ended" and result.is_file():
            found = _read(result)
        else:
            known = _read(side_file(result)) if side_file(result).is_file() else environment()
            memory = {"peak_bytes": peak or None, "peak_gpu_bytes": None}
            found = {**known, "memory": memory, **_reason(cell, verdict, process.returncode, log)}
    seconds = {**found.pop("seconds", {}), "total": round(time.monotonic() - begin, 3)}
    return {"key": cell.key, "setting": cell.setting, **cell.to_json(), **found, "seconds": seconds, "started": started}


def _watch(process: subprocess.Popen, deadline: float, memory: float, stop: threading.Event) -> tuple[str, int]:
    """Wait for the end of the process ("ended") or for a reason to kill it ("timeout", "memory", "stopped").

    Beside it the largest resident memory that was seen, in bytes.
    """
    peak = 0
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_LOOK)
            return "ended", peak
        used = resident_bytes(process.pid)
        peak = max(peak, used)
        if stop.is_set():
            return "stopped", peak
        if time.monotonic() > deadline:
            return "timeout", peak
        if used > memory:
            return "memory", peak


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _reason(cell: Cell, verdict: str, code: int, log: Path) -> dict[str, str]:
    """Why there is no result."""
    if verdict == "timeout":
        return {"status": "timeout", "error": f"stopped after the limit of {cell.time_limit:g} s"}
    if verdict == "memory":
        return {"status": "memory", "error": f"stopped above the limit of {cell.memory_limit_gb:g} GB"}
    end = f"signal {-code}" if code < 0 else f"exit code {code}"
    output = log.read_text(encoding="utf-8", errors="replace")[-_KEPT_OUTPUT:]
    error = f"the process ended with {end} and no result"
    return {"status": "failed", "error": error, "traceback": output}


def _kill(process: subprocess.Popen) -> None:
    """End the process and its children."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _environment(jobs: int) -> dict[str, str]:
    """The cores are shared among the jobs, unless the caller set a number of threads."""
    env = dict(os.environ)
    if jobs > 1 and not any(name in env for name in _THREADS):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        env |= dict.fromkeys(_THREADS, str(max(1, cores // jobs)))
    return env


def resident_bytes(group: int) -> int:
    """Resident memory of a process group, 0 where there is no /proc; memory that processes share counts twice."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            values = entry.read_text().rpartition(")")[2].split()  # from field 3 (state) on
            if int(values[2]) == group:
                total += int(values[21]) * os.sysconf("SC_PAGE_SIZE")
    return total
