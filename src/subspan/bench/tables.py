"""Tables of results: mean and standard deviation over seeds, with published figures beside them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from subspan.bench.published import MEASURES, Figure, published_for
from subspan.bench.records import Record
from subspan.bench.settings import Cell, Data, Suite, row_cells
from subspan.methods import METHODS


@dataclass(frozen=True)
class Line:
    """One line of a table.

    ``scores`` holds, for each measure, one value in percent per seed that is "ok"; ``troubles`` counts the cells that
    ended in another way.
    """

    cell: Cell
    registered: bool
    seeds: tuple[int, ...]
    wanted: int
    scores: dict[str, list[float]]
    troubles: Counter[str]
    n: int | None
    live: list[int]
    seconds: float | None  # median
    peak_bytes: int | None  # largest
    published: tuple[Figure, ...]
    cards: tuple[str, ...] = ()  # graphics cards that some of the seeds used

    @property
    def oracle(self) -> list[str]:
        """Inputs that somebody chose with labels."""
        return self.cell.oracle

    def summary(self, measure: str) -> tuple[float, float | None] | None:
        """Mean, and standard deviation (n - 1) from two seeds on; None without a result."""
        values = self.scores[measure]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

    @property
    def higher(self) -> list[Figure]:
        """Published figures above ours; none without a result."""
        means = {name: found[0] for name in MEASURES if (found := self.summary(name))}
        return [figure for figure in self.published if means and figure.is_above(means)]

    @property
    def state(self) -> str:
        """Which seeds are there: "5 seeds", "3 of 5 seeds, 2 timeout", "missing", "missing (no such method yet)"."""
        bad = ", ".join(f"{count} {status}" for status, count in sorted(self.troubles.items()))
        if not self.seeds:
            return bad or ("missing" if self.registered else "missing (no such method yet)")
        count = len(self.seeds)
        plural = "s" if self.wanted > 1 or count > 1 else ""
        done = f"{count} of {self.wanted} seed{plural}" if count < self.wanted else f"{count} seed{plural}"
        return f"{done}, {bad}" if bad else done


@dataclass(frozen=True)
class Section:
    """The lines of one data set."""

    data: Data
    lines: list[Line]


@dataclass(frozen=True)
class Summary:
    """A whole table, with what must be said below it."""

    title: str
    sections: list[Section]
    notes: list[str] = field(default_factory=list)


def summarise(
    suite: Suite, records: Sequence[Record], figures: Iterable[Figure], rows: Sequence[str] | None = None
) -> Summary:
    """Group records by the lines of the suite's table.

    Only cells with the settings that the suite has now are counted; others are left out, and a note says how many.

    Parameters
    ----------
    suite : Suite
    records : sequence of dict
        What :func:`subspan.bench.records.read_records` returns.
    figures : iterable of Figure
    rows : sequence of str, optional
        Names of the rows to show.
    """
    figures = list(figures)
    by_setting: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        by_setting.setdefault((record["row"], record["setting"]), []).append(record)
    sections: list[Section] = []
    used: list[Record] = []
    for data in suite.data:
        lines = []
        for row in suite.rows:
            if rows is not None and row.name not in rows:
                continue
            for cell in row_cells(suite, row, data, 0):
                found = by_setting.get((row.name, cell.setting), [])
                used += found
                lines.append(_line(cell, found, suite.seeds, figures))
        sections.append(Section(data, lines))
    return Summary(suite.title, sections, _notes(sections, used, len(records) - len(used)))


def _line(cell: Cell, records: list[Record], wanted: int, figures: list[Figure]) -> Line:
    good = sorted((record for record in records if record["status"] == "ok"), key=lambda record: record["seed"])
    peaks = [record["memory"]["peak_bytes"] for record in good if record["memory"]["peak_bytes"] is not None]
    return Line(
        cell=cell,
        registered=cell.method in METHODS,
        seeds=tuple(record["seed"] for record in good),
        wanted=wanted,
        scores={name: [100 * record[name] for record in good] for name in MEASURES},
        troubles=Counter(record["status"] for record in records if record["status"] != "ok"),
        n=good[0]["n"] if good else None,
        live=[record["live_clusters"] for record in good],
        seconds=statistics.median(map(_seconds, good)) if good else None,
        peak_bytes=max(peaks, default=None),
        published=tuple(published_for(figures, cell.row, cell.data, cell.postprocessing)),
        cards=tuple(sorted({record["machine"]["gpu"] for record in good if record["memory"]["peak_gpu_bytes"]})),
    )


def _seconds(record: Record) -> float:
    """Wall clock of a cell, and of the pre-training that another cell did for it."""
    return record["seconds"]["total"] + record.get("shared_seconds", 0.0)


def _notes(sections: list[Section], used: list[Record], unused: int) -> list[str]:
    lines = [line for section in sections for line in section.lines]
    notes = ["ACC, NMI, ARI in percent: mean ± standard deviation (n - 1) over seeds, final state of every run."]
    notes.append("Every method is told the number of clusters.")
    if marked := [f"{name(line)} on {line.cell.data}: {', '.join(line.oracle)}" for line in lines if line.oracle]:
        notes.append(f"† Inputs that were chosen with labels. {'; '.join(marked)}.")
    if cards := sorted({card for line in lines for card in line.cards}):
        notes.append(f"‡ With a graphics card, {', '.join(cards)}, whose own memory is not counted.")
    reasons = [(line.cell, figure.why) for line in lines for figure in line.higher if figure.why]
    notes += dict.fromkeys(f"{cell.title} on {cell.data} is lower than published: {why}." for cell, why in reasons)
    sources = {f.source: f"{f.title}: {f.text}" for line in lines for f in line.published}
    notes += [f"{text}." for text in sources.values()]
    if unused:
        notes.append(f"Left out, of other rows, data sets or settings: {unused} lines of the file.")
    counted = [record for record in used if record["status"] == "ok"]
    revisions = sorted({_revision(record) for record in counted})
    machines = sorted({f"{record['machine']['cpu']}, {record['machine']['cores']} cores" for record in counted})
    if counted:
        notes.append(f"Computed with subspan {', '.join(revisions)} on {'; '.join(machines)}.")
    return notes


def _revision(record: Record) -> str:
    git = record["git"]
    version = record["versions"].get("subspan", "?")
    return version if git is None else f"{version} ({git['revision'][:10]}{', changed' if git['changed'] else ''})"


def name(line: Line) -> str:
    """What the first column shows, without the mark of oracle lines."""
    return f"{line.cell.title} ({line.cell.postprocessing})" if line.cell.postprocessing else line.cell.title
