"""Tables and comparisons against figures worked out by hand."""

from __future__ import annotations

import csv
import io
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from subspan.bench.compare import compare, open_side, t_interval, to_markdown
from subspan.bench.published import load_published, published_for
from subspan.bench.records import Journal, read_records
from subspan.bench.rendering import FORMATS, duration, render
from subspan.bench.settings import SUITES, cells, load_suite
from subspan.bench.tables import summarise
from subspan.errors import InvalidInputError

ROOT = Path(__file__).resolve().parents[2]

PUBLISHED = """
[sources.paper]
title = "paper"
text = "The paper"
own = true
[sources.web]
title = "a page"
text = "Some page"
[[figure]]
source = "paper"
data = "tiny"
values = [{ row = "good", postprocessing = "spoilt", acc = 70, nmi = 60.25 }]
[[figure]]
source = "web"
data = "tiny"
values = [{ row = "good", acc = 71.5, acc_sd = 2, ari = 1 }, { row = "bad", note = "89 to 91" }]
"""


@pytest.fixture
def records(suite, make_record):
    """raw: accuracies .5, .6, .8; spoilt: one seed; bad: one failure; and a line of other settings."""
    raw = [cell for cell in cells(suite, range(3)) if cell.postprocessing == "raw"]
    spoilt, bad = cells(suite, [0])[1:3]
    outcomes = zip(raw, (0.5, 0.6, 0.8), (2, 1, 2), strict=True)
    found = [make_record(cell, acc=acc, live_clusters=k) for cell, acc, k in outcomes]
    found += [make_record(spoilt, acc=0.9), make_record(bad, status="timeout")]
    return [*found, make_record(replace(raw[0], parameters={"wait": 9.0}), acc=0.0)]


@pytest.fixture
def summary(suite, records):
    return summarise(suite, records, load_published(PUBLISHED))


def test_means_and_deviations_are_those_worked_out_by_hand(summary):
    raw, spoilt, bad, absent = summary.sections[0].lines
    mean, deviation = raw.summary("acc")
    assert mean == pytest.approx((50 + 60 + 80) / 3)
    # deviations from 63.33: -13.33, -3.33, 16.67; squares 177.78 + 11.11 + 277.78 = 466.67; over 2, root
    assert deviation == pytest.approx(math.sqrt(466 + 2 / 3) / math.sqrt(2))
    assert raw.summary("nmi") == (25.0, 0.0)
    assert spoilt.summary("acc") == (90.0, None)
    assert bad.summary("acc") is None
    assert [line.state for line in (raw, spoilt, bad, absent)] == [
        "3 seeds",
        "1 of 3 seeds",
        "1 timeout",
        "missing (no such method yet)",
    ]


def test_markdown_marks_oracle_rows_and_missing_cells(summary):
    text = render(summary, "md")
    assert "| Good_1 (raw) † | 10 | 63.33 ± 15.28 | 25.00 ± 0.00 | 12.50 ± 0.00 | 3 seeds |" in text
    assert "| 3 seeds |  | 71.5 ± 2 / - / 1 [a page] | 1-2 | 10 s | 2.0 GB |" in text
    assert "| 1 of 3 seeds | 70 / 60.25 / - | 71.5" in text
    assert "| bad |  | missing | missing | missing | 1 timeout |  | 89 to 91 [a page] |  |  |  |" in text
    assert "Good_1 (raw) on tiny: wait" in text
    assert "settings: 1 lines" in text
    assert "subspan 0.1.0 (0123456789) on abacus, 2 cores" in text
    assert "The paper." in text


def test_other_formats_hold_the_same(summary):
    page, latex, table = (render(summary, form) for form in ("html", "latex", "csv"))
    assert "<h1>A | B &amp; C</h1>" in page
    assert '<tr class="missing"><td>absent</td>' in page
    assert page.count("<td>63.33 ± 15.28</td>") == 1
    assert r"Good\_1 (raw) $^\dagger$ & 10 & 63.33 $\pm$ 15.28 &" in latex
    assert latex.count(r"\\") == 5
    rows = {(row["row"], row["postprocessing"]): row for row in csv.DictReader(io.StringIO(table))}
    assert (rows["good", "raw"]["live_clusters_min"], rows["good", "raw"]["live_clusters_max"]) == ("1", "2")
    assert rows["good", "raw"]["elsewhere"] == "71.5 ± 2 / - / 1 [a page]"
    assert (rows["bad", ""]["live_clusters_min"], rows["bad", ""]["elsewhere"]) == ("", "89 to 91 [a page]")
    assert float(rows["good", "raw"]["acc_mean"]) == pytest.approx(190 / 3)
    assert rows["good", "raw"]["oracle"] == "wait"
    assert (rows["good", "spoilt"]["acc_sd"], rows["good", "spoilt"]["paper_nmi"]) == ("", "60.25")
    assert (rows["bad", ""]["acc_mean"], rows["bad", ""]["troubles"]) == ("", "timeout:1")
    assert all(render(summary, form).endswith("\n") for form in FORMATS)


