"""The commands with every method as it is, not a stand-in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from subspan.cli import app
from subspan.methods import METHODS

STACKED = {"epochs": {"layers": 1, "autoencoder": 1, "clustering": 1}}
NETWORK = {"epochs": 1, "width": 8, "batch_size": 50}
QUICK = {
    "ncsc": {"epochs": {"classifier": 1, "settling": 1}},
    "dac": NETWORK | {"eta": 0.1, "passes": 1, "block_size": 60},
    "infogan": NETWORK | {"hidden": 32},
    "clustergan": NETWORK | {"hidden": 32},
    "dsc-net": {"epochs": {"autoencoder": 1, "self_expression": 5}},
    "k-scn": {"epochs": {"autoencoder": 1, "subspaces": 1}},
    "cae-km": {"epochs": {"autoencoder": 1}},
    "sae-km": {"epochs": {"layers": 1, "autoencoder": 1}},
    **dict.fromkeys(("dec", "idec", "dcn"), STACKED),
}


def call(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


@pytest.mark.filterwarnings("ignore")  # so few epochs settle nothing
@pytest.mark.parametrize("method", sorted(METHODS))
def test_from_images_to_a_page(method: str, tmp_path: Path) -> None:
    X, y = load_digits().images[:120].astype(np.uint8), load_digits().target[:120]
    np.savez(tmp_path / "some.npz", X=X, y=y)
    run, source = tmp_path / "run", tmp_path / "some.npz"
    options = [f"{name}={json.dumps(value)}" for name, value in QUICK.get(method, {}).items()]
    sets = [word for option in options for word in ("--set", option)]
    call("fit", source, "-k", 10, "--method", method, "--out", run, "--seed", 0, *sets)
    labels = np.genfromtxt(run / "labels.csv", delimiter=",", skip_header=1, dtype=int)[:, 1]
    assert len(labels) == 120
    assert set(labels) <= set(range(10))
    assert 0 <= json.loads(call("evaluate", run))["acc"] <= 1
    call("predict", run, source, "--out", tmp_path / "new.csv")
    new = np.genfromtxt(tmp_path / "new.csv", delimiter=",", skip_header=1, dtype=int)[:, 1]
    assert (new == labels).mean() > (0.6 if method == "dsc-net" else 0.99)  # which looks for the nearest subspace
    call("report", run)
    assert (run / "report.html").stat().st_size > 100_000
