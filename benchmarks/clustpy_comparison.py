"""NCSC, DEC and DCN beside ClustPy's DEC and DCN: same machine, same samples, each fit in a process of its own.

    pip install clustpy==0.0.3
    python benchmarks/clustpy_comparison.py mnist --samples 10000 --seeds 1 --out clustpy.jsonl

ClustPy (Leiber et al., https://github.com/collinleiber/ClustPy) runs with its own defaults on rows in [0, 1], NCSC with
its defaults on the images, our DEC and DCN with the budget for two cores of docs/bench.md. Seconds are those of the
fit, memory is the largest resident size of the process. ClustPy imports torchvision for its loaders of data sets and
its residual networks; where there is none that fits this torch, an empty stand-in is imported: DEC and DCN use neither.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from _results import Results

BUDGET = {"layers": 10, "autoencoder": 40}
METHODS = ("ncsc", "dec", "dcn", "clustpy-dec", "clustpy-dcn")


def clustpy_estimator(name: str, k: int, seed: int) -> Any:
    """ClustPy's estimator with its defaults."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for part in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
            del sys.modules[part]
        stand_in = mock.MagicMock()
        sys.modules |= dict.fromkeys(("torchvision", "torchvision.models", "torchvision.models._api"), stand_in)
    from clustpy import deep

    return getattr(deep, name.removeprefix("clustpy-").upper())(k, random_state=seed)


def estimator(name: str, k: int, seed: int) -> Any:
    from subspan import NCSC
    from subspan.methods.dcn import DCN
    from subspan.methods.dec import DEC

    if name.startswith("clustpy-"):
        return clustpy_estimator(name, k, seed)
    if name == "ncsc":
        return NCSC(k, random_state=seed)
    if name == "dec":
        return DEC(k, epochs=BUDGET | {"clustering": 60}, random_state=seed)
    return DCN(k, epochs=BUDGET | {"clustering": 20}, random_state=seed)


def run(name: str, source: str, samples: int, seed: int) -> dict[str, Any]:
    """Fit and evaluate in this process."""
    from subspan import evaluate, load_dataset
    from subspan.bench.worker import peak_memory

    data = load_dataset(source)
    X, y = data.X[:samples], np.asarray(data.y)[:samples]
    if name != "ncsc":
        X = X.reshape(len(X), -1).astype(np.float32) / X.max()
    model = estimator(name, len(np.unique(y)), seed)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X)
    seconds = round(time.perf_counter() - began, 1)
    scores = {m: round(100 * float(v), 2) for m, v in evaluate(y, np.asarray(model.labels_)).items() if m != "n"}
    return scores | {"seconds": seconds, "peak_bytes": peak_memory()["peak_bytes"]}


def table(lines: list[dict[str, Any]]) -> str:
    rows = ["| method | ACC | NMI | ARI | fit, s | memory, GB | seeds |", "|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(line["method"] for line in lines):
        mine = [line for line in lines if line["method"] == name]
        means = " | ".join(f"{np.mean([line[m] for line in mine]):.1f}" for m in ("acc", "nmi", "ari", "seconds"))
        memory = max(line["peak_bytes"] for line in mine) / 1e9
        rows.append(f"| {name} | {means} | {memory:.1f} | {len(mine)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=Path, default=Path("clustpy.jsonl"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # seed of the one fit of this process
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(run(options.methods[0], options.source, options.samples, options.one)))
        return
    setting = {"source": options.source, "n": options.samples}
    results, failures = Results(options.out), 0
    for seed in range(options.seeds):
        for name in options.methods:
            key = setting | {"method": name, "seed": seed}
            if results.of(key):
                continue
            words = [options.source, "--samples", str(options.samples), "--methods", name, "--one", str(seed)]
            done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name}, seed {seed}: failed\n{done.stderr[-2000:]}", file=sys.stderr)
                failures += 1
                continue
            results.add(key | json.loads(done.stdout.splitlines()[-1]))
    print(table(results.of(setting)))
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
