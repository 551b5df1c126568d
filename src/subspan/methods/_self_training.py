"""What DEC and IDEC share (layer 4): centres that learn by gradient from a target made of their own assignments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from subspan._parameters import check_integer, check_number
from subspan._validation import Samples
from subspan.encoders import Encoder
from subspan.heads import live_labels
from subspan.methods._autoencoded import Centers, StackedClusterer
from subspan.pretraining import encode
from subspan.soft_assignments import divergence, log_assignments, target_distribution
from subspan.training import Phase, Record, settled


@dataclass
class Target:
    """How the target is made and when to stop.

    Parameters
    ----------
    alpha : float
        Degrees of freedom of Student's t kernel.
    interval : int
        Steps between two updates of the target.
    tolerance : float
        Stop when a smaller share of the labels changed between two updates.
    n_init : int
        Starts of the k-means that places the centres.
    """

    alpha: float
    interval: int
    tolerance: float
    n_init: int


class SelfTraining(Phase):
    """Centres start at k-means of the codes. An epoch is the steps between two updates of the target.

    Subclasses give the loss and the optimiser.
    """

    def __init__(
        self,
        samples: Samples,
        encoder: Encoder,
        centers: Centers,
        target: Target,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        device: torch.device,
    ):
        super().__init__("clustering", epochs, batch_size, target.interval, target.interval)
        self.samples, self.encoder, self.centers, self.target = samples, encoder, centers, target
        self.learning_rate, self.device = learning_rate, device

    def start(self) -> None:
        self.refresh()

    def reset(self, gen: torch.Generator, restart: int) -> None:
        self.centers.place(encode(self.samples, self.encoder, self.device), self.target.n_init, gen)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Assignments of all samples, and the target that follows from them (Eq. 3 of DEC)."""
        log_Q = self.log_assignments(encode(self.samples, self.encoder, self.device))
        self.P, self.labels = target_distribution(log_Q.exp()), log_Q.argmax(dim=1)

    def parameter_groups(self) -> list[dict]:
        return [{"params": [*self.encoder.parameters(), *self.centers.parameters()], "lr": self.learning_rate}]

    def log_assignments(self, Z: Tensor) -> Tensor:
        """Eq. 1 of DEC."""
        return log_assignments(Z, self.centers.weight, self.target.alpha)

    def kl(self, batch: Tensor, Z: Tensor) -> Tensor:
        """Eq. 2 of DEC on a batch, per sample."""
        return divergence(self.P[batch.to(self.device)], self.log_assignments(Z))

    def monitor(self) -> Record:
        before = self.labels
        self.refresh()
        changed = float((self.labels != before).float().mean())
        return {"changed": changed, "live_clusters": live_labels(self.labels, len(self.centers.weight))}

    def stop(self, records: list[Record]) -> str | None:
        return settled(records[-1], self.target.tolerance)


@dataclass(eq=False, repr=False, kw_only=True)
class SelfTrainedClusterer(StackedClusterer):
    """Abstract base of DEC and IDEC.

    Parameters
    ----------
    alpha : float
        Degrees of freedom of Student's t kernel.
    update_interval : int
        T, the steps between two updates of the target; ``epochs["clustering"]`` counts these updates.
    tolerance : float
        Stop when a smaller share of the labels changed between two updates.
    """

    alpha: float = 1.0
    update_interval: int = 140
    tolerance: float = 0.001

    _epochs: ClassVar[dict[str, int]] = StackedClusterer._epochs | {"clustering": 143}

    def predict_proba(self, X) -> np.ndarray:
        """Soft assignments of the samples of X (Eq. 1 of DEC), float32 of shape (n, k)."""
        return self._map(X, self._probabilities)

    def _probabilities(self, batch: Tensor) -> Tensor:
        codes = self.encoder_.encode(batch).double()  # so that rounding does not depend on the place in the batch
        return log_assignments(codes, self.centers_.double(), self.alpha).exp().float()

    def _clustering(self, samples: Samples, encoder: Encoder, centers: Centers) -> list[Phase]:
        phase = self._phase()(
            samples,
            encoder,
            centers,
            Target(self.alpha, self.update_interval, self.tolerance, self.n_init),
            epochs=self._epochs_of("clustering"),
            batch_size=self.batch_size,
            learning_rate=self._rate_of("clustering"),
            device=self._device,
        )
        return [phase]

    def _phase(self) -> Callable[..., SelfTraining]:
        """What builds the clustering phase."""
        raise NotImplementedError

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        check_number("alpha", self.alpha, 1e-6)
        check_number("tolerance", self.tolerance, 0.0, 1.0)
        check_integer("update_interval", self.update_interval, 1)
