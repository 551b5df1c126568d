"""Run folders: what a fit leaves on disk, each file written whole or not at all.

``config.json`` (resolved configuration, and the outcome when finished), ``model/``, ``history.jsonl``, ``labels.csv``,
``figures/``, ``report.html`` if one was asked for, and ``checkpoint/`` while the run goes on.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from subspan._json import to_json
from subspan.errors import CheckpointError, DataNotFoundError, InvalidInputError, ResourceError

_FILES = ("config.json", "history.jsonl", "labels.csv", "report.html")
_FOLDERS = ("model", "figures", "checkpoint")
_OF_THE_SESSION = {"checkpoint_dir", "resume", "verbose", "device"}  # parameters that do not change the result


@dataclass(frozen=True)
class Run:
    """Paths inside a run folder, and its configuration."""

    path: Path
    config: dict[str, Any]

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def labels(self) -> Path:
        return self.path / "labels.csv"

    @property
    def history(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def finished(self) -> bool:
        """Whether the fit came to its end (``labels.csv`` is written last)."""
        return self.labels.is_file()


def create_run(path: str | Path, config: Mapping[str, Any], *, overwrite: bool = False, resume: bool = False) -> Run:
    """Make a run folder and write its configuration.

    Parameters
    ----------
    path : str or Path
    config : mapping
        Anything JSON can hold, and NumPy values.
    overwrite : bool
        Remove what an earlier run left there. Only the files of a run are touched.
    resume : bool
        Continue the run that is there, if it has the same method, source and parameters.

    Returns
    -------
    Run

    Raises
    ------
    InvalidInputError
        If the folder has other content, or cannot be written.
    CheckpointError
        If the run to resume has another configuration.
    """
    path = Path(path)
    check_target(path, overwrite=overwrite, resume=resume)
    with friendly_errors(path):
        if overwrite:
            _clear(path)
        elif resume and (path / "config.json").is_file():
            check_same(load_run(path).config, config, path)
        path.mkdir(parents=True, exist_ok=True)
        run = Run(path, dict(config))
        write_config(run, run.config)
    return run


def check_target(path: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Refuse a place where no run may be written: a file, a folder with other content, a run without permission.

    Raises
    ------
    InvalidInputError
    """
    path = Path(path)
    with friendly_errors(path):
        if path.exists() and not path.is_dir():
            raise InvalidInputError(f"{path} is a file: choose another folder for the run.")
        if not path.is_dir() or not any(path.iterdir()):
            return
    if not (path / "config.json").is_file():
        raise InvalidInputError(f"{path} is not empty and not a run folder: choose another folder for the run.")
    if not (overwrite or resume):
        raise InvalidInputError(f"{path} holds a run already: add --resume to continue or --overwrite to replace it.")


