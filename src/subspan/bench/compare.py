"""Paired differences between two rows, or two files of results, over the cells that they have in common."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from subspan.bench.published import MEASURES
from subspan.bench.records import Record, read_records
from subspan.errors import InvalidInputError

LEVEL = 0.95
_MARK = "::"


@dataclass(frozen=True)
class Side:
    """Results to compare: a file, or of a file one row (``row`` or ``row/postprocessing``)."""

    text: str
    row: str | None
    records: list[Record]


@dataclass(frozen=True)
class Difference:
    """A minus B in percentage points, over pairs of cells with the same data, number of samples and seed.

    ``low`` and ``high`` are the ends of the t interval of the mean, None with fewer than two pairs.
    """

    data: str
    row: str
    measure: str
    pairs: int
    mean: float
    low: float | None
    high: float | None


def open_side(text: str) -> Side:
    """``results.jsonl``, ``results.jsonl::ncsc`` or ``results.jsonl::lsr/raw``.

    Raises
    ------
    DataNotFoundError
        There is no such file.
    InvalidInputError
        The file has no successful cell of that row.
    """
    path, mark, row = text.partition(_MARK)
    records = [record for record in read_records(Path(path)) if record["status"] == "ok"]
    if mark:
        known = sorted({row_name(record) for record in records})
        records = [record for record in records if row in (record["row"], row_name(record))]
        variants = {row_name(record) for record in records}
        if len(variants) > 1:
            raise InvalidInputError(f"{path} has several variants of '{row}': choose one of {', '.join(variants)}.")
        if not records:
            raise InvalidInputError(f"{path} has no result of '{row}': choose one of {', '.join(known) or '(none)'}.")
    return Side(text, row if mark else None, records)


def compare(a: Side, b: Side) -> list[Difference]:
    """Differences by data set and measure; between two whole files also by row.

    Raises
    ------
    InvalidInputError
        One side is a file and the other a row, or they have no cell in common.
    """
    if (a.row is None) != (b.row is None):
        raise InvalidInputError(f"Compare two files, or two rows as FILE{_MARK}ROW: one of each has no pairs.")
    by_row = a.row is None
    left, right = _index(a, by_row), _index(b, by_row)
    groups: dict[tuple[str, str], list[tuple[Record, Record]]] = {}
    for key in left:
        if key in right:
            groups.setdefault((key[0], key[1]), []).append((left[key], right[key]))
    if not groups:
        raise InvalidInputError(
            f"{a.text} and {b.text} share no cell (data, number of samples, seed): nothing to pair."
        )
    return [
        _difference(data, row if by_row else f"{a.row} - {b.row}", measure, pairs)
        for (data, row), pairs in groups.items()
        for measure in MEASURES
    ]


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Student's interval of the mean of independent values; None for fewer than two."""
    from scipy.stats import t

    m = len(values)
    if m < 2:
        return None
    half = float(t.ppf((1 + level) / 2, m - 1)) * statistics.stdev(values) / math.sqrt(m)
    middle = statistics.fmean(values)
    return middle - half, middle + half


def row_name(record: Record) -> str:
    """``row`` or ``row/postprocessing``."""
    return f"{record['row']}/{record['postprocessing']}" if record["postprocessing"] else record["row"]


def to_markdown(differences: Iterable[Difference], a: str, b: str) -> str:
    """The differences as a table that says what it shows."""
    out = [
        f"A = {a}, B = {b}. A - B in percentage points; 95 % t intervals of the mean over pairs (same data, number of"
    ]
    out += ["samples and seed). Seeds on one data set vary the run, not the data.", ""]
    out += ["| data | row | measure | pairs | A - B | 95 % interval |", "|---|---|---|---|---|---|"]
    for d in differences:
        between = "-" if d.low is None or d.high is None else f"{d.low:+.2f} to {d.high:+.2f}"
        out.append(f"| {d.data} | {d.row} | {d.measure.upper()} | {d.pairs} | {d.mean:+.2f} | {between} |")
    return "\n".join([*out, ""])


def _index(side: Side, by_row: bool) -> dict[tuple[str, str, int, int], Record]:
    found: dict[tuple[str, str, int, int], Record] = {}
    for record in side.records:
        key = (record["data"], row_name(record) if by_row else "", record["n"], record["seed"])
        if key in found:
            raise InvalidInputError(
                f"{side.text} has two results of {row_name(record)} on {record['data']} with seed {record['seed']}, of "
                "different settings: remove the lines of one."
            )
        found[key] = record
    return found


def _difference(data: str, row: str, measure: str, pairs: list[tuple[Record, Record]]) -> Difference:
    values = [100 * (a[measure] - b[measure]) for a, b in pairs]
    low, high = t_interval(values) or (None, None)
    return Difference(data, row, measure, len(values), statistics.fmean(values), low, high)
