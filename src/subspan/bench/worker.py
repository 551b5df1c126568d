"""One cell in a process of its own: ``python -m subspan.bench.worker REQUEST RESULT``, started by the runner.

The estimator gets the samples alone. True labels are read with the data and first used when the fit is over.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import threading
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import subspan
from subspan._environment import git_revision, machine, versions
from subspan._json import to_json
from subspan.errors import DataNotFoundError, InvalidInputError

_KEPT_WARNINGS = 10
_KEPT_CHARACTERS = 4000  # of a traceback, from its end


class Stages:
    """Wall-clock seconds by name of stage; ``before`` is called when one begins."""

    def __init__(self, before: Callable[[], object]) -> None:
        self.seconds: dict[str, float] = {}
        self.before = before

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.before()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 3)


def run_cell(
    cell: Mapping[str, Any],
    device: str = "auto",
    cache: str | None = None,
    tell: Callable[[dict[str, Any]], object] = lambda known: None,
) -> dict[str, Any]:
    """Fit and evaluate; a failure becomes a record too.

    Parameters
    ----------
    cell : mapping
        What :meth:`subspan.bench.settings.Cell.to_json` gives.
    device : str
        For estimators that have such a parameter.
    cache : str, optional
        Folder of what cells share; a cell with codes or pre-training needs one.
    tell : callable, optional
        Gets what is known when a stage begins, for the case that this process does not live to return it.

    Returns
    -------
    dict
        ``status`` ("ok", "failed" or "missing"), and what could be found out before that.
    """
    found = dict[str, Any](status="ok")
    stages = Stages(lambda: tell({**found, "seconds": stages.seconds}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            _run(cell, device, stages, found, cache)
        except DataNotFoundError as error:
            found |= {"status": "missing", "error": str(error)}
        except Exception as error:  # whatever a method does must not stop the other cells
            error_text = f"{type(error).__name__}: {error}"
            found |= {"status": "failed", "error": error_text, "traceback": _trace(error)}
    texts = dict.fromkeys(f"{item.category.__name__}: {item.message}" for item in caught)
    more = {"warnings": list(texts)[:_KEPT_WARNINGS], "seconds": stages.seconds, "memory": peak_memory()}
    return {**found, **more, "machine": machine()}


def _trace(error: Exception) -> str:
    """The traceback without the folders of this machine."""
    text = "".join(traceback.format_exception(error))
    for folder in (Path(subspan.__file__).parents[1], sys.prefix, sys.base_prefix):
        text = text.replace(f"{folder}{os.sep}", "")
    return text[-_KEPT_CHARACTERS:]


def environment() -> dict[str, Any]:
    """Versions, revision of subspan and machine."""
    return {"versions": versions(), "git": git_revision(Path(subspan.__file__).parent), "machine": machine()}


def _run(cell: Mapping[str, Any], device: str, stages: Stages, found: dict[str, Any], cache: str | None) -> None:
    """Fill ``found`` step by step, so that a failure leaves what was known before it."""
    from subspan.datasets import load_dataset
    from subspan.methods import get_method

    with stages("load"):
        data = load_dataset(cell["data"])
        rows = choose_samples(len(data.X), cell["max_samples"], cell["seed"])
        X = data.X if rows is None else data.X[rows]
    if data.y is None:
        raise InvalidInputError(f"{cell['data']} has no labels, so nothing can be evaluated: choose another set.")
    found["n"] = len(X)
    if cell["codes"]:
        assert cache is not None
        X = _codes(cell, X, Path(cache), device, stages, found)
    method = get_method(cell["method"])
    session = {"random_state": cell["seed"], "device": device}
    accepted = inspect.signature(method).parameters
    session = {name: value for name, value in session.items() if name in accepted}
    estimator = method(**{"n_clusters": cell["n_clusters"], **session, **cell["parameters"]})
    found["config"] = estimator.get_params(deep=False)
    if cell["pretraining"]:
        assert cache is not None
        _pretrain(estimator, cell, X, Path(cache), device, stages, found)
    with stages("fit"):
        estimator.fit(X)
    found["phases"] = phase_seconds(getattr(estimator, "history_", []))
    found["stop_reason"] = getattr(estimator, "stop_reason_", None)
    labels = np.asarray(estimator.labels_)
    found["live_clusters"] = len(np.unique(labels))
    with stages("score"):
        found |= score(data.y if rows is None else data.y[rows], labels)


def _codes(
    cell: Mapping[str, Any], X: np.ndarray, folder: Path, device: str, stages: Stages, found: dict[str, Any]
) -> np.ndarray:
    """Codes of X, learned now or by an earlier cell; their seconds count for every cell."""
    from subspan.bench.shared import shared_codes

    with stages("codes"):
        codes, seconds = shared_codes(cell, X, folder, device)
    found["shared_seconds"] = max(0.0, seconds - stages.seconds["codes"])
    return codes


def _pretrain(
    estimator: Any,
    cell: Mapping[str, Any],
    X: np.ndarray,
    folder: Path,
    device: str,
    stages: Stages,
    found: dict[str, Any],
) -> None:
    """Give the estimator an auto-encoder, trained now or by an earlier cell; its seconds count for every cell."""
    from subspan.base import load
    from subspan.bench.shared import pretrained_model

    if "pretrained" not in estimator.get_params(deep=False):
        raise InvalidInputError(
            f"{cell['method']} takes no pre-trained auto-encoder: leave pretraining out of its row."
        )
    with stages("pretraining"):
        model = pretrained_model(cell, X, folder, device)
    found["pretraining_phases"] = phase_seconds(load(model).history_)
    shared = sum(found["pretraining_phases"].values()) - stages.seconds["pretraining"]
    found["shared_seconds"] = found.get("shared_seconds", 0.0) + max(0.0, shared)
    estimator.set_params(pretrained=model)


def score(y: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """ACC, NMI and ARI in [0, 1]."""
    from subspan.metrics import evaluate

    return {name: value for name, value in evaluate(y, labels).items() if name != "n"}


def choose_samples(n: int, limit: int | None, seed: int) -> np.ndarray | None:
    """Ascending indices of a random subset of ``limit`` of n samples that depends on the seed alone; None for all."""
    if limit is None or limit >= n:
        return None
    return np.sort(np.random.default_rng([seed, 10]).choice(n, limit, replace=False))


def phase_seconds(history: list[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of each phase of a training history."""
    total: dict[str, float] = defaultdict(float)
    for record in history:
        total[str(record.get("phase", ""))] += float(record.get("seconds", 0.0))
    return {name: round(seconds, 3) for name, seconds in total.items()}


