"""Finished runs of known content, for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from subspan.datasets import Dataset
from subspan.runs import Run, create_run, finish_run, load_run, write_history

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


class Fake:
    """A fitted estimator that gives what it was given."""

    def __init__(self, P: np.ndarray | None = None, codes: np.ndarray | None = None) -> None:
        if P is not None:
            self.predict_proba = lambda X: P
        if codes is not None:
            self.transform = lambda X: codes[: len(X)]


def make_run(path: Path, data: Dataset, labels: np.ndarray, k: int, history: list[dict] | None = None) -> Run:
    config = {
        "method": "fake",
        "source": str(path / data.name),
        "data": {"kind": data.kind, "n": len(data.X), "shape": list(data.X.shape[1:]), "skipped": 0},
        "parameters": {"n_clusters": k, "tolerance": 0.125},
        "versions": {"subspan": "0"},
    }
    run = create_run(path / "run", config)
    if history is not None:
        write_history(run, history)
    finish_run(run, {"seconds": 1.5, "stop_reason": "completed"}, labels, data.names)
    return load_run(run.path)


def planted(n: int = 60, k: int = 3, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around k far centres, and their clusters."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % k
    return (20 * np.eye(k, d)[labels] + rng.normal(size=(n, d))).astype(np.float32), labels


def softmax_of(labels: np.ndarray, k: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    own = rng.uniform(0.4, 1.0, size=len(labels))
    P = rng.dirichlet(np.ones(k), size=len(labels))
    P[np.arange(len(labels)), labels] = 0
    P *= ((1 - own) / P.sum(axis=1))[:, None]
    P[np.arange(len(labels)), labels] = own
    return P
