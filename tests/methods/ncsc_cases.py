"""Data and settings that the tests of NCSC share."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from subspan import NCSC

EPOCHS = {"autoencoder": 2, "subspace": 2, "starts": 2, "classifier": 2, "settling": 2, "collaboration": 2}
STAGES = tuple(EPOCHS)
SMALL = {"recipe": "paper", "epochs": EPOCHS, "n_starts": 2, "head_width": 16, "random_state": 0}


def digits(n=200):
    return load_digits().images[:n].astype(np.uint8) * 16


def planted(k=3, n=600, p=30, dim=4, seed=0):
    """Union of k independent linear subspaces, in random order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k)
    bases = [np.linalg.qr(rng.normal(size=(p, dim)))[0] for _ in range(k)]
    return np.stack([rng.normal(size=dim) @ bases[label].T for label in y]), y


def solver(k=3, **options):
    """Enough training for a planted problem."""
    epochs = {"starts": 4, "classifier": 4, "collaboration": 2}
    return NCSC(
        k,
        encoder="identity",
        **({"recipe": "paper", "epochs": epochs, "n_starts": 2, "head_width": 32, "random_state": 0} | options),
    )