def peak_memory() -> dict[str, int | None]:
    """Largest resident memory of this process so far, and of the graphics card if torch used one; in bytes."""
    torch = sys.modules.get("torch")
    on_card = torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_initialized() else None
    return {"peak_bytes": _peak_resident(), "peak_gpu_bytes": on_card}


def _peak_resident() -> int | None:
    try:
        # not getrusage, whose maximum includes what the parent held when it started this process
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _die_with_parent() -> None:
    """Leave at once when the runner is gone: it holds the other end of standard input and never writes to it."""
    sys.stdin.buffer.read()
    os._exit(1)


def side_file(result: Path) -> Path:
    """Where a worker writes what it knows of a cell before it has the result."""
    return result.with_suffix(".known.json")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """The whole file or none."""
    partial = Path(f"{path}.partial")
    partial.write_text(json.dumps(to_json(content)), encoding="utf-8")
    os.replace(partial, path)


def main(request_path: str, result_path: str) -> None:
    """Read the request, run the cell, write the result."""
    result = Path(result_path)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    for module in request["plugins"]:
        importlib.import_module(module)
    before = environment()  # of the sources as they are imported, not as they may be hours later

    def tell(known: Mapping[str, Any]) -> None:
        _write(side_file(result), {**before, **known})

    _write(result, {**before, **run_cell(request["cell"], request["device"], request["cache"], tell)})


if __name__ == "__main__":
    main(*sys.argv[1:])
