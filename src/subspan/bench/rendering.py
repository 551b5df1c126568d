"""A table of results as Markdown, HTML, LaTeX or CSV."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence

from subspan.bench.published import MEASURES
from subspan.bench.tables import Line, Section, Summary, name

FORMATS = ("md", "html", "latex", "csv")
_HEAD = ("method", "n", "ACC", "NMI", "ARI", "runs", "paper", "elsewhere", "live clusters", "time", "memory")
_LATEX = {"±": r"$\pm$", "†": r"$^\dagger$", "‡": r"$^\ddagger$"} | {c: f"\\{c}" for c in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
_STYLE = (
    "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse}td,th{padding:.25em .7em;text-align:right;"
    "border-bottom:1px solid #ccc}td:first-child,th:first-child{text-align:left}tr.missing{color:#888}"
)


def render(summary: Summary, form: str) -> str:
    """The table in one of :data:`FORMATS`, ending in a line break."""
    return {"md": _markdown, "html": _html, "latex": _latex, "csv": _csv}[form](summary)


def cells(line: Line) -> list[str]:
    """The texts of one line, in the order of the columns."""
    scores = [score(line.summary(measure)) for measure in MEASURES]
    own = "; ".join(str(figure) for figure in line.published if figure.own)
    size = line.n if line.n is not None else line.cell.max_samples
    return [
        name(line) + (" †" if line.oracle else ""),
        "" if size is None else f"{size:,}",
        *scores,
        line.state,
        own,
        _elsewhere(line),
        live(line.live),
        "" if line.seconds is None else duration(line.seconds) + (" ‡" if line.cards else ""),
        "" if line.peak_bytes is None else f"{line.peak_bytes / 1e9:.1f} GB",
    ]


def _elsewhere(line: Line) -> str:
    return "; ".join(f"{figure} [{figure.title}]" for figure in line.published if not figure.own)


def score(summary: tuple[float, float | None] | None) -> str:
    """``92.1 ± 0.3``; no deviation from one seed, and "missing" without any."""
    if summary is None:
        return "missing"
    mean, deviation = summary
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def live(counts: Sequence[int]) -> str:
    """``10`` or ``8-10``."""
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}-{high}"


def duration(seconds: float) -> str:
    """``12 s``, ``3.5 min``, ``2.1 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _heading(section: Section) -> str:
    return section.data.title or section.data.name


def _markdown(summary: Summary) -> str:
    out = [f"# {summary.title}", ""]
    for section in summary.sections:
        if len(summary.sections) > 1:
            out += [f"## {_heading(section)}", ""]
        out += ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
        for line in section.lines:
            out.append("| " + " | ".join(text.replace("|", "\\|") for text in cells(line)) + " |")
        out.append("")
    return "\n".join([*out, *(f"- {note}" for note in summary.notes), ""])


def _html(summary: Summary) -> str:
    title = html.escape(summary.title)
    out = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>']
    out.append(f"<h1>{title}</h1>")
    for section in summary.sections:
        if len(summary.sections) > 1:
            out.append(f"<h2>{html.escape(_heading(section))}</h2>")
        out.append("<table><tr>" + "".join(f"<th>{text}</th>" for text in _HEAD) + "</tr>")
        for line in section.lines:
            kind = "" if line.seeds else ' class="missing"'
            out.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(text)}</td>" for text in cells(line)) + "</tr>")
        out.append("</table>")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in summary.notes)
    return "\n".join([*out, f"<ul>{notes}</ul></html>", ""])


def _latex(summary: Summary) -> str:
    out = []
    for section in summary.sections:
        out += [f"% {summary.title}: {_heading(section)}", r"\begin{tabular}{l" + "r" * (len(_HEAD) - 1) + "}"]
        out += [" & ".join(_HEAD) + r" \\ \hline"]
        out += [" & ".join(_escape_latex(text) for text in cells(line)) + r" \\" for line in section.lines]
        out += [r"\end{tabular}", ""]
    notes = [rf"\item {_escape_latex(note)}" for note in summary.notes]
    return "\n".join([*out, r"{\footnotesize\begin{itemize}", *notes, r"\end{itemize}}", ""])


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _csv(summary: Summary) -> str:
    """Numbers at full precision, one column each; empty where there is none."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    statistic = [f"{measure}_{what}" for measure in MEASURES for what in ("mean", "sd")]
    paper = [f"paper_{measure}" for measure in MEASURES]
    head = ["data", "row", "postprocessing", "title", "n", "seeds", "seeds_wanted", *statistic, *paper, "oracle"]
    head += ["troubles", "seconds_median", "peak_bytes", "graphics_cards"]
    writer.writerow([*head, "live_clusters_min", "live_clusters_max", "elsewhere"])
    for line in (line for section in summary.sections for line in section.lines):
        figures = [value for measure in MEASURES for value in line.summary(measure) or (None, None)]
        own = next((figure for figure in line.published if figure.own), None)
        cell = line.cell
        writer.writerow(
            [cell.data, cell.row, cell.postprocessing, cell.title, line.n, len(line.seeds), line.wanted, *figures]
            + [None if own is None else getattr(own, measure) for measure in MEASURES]
            + [" ".join(line.oracle), " ".join(f"{k}:{v}" for k, v in sorted(line.troubles.items()))]
            + [line.seconds, line.peak_bytes, "; ".join(line.cards)]
            + [min(line.live, default=None), max(line.live, default=None), _elsewhere(line)]
        )
    return stream.getvalue()
