"""What the stages of Algorithm 1 share (Zhang et al., ICML 2019): data, codes, batches and where pairs come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from subspan._validation import Samples
from subspan.augment import augment
from subspan.encoders import Encoder
from subspan.losses import pair_confidence_loss
from subspan.pairs import MAX_POSITIVES, Pairs, find_positives, local_batches, random_batches
from subspan.pretraining import encode
from subspan.self_expression import SelfExpression

UNCHANGED = {"rotation": 0.0, "shift": 0.0, "zoom": 0.0, "brightness": 0.0, "crop": 0.0, "flip": False}


@dataclass
class Setting:
    """What the stages share: data, modules and the resolved parameters of the estimator."""

    samples: Samples
    encoder: Encoder
    layer: SelfExpression
    device: torch.device
    n_clusters: int
    batch_size: int
    local: bool
    u: tuple[float, float]
    l: float  # noqa: E741
    walk: int
    cosine: bool
    balance: tuple[float, float]
    prior: Tensor | None
    compression: float | None
    lambda_cl: float
    positive: bool | None = False  # negative coefficients count as zero; None: not known yet
    augmentation: dict[str, Any] | None = None
    fixed_batches: list[Tensor] | None = None  # of a learned C
    codes: Tensor = field(default_factory=lambda: torch.empty(0))  # of all samples, while the encoder rests
    center: Tensor = field(default_factory=lambda: torch.empty(0))

    def encode_all(self) -> None:
        """Refresh the codes of all samples and their mean."""
        if self.encoder.trainable or not len(self.codes):
            self.codes = encode(self.samples, self.encoder, self.device)
            self.center = self.codes.mean(dim=0)
            if self.encoder.whitened:
                self.center.zero_()  # directions from the origin

    def changed_codes(self, batch: Tensor, gen: torch.Generator) -> Tensor:
        """Codes of the samples ``batch``, of randomly changed images where there is augmentation."""
        if self.augmentation is None:
            return self.codes[batch]
        with torch.no_grad():
            x = self.samples.batch(batch.cpu()).to(self.device)
            return self.encoder.encode(augment(x, gen, **(UNCHANGED | self.augmentation)))

    def positives(self, u: float, gen: torch.Generator) -> Pairs:
        """Pairs with ``A_s > u`` by self-expression within the batches."""
        return find_positives(
            self.normalise(self.codes), self.batches(gen), self.layer, u, positive=bool(self.positive)
        )

    def most_pairs(self) -> int:
        """Positive pairs of a sample at most."""
        return MAX_POSITIVES

    def normalise(self, z: Tensor) -> Tensor:
        """Codes as Eq. 9 sees them: centred, of unit length (else shrinking them lowers the loss for free)."""
        return normalize(z - self.center, dim=1)

    def batches(self, gen: torch.Generator) -> Sequence[Tensor]:
        """The batches whose self-expression is solved in one epoch."""
        if self.fixed_batches is not None:
            return self.fixed_batches
        if self.local:
            return local_batches(self.normalise(self.codes), self.batch_size, gen)
        return random_batches(self.samples.n, self.batch_size, gen)

    def pair_loss(self, log_p_i: Tensor, log_p_j: Tensor, weight: Tensor | None = None) -> Tensor:
        """Eq. 6 on given pairs, per start: with Eq. 1's l2-normalised scores if ``cosine``, else without the norm."""
        if self.cosine:
            log_p_i, log_p_j = (x - torch.logsumexp(2 * x, dim=-1, keepdim=True) / 2 for x in (log_p_i, log_p_j))
        return pair_confidence_loss(log_p_i, log_p_j, weight)
