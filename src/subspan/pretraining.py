"""Phases that several methods share (layer 2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from subspan._validation import Samples, iter_slices
from subspan.encoders import Encoder
from subspan.training import Phase

ENCODE_BATCH = 5000


class Reconstruction(Phase):
    """Train an auto-encoder on ``1/2 ||x - xhat||^2``, averaged over samples."""

    def __init__(
        self,
        samples: Samples,
        encoder: Encoder,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        device: torch.device,
        min_steps: int = 1,
    ):
        super().__init__("autoencoder", epochs, batch_size, min_steps)
        self.samples, self.encoder, self.learning_rate, self.device = samples, encoder, learning_rate, device

    def parameter_groups(self) -> list[dict]:
        return [{"params": list(self.encoder.parameters()), "lr": self.learning_rate}]

    def losses(self, batch: Tensor, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        x = self.samples.batch(batch).to(self.device)
        yield {"reconstruction": (self.encoder(x)[1] - x).square().sum() / (2 * len(x))}


@torch.no_grad()
def encode(samples: Samples, encoder: Encoder, device: torch.device) -> Tensor:
    """Codes of all samples, float32 (n, d), on the device."""
    codes = torch.empty(samples.n, encoder.n_codes, device=device)
    for rows in iter_slices(samples.n, ENCODE_BATCH):
        codes[rows] = encoder.encode(samples.batch(rows).to(device))
    return codes
