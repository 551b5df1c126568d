"""NCSC where it could break: classes of unequal size, and many seeds.

    python benchmarks/robustness.py imbalance --ratio 10 --draw 0 --seeds 3
    python benchmarks/robustness.py seeds --samples 10000 --seeds 20

"imbalance": class sizes fall geometrically by the ratio, from the first class to the last. "seeds": the same samples,
all seeds; a run has collapsed if fewer than k clusters are live. Codes are those of the default encoder of images,
found once. Labels draw the unequal classes and read the result; the fit does not see them. One JSON line per run.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch

from subspan import NCSC, evaluate, load_dataset
from subspan._validation import check_samples, fit_scaling
from subspan.heads import live_labels
from subspan.multiscale import make_scattering
from subspan.pretraining import encode


def scattering_codes(X: np.ndarray) -> np.ndarray:
    samples = check_samples(X)
    samples = samples.with_scaling(fit_scaling(samples))
    return encode(samples, make_scattering(samples.shape, samples.n), torch.device("cpu")).numpy()


def unequal(y: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Indices of samples whose class sizes fall geometrically, the first class whole."""
    classes = np.unique(y)
    sizes = np.bincount(y).min() * ratio ** -np.linspace(0, 1, len(classes))
    members = [rng.permutation(np.flatnonzero(y == c))[: round(size)] for c, size in zip(classes, sizes, strict=True)]
    return np.sort(np.concatenate(members))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("imbalance", "seeds"))
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--samples", type=int, help="at most; all by default")
    parser.add_argument("--ratio", type=float, default=10.0)
    parser.add_argument("--prior", default="auto", choices=("auto", "uniform", "uneven"))
    parser.add_argument("--draw", type=int, default=0, help="seed with which samples are drawn")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data, rng = load_dataset(options.data), np.random.default_rng(options.draw)
    y = np.unique(np.asarray(data.y), return_inverse=True)[1]
    k = int(y.max()) + 1
    some = unequal(y, options.ratio, rng) if options.what == "imbalance" else np.arange(len(y))
    some = np.sort(rng.permutation(some)[: options.samples])
    Z, y = scattering_codes(data.X[some]), y[some]
    for seed in range(options.seeds):
        began = time.perf_counter()
        labels = NCSC(k, prior=options.prior, random_state=seed).fit(Z).labels_
        scores = {
            name: round(100 * value, 2) for name, value in evaluate(y, labels).items() if name in ("acc", "nmi", "ari")
        }
        live = live_labels(torch.from_numpy(labels), k)
        seconds = round(time.perf_counter() - began, 1)
        drawn = {"what": options.what, "data": options.data, "n": len(y), "draw": options.draw, "prior": options.prior}
        drawn |= {"ratio": options.ratio} if options.what == "imbalance" else {}
        record = drawn | {"seed": seed, **scores, "live": live}
        print(json.dumps(record | {"seconds": seconds, "sizes": sorted(np.bincount(labels).tolist())}), flush=True)


if __name__ == "__main__":
    main()
