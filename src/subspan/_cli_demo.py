"""``subspan demo``: the built-in digits, NCSC beside K-Means on the same pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from subspan._cli_report import write_report
from subspan._cli_runs import FitRequest, fit


def demo(request: FitRequest) -> None:
    """Fit, then compare. The labels of the digits are first looked at when both clusterings are done."""
    from subspan.metrics import evaluate

    fitted = fit(request)
    if fitted is None:
        return
    run, estimator, data = fitted
    baseline = kmeans(data.X, request.n_clusters, request.seed)
    assert data.y is not None
    scores = {
        request.method.upper(): evaluate(data.y, np.asarray(estimator.labels_)),
        "K-Means on pixels": evaluate(data.y, baseline),
    }
    print_table(scores, f"{len(data.X):,} {data.name}, {request.n_clusters} clusters")
    print("Pictures:", *sorted(str(path) for path in run.figures.glob("*.png")))
    print("Page to look at:", write_report(run.path, None, None)["out"])


def kmeans(X: np.ndarray, k: int, seed: int) -> np.ndarray:
    """scikit-learn's K-Means, the best of ten starts by its own objective."""
    from sklearn.cluster import KMeans

    pixels = X.reshape(len(X), -1).astype(np.float64)
    return KMeans(k, n_init=10, random_state=seed).fit_predict(pixels)


def print_table(scores: dict[str, Any], title: str) -> None:
    """One line for each method, in percent."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    table.add_column("method")
    for measure in ("ACC", "NMI", "ARI"):
        table.add_column(measure, justify="right")
    for method, row in scores.items():
        table.add_row(method, *(f"{100 * row[measure]:.2f}" for measure in ("acc", "nmi", "ari")))
    Console().print(table)
