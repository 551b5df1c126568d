"""docs/paper_map.md is true: its functions and tests exist, and no equation is missing."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from subspan.methods.ncsc import NCSC

ROOT = Path(__file__).resolve().parent.parent
SAID_ELSEWHERE = (
    "Eq. 2",
    "Eq. 3",
)  # the constraint and its relaxation: self_expression.py solves them as part of Eq. 9
NEEDED = {f"Eq. {k}" for k in range(1, 12)} | {"Algorithm 1"}


def rows_of(text: str) -> list[tuple[str, str, str, str]]:
    """Cells of the table without backticks; the header and the rule under it left out."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0].split("|")[1].strip() == "paper"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert all(len(row) == 4 for row in cells), "a row of the map does not have four cells"
    return [(paper, what, function.strip("`"), test.strip("`")) for paper, what, function, test in cells]


ROWS = rows_of((ROOT / "docs" / "paper_map.md").read_text())


def find(name: str):
    """The object of an absolute dotted name."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            found = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


@cache
def names_of_tests(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    )


def test_every_equation_is_mapped():
    assert {row[0] for row in ROWS} >= NEEDED


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[2]}")
def test_function_and_test_exist(row):
    paper, _, function, test = row
    found = find(function)
    assert callable(found)
    assert inspect.getmodule(found).__name__.startswith("subspan")
    path, _, name = test.partition("::")
    assert name in names_of_tests(path), f"{test} does not exist"
    if paper.startswith("Eq. ") and paper not in SAID_ELSEWHERE:  # the code says which equation it is
        source = inspect.getsource(inspect.getmodule(found))
        number = paper.removeprefix("Eq. ")
        said = [set(re.findall(r"\d+", match)) for match in re.findall(r"Eqs?\. ([\d, -]+(?:and \d+)?)", source)]
        spans = [range(int(a), int(b) + 1) for a, b in re.findall(r"Eqs?\. (\d+)-(\d+)", source)]
        assert any(number in numbers for numbers in said) or any(int(number) in span for span in spans), (
            function,
            paper,
        )


def test_deviations_are_those_of_the_docstring():
    numbered = set(re.findall(r"^    (\d)\. \*", NCSC.__doc__, flags=re.MULTILINE))
    mapped = {row[0].removeprefix("deviation ") for row in ROWS if row[0].startswith("deviation")}
    assert mapped <= numbered


def test_the_map_can_fail():
    with pytest.raises(AttributeError):
        find("subspan.losses.L_neutral")
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        find("subspan.nowhere.function")
    assert "test_nothing" not in names_of_tests("tests/test_losses.py")
    with pytest.raises(AssertionError, match="four cells"):
        rows_of("| paper | a | b | c |\n|---|---|---|---|\n| Eq. 1 | x |\n")
