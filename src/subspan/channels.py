"""Maps of many channels, such as scattering coefficients, as short codes (layer 1).

Every channel is divided by its root mean square over the data, so that higher orders, which are small, count as much.
With contrast, every place of an image is then divided by its contrast, the mean of its coefficients of orders one and
two, plus a tenth: divisive normalisation (Heeger 1992; Jarrett et al. 2009), after which faint strokes and folds weigh
as much as strong edges. The channels, scaled to equal norm, are reduced to principal components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from subspan.encoders import Encoder
from subspan.errors import InvalidInputError
from subspan.principal import StreamingPCA

BATCH = 1024  # images in a block of coefficients at most
CONTRAST = 0.1  # contrast, as a share of the usual one, below which a place is not brought to the contrast of others


class ChannelComponents(Encoder):
    """Principal components of normalised channels of raw coefficients, without their transform. Fitted, not trained.

    Signs are fixed: the largest entry of every component is positive. Components that the data do not span are zero.
    There is no decoder.

    Parameters
    ----------
    input_shape : (c, h, w)
        Of the images.
    out_shape : (n_channels, h', w')
        Of the maps of every channel of an image; the first is of order zero.
    n_components : int
        Code length.
    contrast : bool
        Divide every place by its contrast.

    Attributes
    ----------
    channel_norm : (c * n_channels,) float32, root mean square of every channel; explained_variance : (n_components,)
    float64; total_variance, n_seen : of the data in ``fit``; n_seen = 0 before
    """

    trainable = False
    projection: Tensor
    offset: Tensor
    channel_norm: Tensor
    n_seen: Tensor

    def __init__(
        self, input_shape: Sequence[int], out_shape: Sequence[int], n_components: int, contrast: bool = True
    ) -> None:
        super().__init__(input_shape, (n_components,))
        self.contrast = contrast
        self.n_coefficients = self.input_shape[0] * math.prod(out_shape)
        if not 1 <= n_components <= self.n_coefficients:
            raise InvalidInputError(
                f"n_components={n_components} must be between 1 and {self.n_coefficients}, the number of scattering "
                "coefficients of one image at one scale."
            )
        self.register_buffer("projection", torch.zeros(self.n_coefficients, n_components))
        self.register_buffer("offset", torch.zeros(n_components))
        self.register_buffer("channel_norm", torch.ones(self.input_shape[0] * out_shape[0]))
        self.register_buffer("explained_variance", torch.zeros(n_components, dtype=torch.float64))
        self.register_buffer("total_variance", torch.zeros((), dtype=torch.float64))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))

    def normalise(self, coefficients: Tensor) -> Tensor:
        """Coefficients (b, c * n_channels * h' * w') over the norm of their channel and the contrast of their place."""
        maps = coefficients.unflatten(1, (len(self.channel_norm), -1)) / self.channel_norm[:, None]
        if self.contrast:
            edges = maps.unflatten(1, (self.input_shape[0], -1))[:, :, 1:]  # all but the means of order zero
            maps /= edges.abs().mean(dim=(1, 2))[:, None] + CONTRAST
        return maps.flatten(1)

    def project(self, coefficients: Tensor) -> Tensor:
        """Coefficients (b, c * n_channels * h' * w') -> codes (b, n_components)."""
        return self.normalise(coefficients) @ self.projection + self.offset

    def decode(self, z: Tensor) -> Tensor:
        raise NotImplementedError("Scattering codes cannot be decoded: choose an auto-encoder to reconstruct images.")

    def fit_encode_coefficients(self, kept: list[Tensor]) -> Tensor:
        """Find channel norms and components, and return the codes (n, n_components).

        ``kept`` are coefficients (b, c * n_channels * h' * w') in blocks of at most 1024 images.

        Raises
        ------
        InvalidInputError
            Fewer than two images.
        """
        n = sum(map(len, kept))
        if n < 2:
            raise InvalidInputError(f"Principal components need at least 2 images, not {n}: give more data.")
        self._fit_channels(kept)
        pca = StreamingPCA(self.n_coefficients, len(self.channel_norm), self.n_codes, self.projection.device)
        pca.fit(self.normalise(block).cpu().numpy() for block in kept)
        variances, directions = pca.components(self.n_codes)
        projection = directions * pca.scale()[:, None]
        for name, array in (
            ("projection", projection),
            ("offset", -pca.mean @ projection),
            ("explained_variance", variances),
            ("total_variance", pca.total_variance()),
            ("n_seen", pca.n),
        ):
            getattr(self, name).copy_(torch.as_tensor(array))
        return torch.cat([self.project(block) for block in kept])

    def _fit_channels(self, blocks: list[Tensor]) -> None:
        """Root mean square of every channel; 1 where it is always zero."""
        maps = [block.unflatten(1, (len(self.channel_norm), -1)) for block in blocks]
        squares = sum(part.square().mean(dim=2, dtype=torch.float64).sum(dim=0) for part in maps)
        norm = (squares / sum(map(len, maps))).sqrt()
        self.channel_norm.copy_(torch.where(norm > 0, norm, 1.0))
