"""Figures that others published, from package data; printed beside ours and never mixed with them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

MEASURES = ("acc", "nmi", "ari")


@dataclass(frozen=True)
class Figure:
    """Scores in percent of one row on one data set, from one source; what the source does not give is None.

    ``own`` marks the figures of the NCSC paper, which have a column of their own; ``why`` says why ours are lower.
    """

    row: str
    data: str
    source: str
    title: str
    text: str
    own: bool = False
    postprocessing: str | None = None
    acc: float | None = None
    nmi: float | None = None
    ari: float | None = None
    acc_sd: float | None = None
    nmi_sd: float | None = None
    ari_sd: float | None = None
    note: str = ""
    why: str = ""

    def is_above(self, scores: dict[str, float]) -> bool:
        """Whether the first measure that the source gives is higher than ours, in percent."""
        given = next((name for name in MEASURES if getattr(self, name) is not None), None)
        return given is not None and getattr(self, given) > scores[given]

    def __str__(self) -> str:
        """``91.2 ± 4.7 / 86.9 / 85.6``, a dash for what is not given."""
        if all(getattr(self, name) is None for name in MEASURES):
            return self.note
        parts = [_score(getattr(self, name), getattr(self, f"{name}_sd")) for name in MEASURES]
        return " / ".join(parts) + (f" ({self.note})" if self.note else "")


def load_published(text: str | None = None) -> list[Figure]:
    """All published figures; of another TOML text if given.

    Raises
    ------
    KeyError, TypeError
        An entry has an unknown source or key: the file is part of the package, so that is a mistake in it.
    """
    if text is None:
        text = (files("subspan.bench") / "settings" / "published.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    sources: dict[str, dict[str, Any]] = content["sources"]
    whys = {(why["row"], data): why["text"] for why in content.get("why", []) for data in why["data"]}
    figures = [
        Figure(**{**sources[group["source"]], "source": group["source"], "data": group["data"], **entry})
        for group in content["figure"]
        for entry in group["values"]
    ]
    return [replace(figure, why=whys.get((figure.row, figure.data), "")) for figure in figures]


def published_for(figures: Iterable[Figure], row: str, data: str, postprocessing: str) -> list[Figure]:
    """The figures that belong beside one line of a table; those for no particular post-processing fit all variants."""
    return [
        figure
        for figure in figures
        if (figure.row, figure.data) == (row, data) and figure.postprocessing in (None, postprocessing)
    ]


def _score(value: float | None, sd: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if sd is None else f"{value:g} ± {sd:g}"
