"""``subspan bench run``, ``table`` and ``compare``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subspan import _cli_common as common

if TYPE_CHECKING:
    from subspan.bench.runner import Plan
    from subspan.bench.settings import Cell, Suite

EXIT_INCOMPLETE = 1

app = typer.Typer(
    help="Run methods on data sets under one protocol, print tables, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SuiteOption = Annotated[
    str, typer.Option("--suite", help="table1, table2, table3, cpu, small or quick, or a .toml file of your own.")
]
Methods = Annotated[
    list[str] | None, typer.Option("--methods", help="Rows or methods, with commas between; all if not given.")
]


@app.command()
def run(
    suite: SuiteOption,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Results file; finished cells in it are kept.")
    ] = None,
    methods: Methods = None,
    data: Annotated[list[str] | None, typer.Option(help="Data sets of the suite, with commas between.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0 .. N-1; the suite's number if not given.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time; they share the cores.")] = 1,
    device: Annotated[str, typer.Option(help="For methods that take one: auto, cpu, cuda.")] = "auto",
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed or met a limit.")] = False,
    plugin: Annotated[list[str] | None, typer.Option(help="Module that registers further methods.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for auto-encoders and codes, so that cells that share them learn them once."),
    ] = None,
    time_limit: Annotated[float | None, typer.Option(min=0.1, help="Seconds for each cell.")] = None,
    memory_limit: Annotated[float | None, typer.Option(min=0.01, help="GB of resident memory for each cell.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells, and stop.")] = False,
) -> None:
    """Run the cells of a suite, each in a process of its own; an interrupted run goes on where it stopped.

    The exit status is 0 if every cell that was asked for is ok, now or from an earlier run, and 1 if one failed, met a
    limit or has a method that is not there, or if none is ok. Cells of data sets that are not on this machine are only
    counted as missing, but if --data names the sets the status is 1.
    """
    from subspan.bench import runner, settings
    from subspan.bench.records import Journal, read_records
    from subspan.errors import InvalidInputError

    if out is None and not dry_run:
        raise InvalidInputError("There is no results file: add --out results.jsonl, or --dry-run to see the cells.")
    options = runner.Options(jobs, device, tuple(plugin or ()), retry, None if cache is None else str(cache))
    runner.load_plugins(options.plugins)
    cells = _select(settings.load_suite(suite), methods, data, seeds, time_limit, memory_limit)
    if dry_run or out is None:
        exists = out is not None and out.is_file()
        finished = {record["key"]: record["status"] for record in read_records(out)} if out and exists else {}
        plan = runner.make_plan(cells, finished, options)
        for cell in plan.todo:
            print(cell.label)
        _report(plan, finished)
        return
    with Journal(out) as journal:
        plan = runner.make_plan(cells, journal.finished, options)
        _report(plan, journal.finished)
        tally = runner.run_plan(plan, journal, options, common.say)
    absent = tally.pop("missing", 0)
    missing = len(plan.missing) + absent
    common.emit({"out": str(out), "cells": len(cells), "kept": len(plan.done), **tally, "missing": missing})
    statuses = {journal.finished[cell.key] for cell in cells if cell.key in journal.finished}
    if statuses != {"ok"} or plan.missing or (data and absent):
        raise typer.Exit(EXIT_INCOMPLETE)


@app.command()
def table(
    results: Annotated[Path, typer.Argument(help="The --out of 'subspan bench run'.")],
    suite: SuiteOption,
    form: Annotated[str, typer.Option("--format", "-f", help="md, html, latex or csv.")] = "md",
    methods: Methods = None,
    plugin: Annotated[list[str] | None, typer.Option(help="Module that registers further methods.")] = None,
) -> None:
    """Print a table: the rows of the suite, mean and deviation over seeds, published figures beside them."""
    from subspan.bench import rendering, runner, settings
    from subspan.bench.published import load_published
    from subspan.bench.records import read_records
    from subspan.bench.tables import summarise
    from subspan.errors import InvalidInputError

    if form not in rendering.FORMATS:
        raise InvalidInputError(f"There is no format '{form}': choose one of {', '.join(rendering.FORMATS)}.")
    runner.load_plugins(plugin or ())
    chosen = settings.load_suite(suite)
    rows = settings.choose_rows(chosen, _words(methods))
    summary = summarise(chosen, read_records(results), load_published(), rows)
    print(rendering.render(summary, form), end="")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A results file, or one row of it: results.jsonl::ncsc")],
    b: Annotated[str, typer.Argument(metavar="B", help="What to subtract, in the same form.")],
) -> None:
    """Print A - B over common cells (same data and seed) with 95 % t intervals."""
    from subspan.bench.compare import compare as differences
    from subspan.bench.compare import open_side, to_markdown

    print(to_markdown(differences(open_side(a), open_side(b)), a, b), end="")


def _select(
    suite: Suite,
    methods: list[str] | None,
    data: list[str] | None,
    seeds: int | None,
    time_limit: float | None,
    memory_limit: float | None,
) -> list[Cell]:
    """The cells of a suite that were asked for, with the limits that were given."""
    from dataclasses import replace

    from subspan.bench import settings

    suite = replace(
        suite,
        time_limit=suite.time_limit if time_limit is None else time_limit,
        memory_limit_gb=suite.memory_limit_gb if memory_limit is None else memory_limit,
    )
    rows = settings.choose_rows(suite, _words(methods))
    sets = _choose_data([item.name for item in suite.data], _words(data))
    cells = settings.cells(suite, range(seeds or suite.seeds))
    return [cell for cell in cells if cell.row in rows and cell.data in sets]


def _words(values: list[str] | None) -> list[str]:
    """Words of options that may be repeated and may hold commas."""
    return [word.strip() for value in values or [] for word in value.split(",") if word.strip()]


def _choose_data(known: list[str], wanted: list[str]) -> list[str]:
    from subspan.errors import InvalidInputError

    if unknown := [name for name in wanted if name not in known]:
        raise InvalidInputError(f"The suite has no data set '{unknown[0]}': choose from {', '.join(known)}.")
    return wanted or known


def _report(plan: Plan, finished: dict[str, str]) -> None:
    """What will be done, on stderr."""
    common.say(f"{len(plan.todo)} cells to run, {len(plan.done)} done already.")
    kept = Counter(finished[cell.key] for cell in plan.done)
    if troubles := [f"{count} {status}" for status, count in sorted(kept.items()) if status != "ok"]:
        common.say(f"Of these, {', '.join(troubles)}: kept, whatever the limits are now; --retry runs them again.")
    if plan.missing:
        names = dict.fromkeys(cell.method for cell in plan.missing)
        common.say(f"{len(plan.missing)} cells are missing: there is no method {', '.join(names)} yet.")
