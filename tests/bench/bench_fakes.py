"""Methods of known behaviour, as a plugin of ``subspan bench run``: ``PYTHONPATH=tests/bench --plugin bench_fakes``."""

from __future__ import annotations

import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator

from subspan.methods import METHODS


class Nearest(BaseEstimator):
    """Cluster i holds the samples whose first entry rounds to i.

    Notes every fit in the file $BENCH_FAKES_LOG; with the seed $BENCH_FAKES_HANG it takes a minute.
    """

    def __init__(self, n_clusters=2, *, wait=0.0, wrong=0, random_state=None):
        self.n_clusters = n_clusters
        self.wait = wait
        self.wrong = wrong
        self.random_state = random_state

    def fit(self, X, y=None):
        assert y is None
        if log := os.environ.get("BENCH_FAKES_LOG"):
            with Path(log).open("a") as stream:
                stream.write(f"{self.random_state} {os.getpid()}\n")
        time.sleep(60 if os.environ.get("BENCH_FAKES_HANG") == str(self.random_state) else self.wait)
        self.labels_ = np.rint(X.reshape(len(X), -1)[:, 0]).astype(int)
        self.labels_[: self.wrong] = 1 - self.labels_[: self.wrong]
        self.history_ = [{"phase": "a", "seconds": 1.5}, {"phase": "b", "seconds": 1.0}, {"phase": "a", "seconds": 0.5}]
        self.stop_reason_ = "finished"
        return self


class Failing(BaseEstimator):
    def __init__(self, n_clusters=2):
        self.n_clusters = n_clusters

    def fit(self, X, y=None):
        warnings.warn("this will not end well", UserWarning, stacklevel=1)
        raise ArithmeticError("no such luck")


class Sleeper(Failing):
    def fit(self, X, y=None):
        time.sleep(60)


class Hog(Failing):
    def fit(self, X, y=None):
        self.memory = bytearray(b"x") * 800_000_000
        time.sleep(60)


class Suicide(Failing):
    def fit(self, X, y=None):
        os.kill(os.getpid(), signal.SIGKILL)


for cls in (Nearest, Failing, Sleeper, Hog, Suicide):
    METHODS.register(f"fake-{cls.__name__.lower()}", cls)
