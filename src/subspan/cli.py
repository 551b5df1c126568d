"""The command line (layer 8). Results go to stdout, all else to stderr; heavy modules are imported when needed."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from subspan import _cli_bench
from subspan import _cli_common as common
from subspan._cli_common import FriendlyGroup

app = typer.Typer(
    cls=FriendlyGroup,
    help="Cluster unlabelled images and vectors by Neural Collaborative Subspace Clustering.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(_cli_bench.app, name="bench")

Source = Annotated[str, typer.Argument(help="A known set, a folder of images, or a .npy/.npz/.csv/.parquet file.")]
RunFolder = Annotated[Path, typer.Argument(help="The run folder that 'subspan fit' wrote.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"subspan {version('subspan')}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def fit(
    source: Source,
    n_clusters: Annotated[int, typer.Option("--n-clusters", "-k", help="Number of clusters.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder to write.")] = None,
    method: Annotated[str, typer.Option(help="One of 'subspan methods'.")] = "ncsc",
    recipe: Annotated[str | None, typer.Option(help="Training recipe of the method.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of the method.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other parameter; may be repeated.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels to which a folder's images are resized.")
    ] = None,
    color: Annotated[str, typer.Option(help="Of a folder's images: auto, gray or rgb.")] = "auto",
    classes: Annotated[
        str | None, typer.Option(help="Of stanford-online-products: kinds of product, with commas between.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Of stanford-online-products: number of images, or all.", metavar="<int|all>")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print configuration and memory, and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no configuration.")] = False,
) -> None:
    """Cluster SOURCE into K clusters and write a run folder."""
    from subspan import _cli_runs

    request = _cli_runs.FitRequest(
        source=_cli_runs.part_of(source, classes, size),
        out=out,
        method=method,
        n_clusters=n_clusters,
        recipe=recipe,
        encoder=encoder,
        seed=seed,
        settings=common.parse_settings(settings or []),
        image_size=image_size,
        color=color,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        quiet=quiet,
    )
    fitted = _cli_runs.fit(request)
    if fitted is not None:
        from subspan.runs import load_run

        common.emit(load_run(fitted[0].path).config["result"])
        request.say(f"To look at the clusters: {shlex.join(['subspan', 'report', str(fitted[0].path)])}")


@app.command()
def report(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file to write; report.html in RUN if not given.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Where the data of the run are now; where they were if not given.")
    ] = None,
) -> None:
    """Write a page about RUN to look at: clusters, doubtful samples, a map, curves."""
    from subspan._cli_report import write_report

    common.emit(write_report(run, out, source))


@app.command()
def predict(
    run: RunFolder,
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write: name, label.")],
) -> None:
    """Label SOURCE with the model of RUN."""
    from subspan import _cli_runs

    _cli_runs.predict(run, source, out)


@app.command()
def evaluate(
    run: RunFolder,
    labels: Annotated[
        Path | None, typer.Option(help="True labels (.csv, .npy, .npz); those of the source if not given.")
    ] = None,
) -> None:
    """Print n, ACC, NMI and ARI of RUN as one line of JSON."""
    from subspan import _cli_runs

    common.emit(_cli_runs.evaluate(run, labels))


@app.command()
def figures(
    run: RunFolder,
    true: Annotated[bool, typer.Option("--true", help="Also draw by the true labels of the source.")] = False,
    labels: Annotated[
        Path | None, typer.Option(help="Also draw by the true labels of a file (.csv, .npy, .npz).")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write; that of RUN if not given.")] = None,
) -> None:
    """Draw the pictures of RUN again."""
    from subspan import _cli_runs

    common.emit(_cli_runs.figures(run, out, true=true, label_file=labels))


@app.command()
def methods() -> None:
    """List the methods."""
    from subspan.methods import METHODS

    for name in METHODS:
        summary = (METHODS[name].__doc__ or "").strip().partition("\n")[0]
        print(f"{name:<12} {summary}".rstrip())


@app.command()
def datasets() -> None:
    """List the data sets that have a name."""
    from subspan.datasets import list_datasets

    print(f"{'name':<24} {'n':>7}  {'shape':<12} {'classes':>7}  {'here':<4}  source")
    for row in list_datasets():
        shape = " x ".join(map(str, row.shape))
        classes = "-" if row.classes is None else row.classes
        print(
            f"{row.name:<24} {row.n:>7}  {shape:<12} {classes:>7}  {'yes' if row.available else 'no':<4}  {row.origin}"
        )
    if not os.environ.get("SUBSPAN_DATA"):
        common.say("More sets appear when the environment variable SUBSPAN_DATA names a folder with .npz files.")


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Run folder to write; an earlier run there is replaced.")
    ] = Path("runs/demo"),
    recipe: Annotated[str | None, typer.Option(help="Training recipe.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any parameter.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no configuration.")] = False,
) -> None:
    """Cluster scikit-learn's handwritten digits and compare with K-Means."""
    from subspan._cli_demo import demo as run_demo
    from subspan._cli_runs import FitRequest

    run_demo(
        FitRequest(
            source="digits",
            out=out,
            method="ncsc",
            n_clusters=10,
            recipe=recipe,
            seed=seed,
            settings=common.parse_settings(settings or []),
            overwrite=True,
            quiet=quiet,
        )
    )


def main() -> None:
    """Entry of the console script."""
    # huge pages for large CPU tensors; read by torch at its first allocation, so it must be set before
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    app()
