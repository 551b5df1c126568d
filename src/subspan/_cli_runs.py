"""``subspan fit``, ``predict``, ``evaluate`` and ``figures``. True labels never reach an estimator: it gets X alone."""

from __future__ import annotations

import inspect
import shlex
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import typer

from subspan import _cli_common as common
from subspan._cli_figures import draw
from subspan._environment import total_memory, versions
from subspan._validation import channels_first
from subspan.base import resolve_device
from subspan.datasets import Dataset, labels_from_names, load_dataset, read_label_file
from subspan.datasets.known import known_names
from subspan.datasets.stanford import NAME as SOP_NAME
from subspan.datasets.stanford import name_part
from subspan.errors import DataNotFoundError, InvalidInputError
from subspan.methods import get_method
from subspan.runs import (
    Run,
    check_output,
    check_picture_folder,
    check_same,
    check_target,
    create_run,
    finish_run,
    load_run,
    read_labels,
    write_history,
    write_labels,
    write_model,
)


@dataclass
class FitRequest:
    """The options of ``subspan fit``."""

    source: str
    out: Path | None
    method: str
    n_clusters: int
    recipe: str | None = None
    encoder: str | None = None
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    color: str = "auto"
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    quiet: bool = False

    def say(self, text: str) -> None:
        if not self.quiet:
            common.say(text)


def part_of(source: str, classes: str | None, size: str | None) -> str:
    """The name of a part of a set, which says all that is needed to load it again."""
    if classes is None and size is None:
        return source
    if source != SOP_NAME:
        raise InvalidInputError(f"--classes and --size choose a part of {SOP_NAME}: leave them out for {source}.")
    return name_part(classes=classes, size=size)


def _check_before_writing(out: Path, estimator: Any) -> None:
    """What would fail in ``fit`` fails before the run folder is made, or cleared."""
    parameters = estimator.get_params(deep=False)
    if "device" in parameters:
        resolve_device(parameters["device"])
    taken = parameters.get("pretrained")
    if taken is not None and Path(taken).expanduser().resolve().is_relative_to(out.resolve()):
        raise InvalidInputError(f"pretrained is '{taken}', which lies in the run folder {out}: choose another --out.")


def fit(request: FitRequest) -> tuple[Run, Any, Dataset] | None:
    """Load, configure, fit, save; None if it stopped before fitting (dry run, or finished already)."""
    if request.resume and request.overwrite:
        raise InvalidInputError("--resume and --overwrite exclude each other: give one of them.")
    if request.out is None and not request.dry_run:
        raise InvalidInputError("There is no run folder: add --out RUN, or --dry-run to see the configuration only.")
    estimator = make_estimator(request)
    if request.out is not None and not request.dry_run:
        check_target(request.out, overwrite=request.overwrite, resume=request.resume)
        if request.resume and _is_finished(request.out):
            check_same(load_run(request.out).config, asked(request, estimator), request.out)
            common.say(f"The run in {request.out} is finished already: nothing to resume.")
            return None
    data = load_dataset(request.source, image_size=request.image_size, color=request.color)
    report_skipped(data)
    config = resolve(request, estimator, data)
    memory = memory_line(estimator, data.X)
    if request.dry_run:
        print(common.compact(config))
        print(memory)
        return None
    assert request.out is not None
    _check_before_writing(request.out, estimator)
    columns = {} if data.columns is None else {"columns": data.columns}
    run = create_run(request.out, config | columns, overwrite=request.overwrite, resume=request.resume)
    request.say(common.compact(config))
    request.say(memory)
    seconds, warned = fit_with_checkpoint(estimator, data.X, run, request)
    save(run, estimator, data, seconds, warned)
    return run, estimator, data


def make_estimator(request: FitRequest) -> Any:
    """Estimator with every option of the command line in its place."""
    parameters: dict[str, Any] = {"n_clusters": request.n_clusters, "random_state": request.seed, **request.settings}
    for name in ("recipe", "encoder"):
        if getattr(request, name) is not None:
            parameters[name] = getattr(request, name)
    method = get_method(request.method)
    checkpoint = None if request.out is None else str(request.out / "checkpoint")
    session = {"verbose": 0 if request.quiet else 1, "checkpoint_dir": checkpoint, "resume": request.resume}
    accepted = inspect.signature(method).parameters
    parameters |= {name: value for name, value in session.items() if name in accepted}
    return common.build_estimator(method, request.method, parameters)


def _is_known(source: str) -> bool:
    """Whether a source is the name of a data set, or of a part of one."""
    return source.partition(":")[0] in known_names()


def asked(request: FitRequest, estimator: Any) -> dict[str, Any]:
    """What makes a run another one: its method, its source and the parameters."""
    return {
        "method": request.method,
        "source": request.source if _is_known(request.source) else str(Path(request.source).expanduser().resolve()),
        "reading": {"image_size": request.image_size, "color": request.color},
        "parameters": estimator.get_params(deep=False),
    }


