"""Write the tables of docs/results.md anew from docs/results.jsonl; what stands before the first table stays.

    python benchmarks/results_page.py

Nothing is run. The tables are those of ``subspan bench table docs/results.jsonl --suite S``, one level deeper.
"""

from __future__ import annotations

import re
from pathlib import Path

from subspan.bench.published import load_published
from subspan.bench.records import read_records
from subspan.bench.rendering import render
from subspan.bench.settings import SUITES, load_suite
from subspan.bench.tables import summarise

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"


def compose() -> str:
    """The text of the page."""
    records, figures = read_records(PAGE.with_suffix(".jsonl")), load_published()
    tables = [render(summarise(load_suite(name), records, figures), "md") for name in SUITES]
    head = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    return "\n".join([head, *(re.sub("^#", "##", table, flags=re.MULTILINE) for table in tables)])


if __name__ == "__main__":
    PAGE.write_text(compose(), encoding="utf-8")
