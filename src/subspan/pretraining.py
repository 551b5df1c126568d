"""Phases that several methods share (layer 2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from subspan._validation import Samples, iter_slices
from subspan.components import PrincipalComponents
from subspan.encoders import Encoder, build_encoder
from subspan.multiscale import MultiScaleScattering
from subspan.scattering import ScatteringEncoder
from subspan.training import Phase
from subspan.whitened import WhitenedComponents

ENCODE_BATCH = 5000
FITTED = 20_000  # samples to which a fixed encoder is fitted at most,
HELD, LEAST = 1_000_000_000, 1024  # bytes of coefficients that are held meanwhile, but for so many samples at least
FIXED = (ScatteringEncoder, MultiScaleScattering, PrincipalComponents)  # encoders that are fitted, not trained


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


def fitted_samples(encoder: Encoder, n: int) -> int:
    """To how many of n samples an encoder is fitted, if it is a fixed one that is: 20,000, or what 1 GB can hold."""
    if not isinstance(encoder, FIXED):
        return n
    return min(n, FITTED, max(HELD // (4 * encoder.n_coefficients), LEAST))


def fitting_bytes(encoder: Encoder, n: int) -> int:
    """Expected memory of fitting a fixed encoder: coefficients, and blocks of 1,024 images of them in float64."""
    if not isinstance(encoder, FIXED):
        return 0
    if isinstance(encoder, PrincipalComponents):
        return encoder.fitting_bytes(fitted_samples(encoder, n))
    return 4 * encoder.n_coefficients * (fitted_samples(encoder, n) + 8 * min(n, LEAST))


@torch.no_grad()
def encode(samples: Samples, encoder: Encoder, device: torch.device) -> Tensor:
    """Codes of all samples, float32 (n, d), on the device.

    An encoder that is fitted, not trained, is fitted first if it was not yet: to :func:`fitted_samples` of the samples,
    spread evenly over the data.
    """
    codes = torch.empty(samples.n, encoder.n_codes, device=device)
    parts: Iterable[slice | Tensor] = iter_slices(samples.n, ENCODE_BATCH)
    if isinstance(encoder, FIXED) and not int(encoder.n_seen):
        spread = torch.linspace(0, samples.n - 1, fitted_samples(encoder, samples.n)).round().long()
        found = encoder.fit_encode(samples.batch(rows).to(device) for rows in spread.split(ENCODE_BATCH))
        if len(found) == samples.n:
            return found
        codes[spread] = found
        everyone = torch.arange(samples.n)
        parts = everyone[~torch.isin(everyone, spread)].split(ENCODE_BATCH)
    for part in parts:
        codes[part] = encoder.encode(samples.batch(part).to(device))
    return codes


def encode_each(
    samples: Samples, encoders: Mapping[str, Encoder], device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Names and codes (n, d) of several encoders that need no training, on the device; they are fitted to all samples.

    Scattering at two scales is computed once for all encoders of the same number of angles, and held meanwhile.
    Whitened components are computed once, for the longest codes.
    """
    kept: dict[int, list[list[Tensor]]] = {}
    widest = max((one for one in encoders.values() if one.whitened), key=lambda one: one.n_codes, default=None)
    whitened: Tensor | None = None
    for name, encoder in encoders.items():
        encoder = encoder.to(device)
        if isinstance(encoder, MultiScaleScattering):
            if encoder.L not in kept:
                batches = (samples.batch(rows).to(device) for rows in torch.arange(samples.n).split(ENCODE_BATCH))
                kept[encoder.L] = encoder.coefficients(batches)
            yield name, encoder.fit_encode_coefficients(kept[encoder.L])
        elif encoder.whitened:
            if whitened is None:
                whitened = encode(samples, cast(Encoder, widest).to(device), device)
            yield name, normalize(whitened[:, : encoder.n_codes], dim=1)
        else:
            yield name, encode(samples, encoder, device)


def restore_encoder(*, name: str, **config: Any) -> Encoder:
    """Encoder of any kind from its ``config()``, for ``load_state_dict``."""
    for kind in (ScatteringEncoder, MultiScaleScattering, PrincipalComponents, WhitenedComponents):
        if name == kind.name:
            return kind(**config)
    return build_encoder(name, **config)
