"""Ablations of NCSC: each step of a recipe removed in turn, on the first n samples of a known image set.

    python benchmarks/ablations.py mnist --recipe global --samples 10000 --seeds 5 --out ablations.jsonl

Writes one JSON line per run (runs that are in the file are not repeated) and prints a table: mean and standard
deviation over seeds. Labels are used for the printed figures only: ACC / NMI / ARI, and the precision of the positive
pairs (share of selected pairs whose samples have one label) on the codes of the fitted encoder.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
from _results import Results
from torch.nn.functional import normalize

from subspan import NCSC, evaluate, load_dataset
from subspan._random import generator
from subspan.methods._ncsc_global import NEIGHBOURS
from subspan.neighbours import GlobalSelfExpression
from subspan.pairs import Pairs, find_positives, local_batches, random_batches
from subspan.selection import landmarks
from subspan.self_expression import ClosedFormSelfExpression

ONE_START = {"n_starts": 1, "epochs": {"classifier": 14}}
ABLATIONS: dict[str, dict[str, dict]] = {
    "global": {
        "default": {},
        "C of batches of 5000": {
            "recipe": "paper",
            "encoder": "scattering",
            "balance": (4.0, 0.5),
            "n_starts": 0,
            "epochs": {"settling": 8, "collaboration": 0},
        },
        "codes not divided by contrast": {"encoder": "plain-scattering"},
        "pixels as codes": {"encoder": "identity"},
        "gamma = 1": {"gamma": 1.0},
        "gamma = 100": {"gamma": 100.0},
        "one start, no search": ONE_START,
        "five starts in the search": {"n_starts": 5},
        "balance not annealed": {"balance": 0.5},
        "no balance term": {"balance": 0},
        "cosine A_c": {"affinity": "cosine"},
        "sizes said to be equal": {"prior": "uniform"},
        "no settling": {"epochs": {"settling": 0}},
    },
    "paper": {
        "default": {},
        "no collaboration stage": {"epochs": {"collaboration": 0}},
        "random batches": {"batches": "random"},
        "u = 0.7 then 0.9": {"u": (0.7, 0.9)},
        "one start, no consensus": ONE_START,
        "starts with k clusters": {"overcluster": 1.0},
        "walk of one step": {"walk": 1},
        "no balance term": {"balance": 0},
        "cosine A_c": {"affinity": "cosine"},
        "literal: cosine A_c, no balance term, one start": {"affinity": "cosine", "balance": 0, **ONE_START},
        "learned C, 20 epochs": {"self_expression": "parameter", "epochs": {"subspace": 20, "collaboration": 0}},
        "gamma = 1": {"gamma": 1.0},
        "gamma = 100": {"gamma": 100.0},
    },
}


def selected_pairs(model: NCSC, Z: torch.Tensor) -> Pairs:
    """Positive pairs of normalised codes (n, d), as the fitted model selects them at the end."""
    rule, gamma = model.pair_rule(), model.gamma_
    if model.recipe == "global":
        m = int(rule["limit"])
        among = landmarks(len(Z)) if model.n_neighbors == "auto" and m > NEIGHBOURS[1] else None
        fitted = GlobalSelfExpression(gamma, model.positive_).fit(Z)
        return fitted.neighbours(Z, m, gen=generator(0), among=among).pairs(rule["u"], model.encoder_.whitened)
    gen = generator(0)
    if model.batches == "local":
        batches = local_batches(Z, model.batch_size, gen)
    else:
        batches = random_batches(len(Z), model.batch_size, gen)
    return find_positives(Z, batches, ClosedFormSelfExpression(gamma), rule["u"], positive=model.positive_)


def run(X: np.ndarray, y: np.ndarray, seed: int, parameters: dict) -> dict[str, float]:
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = NCSC(len(np.unique(y)), random_state=seed, **parameters).fit(X)
    seconds = round(time.perf_counter() - began, 1)
    codes = torch.from_numpy(model.transform(X))
    pairs = selected_pairs(model, normalize(codes - model.center_.cpu(), dim=1))
    label = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    same = label[pairs.rows()] == label[pairs.partners]
    scores = {name: round(100 * float(v), 2) for name, v in evaluate(y, model.labels_).items() if name != "n"}
    counted = {"pairs": round(len(pairs.partners) / len(X), 2), "precision": round(float(same.float().mean()), 4)}
    return scores | counted | {"seconds": seconds}


def table(lines: list[dict]) -> str:
    """Markdown: one row per ablation, in the order of the lines."""
    rows = [
        "| what | ACC | NMI | ARI | worst ACC | pairs per sample | precision | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(line["ablation"] for line in lines):
        mine = [line for line in lines if line["ablation"] == name]
        cells = [
            f"{np.mean(v):.1f} ± {np.std(v, ddof=len(v) > 1):.1f}"
            for v in ([m[k] for m in mine] for k in ("acc", "nmi", "ari"))
        ]
        pairs, precision = (np.mean([m[k] for m in mine]) for k in ("pairs", "precision"))
        worst = min(m["acc"] for m in mine)
        rows.append(f"| {name} | {' | '.join(cells)} | {worst:.1f} | {pairs:.1f} | {precision:.3f} | {len(mine)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--recipe", default="global", choices=tuple(ABLATIONS))
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--encoder", help="instead of the recipe's own")
    parser.add_argument("--only", nargs="*", help="names of ablations")
    parser.add_argument("--out", type=Path, default=Path("ablations.jsonl"))
    options = parser.parse_args()
    data = load_dataset(options.source)
    X, y = data.X[: options.samples], np.asarray(data.y)[: options.samples]
    common = {"recipe": options.recipe} | ({"encoder": options.encoder} if options.encoder else {})
    setting = {"source": options.source, "n": len(X), **common}
    results = Results(options.out)
    for seed in range(options.seeds):
        for name, changes in ABLATIONS[options.recipe].items():
            key = setting | {"ablation": name, "seed": seed}
            if (options.only and name not in options.only) or results.of(key):
                continue
            results.add(key | run(X, y, seed, common | changes))
    print(table(results.of(setting)))


if __name__ == "__main__":
    main()
