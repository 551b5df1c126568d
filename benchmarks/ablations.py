"""Ablations of NCSC's paper recipe: each decision removed in turn, on the first n samples of a known image set.

    python benchmarks/ablations.py mnist --samples 10000 --seeds 2

Prints one JSON line per run. Labels are used for the printed figures only: ACC / NMI / ARI, and the precision of the
positive pairs (share of pairs with A_s > u whose samples have the same label) on the codes of the fitted encoder.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import numpy as np
import torch
from torch.nn.functional import normalize

from subspan import NCSC, evaluate, load_dataset
from subspan._random import generator
from subspan.pairs import find_positives, local_batches
from subspan.self_expression import ClosedFormSelfExpression

ABLATIONS: dict[str, dict] = {
    "default": {},
    "no collaboration stage": {"epochs": {"collaboration": 0}},
    "random batches": {"batches": "random"},
    "u = 0.7 then 0.9": {"u": (0.7, 0.9)},
    "one start": {"n_starts": 1, "epochs": {"classifier": 14}},
    "starts with k clusters": {"overcluster": 1.0},
    "walk of one step": {"walk": 1},
    "no balance term": {"balance": 0},
    "cosine A_c": {"affinity": "cosine"},
    "literal: cosine A_c, no balance term, one start": {
        "affinity": "cosine",
        "balance": 0,
        "n_starts": 1,
        "epochs": {"classifier": 14},
    },
    "learned C, 20 epochs": {"self_expression": "parameter", "epochs": {"subspace": 20, "collaboration": 0}},
    "gamma = 1": {"gamma": 1.0},
    "gamma = 100": {"gamma": 100.0},
}


def pair_precision(model: NCSC, X, y: np.ndarray) -> tuple[float, float]:
    """Positive pairs per sample, and the share of them that have one label."""
    codes = torch.from_numpy(model.transform(X))
    Z = normalize(codes - codes.mean(dim=0), dim=1)
    gen = generator(0)
    if model.batches == "local":
        batches = local_batches(Z, model.batch_size, gen)
    else:
        batches = list(torch.randperm(len(Z), generator=gen).tensor_split(max(1, round(len(Z) / model.batch_size))))
    u = model.u[1] if isinstance(model.u, tuple) else model.u
    pairs = find_positives(Z, batches, ClosedFormSelfExpression(model.gamma), u)
    label = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    same = label[pairs.rows()] == label[pairs.partners]
    return len(pairs.partners) / len(Z), float(same.float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--encoder", default="auto")
    parser.add_argument("--only", nargs="*", help="names of ablations")
    options = parser.parse_args()
    data = load_dataset(options.source)
    X, y = data.X[: options.samples], np.asarray(data.y)[: options.samples]
    for name, changes in ABLATIONS.items():
        if options.only and name not in options.only:
            continue
        for seed in range(options.seeds):
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = NCSC(len(np.unique(y)), encoder=options.encoder, random_state=seed, **changes).fit(X)
            seconds = time.perf_counter() - start
            count, precision = pair_precision(model, X, y)
            scores = {k: round(float(v), 4) for k, v in evaluate(y, model.labels_).items()}
            line = {
                "ablation": name,
                "seed": seed,
                **scores,
                "pairs": round(count, 2),
                "precision": round(precision, 4),
            }
            print(json.dumps(line | {"seconds": round(seconds, 1)}), flush=True)


if __name__ == "__main__":
    main()
