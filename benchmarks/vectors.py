"""Vectors that are no subspaces: NCSC beside k-means, and with coefficients counted by their size alone (Eq. 4).

    python benchmarks/vectors.py --sets wine,cancer --seeds 1

Sets that ship with scikit-learn (columns standardised) or that it makes. Prints a JSON line per set, method and seed;
labels are used for the printed figures only.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from _fits import fitted
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_iris, load_wine, make_blobs, make_classification
from sklearn.preprocessing import StandardScaler

from subspan import NCSC


def standardised(bunch) -> tuple[np.ndarray, np.ndarray]:
    return StandardScaler().fit_transform(bunch.data), bunch.target


def subspaces(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Ten subspaces of dimension 4 in 50, 200 samples of each."""
    rng, y = np.random.default_rng(0), np.repeat(np.arange(10), 200)
    bases = np.linalg.qr(rng.standard_normal((10, 50, 4)))[0]
    X = np.einsum("nd,nfd->nf", rng.standard_normal((2000, 4)), bases[y])
    return X + noise * X.std() * rng.standard_normal(X.shape), y


SETS = {
    "wine": lambda: standardised(load_wine()),
    "cancer": lambda: standardised(load_breast_cancer()),
    "cancer-raw": lambda: load_breast_cancer(return_X_y=True),
    "iris": lambda: load_iris(return_X_y=True),
    "blobs": lambda: make_blobs(2000, 30, centers=10, cluster_std=8.0, random_state=0),
    "two-blobs": lambda: make_blobs(2000, 30, centers=2, cluster_std=8.0, random_state=0),
    "classification": lambda: make_classification(
        2000, 40, n_informative=10, n_redundant=10, n_classes=5, n_clusters_per_class=1, random_state=0
    ),
    "subspaces": lambda: subspaces(0.6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    for name in options.sets.split(","):
        X, y = SETS[name]()
        k = len(np.unique(y))
        for seed in range(options.seeds):
            methods = {
                "ncsc": NCSC(k, random_state=seed),
                "ncsc, |c|": NCSC(k, positive=False, random_state=seed),
                "k-means": KMeans(k, n_init=10, random_state=seed),
            }
            for method, model in methods.items():
                line = {"set": name, "n": len(y), "method": method, "seed": seed}
                print(json.dumps(line | fitted(model, X, y)), flush=True)


if __name__ == "__main__":
    main()
