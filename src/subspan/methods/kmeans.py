"""K-means on the samples themselves (Lloyd: Least squares quantization in PCM, IEEE Trans. Inf. Theory 28(2), 1982).

    min over centres and labels of  sum_i ||x_i - mu_{s_i}||^2

The baseline of every table. The solver is scikit-learn's, started by k-means++.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from subspan._parameters import check_integer
from subspan._random import generator
from subspan._resources import LIBRARIES, available_bytes
from subspan._validation import Samples, iter_slices
from subspan.base import PREDICT_BATCH, Clusterer
from subspan.centroids import kmeans_centers, nearest, squared_distances
from subspan.errors import ResourceError

PHASE = "k-means"


# eq and repr stay scikit-learn's; the generated __init__ only assigns, as scikit-learn asks
@dataclass(eq=False, repr=False, kw_only=True)
class KMeans(Clusterer):
    """K-means on flattened samples; ``transform`` gives the distances to the centres.

    Parameters
    ----------
    n_clusters : int
    n_init : int
        Runs, of which the one with the least objective is kept.
    max_iter : int
        Iterations of a run.
    channel_axis : {"auto", 1, -1}
    random_state : int, RandomState or None
    device : str or torch.device
        Where ``predict`` and ``transform`` compute; the solver runs on the CPU.

    Attributes
    ----------
    centers_ : Tensor of shape (k, p)
        Of the scaled samples.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.repeat(np.eye(3), 20, axis=0)
    >>> np.bincount(KMeans(n_clusters=3, random_state=0).fit(X).labels_).tolist()
    [20, 20, 20]
    """

    n_clusters: int = field(default=10, kw_only=False)
    n_init: int = 20
    max_iter: int = 300
    channel_axis: Any = "auto"
    random_state: Any = None
    device: str | torch.device = "auto"

    @property
    def n_iter_(self) -> int:
        """Iterations of the best run."""
        history: Any = self.history_
        return history[0]["epoch"]

    def estimate_resources(self, X) -> dict[str, Any]:
        """Expected peak memory of ``fit`` on X in bytes; nothing is computed."""
        samples = self._inspect(X)
        return {"memory_bytes": self._bytes(samples)}

    def _bytes(self, samples: Samples) -> int:
        # all samples in float32, and the distances and labels of a few runs
        return 4 * samples.n * (math.prod(samples.shape) + 2 * self.n_clusters + 16) + LIBRARIES

    def _fit(self, samples: Samples, seed: int) -> None:
        self._check_memory(samples)
        start = time.perf_counter()
        Z = torch.empty(samples.n, self.n_features_in_)
        for rows in iter_slices(samples.n, PREDICT_BATCH):
            Z[rows] = samples.batch(rows).flatten(1)
        centers, n_iter = kmeans_centers(
            Z, self.n_clusters, n_init=self.n_init, max_iter=self.max_iter, gen=generator(seed, 1)
        )
        self.centers_ = centers.to(self._device)
        parts = [Z[rows] for rows in iter_slices(samples.n, PREDICT_BATCH)]  # views
        labels = [nearest(part, centers) for part in parts]
        self.labels_ = torch.cat(labels).numpy()
        apart = [(part - centers[own]).double().square().sum() for part, own in zip(parts, labels, strict=True)]
        objective = float(torch.stack(apart).sum()) / samples.n
        seconds = round(time.perf_counter() - start, 3)
        self.history_ = [{"phase": PHASE, "epoch": n_iter, "objective": objective, "seconds": seconds}]
        self.stop_reasons_ = {PHASE: "max_iter" if n_iter >= self.max_iter else "converged"}

    def _check_memory(self, samples: Samples) -> None:
        needed, available = self._bytes(samples), available_bytes()
        if available is not None and needed > available:
            raise ResourceError(
                f"KMeans on {samples.n} samples of {self.n_features_in_} entries takes about {needed / 1e9:.3g} GB and "
                f"{available / 1e9:.3g} GB are free: give fewer or smaller samples."
            )

    def _labels(self, batch: Tensor) -> Tensor:
        return nearest(batch.flatten(1), self.centers_)

    def _codes(self, batch: Tensor) -> Tensor:
        return squared_distances(batch.flatten(1), self.centers_).sqrt()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"centers": self.centers_}, {}

    def _restore(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        self.centers_ = tensors["centers"].to(self._device)

    def _validate_parameters(self) -> None:
        check_integer("n_init", self.n_init, 1)
        check_integer("max_iter", self.max_iter, 1)
