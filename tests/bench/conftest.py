"""A small data set with labels, suites of fake methods, and records that need no run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from subspan.bench.settings import parse_suite
from subspan.methods import METHODS

HERE = Path(__file__).parent


@pytest.fixture
def fakes(monkeypatch):
    """The fake methods are registered here, and can be imported by the processes of cells."""
    before = set(METHODS)
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{Path(sys.modules['subspan'].__file__).parents[1]}")
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.delitem(sys.modules, "bench_fakes", raising=False)
    import bench_fakes

    yield bench_fakes
    for name in set(METHODS) - before:
        METHODS.unregister(name)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Data set "tiny": ten samples, five of each of two classes, whose first entry is the class."""
    folder = tmp_path / "data"
    folder.mkdir()
    y = np.arange(10) % 2
    X = np.stack([y, np.arange(10)], axis=1).astype(np.float64)
    np.savez(folder / "tiny.npz", X=X, y=y)
    np.savez(folder / "unlabelled.npz", X=X)
    monkeypatch.setenv("SUBSPAN_DATA", str(folder))
    return folder


SUITE = """
title = "A | B & C"
seeds = 3
time_limit = 60
rows = ["good", "bad", "absent"]
[[data]]
name = "tiny"
n_clusters = 2
[[row]]
name = "good"
title = "Good_1"
method = "fake-nearest"
settings = [{ source = "label-free search", where = "Sec. 1", values = { wait = 0.0 }, oracle = ["wait"] }]
postprocessing = [
  { name = "raw", source = "default" },
  { name = "spoilt", source = "paper", values = { wrong = 1 } },
]
[[row]]
name = "bad"
method = "fake-failing"
[[row]]
name = "absent"
method = "no-such-method"
"""


@pytest.fixture
def suite():
    return parse_suite("demo", SUITE)


@pytest.fixture
def suite_file(tmp_path):
    path = tmp_path / "demo.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def make_record():
    """A line of results for a cell, with the given scores (shares, not percent) or status."""

    def make(cell, acc=0.5, nmi=0.25, ari=0.125, status="ok", **more):
        record = {"format": 1, "key": cell.key, "setting": cell.setting, **cell.to_json(), "status": status}
        record |= {"seconds": {"total": 10.0}, "memory": {"peak_bytes": 2_000_000_000, "peak_gpu_bytes": None}}
        record |= {"git": {"revision": "0123456789abcdef", "changed": False}, "versions": {"subspan": "0.1.0"}}
        record |= {"machine": {"cpu": "abacus", "cores": 2}, "n": 10, "live_clusters": 2}
        scores = {"acc": acc, "nmi": nmi, "ari": ari} if status == "ok" else {"error": "because"}
        return record | scores | more

    return make
