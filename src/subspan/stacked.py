"""Layer-wise denoising pre-training of a fully-connected auto-encoder (layer 2).

Stacked denoising auto-encoders (Vincent et al., JMLR 2010) as in DEC (Xie, Girshick, Farhadi, ICML 2016, Sec. 3.2),
whose equations these are. One layer after the other learns to restore its input:

- ``x~ ~ Dropout(x)``            (Eq. 6)
- ``h = g1(W1 x~ + b1)``         (Eq. 7)
- ``h~ ~ Dropout(h)``            (Eq. 8)
- ``y = g2(W2 h~ + b2)``         (Eq. 9), on ``||x - y||^2``

x are the data for the first layer, the outputs h of the layer below without dropout for the others. g1 and g2 are ReLU,
except g2 of the first layer, which restores data of any sign, and g1 of the last, so that the code keeps all it can.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from subspan._validation import Samples
from subspan.encoders import MLPAutoencoder
from subspan.training import Phase


class LayerDenoising(Phase):
    """Train layer ``layer`` (from 0) of the encoder and its mirror in the decoder; all others rest.

    Parameters
    ----------
    samples : Samples
    encoder : MLPAutoencoder
    layer : int
    corruption : float in [0, 1)
        Share of the entries that dropout sets to zero.
    epochs, batch_size : int
    learning_rate : float
    device : torch.device
    """

    def __init__(
        self,
        samples: Samples,
        encoder: MLPAutoencoder,
        layer: int,
        *,
        corruption: float,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        device: torch.device,
    ):
        super().__init__(f"layer {layer + 1}", epochs, batch_size)
        self.samples, self.corruption, self.learning_rate, self.device = samples, corruption, learning_rate, device
        mirror = len(encoder.hidden) - layer
        self.below = encoder.encoder[: 2 * layer]  # a linear layer and a ReLU each
        self.down = encoder.encoder[2 * layer : 2 * layer + 2]  # the last layers have no ReLU
        self.up = encoder.decoder[2 * mirror : 2 * mirror + 2]

    def parameter_groups(self) -> list[dict]:
        return [{"params": [*self.down.parameters(), *self.up.parameters()], "lr": self.learning_rate}]

    def losses(self, batch: Tensor, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        with torch.no_grad():
            x = self.below(self.samples.batch(batch).to(self.device).flatten(1))
        h = self.down(dropout(x, self.corruption, gen))  # Eqs. 6 and 7
        y = self.up(dropout(h, self.corruption, gen))  # Eqs. 8 and 9
        yield {"reconstruction": (x - y).square().sum() / (2 * len(x))}


def dropout(x: Tensor, share: float, gen: torch.Generator) -> Tensor:
    """``x`` with a random ``share`` of its entries set to zero and the others divided by ``1 - share``."""
    if share == 0:
        return x
    kept = torch.empty(x.shape).bernoulli_(1 - share, generator=gen)
    return x * kept.to(x.device) / (1 - share)


def denoising_phases(
    samples: Samples,
    encoder: MLPAutoencoder,
    *,
    corruption: float,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    device: torch.device,
) -> list[Phase]:
    """One :class:`LayerDenoising` per layer, from the data to the code; end-to-end training is to follow."""
    return [
        LayerDenoising(
            samples,
            encoder,
            layer,
            corruption=corruption,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            device=device,
        )
        for layer in range(len(encoder.hidden) + 1)
    ]