def _clear(path: Path) -> None:
    """Remove the files of a run, and nothing else; config.json, by which a run is known, comes last."""
    for name in _FOLDERS:
        if (path / name).is_symlink():
            (path / name).unlink()
        elif (path / name).is_dir():
            shutil.rmtree(path / name)
    for name in sorted(_FILES, key=lambda name: name == "config.json"):
        (path / name).unlink(missing_ok=True)


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on with a run of another method, source, way of reading it or parameters.

    Raises
    ------
    CheckpointError
        Which names what differs.
    """
    told = ("method", "source", *(["reading"] if "reading" in old else []))  # older runs do not say how they were read
    different = [key for key in told if old.get(key) != to_json(new.get(key))]
    before, now = old.get("parameters", {}), to_json(new.get("parameters", {}))
    keys = sorted({*before, *now} - _OF_THE_SESSION)
    different += [key for key in keys if before.get(key) != now.get(key)]
    if different:
        raise CheckpointError(
            f"The run in {path} was started with another {', '.join(different)}: repeat its settings (config.json), or "
            "add --overwrite to start again."
        )


def check_output(out: Path, run: Run, *sources: str) -> None:
    """Refuse an output that would replace the data of a run, other data that are read, or the run's own files.

    Raises
    ------
    InvalidInputError
    """
    place = out.expanduser().resolve()
    if any(place == Path(source).expanduser().resolve() for source in sources):
        raise InvalidInputError(f"{out} holds the data that are read: choose another --out.")
    own = [run.path / name for name in _FILES if name != run.report.name]
    if any(place == file.resolve() for file in own) or any(
        place.is_relative_to((run.path / name).resolve()) for name in _FOLDERS
    ):
        raise InvalidInputError(f"{out} belongs to the run in {run.path}: choose another --out.")


def check_picture_folder(folder: Path, run: Run) -> None:
    """Refuse a folder for pictures that holds the images of the run, where they would become samples, or a model.

    Raises
    ------
    InvalidInputError
    """
    place, source = folder.expanduser().resolve(), Path(str(run.config["source"])).expanduser().resolve()
    if place == run.figures.resolve():
        return
    inside = source.is_dir() and place.is_relative_to(source) and not place.is_relative_to(run.path.resolve())
    if inside or place == source:
        raise InvalidInputError(f"{folder} holds the images of the run: choose another --out.")
    if any((place / name).exists() for name in ("config.json", "model.safetensors", "state.safetensors")):
        raise InvalidInputError(f"{folder} belongs to a run: choose another --out.")
    check_output(folder, run)


def load_run(path: str | Path) -> Run:
    """Open a run folder.

    Raises
    ------
    DataNotFoundError
        If it is not there.
    CheckpointError
        If its configuration cannot be read.
    """
    path = Path(path)
    file = path / "config.json"
    if not file.is_file():
        raise DataNotFoundError(f"{path} is not a run folder (it has no config.json): give the --out of 'subspan fit'.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: run 'subspan fit' again with --overwrite.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} is damaged: run 'subspan fit' again with --overwrite.")
    return Run(path, config)


def write_config(run: Run, config: Mapping[str, Any]) -> None:
    """Write ``config.json``."""
    with atomic_text(run.path / "config.json") as stream:
        json.dump(to_json(config), stream, indent=2, ensure_ascii=False)
        stream.write("\n")


def write_history(run: Run, history: Iterable[Mapping[str, Any]]) -> None:
    """Write ``history.jsonl``, one record per line. NaN and infinities become null."""
    with atomic_text(run.history) as stream:
        for record in history:
            stream.write(json.dumps(to_json(record), ensure_ascii=False) + "\n")


def read_history(run: Run) -> list[dict[str, Any]]:
    """Read ``history.jsonl``; no records if there is no such file.

    Raises
    ------
    CheckpointError
        If it is damaged.
    """
    if not run.history.is_file():
        return []
    try:
        records = [json.loads(line) for line in run.history.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("not records")
    except ValueError as error:
        raise CheckpointError(f"{run.history} is damaged: run 'subspan fit' again with --overwrite.") from error
    return records


def write_labels(path: str | Path, labels: np.ndarray, names: Sequence[str] | None = None) -> None:
    """Write a table with the columns name and label; without names, samples are numbered from 0.

    Parameters
    ----------
    path : str or Path
        The .csv file.
    labels : int array of shape (n,)
    names : sequence of n str, optional
    """
    keys: Sequence[Any] = range(len(labels)) if names is None else names
    with atomic_text(Path(path)) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["name", "label"])
        writer.writerows(zip(keys, np.asarray(labels).tolist(), strict=True))


def read_labels(path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Read a table that :func:`write_labels` wrote.

    Returns
    -------
    labels : int64 array of shape (n,)
    names : list of n str

    Raises
    ------
    DataNotFoundError
        If there is no such file.
    CheckpointError
        If it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(f"There is no {path}: finish the run with 'subspan fit ... --resume'.")
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream)
            if next(rows, None) != ["name", "label"]:
                raise ValueError("header")
            pairs = [(name, int(label)) for name, label in rows]
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: run 'subspan fit' again with --overwrite.") from error
    return np.array([label for _, label in pairs], dtype=np.int64), [name for name, _ in pairs]


def write_model(run: Run, save: Callable[[Path], Any]) -> None:
    """Let ``save(folder)`` write the model next to its place, then move it there in one step."""
    with friendly_errors(run.path):
        fresh = run.path / f".model-{secrets.token_hex(4)}"
        fresh.mkdir()
        try:
            save(fresh)
            if run.model.is_dir():
                shutil.rmtree(run.model)
            os.replace(fresh, run.model)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def finish_run(run: Run, result: Mapping[str, Any], labels: np.ndarray, names: Sequence[str] | None = None) -> None:
    """Add the outcome to the configuration, write the labels, and drop the checkpoint."""
    write_config(run, {**run.config, "result": result})
    write_labels(run.labels, labels, names)
    if run.checkpoint.is_dir():
        shutil.rmtree(run.checkpoint, ignore_errors=True)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A fresh path beside ``path``, with its ending; what is written there gets the name ``path`` when all went well.

    Raises
    ------
    InvalidInputError
        If the place cannot be written, or something that is no file, such as a device, is there.
    ResourceError
        If the disk is full. What was there before stays.
    """
    with friendly_errors(path):
        path = path.resolve()  # a link stays, and what it points to is written
        if path.exists() and not path.is_file():
            raise InvalidInputError(f"{path} is not a file that could be replaced: choose another name.")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
        try:
            yield fresh
            os.replace(fresh, path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_text(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name only when it is complete and on disk.

    Raises
    ------
    InvalidInputError
    ResourceError
        As :func:`atomic_path`.
    """
    with atomic_path(path) as fresh, fresh.open("x", encoding="utf-8", newline="") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def friendly_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a path into one sentence with a remedy."""
    try:
        yield
    except (InvalidInputError, DataNotFoundError):
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"The disk that holds {path} is full: free some space or choose another place."
            ) from error
        raise InvalidInputError(f"{path} cannot be written ({error.strerror}): choose another place.") from error
