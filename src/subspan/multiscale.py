"""Wavelet scattering at two scales (layer 1): a coarse one that forgives shifts and a finer one that keeps places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from subspan.channels import BATCH, ChannelComponents
from subspan.encoders import Encoder
from subspan.principal import StreamingPCA
from subspan.scattering import (
    N_COMPONENTS,
    Scattering2D,
    ScatteringEncoder,
    check_images,
    count_components,
    raw_coefficients,
)


class MultiScaleScattering(Encoder):
    """Codes of scattering at scales J - 1 and J (:mod:`subspan.channels`), joined by principal components.

    Both scales are averages of the same wavelet maps. Their codes count the same: each is divided by the root of its
    variance. Where J = 1 there is one scale.

    Parameters
    ----------
    input_shape : (c, h, w)
    n_components : int
        Code length, also of both scales.
    L : int
        Number of angles.
    contrast : bool
        Divide every place by its contrast, at either scale.
    """

    name = "multiscale-scattering"
    trainable = False
    join: Tensor
    offset: Tensor
    n_seen: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        n_components: int = N_COMPONENTS,
        L: int = 8,
        contrast: bool = True,
    ) -> None:
        super().__init__(input_shape, (n_components,))
        self.L, self.contrast = L, contrast
        self.scattering = Scattering2D(self.input_shape[1:], L=L, finer=True)
        self.scales = nn.ModuleList(
            ChannelComponents(input_shape, shape, n_components, contrast) for shape in self.scattering.out_shapes
        )
        self.n_coefficients = sum(scale.n_coefficients for scale in self._scales)
        self.register_buffer("join", torch.zeros(n_components * len(self.scales), n_components))
        self.register_buffer("offset", torch.zeros(n_components))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))

    @property
    def _scales(self) -> list[ChannelComponents]:
        return cast("list[ChannelComponents]", list(self.scales))

    def _transform(self, x: Tensor) -> list[Tensor]:
        return raw_coefficients(self.scattering, x, self.input_shape)

    def encode(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, n_components), float32; raises NotFittedError before ``fit_encode``."""
        if not int(self.n_seen):
            raise NotFittedError("This scattering encoder has no components yet: call fit_encode on the images first.")
        return torch.cat([self._project(self._transform(part)) for part in x.split(BATCH)])

    def _project(self, coefficients: list[Tensor]) -> Tensor:
        codes = [scale.project(block) for scale, block in zip(self._scales, coefficients, strict=True)]
        return torch.cat(codes, dim=1) @ self.join + self.offset

    def decode(self, z: Tensor) -> Tensor:
        raise NotImplementedError("Scattering codes cannot be decoded: choose an auto-encoder to reconstruct images.")

    def fit_encode(self, batches: Iterable[Tensor]) -> Tensor:
        """Find all components in one pass over ``batches`` of (b, c, h, w), and return the codes (n, n_components).

        Holds the coefficients of all images meanwhile, 4 n n_coefficients bytes.

        Raises
        ------
        InvalidInputError
            Fewer than two images, or images of another shape.
        """
        return self.fit_encode_coefficients(self.coefficients(batches))

    def coefficients(self, batches: Iterable[Tensor]) -> list[list[Tensor]]:
        """Raw scattering coefficients at each scale, in blocks of images; they do not depend on ``contrast``."""
        kept: list[list[Tensor]] = [[] for _ in self.scales]
        for batch in batches:
            for part in batch.split(BATCH):
                for blocks, block in zip(kept, self._transform(part), strict=True):
                    blocks.append(block)
        return kept

    def fit_encode_coefficients(self, kept: list[list[Tensor]]) -> Tensor:
        """``fit_encode`` from :meth:`coefficients`."""
        codes = torch.cat(
            [scale.fit_encode_coefficients(blocks) for scale, blocks in zip(self._scales, kept, strict=True)], dim=1
        )
        pca = StreamingPCA(codes.shape[1], len(self.scales), self.n_codes).fit([codes.cpu().numpy()])
        _, directions = pca.components(self.n_codes)
        join = directions * pca.scale()[:, None]
        self.join.copy_(torch.as_tensor(join))
        self.offset.copy_(torch.as_tensor(-pca.mean @ join))
        self.n_seen.copy_(torch.as_tensor(pca.n))
        return codes @ self.join + self.offset

    def config(self) -> dict[str, Any]:
        return super().config() | {"n_components": self.n_codes, "L": self.L, "contrast": self.contrast}


def make_scattering(
    input_shape: Sequence[int],
    n_samples: int,
    *,
    n_components: int | None = None,
    J: int | None = None,
    L: int = 8,
    contrast: bool = True,
) -> MultiScaleScattering | ScatteringEncoder:
    """Encoder for n_samples images: at two scales, or at the scale J where it is given.

    The code length is 150, or less where there are fewer than 300 images (one component per two).

    Raises
    ------
    InvalidInputError
        Vectors, images below 8 x 8, or sizes that do not fit.
    """
    check_images(input_shape)
    if n_components is None:
        n_components = count_components(input_shape, n_samples, J, L, finer=J is None)
    if J is not None:
        return ScatteringEncoder(input_shape, n_components, J, L, contrast)
    return MultiScaleScattering(input_shape, n_components, L, contrast)
