"""Wavelet scattering of images (layer 1): a fixed, translation-stable encoder without anything to train.

Scattering transform (Mallat 2012, "Group invariant scattering", Sec. 2; Bruna and Mallat 2013, "Invariant scattering
convolution networks", Sec. 2), with Morlet wavelets psi_{j,theta} and a Gaussian low-pass phi_J::

    S0 x = x * phi_J
    S1 x = |x * psi_{j1,t1}| * phi_J                      J L channels
    S2 x = ||x * psi_{j1,t1}| * psi_{j2,t2}| * phi_J      j1 < j2, L^2 J (J - 1) / 2 channels
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, cast

import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from subspan.encoders import MIN_SIDE, Encoder
from subspan.errors import InvalidInputError
from subspan.principal import StreamingPCA
from subspan.wavelets import (
    Level,
    Scratch,
    Wavelet,
    complex_b,
    fourier,
    lowpass,
    morlet,
    padding,
    real_in,
    register,
    separable,
)

ON_CARD = 16  # times as many images at a time on a graphics card, which has no use for small pieces
MAP_ENTRIES = 1 << 19  # complex entries of the first-order maps that are held at a time, for the processor cache


def scattering_scale(h: int, w: int) -> int:
    """Largest J >= 1 with 2^J <= min(h, w) / 3: the shorter side of the output has 3 to 5 pixels (28 x 28: J = 3)."""
    return max(1, math.floor(math.log2(min(h, w) / 3)))


class Scattering2D(nn.Module):
    """Scattering transform of orders 0 to 2.

    Images are padded by reflection to sides that are multiples of 2^J. Channel order: S0; S1 by (j1, t1); S2 by
    (j1, t1, j2, t2), the last index fastest. Not differentiable.

    Parameters
    ----------
    shape : (h, w)
    J : int, optional
        Number of scales, 2^J <= min(h, w); :func:`scattering_scale` by default.
    L : int
        Number of angles; the wavelets get narrower in angle as L grows.

    Raises
    ------
    InvalidInputError
        J or L that do not fit the image.
    """

    image_a: Tensor
    image_b: Tensor
    low_a: Tensor
    low_b: Tensor

    def __init__(self, shape: Sequence[int], J: int | None = None, L: int = 8) -> None:
        super().__init__()
        h, w = self.shape = (int(shape[0]), int(shape[1]))
        self.J = J = scattering_scale(h, w) if J is None else J
        self.L = L
        if J < 1 or L < 1 or min(h, w) < 2**J:
            raise InvalidInputError(
                f"J={J} scales, L={L} angles: use J, L >= 1 and 2**J <= {min(h, w)}, the side of X."
            )
        self.n_channels = 1 + J * L + L * L * J * (J - 1) // 2
        self.out_shape = (self.n_channels, h >> J, w >> J)
        self.sides = sides = (((h >> J) + 2) << J, ((w >> J) + 2) << J)  # padded
        pads = [padding(side, padded) for side, padded in zip((h, w), sides, strict=True)]
        transforms = [fourier(n, range(-n // 2, n // 2)) @ pad for n, pad in zip(sides, pads, strict=True)]
        smooth = [lowpass(n, J, 0) @ pad for n, pad in zip(sides, pads, strict=True)]
        register(self, image_a=real_in(transforms[0]), image_b=complex_b(transforms[1]))
        register(self, low_a=smooth[0], low_b=smooth[1])
        self.levels = nn.ModuleList(Level(sides, J, j) for j in range(J))
        waves = {(j, t): morlet(sides, j, t, L) for j, t in product(range(J), range(L))}
        self.first = nn.ModuleList(Wavelet(wave, sides, 0, j) for (j, _), wave in waves.items())
        self.second = nn.ModuleList(
            nn.ModuleList(Wavelet(wave, sides, j1, j2) for (j2, _), wave in waves.items() if j2 > j1) for j1 in range(J)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., h, w) -> (..., n_channels, h // 2^J, w // 2^J), float32."""
        if tuple(x.shape[-2:]) != self.shape:
            raise InvalidInputError(f"Images of {tuple(x.shape[-2:])} pixels: this transform is for {self.shape}.")
        images = x.detach().to(self.image_a.dtype).reshape(-1, *self.shape)
        out = images.new_empty(len(images), *self.out_shape)
        step = min(64, max(4, MAP_ENTRIES // (self.L * math.prod(self.sides))))
        step *= ON_CARD if images.is_cuda else 1
        scratch = Scratch(images)
        with torch.inference_mode():
            for start in range(0, len(images), 4 * step):
                part, target = images[start : start + 4 * step], out[start : start + 4 * step]
                target.copy_(self._chunk(part.permute(1, 2, 0).contiguous(), step, scratch).permute(3, 0, 1, 2))
        return out.view(*x.shape[:-2], *self.out_shape)

    def _chunk(self, x: Tensor, step: int, scratch: Scratch) -> Tensor:
        """(h, w, b) -> (n_channels, h', w', b); second order in pieces of ``step`` images."""
        J, L, b = self.J, self.L, x.shape[-1]
        levels, waves = cast("list[Level]", self.levels), cast("list[Wavelet]", self.first)
        out = x.new_empty(*self.out_shape, b)
        out[0] = separable(x, self.low_a, self.low_b)
        spectrum = separable(x, self.image_a, self.image_b).view(self.sides[0], 2, self.sides[1], b)
        end = 1 + J * L
        for j1, level in enumerate(levels):
            maps = scratch("first", *level.shape, L, b)  # |x * psi_{j1,t1}|
            for t1 in range(L):
                maps[..., t1, :] = level.modulus(waves[j1 * L + t1](spectrum, scratch), scratch)
            start, end = end, end + L * L * (J - 1 - j1)
            for i in range(0, b, step):
                part = maps[..., i : i + step]
                part = scratch("part", *part.shape).copy_(part).flatten(3)  # (..., L b)
                first = level.lowpass(part[None])[0].unflatten(-1, (L, -1))  # (h', w', L, b)
                out[1 + j1 * L : 1 + j1 * L + L, ..., i : i + step] = first.permute(2, 0, 1, 3)
                if j1 < J - 1:
                    second = self._second(j1, level.spectrum(part, scratch), scratch).unflatten(-1, (L, -1))
                    target = out[start:end, ..., i : i + step].unflatten(0, (L, -1))
                    target.copy_(second.permute(3, 0, 1, 2, 4))
        return out

    def _second(self, j1: int, spectrum: Tensor, scratch: Scratch) -> Tensor:
        """Spectra of the maps of scale j1, (n1, 2, n2, L b) -> second-order coefficients (filters, h', w', L b)."""
        levels, waves = cast("list[Level]", self.levels), cast("list[list[Wavelet]]", self.second)[j1]
        parts, L = [], self.L
        for j2 in range(j1 + 1, self.J):
            level = levels[j2]
            maps = scratch("second", L, *level.shape, spectrum.shape[-1])
            for t2 in range(L):
                level.modulus(waves[(j2 - j1 - 1) * L + t2](spectrum, scratch), scratch, out=maps[t2])
            parts.append(level.lowpass(maps))
        return torch.cat(parts)


# --- the encoder ---------------------------------------------------------------------------------------------------

N_COMPONENTS = 150
BATCH = 1024  # images that are transformed at a time
CONTRAST = 0.1  # contrast, as a share of the usual one, below which a place is not brought to the contrast of others


class ScatteringEncoder(Encoder):
    """Scattering coefficients, each channel scaled to unit norm, then principal components. Fitted, not trained.

    Every scattering channel is divided by its root mean square over the data, so that higher orders, which are small,
    count as much. With ``contrast``, every place of an image is then divided by its contrast, the mean of its
    coefficients of orders one and two, plus a tenth: divisive normalisation (Heeger 1992; Jarrett et al. 2009), after
    which faint strokes and folds weigh as much as strong edges. The channels, scaled to equal norm, are reduced to
    principal components. Signs are fixed: the largest entry of every component is positive. Components that the data do
    not span are zero. There is no decoder.

    Parameters
    ----------
    input_shape : (c, h, w)
        The transform is taken of every channel by itself.
    n_components : int
        Code length.
    J, L : int
        See :class:`Scattering2D`.
    contrast : bool
        Divide every place by its contrast.
    generator : ignored
        Nothing is drawn; there for the interface.

    Attributes
    ----------
    channel_norm : (c * n_channels,) float32, root mean square of every channel; explained_variance : (n_components,)
    float64; total_variance, n_seen : of the data in ``fit``; n_seen = 0 before
    """

    name = "scattering"
    projection: Tensor
    offset: Tensor
    channel_norm: Tensor
    n_seen: Tensor
    options = ("n_components", "J", "L", "contrast")
    trainable = False

    def __init__(
        self,
        input_shape: Sequence[int],
        n_components: int = N_COMPONENTS,
        J: int | None = None,
        L: int = 8,
        contrast: bool = True,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(input_shape, (n_components,))
        self.contrast = contrast
        self.scattering = Scattering2D(self.input_shape[1:], J, L)
        self.n_coefficients = self.input_shape[0] * math.prod(self.scattering.out_shape)
        if not 1 <= n_components <= self.n_coefficients:
            raise InvalidInputError(
                f"n_components={n_components} must be between 1 and {self.n_coefficients}, the number of scattering "
                "coefficients of one image."
            )
        self.register_buffer("projection", torch.zeros(self.n_coefficients, n_components))
        self.register_buffer("offset", torch.zeros(n_components))
        channels = self.input_shape[0] * self.scattering.n_channels
        self.register_buffer("channel_norm", torch.ones(channels))
        self.register_buffer("explained_variance", torch.zeros(n_components, dtype=torch.float64))
        self.register_buffer("total_variance", torch.zeros((), dtype=torch.float64))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))

    def coefficients(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> raw scattering coefficients (b, c * n_channels * h' * w')."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise InvalidInputError(f"Images of shape {tuple(x.shape[1:])}: this encoder takes {self.input_shape}.")
        return self.scattering(x).flatten(1)

    def normalise(self, coefficients: Tensor) -> Tensor:
        """Coefficients (b, c * n_channels * h' * w') over the norm of their channel and the contrast of their place."""
        maps = coefficients.unflatten(1, (len(self.channel_norm), -1)) / self.channel_norm[:, None]
        if self.contrast:
            edges = maps.unflatten(1, (self.input_shape[0], -1))[:, :, 1:]  # all but the means of order zero
            maps /= edges.abs().mean(dim=(1, 2))[:, None] + CONTRAST
        return maps.flatten(1)

    def encode(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, n_components), float32; raises NotFittedError before ``fit``."""
        if not int(self.n_seen):
            raise NotFittedError("This scattering encoder has no components yet: call fit on the images first.")
        return torch.cat([self._project(self.coefficients(part)) for part in x.split(BATCH)])

    def _project(self, coefficients: Tensor) -> Tensor:
        return self.normalise(coefficients) @ self.projection + self.offset

    def decode(self, z: Tensor) -> Tensor:
        raise NotImplementedError("Scattering codes cannot be decoded: choose an auto-encoder to reconstruct images.")

    def fit(self, batches: Iterable[Tensor]) -> ScatteringEncoder:
        """Find channel norms and components of ``batches`` of (b, c, h, w), see :meth:`fit_encode`."""
        self.fit_encode(batches)
        return self

    def fit_encode(self, batches: Iterable[Tensor]) -> Tensor:
        """Find channel norms and components, and return the codes (n, n_components) of the same images.

        Holds the coefficients of all images meanwhile, 4 n n_coefficients bytes (20,000 of 28 x 28: 156 MB); sums are
        in float64. The split into batches does not matter, but for rounding. Above 4096 coefficients per image (and
        1024 images) the covariance is followed through its leading directions only: see
        :class:`~subspan.principal.StreamingPCA`.

        Raises
        ------
        InvalidInputError
            Fewer than two images, or images of another shape.
        """
        return self.fit_encode_coefficients(
            [self.coefficients(part) for batch in batches for part in batch.split(BATCH)]
        )

    def fit_encode_coefficients(self, kept: list[Tensor]) -> Tensor:
        """``fit_encode`` from blocks of :meth:`coefficients`, of at most 1024 images each."""
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
        return torch.cat([self._project(block) for block in kept])

    def _fit_channels(self, blocks: list[Tensor]) -> None:
        """Root mean square of every channel; 1 where it is always zero."""
        maps = [block.unflatten(1, (len(self.channel_norm), -1)) for block in blocks]
        squares = sum(part.square().mean(dim=2, dtype=torch.float64).sum(dim=0) for part in maps)
        norm = (squares / sum(map(len, maps))).sqrt()
        self.channel_norm.copy_(torch.where(norm > 0, norm, 1.0))

    def config(self) -> dict[str, Any]:
        return super().config() | {
            "n_components": self.n_codes,
            "J": self.scattering.J,
            "L": self.scattering.L,
            "contrast": self.contrast,
        }


def make_scattering_encoder(
    input_shape: Sequence[int],
    n_samples: int,
    *,
    n_components: int | None = None,
    J: int | None = None,
    L: int = 8,
    contrast: bool = True,
) -> ScatteringEncoder:
    """Encoder for n_samples images: 150 components, or fewer where there are fewer than 300 images (one per two).

    Raises
    ------
    InvalidInputError
        Vectors, images below 8 x 8, or sizes that do not fit.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < MIN_SIDE:
        raise InvalidInputError(
            f"Encoder 'scattering' needs images of at least {MIN_SIDE} x {MIN_SIDE} pixels, but X has samples "
            f"of shape {tuple(input_shape)}: choose encoder 'identity' or 'mlp' on vectors."
        )
    encoder = ScatteringEncoder(input_shape, n_components or 1, J, L)
    if n_components is None:
        n_components = min(N_COMPONENTS, encoder.n_coefficients, max(1, n_samples // 2))
    return ScatteringEncoder(input_shape, n_components, J, L, contrast)


def build_scattering_encoder(*, name: str = "scattering", **config: Any) -> ScatteringEncoder:
    """Unfitted encoder from a ``config()``, for ``load_state_dict``."""
    return ScatteringEncoder(**config)
