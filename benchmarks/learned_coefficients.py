"""Learned coefficients against the closed form: one local batch of the codes of a fitted model, Eq. 9 in C alone.

    python benchmarks/learned_coefficients.py RUN/model mnist --batch 2000 --steps 300

The paper learns C by Adam at 1e-3; the closed form is the minimum. Prints, after some numbers of steps, the C-terms of
Eq. 9 per sample (``||C||^2 + ||Z - CZ||^2 / rho``), the seconds, and of the pairs with A_s > u, at most 30 of a sample,
how many there are for each sample and which share has one label. Labels are used for that share only.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

import subspan
from subspan import load_dataset
from subspan._random import generator
from subspan.affinity import subspace_affinity
from subspan.methods._ncsc_stages import find_pairs
from subspan.pairs import MAX_POSITIVES, local_batches
from subspan.self_expression import ClosedFormSelfExpression, LearnedSelfExpression, SelfExpression


def row(name: str, layer: SelfExpression, Z: Tensor, y: Tensor, u: float, seconds: float) -> None:
    """One line of the table."""
    with torch.no_grad():
        norm, residual = layer.terms(Z, 0)
        value = float((norm + residual / layer.ridge(Z)) / len(Z))
        i, j, _ = find_pairs(subspace_affinity(layer.coefficients(Z, 0)), u, MAX_POSITIVES)
    same = float((y[i] == y[j]).float().mean()) if len(i) else float("nan")
    print(f"| {name} | {value:.6f} | {len(i) / len(Z):.1f} | {same:.4f} | {seconds:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="what NCSC saved: RUN/model")
    parser.add_argument("source")
    parser.add_argument("--batch", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 1e-4])
    parser.add_argument("--u", type=float, default=0.9)
    options = parser.parse_args()
    model, data = subspan.load(options.model), load_dataset(options.source)
    codes = torch.from_numpy(model.transform(data.X))
    Z = normalize(codes - model.center_.cpu(), dim=1)
    batch = local_batches(Z, options.batch, generator(0))[0]
    Z, y = Z[batch], torch.from_numpy(np.unique(data.y, return_inverse=True)[1])[batch]
    print(f"{len(Z)} samples, gamma {model.gamma_:g}, u {options.u}\n")
    print("| C | terms of Eq. 9 | pairs of a sample | precision | s |\n|---|---|---|---|---|")
    began = time.perf_counter()
    closed = ClosedFormSelfExpression(model.gamma_)
    closed.coefficients(Z)
    row("closed form", closed, Z, y, options.u, time.perf_counter() - began)
    for rate in options.rates:
        layer = LearnedSelfExpression([len(Z)], model.gamma_)
        optimizer, began = torch.optim.Adam(layer.parameters(), rate), time.perf_counter()
        for step in range(1, options.steps + 1):
            norm, residual = layer.terms(Z, 0)
            optimizer.zero_grad()
            ((norm + residual / layer.ridge(Z)) / len(Z)).backward()
            optimizer.step()
            if step in (20, 60, 100) or step == options.steps:
                row(f"Adam {rate:g}, {step} steps", layer, Z, y, options.u, time.perf_counter() - began)


if __name__ == "__main__":
    main()
