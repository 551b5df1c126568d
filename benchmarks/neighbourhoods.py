"""Neighbours of the global self-expression: precision by gamma (read with labels), and what gamma is chosen by.

    python benchmarks/neighbourhoods.py mnist orl coil20
    python benchmarks/neighbourhoods.py digits --pixels

One line per data set and gamma. Labels are used here to read precision; the choice (marked *) does not see them.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
from torch.nn.functional import normalize

from subspan import load_dataset
from subspan._random import generator
from subspan._validation import check_samples, fit_scaling
from subspan.encoders import make_encoder
from subspan.methods._ncsc_global import count_neighbours
from subspan.multiscale import make_scattering
from subspan.neighbours import GlobalSelfExpression
from subspan.pretraining import encode
from subspan.selection import GAMMAS, association


def codes(X: np.ndarray, k: int, *, pixels: bool, scale: int | None) -> torch.Tensor:
    """Centred codes of unit length (n, d)."""
    samples = check_samples(X.reshape(len(X), -1) if pixels else X)
    samples = samples.with_scaling(fit_scaling(samples))
    if pixels:
        encoder = make_encoder("identity", samples.shape, k, generator(0))
    else:
        encoder = make_scattering(samples.shape, samples.n, J=scale)
    z = encode(samples, encoder, torch.device("cpu"))
    return normalize(z - z.mean(dim=0), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--samples", type=int, default=5000, help="at most, drawn with seed 0")
    parser.add_argument("--pixels", action="store_true", help="pixels instead of scattering codes")
    parser.add_argument("--scale", type=int, help="J of scattering at one scale; two scales if not given")
    options = parser.parse_args()
    for name in options.sets:
        data = load_dataset(name)
        some = np.sort(np.random.default_rng(0).permutation(len(data.X))[: options.samples])
        y = torch.from_numpy(np.unique(np.asarray(data.y), return_inverse=True)[1][some])
        k = int(y.max()) + 1
        Z, m = codes(data.X[some], k, pixels=options.pixels, scale=options.scale), count_neighbours(len(some), k)
        rows = []
        for gamma in GAMMAS:
            found = GlobalSelfExpression(gamma).fit(Z).neighbours(Z, m)
            rows.append((gamma, float((y[found.index] == y[:, None]).float().mean()), association(found.pairs(), k)))
        chosen = max(rows, key=lambda row: row[2])[0]
        for gamma, precision, value in rows:
            mark = "*" if gamma == chosen else " "
            print(f"{name:<22} m {m:<3} gamma {gamma:<6g} precision {precision:.3f} association {value:.4f} {mark}")


if __name__ == "__main__":
    main()
