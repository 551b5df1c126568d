"""What ``subspan report`` does: read a run and its data again, write one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from subspan import _cli_common as common
from subspan import _cli_runs
from subspan.errors import DataNotFoundError, InvalidInputError
from subspan.runs import atomic_text, check_output, load_run, read_labels


def write_report(run_path: Path, out: Path | None, source: str | None) -> dict[str, Any]:
    """Write the report of a run; what was written.

    Parameters
    ----------
    run_path : Path
    out : Path or None
        None: ``report.html`` in the run folder.
    source : str or None
        None: the source in ``config.json``.
    """
    from subspan.report import build_report, check_data

    run = load_run(run_path)
    if out is not None:
        if out.suffix.lower() not in (".html", ".htm"):
            raise InvalidInputError(f"--out is {out.name}, but the report is a page: give a name in .html.")
        check_output(out, run, str(run.config["source"]), *([] if source is None else [source]))
    _, names = read_labels(run.labels)
    estimator = _cli_runs.load_model(run)
    try:
        data = _cli_runs.load_like(run, source or str(run.config["source"]), labels="auto")
    except DataNotFoundError as error:
        if source is not None:
            raise
        raise DataNotFoundError(
            f"The data of the run are not at {run.config['source']} any more: say where they are with --source PATH."
        ) from error
    check_data(run, data, names)
    common.say(f"Reading {len(data.X):,} samples with the model ...")
    html = build_report(run, data, estimator)
    target = run.report if out is None else out
    with atomic_text(target) as stream:
        stream.write(html)
    return {"n": len(data.X), "out": str(target), "bytes": len(html.encode())}
