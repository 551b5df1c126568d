"""A large union of subspaces from a memory map: quality, time, memory and prediction speed, beside scikit-learn.

    python benchmarks/union_of_subspaces.py --n 1000000

Each method runs in its own process, so that peak memory is its own. One JSON line per method.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np

METHODS = ("ncsc", "kmeans", "minibatch-kmeans", "spectral")
SPECTRAL = 10_000  # samples that SpectralClustering gets: its affinity is n x n
BLOCK = 50_000


def write(path: Path, n: int, k: int, dim: int, p: int, noise: float, seed: int) -> np.ndarray:
    """k random subspaces of dimension dim in R^p; noise is relative to the length of a sample. Returns the classes."""
    rng = np.random.default_rng(seed)
    bases = np.stack([np.linalg.qr(rng.normal(size=(p, dim)))[0].T for _ in range(k)])
    y = rng.integers(k, size=n)
    X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, p))
    for start in range(0, n, BLOCK):
        rows = slice(start, min(start + BLOCK, n))
        clean = np.einsum("bd,bdp->bp", rng.normal(size=(len(y[rows]), dim)), bases[y[rows]])
        length = np.linalg.norm(clean, axis=1, keepdims=True)
        X[rows] = clean + noise * length / np.sqrt(p) * rng.normal(size=clean.shape)
    X.flush()
    return y


def run(method: str, path: Path, y: np.ndarray, k: int) -> dict:
    from sklearn.cluster import KMeans, MiniBatchKMeans, SpectralClustering

    from subspan import NCSC, evaluate

    X = np.load(path, mmap_mode="r")
    began = time.perf_counter()
    if method == "spectral":
        some = np.random.default_rng(0).choice(len(X), min(SPECTRAL, len(X)), replace=False)
        nearest = SpectralClustering(k, affinity="nearest_neighbors", random_state=0)
        labels, y = nearest.fit_predict(X[np.sort(some)]), y[np.sort(some)]
        seconds, rate = time.perf_counter() - began, None
    else:
        make = {"ncsc": NCSC, "kmeans": KMeans, "minibatch-kmeans": MiniBatchKMeans}[method]
        model = make(k, random_state=0).fit(X)
        labels, seconds = model.labels_, time.perf_counter() - began
        began, rows = time.perf_counter(), min(len(X), 200_000)
        model.predict(X[:rows])
        rate = rows / (time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "method": method,
        "n": len(labels),
        **{name: round(100 * value, 2) for name, value in evaluate(y, labels).items() if name in ("acc", "nmi", "ari")},
        "fit_seconds": round(seconds, 1),
        "peak_gb": round(peak, 2),
        "predict_rows_per_second": None if rate is None else int(rate),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--dim", type=int, default=6)
    parser.add_argument("--p", type=int, default=256)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        method, folder = options.child
        result = run(method, Path(folder) / "X.npy", np.load(Path(folder) / "y.npy"), options.k)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        y = write(Path(folder) / "X.npy", options.n, options.k, options.dim, options.p, options.noise, seed=0)
        np.save(Path(folder) / "y.npy", y)
        for method in options.methods:
            child = [sys.executable, __file__, "--k", str(options.k), "--child", method, folder]
            subprocess.run(child, check=True)


if __name__ == "__main__":
    main()
