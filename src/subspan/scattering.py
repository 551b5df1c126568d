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

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from subspan.channels import BATCH, ChannelComponents
from subspan.encoders import MIN_SIDE
from subspan.errors import InvalidInputError
from subspan.wavelets import (
    Level,
    Lowpass,
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


def check_scales(shape: Sequence[int], J: int | None, L: int) -> tuple[int, int]:
    """J, by default :func:`scattering_scale`, and L.

    Raises
    ------
    InvalidInputError
        They do not fit images of shape (h, w).
    """
    J = scattering_scale(*shape) if J is None else J
    if J < 1 or L < 1 or min(shape) < 2**J:
        raise InvalidInputError(f"J={J} scales, L={L} angles: use J, L >= 1 and 2**J <= {min(shape)}, the side of X.")
    return J, L


def output_shapes(shape: Sequence[int], J: int, L: int, finer: bool) -> dict[int, tuple[int, int, int]]:
    """(n_channels, h // 2^scale, w // 2^scale) of images (h, w) by scale: J - 1, with ``finer`` if J > 1, then J."""
    return {
        scale: (1 + scale * L + L * L * scale * (scale - 1) // 2, shape[0] >> scale, shape[1] >> scale)
        for scale in ((J - 1, J) if finer and J > 1 else (J,))
    }


class Scattering2D(nn.Module):
    """Scattering transform of orders 0 to 2.

    Images are padded by reflection to sides that are multiples of 2^J. Channel order: S0; S1 by (j1, t1); S2 by
    (j1, t1, j2, t2), the last index fastest. Not differentiable.

    With ``finer``, :meth:`scales` also gives the transform of scale J - 1, at the places where that alone would be
    read, for little more time: its wavelets are among those of scale J.

    Parameters
    ----------
    shape : (h, w)
    J : int, optional
        Number of scales, 2^J <= min(h, w); :func:`scattering_scale` by default.
    L : int
        Number of angles; the wavelets get narrower in angle as L grows.
    finer : bool
        Also transform at scale J - 1, if J > 1.

    Raises
    ------
    InvalidInputError
        J or L that do not fit the image.
    """

    image_a: Tensor
    image_b: Tensor

    def __init__(self, shape: Sequence[int], J: int | None = None, L: int = 8, finer: bool = False) -> None:
        super().__init__()
        h, w = self.shape = (int(shape[0]), int(shape[1]))
        self.J, self.L = J, L = check_scales(self.shape, J, L)
        self.sides = sides = _padded(self.shape, J)
        pads = [padding(side, padded) for side, padded in zip((h, w), sides, strict=True)]
        transforms = [fourier(n, range(-n // 2, n // 2)) @ pad for n, pad in zip(sides, pads, strict=True)]
        register(self, image_a=real_in(transforms[0]), image_b=complex_b(transforms[1]))
        self.levels = nn.ModuleList(Level(sides, j) for j in range(J))
        waves = {(j, t): morlet(sides, j, t, L) for j, t in product(range(J), range(L))}
        self.first = nn.ModuleList(Wavelet(wave, sides, 0, j) for (j, _), wave in waves.items())
        self.second = nn.ModuleList(
            nn.ModuleList(Wavelet(wave, sides, j1, j2) for (j2, _), wave in waves.items() if j2 > j1) for j1 in range(J)
        )
        shapes = output_shapes(self.shape, J, L, finer)
        self.averages = nn.ModuleList(_Average(self.shape, sides, pads, scale, L) for scale in shapes)
        self.out_shapes = list(shapes.values())
        self.n_channels, *_ = self.out_shape = self.out_shapes[-1]

    @property
    def _averages(self) -> list[_Average]:
        return cast("list[_Average]", list(self.averages))

    def forward(self, x: Tensor) -> Tensor:
        """(..., h, w) -> (..., n_channels, h // 2^J, w // 2^J), float32."""
        return self.scales(x)[-1]

    def scales(self, x: Tensor) -> list[Tensor]:
        """The same at scale J - 1, with ``finer``, and at scale J."""
        if tuple(x.shape[-2:]) != self.shape:
            raise InvalidInputError(f"Images of {tuple(x.shape[-2:])} pixels: this transform is for {self.shape}.")
        images = x.detach().to(self.image_a.dtype).reshape(-1, *self.shape)
        outs = [images.new_empty(len(images), *shape) for shape in self.out_shapes]
        step = min(64, max(4, MAP_ENTRIES // (self.L * math.prod(self.sides))))
        step *= ON_CARD if images.is_cuda else 1
        scratch = Scratch(images)
        with torch.inference_mode():
            for start in range(0, len(images), 4 * step):
                part = slice(start, start + 4 * step)
                found = self._chunk(images[part].permute(1, 2, 0).contiguous(), step, scratch)
                for out, target in zip(found, outs, strict=True):
                    target[part] = out.permute(3, 0, 1, 2)
        return [out.view(*x.shape[:-2], *out.shape[1:]) for out in outs]

    def _chunk(self, x: Tensor, step: int, scratch: Scratch) -> list[Tensor]:
        """(h, w, b) -> (n_channels, h', w', b) of every scale; second order in pieces of ``step`` images."""
        J, L, b = self.J, self.L, x.shape[-1]
        levels, waves = cast("list[Level]", self.levels), cast("list[Wavelet]", self.first)
        outs = [x.new_empty(*shape, b) for shape in self.out_shapes]
        for average, out in zip(self._averages, outs, strict=True):
            out[0] = separable(x, average.image_a, average.image_b)
        spectrum = separable(x, self.image_a, self.image_b).view(self.sides[0], 2, self.sides[1], b)
        for j1, level in enumerate(levels):
            maps = scratch("first", *level.shape, L, b)  # |x * psi_{j1,t1}|
            for t1 in range(L):
                maps[..., t1, :] = level.modulus(waves[j1 * L + t1](spectrum, scratch), scratch)
            for i in range(0, b, step):
                part = maps[..., i : i + step]
                part = scratch("part", *part.shape).copy_(part).flatten(3)  # (..., L b)
                pieces = [out[..., i : i + step] for out in outs]
                for average, out in zip(self._averages, pieces, strict=True):
                    average.first(part, j1, out)
                if j1 < J - 1:
                    self._second(j1, level.spectrum(part, scratch), scratch, pieces)
        return outs

    def _second(self, j1: int, spectrum: Tensor, scratch: Scratch, outs: list[Tensor]) -> None:
        """Second-order coefficients from the spectra of the maps of scale j1, (n1, 2, n2, L b)."""
        levels, waves = cast("list[Level]", self.levels), cast("list[list[Wavelet]]", self.second)[j1]
        for j2 in range(j1 + 1, self.J):
            level = levels[j2]
            maps = scratch("second", self.L, *level.shape, spectrum.shape[-1])
            for t2 in range(self.L):
                level.modulus(waves[(j2 - j1 - 1) * self.L + t2](spectrum, scratch), scratch, out=maps[t2])
            for average, out in zip(self._averages, outs, strict=True):
                average.second(maps, j1, j2, out)


class _Average(nn.Module):
    """phi of one scale, and the places of its outputs among the channels; wavelets of that scale and on have none.

    Outputs are read where the transform of this scale alone, padded as for it, has them.
    """

    image_a: Tensor
    image_b: Tensor

    def __init__(
        self, shape: Sequence[int], sides: Sequence[int], pads: Sequence[np.ndarray], scale: int, L: int
    ) -> None:
        super().__init__()
        self.scale, self.L = scale, L
        at = [
            (np.arange(1, (side >> scale) + 1) << scale) + _margin(side, padded) - _margin(side, alone)
            for side, padded, alone in zip(shape, sides, _padded(shape, scale), strict=True)
        ]
        image = [lowpass(n, scale, 0, where) @ pad for n, where, pad in zip(sides, at, pads, strict=True)]
        register(self, image_a=image[0], image_b=image[1])
        self.levels = nn.ModuleList(Lowpass(sides, scale, j, at) for j in range(scale))

    def first(self, maps: Tensor, j1: int, out: Tensor) -> None:
        """Write order one of the maps (p2, n1, n2 / p2, L b) of scale j1 to ``out`` (n_channels, h', w', b)."""
        if j1 < self.scale:
            low = self.levels[j1](maps[None])[0].unflatten(-1, (self.L, -1))  # (h', w', L, b)
            out[1 + j1 * self.L : 1 + (j1 + 1) * self.L] = low.permute(2, 0, 1, 3)

    def second(self, maps: Tensor, j1: int, j2: int, out: Tensor) -> None:
        """Write order two of the maps (L, p2, n1, n2 / p2, L b) of scales j1, j2 to ``out`` (n_channels, h', w', b)."""
        if j2 < self.scale:
            L, coarser = self.L, self.scale - 1 - j1
            start = 1 + self.scale * L + L * L * sum(self.scale - 1 - j for j in range(j1))
            target = out[start : start + L * L * coarser].unflatten(0, (L, coarser, L))[:, j2 - j1 - 1]
            target.copy_(self.levels[j2](maps).unflatten(-1, (L, -1)).permute(3, 0, 1, 2, 4))  # t1 before t2


def _padded(shape: Sequence[int], J: int) -> tuple[int, int]:
    h, w = (((side >> J) + 2) << J for side in shape)
    return h, w


def _margin(side: int, padded: int) -> int:
    return (padded - side) // 2


# --- the encoder ---------------------------------------------------------------------------------------------------

N_COMPONENTS = 150


def raw_coefficients(transform: Scattering2D, x: Tensor, input_shape: tuple[int, ...]) -> list[Tensor]:
    """(b, c, h, w) -> coefficients (b, c * n_channels * h' * w') of every scale of the transform.

    Raises
    ------
    InvalidInputError
        Images of another shape than ``input_shape``, (c, h, w).
    """
    if tuple(x.shape[1:]) != input_shape:
        raise InvalidInputError(f"Images of shape {tuple(x.shape[1:])}: this encoder takes {input_shape}.")
    return [maps.flatten(1) for maps in transform.scales(x)]


class ScatteringEncoder(ChannelComponents):
    """Scattering coefficients, each channel scaled to unit norm, then principal components. Fitted, not trained.

    Parameters
    ----------
    input_shape : (c, h, w)
        The transform is taken of every channel by itself.
    n_components : int
        Code length.
    J, L : int
        See :class:`Scattering2D`.
    contrast : bool
        Divide every place by its contrast: see :mod:`subspan.channels`.
    """

    name = "scattering"

    def __init__(
        self,
        input_shape: Sequence[int],
        n_components: int = N_COMPONENTS,
        J: int | None = None,
        L: int = 8,
        contrast: bool = True,
    ) -> None:
        scattering = Scattering2D(input_shape[1:], J, L)
        super().__init__(input_shape, scattering.out_shape, n_components, contrast)
        self.scattering = scattering

    def coefficients(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> raw scattering coefficients (b, c * n_channels * h' * w')."""
        return raw_coefficients(self.scattering, x, self.input_shape)[0]

    def encode(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, n_components), float32; raises NotFittedError before ``fit``."""
        if not int(self.n_seen):
            raise NotFittedError("This scattering encoder has no components yet: call fit on the images first.")
        return torch.cat([self.project(self.coefficients(part)) for part in x.split(BATCH)])

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

    def config(self) -> dict[str, Any]:
        return super().config() | {
            "n_components": self.n_codes,
            "J": self.scattering.J,
            "L": self.scattering.L,
            "contrast": self.contrast,
        }


def check_images(input_shape: Sequence[int]) -> None:
    """Raise InvalidInputError unless samples are images (c, h, w) of at least 8 x 8 pixels."""
    if len(input_shape) != 3 or min(input_shape[1:]) < MIN_SIDE:
        raise InvalidInputError(
            f"Encoder 'scattering' needs images of at least {MIN_SIDE} x {MIN_SIDE} pixels, but X has samples "
            f"of shape {tuple(input_shape)}: choose encoder 'identity' or 'mlp' on vectors."
        )


def count_components(input_shape: Sequence[int], n_samples: int, J: int | None, L: int, finer: bool) -> int:
    """Default code length for n_samples images (c, h, w): 150, or half as many as images, or all there are."""
    shapes = output_shapes(input_shape[1:], *check_scales(input_shape[1:], J, L), finer)
    return min(N_COMPONENTS, input_shape[0] * min(map(math.prod, shapes.values())), max(1, n_samples // 2))
