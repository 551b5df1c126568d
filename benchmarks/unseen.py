"""Sets of your own, such as ones that nobody here has seen: NCSC as it is beside k-means and LSR.

    python benchmarks/unseen.py FILE.npz [FILE.npz ...] --seeds 1

A file has X (n, p), (n, h, w) or (n, h, w, c) and labels y. K-means sees the samples as they are, and their directions
from the mean ("k-means, unit"), which is what NCSC sees of vectors; LSR up to 5,000 samples. ``--standardise`` is for
tables whose columns have units of their own. Samples are shuffled. Prints a JSON line per file, method and seed; labels
are used for the printed figures only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from _fits import fitted
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler, normalize

from subspan import NCSC
from subspan.methods.lsr import LSR

LSR_SAMPLES = 5000


def read(path: Path, standardise: bool) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        X, y = file["X"], np.unique(file["y"], return_inverse=True)[1]
    if standardise:
        X = StandardScaler().fit_transform(X)
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], y[order]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--standardise", action="store_true", help="columns to mean 0 and variance 1")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    for path in options.files:
        X, y = read(path, options.standardise)
        k, flat = int(y.max()) + 1, X.reshape(len(X), -1).astype(np.float32)
        for seed in range(options.seeds):
            methods = {
                "k-means": (KMeans(k, n_init=10, random_state=seed), flat),
                "k-means, unit": (KMeans(k, n_init=10, random_state=seed), normalize(flat - flat.mean(axis=0))),
                "lsr": (LSR(k, random_state=seed), flat),
                "ncsc": (NCSC(k, random_state=seed), X),
            }
            for name, (model, data) in methods.items():
                if name == "lsr" and len(data) > LSR_SAMPLES:
                    continue
                line = {"file": path.name, "n": len(y), "k": k, "method": name, "seed": seed}
                print(json.dumps(line | fitted(model, data, y)), flush=True)


if __name__ == "__main__":
    main()
