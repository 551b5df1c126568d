"""One HTML file about a finished run, for people: it needs no server, no network and no true label (layer 8)."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

import subspan
from subspan.datasets import Dataset
from subspan.errors import InvalidInputError
from subspan.report._content import Content, gather, short
from subspan.runs import Run, read_labels

__all__ = ["build_report"]

_SCRIPTS = ("core.js", "map.js", "curves.js", "samples.js")


def build_report(run: Run, data: Dataset, estimator: Any) -> str:
    """The report of a finished run as one HTML page that loads nothing from anywhere.

    Parameters
    ----------
    run : Run
        As :func:`subspan.runs.load_run` opens it.
    data : Dataset
        The samples of the run, as :func:`subspan.load_dataset` reads them. Its true labels are not looked at.
    estimator : fitted estimator
        As :func:`subspan.load` reads it from ``run.model``. Without ``predict_proba``, confidence comes from distances
        between codes; without ``transform``, the data are the codes.

    Returns
    -------
    html : str
        Under 30 MB for up to half a million samples: thumbnails get smaller, and names are left out of the table, if
        they must.

    Raises
    ------
    DataNotFoundError
        If the run is not finished.
    CheckpointError
        If a file of the run is damaged.
    InvalidInputError
        If the data are not those of the run: another number, shape or other names.

    Examples
    --------
    >>> from subspan import load, load_dataset
    >>> from subspan.runs import load_run
    >>> run = load_run("runs/photos")  # doctest: +SKIP
    >>> html = build_report(run, load_dataset(run.config["source"]), load(run.model))  # doctest: +SKIP
    """
    labels, names = read_labels(run.labels)
    check_data(run, data, names)
    return render(gather(run, replace(data, y=None, classes=None), labels, estimator))


def check_data(run: Run, data: Dataset, names: list[str]) -> None:
    """Refuse data that are not those of the run; ``names`` are the sample names in its labels.

    Raises
    ------
    InvalidInputError
    """
    advice = "give the data the run was made from (--source), or run 'subspan fit' again"
    if len(data.X) != len(names):
        raise InvalidInputError(f"{data.name} has {len(data.X)} samples and the run {len(names)}: {advice}.")
    shape = tuple(run.config.get("data", {}).get("shape", data.X.shape[1:]))
    if data.X.shape[1:] != shape:
        raise InvalidInputError(f"{data.name} has samples of shape {data.X.shape[1:]} and the run {shape}: {advice}.")
    pairs = zip(data.names or [], names, strict=False)
    different = next(((mine, theirs) for mine, theirs in pairs if mine != theirs), None)
    if different is not None:
        raise InvalidInputError(f"{data.name} has '{different[0]}' in the place of '{different[1]}': {advice}.")


def render(content: Content) -> str:
    """Fill the template. What came from the data is escaped, in the page and in the values for the script."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    script = "\n".join(_read(name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"short": short, "thousands": lambda value: f"{int(value):,}", "sure": sure}
    return environment.from_string(_read("template.html")).render(
        c=content,
        css=Markup(_read("report.css")),
        script=Markup(script),
        digest=digest,
        values=Markup(embed_json(content.for_script())),
        version=subspan.__version__,
    )


def sure(confidence: float) -> str:
    """A confidence in two digits that never claims to be certain.

    Examples
    --------
    >>> sure(0.5), sure(0.9997)
    ('0.50', '>0.99')
    """
    return ">0.99" if confidence > 0.99 else f"{confidence:.2f}"


def embed_json(value: Any) -> str:
    """JSON that can stand inside a script element: no sign of it can end the element or begin a comment."""
    text = json.dumps(value, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _read(name: str) -> str:
    return files("subspan.report").joinpath(name).read_text(encoding="utf-8")
