"""The documents are true where a test can tell: links, names, commands, and the example in the README."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from typer.main import get_command

import subspan
from subspan.cli import app
from subspan.methods import _ncsc_plan
from test_paper_map import find

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]}
README = (ROOT / "README.md").read_text()
BENCHMARKS = re.compile(r"\bbenchmarks/\w+\.py\b")


def links(text: str) -> list[str]:
    """Targets of links and pictures, those to other sites and within the page left out."""
    return [
        target.partition("#")[0]
        for target in re.findall(r"\]\(([^)\s]+)\)", text)
        if not re.match(r"https?:|#", target)
    ]


def names(text: str) -> set[str]:
    """Dotted names of the package in backticks or in directives."""
    return set(re.findall(r"(?:`|:: )(subspan(?:\.\w+)+)\b", text))


def commands(text: str) -> Iterator[list[str]]:
    """Words after ``subspan`` of every command: indented lines, and code spans that begin with it."""
    lines = re.findall(r"^    subspan (.+)$", text, flags=re.MULTILINE) + re.findall(r"`subspan ([^`]+)`", text)
    for line in lines:
        words = shlex.split(line, comments=True)
        if words and "..." not in words:
            yield words


def wrong_command(words: list[str]) -> str | None:
    """What is wrong with the words after ``subspan``: an unknown command or option."""
    command = get_command(app)
    rest = [word for word in words if not word.isupper()]
    while rest and hasattr(command, "commands"):
        if rest[0].startswith("-"):
            break
        if rest[0] not in command.commands:
            return f"no command '{rest[0]}'"
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    return f"no option '{unknown[0]}'" if unknown else None


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = PAGES[page]
    text = path.read_text()
    assert [target for target in links(text) if not (path.parent / target).exists()] == []
    assert [script for script in BENCHMARKS.findall(text) if not (ROOT / script).is_file()] == []


@pytest.mark.parametrize("page", PAGES)
def test_names_exist(page: str) -> None:
    for name in sorted(names(PAGES[page].read_text())):
        find(f"{name}.__doc__")  # of a module, too


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    found = {" ".join(words): wrong_command(words) for words in commands(PAGES[page].read_text())}
    assert {words: wrong for words, wrong in found.items() if wrong} == {}


def test_what_is_public_is_in_the_reference() -> None:
    reference = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    missing = [name for name in subspan.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", reference)]
    assert missing == []


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    """As it stands, but on 200 digits and one epoch of every stage."""
    (code,) = re.findall(r"```python\n(.+?)```", README, flags=re.DOTALL)
    digits = sklearn.datasets.load_digits()
    digits.images, digits.target = digits.images[:200], digits.target[:200]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: digits)
    monkeypatch.setattr(_ncsc_plan, "EPOCHS", dict.fromkeys(_ncsc_plan.EPOCHS, 1))
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert "'acc': " in capsys.readouterr().out
    again = subspan.load("digits-model")
    assert again.predict(digits.images[:5]).tolist() == scope["model"].labels_[:5].tolist()


def test_the_checks_can_fail() -> None:
    assert links("[a](nowhere.md#x) ![b](c.png) [d](https://e.org) [f](#g)") == ["nowhere.md", "c.png"]
    assert names("`subspan.losses.L_neutral` and\n.. autoclass:: subspan.Nothing") == {
        "subspan.losses.L_neutral",
        "subspan.Nothing",
    }
    with pytest.raises(AttributeError):
        find("subspan.Nothing.__doc__")
    found = list(
        commands("    subspan fit x -k 3  # why\n\ntext `subspan bench tabel` and `subspan figures RUN --truth`")
    )
    assert [wrong_command(words) for words in found] == [None, "no command 'tabel'", "no option '--truth'"]


def test_the_table_of_the_readme_is_that_of_the_results():
    lines = [json.loads(line) for line in (DOCS / "results.jsonl").read_text().splitlines()]
    rows = re.findall(
        r"^\| ([\w -]+) \| (.+?)( \(.+\))? \| (\d) \| [\d. /]*\| ([\d. /]+) \|", README, flags=re.MULTILINE
    )
    assert len(rows) == 6
    for title, ours, spread, seeds, kmeans in rows:
        data = {"COIL-20": "coil20", "Extended Yale B": "eyaleb"}.get(title, title.lower())
        for row, printed in (("ncsc-global", ours), ("kmeans", kmeans)):
            ok = [line for line in lines if (line["row"], line["data"], line["status"]) == (row, data, "ok")]
            found = np.array([[line[score] for score in ("acc", "nmi", "ari")] for line in ok]) * 100
            shown = [float(figure) for figure in printed.strip("* ").split(" / ")]
            assert np.abs(found.mean(axis=0) - shown).max() < 0.051, (title, row)
            if row == "ncsc-global":
                assert len(ok) == int(seeds), title
                ends = [float(figure) for figure in re.findall(r"\d+\.\d", spread)]
                assert not ends or np.abs(found[:, 0].min() - ends[0]) < 0.051 > np.abs(found[:, 0].max() - ends[1])