def test_latex_prints_the_notes(summary):
    noted = replace(summary, notes=["† 100 % of {a_b}", "~x^2 | y < z"])
    _, _, notes = render(noted, "latex").rpartition("\\end{tabular}")
    assert notes.splitlines() == [
        "",
        "",
        r"{\footnotesize\begin{itemize}",
        r"\item $^\dagger$ 100 \% of \{a\_b\}",
        r"\item \textasciitilde{}x\textasciicircum{}2 \textbar{} y \textless{} z",
        r"\end{itemize}}",
    ]


def test_machines_and_revisions_are_those_of_the_lines_shown(suite, records):
    """The first record is shown, the last one is of other settings; rows that were not asked for do not count."""
    elsewhere = {"machine": {"cpu": "slide rule", "cores": 1}, "versions": {"subspan": "9.9"}}
    assert "slide rule" in summarise(suite, [records[0] | elsewhere, *records[1:]], []).notes[-1]
    notes = summarise(suite, [*records[:-1], records[-1] | elsewhere], []).notes
    assert notes[-1] == "Computed with subspan 0.1.0 (0123456789) on abacus, 2 cores."
    assert not any("Computed" in note for note in summarise(suite, records, [], ["absent"]).notes)


def test_the_page_of_results_is_what_its_script_writes():
    """If not: python benchmarks/results_page.py"""
    compose = runpy.run_path(str(ROOT / "benchmarks" / "results_page.py"))["compose"]
    assert compose() == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_rows_can_be_chosen(suite, records):
    lines = summarise(suite, records, [], ["bad"]).sections[0].lines
    assert [line.cell.row for line in lines] == ["bad"]
    assert not any(line.published for line in lines)


def test_a_failed_seed_is_not_hidden_behind_the_mean(suite, make_record):
    found = cells(suite, range(3))
    records = [make_record(found[0], acc=0.5), make_record(replace(found[0], seed=1), status="failed")]
    line = summarise(suite, records, []).sections[0].lines[0]
    assert line.state == "1 of 3 seeds, 1 failed"


def test_published_figures_for_one_variant_stay_with_it():
    figures = load_published(PUBLISHED)
    assert [f.acc for f in published_for(figures, "good", "tiny", "raw")] == [71.5]
    assert [f.acc for f in published_for(figures, "good", "tiny", "spoilt")] == [70, 71.5]
    assert published_for(figures, "good", "elsewhere", "raw") == []


def test_a_sentence_says_why_ours_is_lower_where_it_is(suite, make_record):
    why = '[[why]]\nrow = "good"\ndata = ["tiny"]\ntext = "too few epochs"'
    figures, raw = load_published(PUBLISHED + why), cells(suite, [0])[0]
    sentence = f"{raw.title} on tiny is lower than published: too few epochs."
    for acc, said in ((0.71, True), (0.72, False)):
        assert (sentence in summarise(suite, [make_record(raw, acc=acc)], figures).notes) == said
    assert sentence not in summarise(suite, [], figures).notes
    assert not any("lower" in note for note in summarise(suite, [make_record(raw)], load_published(PUBLISHED)).notes)


def test_every_lower_figure_of_the_committed_results_has_its_reason():
    records, figures = read_records(ROOT / "docs" / "results.jsonl"), load_published()
    sections = [section for name in SUITES for section in summarise(load_suite(name), records, figures).sections]
    lower = [(line, figure) for section in sections for line in section.lines for figure in line.higher]
    assert lower, "some of them are lower"
    assert [(line.cell.row, line.cell.data) for line, figure in lower if not figure.why] == []


def test_the_seconds_of_a_pre_training_that_another_cell_did_count(suite, records):
    lines = summarise(suite, [record | {"shared_seconds": 5.0} for record in records], []).sections[0].lines
    assert lines[0].seconds == 15.0