def resolve(request: FitRequest, estimator: Any, data: Dataset) -> dict[str, Any]:
    """The whole configuration: every parameter, what those left open stand for, the source, the versions."""
    path = Path(request.source).expanduser()
    same = asked(request, estimator)
    return {
        "method": same["method"],
        "source": same["source"],
        "reading": same["reading"],
        "data": {
            "kind": "folder" if not _is_known(request.source) and path.is_dir() else data.kind,
            "n": len(data.X),
            "shape": list(data.X.shape[1:]),
            "dtype": str(data.X.dtype),
            "skipped": len(data.skipped),
        },
        "parameters": same["parameters"],
        "resolved": estimator.resolved_parameters(data.X),
        "versions": versions(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def memory_line(estimator: Any, X: np.ndarray) -> str:
    """What the fit is expected to need; the estimator checks its parameters on the way."""
    needed = int(estimator.estimate_resources(X)["memory_bytes"])
    total = total_memory()
    line = f"{'memory:':<12} about {common.human_bytes(needed)} expected"
    return line if total is None else f"{line}, {common.human_bytes(total)} in this machine"


def _is_finished(path: Path) -> bool:
    try:
        return load_run(path).finished
    except DataNotFoundError:
        return False


def fit_with_checkpoint(estimator: Any, X: np.ndarray, run: Run, request: FitRequest) -> tuple[float, list[str]]:
    """``estimator.fit(X)``; seconds taken, and its warnings. On Ctrl-C, says how to go on and leaves."""
    start = time.perf_counter()
    warned: list[str] = []

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        common.say(f"Warning: {message}")
        warned.append(str(message))

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            estimator.fit(X)
    except KeyboardInterrupt:
        kept = run.checkpoint.is_dir() and any(run.checkpoint.iterdir())
        again = shlex.join(resume_command(request))
        common.say(f"Interrupted: {'the checkpoint is kept' if kept else 'no checkpoint yet'}. Continue with: {again}")
        raise typer.Exit(common.EXIT_INTERRUPTED) from None
    return time.perf_counter() - start, warned


def resume_command(request: FitRequest) -> list[str]:
    """The command that continues this fit."""
    words = ["subspan", "fit", request.source, "-k", str(request.n_clusters), "--method", request.method]
    words += ["--seed", str(request.seed)]
    for option, value in (("--recipe", request.recipe), ("--encoder", request.encoder)):
        words += [] if value is None else [option, value]
    for name, value in request.settings.items():
        words += ["--set", f"{name}={value}"]
    words += [] if request.image_size is None else ["--image-size", str(request.image_size)]
    words += [] if request.color == "auto" else ["--color", request.color]
    return [*words, "--out", str(request.out), "--resume"]


def save(run: Run, estimator: Any, data: Dataset, seconds: float, warned: list[str]) -> None:
    """Everything a run leaves; the labels mark it as finished. Pictures come after them, as they can be drawn again."""
    write_history(run, estimator.history_)
    write_model(run, estimator.save)
    result = summary(run, estimator, seconds) | ({"warnings": warned} if warned else {})
    finish_run(run, result, estimator.labels_, data.names)
    draw(run.figures, estimator, data)


def summary(run: Run, estimator: Any, seconds: float) -> dict[str, Any]:
    """The outcome of a fit, without any true label."""
    labels = np.asarray(estimator.labels_)
    return {
        "run": str(run.path),
        "n": len(labels),
        "clusters": len(np.unique(labels)),
        "sizes": np.bincount(labels, minlength=estimator.n_clusters).tolist(),
        "stop_reason": estimator.stop_reason_,
        "seconds": round(seconds, 2),
    }


def report_skipped(data: Dataset, shown: int = 5) -> None:
    """Name the files that were left out, on stderr."""
    for item in data.skipped[:shown]:
        common.say(f"Skipped {item.path}: {item.reason}")
    if len(data.skipped) > shown:
        common.say(f"Skipped {len(data.skipped) - shown} more files.")


def load_model(run: Run) -> Any:
    """The fitted estimator of a run."""
    from subspan.base import load

    if not run.model.is_dir():
        raise DataNotFoundError(f"{run.path} has no model yet: finish it with 'subspan fit ... --resume'.")
    return load(run.model)


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Axis of the channels in the shape of a sample, if it has one."""
    if len(shape) != 3:
        return None
    return 0 if channels_first((1, *shape)) else 2


def load_like(run: Run, source: str, labels: str = "none") -> Dataset:
    """Load a source as that of the run was: images of a folder get the size and the colours of the training."""
    shape = tuple(run.config["data"]["shape"])
    options: dict[str, Any] = {}
    channel = _channel_axis(shape)
    if len(shape) >= 2:
        size = tuple(length for axis, length in enumerate(shape) if axis != channel)
        options = {"image_size": size, "color": "rgb" if channel is not None and shape[channel] == 3 else "gray"}
    data = _in_columns(load_dataset(source, labels=labels, **options), run.config.get("columns"), source)
    report_skipped(data)
    if channel is not None and Path(source).expanduser().is_dir():  # colours, or none, are where the run had them
        colours = data.X if data.X.ndim == 4 else data.X[..., None]
        data = replace(data, X=np.moveaxis(colours, -1, channel + 1))
    if data.X.shape[1:] != shape:
        raise InvalidInputError(
            f"{source} has samples of shape {data.X.shape[1:]} and the run was trained on {shape}: give "
            "data of that shape."
        )
    return data


def _in_columns(data: Dataset, columns: list[str] | None, source: str) -> Dataset:
    """The columns of a table in the order of the training, by name, if both tables have names of columns."""
    found = data.columns
    if columns is None or found is None or found == columns:
        return data
    if len(set(columns)) == len(found) == len(columns) and set(found) == set(columns):
        order = [found.index(column) for column in columns]
        return replace(data, X=np.ascontiguousarray(data.X[:, order]), columns=columns)
    if any(names == [str(i) for i in range(len(names))] for names in (columns, found)):
        return data  # no header
    missing = [column for column in columns if column not in found]
    what = f"column '{missing[0]}' is missing" if missing else f"there are {len(found)} of them"
    raise InvalidInputError(
        f"{source} has other columns than the {len(columns)} that the run was trained on ({what}): give the same."
    )


def predict(run_path: Path, source: str, out: Path) -> None:
    """Label new data with the model of a run; images of a folder get the size and colours of the training."""
    if out.suffix not in ("", ".csv", ".txt"):
        raise InvalidInputError(f"--out is {out.name}, but labels are written as a CSV table: give a name in .csv.")
    run = load_run(run_path)
    check_output(out, run, source, str(run.config["source"]))
    estimator = load_model(run)
    data = load_like(run, source)
    labels = np.asarray(estimator.predict(data.X))
    write_labels(out, labels, data.names)
    common.emit({"n": len(labels), "clusters": len(np.unique(labels)), "out": str(out)})


def evaluate(run_path: Path, label_file: Path | None) -> Mapping[str, Any]:
    """Compare the labels of a run with true ones."""
    from subspan.metrics import evaluate as score

    run = load_run(run_path)
    labels, names = read_labels(run.labels)
    return score(_truth(run, names, label_file), labels)


def figures(run_path: Path, out: Path | None, *, true: bool, label_file: Path | None) -> Mapping[str, Any]:
    """Draw the pictures of a finished run again; with true labels, the codes by label too."""
    run = load_run(run_path)
    folder = run.figures if out is None else out
    if out is not None:
        check_picture_folder(out, run)
    labels, names = read_labels(run.labels)
    estimator = load_model(run)
    truth = _truth(run, names, label_file) if true or label_file is not None else None
    source = run.config["source"]
    data = load_like(run, source, labels="auto")
    if len(data.X) != len(labels) or (data.names is not None and list(data.names) != names):
        raise InvalidInputError(f"{source} no longer holds the {len(labels)} samples of the run: put them back.")
    return {"figures": [str(path) for path in draw(folder, estimator, data, truth)]}


def _truth(run: Run, names: list[str], label_file: Path | None) -> np.ndarray:
    truth = _truth_from_source(run, names) if label_file is None else _truth_from_file(label_file, names)
    if len(truth) != len(names):
        header = " If their first line is a header, call it 'label'." * (len(truth) == len(names) + 1)
        raise InvalidInputError(
            f"There are {len(truth)} true labels and the run has {len(names)}: give the labels of the same samples."
            + header
        )
    return truth


def _truth_from_source(run: Run, names: list[str]) -> np.ndarray:
    """Labels, or their names where there are any, from the folders of the images or from the data set."""
    source = run.config["source"]
    if run.config["data"]["kind"] == "folder":
        truth, classes = labels_from_names(names)
    else:
        data = load_dataset(source)
        truth, classes = data.y, data.classes
        if truth is not None and data.names is not None:
            truth = _by_name(truth, data.names, names, Path(source))
    if truth is None:
        raise InvalidInputError(f"{source} has no labels of its own: give them with --labels FILE.")
    return truth if classes is None else np.asarray(classes)[truth]


def _truth_from_file(path: Path, names: list[str]) -> np.ndarray:
    """Labels of a file, matched by name if it has names, else in the order of the samples."""
    truth = read_label_file(path)
    return truth.y if truth.names is None else _by_name(truth.y, truth.names, names, path)


def _by_name(y: np.ndarray, its_names: Sequence[str], names: list[str], path: Path) -> np.ndarray:
    """Labels of the samples ``names``, from those of samples in another order."""
    if list(its_names) == names:
        return y
    by_name = dict(zip(its_names, y, strict=True))
    if len(by_name) != len(its_names):
        raise InvalidInputError(f"{path} names a sample twice: give one line for each sample.")
    missing = [name for name in names if name not in by_name]
    if missing:
        raise InvalidInputError(
            f"{path} has no label for '{missing[0]}' and {len(missing) - 1} more samples: add them."
        )
    return np.array([by_name[name] for name in names])
