"""Data and settings that the tests of the auto-encoder methods share, and the test of a broken run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from subspan import training

SIZES = {"latent_dim": 4, "hidden": [16, 12]}
SMALL = {"encoder_options": SIZES, "n_init": 3, "random_state": 0, "batch_size": 40}
EPOCHS = {"layers": 4, "autoencoder": 15}
ENOUGH = {"learning_rates": {"layers": 1e-2, "autoencoder": 1e-2}, "n_init": 20}  # to solve a planted problem


def blobs(k=3, n=180, p=20, noise=0.5, seed=0):
    """k separated clusters, in random order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k)
    return 2 * rng.normal(size=(k, p))[y] + noise * rng.normal(size=(n, p)), y


def digits(n=120):
    return load_digits().images[:n].astype(np.uint8)


class Stopped(Exception):
    """Ends a fit as a crash would."""


def broken_run_goes_on(estimator, X, folder, monkeypatch, stages):
    """A fit that breaks off in the middle of the second epoch of each stage, resumed: every bit is the same."""
    whole = estimator().fit(X)
    step = training._Loop.step
    for stage in stages:
        count = [0]

        def stopping(loop, phase, *rest, stage=stage, count=count):
            step(loop, phase, *rest)
            count[0] += phase.name == stage and phase.epoch == 1
            if count[0] == 2:
                raise Stopped

        where = folder / stage
        with monkeypatch.context() as patch:
            patch.setattr(training._Loop, "step", stopping)
            with pytest.raises(Stopped):
                estimator(checkpoint_dir=where).fit(X)
        resumed = estimator(checkpoint_dir=where, resume=True).fit(X)
        assert np.array_equal(resumed.labels_, whole.labels_)
        assert torch.equal(resumed.centers_, whole.centers_)
        states = [model.encoder_.state_dict() for model in (resumed, whole)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
        histories = [[{k: v for k, v in r.items() if k != "seconds"} for r in m.history_] for m in (resumed, whole)]
        assert histories[0] == histories[1]
        assert resumed.stop_reasons_ == whole.stop_reasons_