def test_times_with_a_graphics_card_are_marked(suite, records):
    with_card = {
        "memory": {"peak_bytes": 1, "peak_gpu_bytes": 2},
        "machine": {"cpu": "abacus", "cores": 2, "gpu": "slide rule"},
    }
    summary = summarise(suite, [records[0] | with_card, *records[1:]], [])
    assert summary.sections[0].lines[0].cards == ("slide rule",)
    assert not any(line.cards for line in summary.sections[0].lines[1:])
    text = render(summary, "md")
    assert "| 10 s ‡ |" in text
    assert "- ‡ With a graphics card, slide rule, whose own memory is not counted." in text
    assert "‡" not in render(summarise(suite, records, []), "md")
    assert r"$^\ddagger$" in render(summary, "latex")
    rows = list(csv.DictReader(io.StringIO(render(summary, "csv"))))
    assert [row["graphics_cards"] for row in rows[:2]] == ["slide rule", ""]


@pytest.mark.parametrize(("seconds", "text"), [(9.6, "10 s"), (99.9, "100 s"), (210, "3.5 min"), (7560, "2.1 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def write(path, records):
    with Journal(path) as journal:
        for record in records:
            journal.append(record)
    return str(path)


def test_differences_are_paired_by_data_and_seed(suite, make_record, tmp_path):
    raw = [cell for cell in cells(suite, range(4)) if cell.postprocessing == "raw"]
    a_records = [make_record(cell, acc=x) for cell, x in zip(raw[:3], (0.5, 0.7, 0.6), strict=True)]
    a = write(tmp_path / "a.jsonl", a_records)
    # another order, a seed that A lacks, and a failure that must not count
    b_records = [make_record(cell, acc=x) for cell, x in zip(raw[:0:-1], (0.1, 0.5, 0.4), strict=True)]
    b = write(tmp_path / "b.jsonl", [*b_records, make_record(raw[0], status="failed")])
    found = {d.measure: d for d in compare(open_side(a), open_side(b))}
    acc = found["acc"]  # seeds 1 and 2: .7 - .4 and .6 - .5
    assert (acc.data, acc.row, acc.pairs) == ("tiny", "good/raw", 2)
    assert acc.mean == pytest.approx(20.0)
    half = 12.7062 * math.sqrt(200.0) / math.sqrt(2)  # t of 97.5 % with one degree of freedom, deviation of 30 and 10
    assert (acc.low, acc.high) == (pytest.approx(20 - half, rel=1e-4), pytest.approx(20 + half, rel=1e-4))
    assert (found["nmi"].mean, found["nmi"].low) == (0.0, 0.0)
    text = to_markdown(found.values(), a, b)
    assert "95 % t intervals" in text
    assert "| tiny | good/raw | ACC | 2 | +20.00 |" in text


def test_t_interval_is_that_of_a_paired_t_test():
    a, b = [81.0, 79.5, 84.0, 80.2, 78.9], [80.1, 79.9, 80.0, 77.5, 78.0]
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    low, high = t_interval([x - y for x, y in zip(a, b, strict=True)])
    assert (low, high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert t_interval([1.0]) is None


def test_one_pair_has_no_interval(suite, make_record, tmp_path):
    raw, spoilt = cells(suite, [0])[:2]
    path = write(tmp_path / "r.jsonl", [make_record(raw, acc=0.75), make_record(spoilt, acc=0.5)])
    found = compare(open_side(f"{path}::good/raw"), open_side(f"{path}::good/spoilt"))
    assert (found[0].row, found[0].mean, found[0].low) == ("good/raw - good/spoilt", 25.0, None)
    assert "| 1 | +25.00 | - |" in to_markdown(found, "a", "b")


def test_what_cannot_be_paired_is_refused(suite, make_record, tmp_path):
    raw, spoilt = cells(suite, [0])[:2]
    path = write(tmp_path / "r.jsonl", [make_record(raw), make_record(spoilt)])
    part = write(tmp_path / "part.jsonl", [make_record(raw, n=5)])
    twice = replace(raw, parameters={"wait": 1.0})
    double = write(tmp_path / "double.jsonl", [make_record(raw), make_record(twice)])
    with pytest.raises(InvalidInputError, match="no result of 'best': choose one of good/raw, good/spoilt"):
        open_side(f"{path}::best")
    with pytest.raises(InvalidInputError, match="several variants of 'good'"):
        open_side(f"{path}::good")
    with pytest.raises(InvalidInputError, match="two files, or two rows"):
        compare(open_side(path), open_side(f"{path}::good/raw"))
    with pytest.raises(InvalidInputError, match="share no cell"):
        compare(open_side(path), open_side(part))
    with pytest.raises(InvalidInputError, match="two results of good/raw"):
        compare(open_side(path), open_side(double))
