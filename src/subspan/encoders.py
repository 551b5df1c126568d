"""Encoders: sample -> flat code -> sample (layer 1).

One interface for all (:class:`Encoder`); the networks are those of the NCSC paper (Zhang et al., ICML 2019, Sec. 5),
sized to any input by :func:`make_encoder`. No weight is drawn from a global random generator.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from subspan._parameters import is_number
from subspan._random import generator as make_generator
from subspan.errors import InvalidInputError, SizingWarning
from subspan.layers import PreactResidual, Residual, conv, deconv, dense, enlarge, shrink

Ints = Sequence[int]
MIN_SIDE = 8  # smallest image side the convolutional encoders take
MAX_MAP = 49  # area of the final map (7 x 7) above which another stride-2 stage is added


class Encoder(nn.Module):
    """Abstract encoder of samples of ``input_shape`` (p,) or (c, h, w).

    Codes are returned flattened, of length ``n_codes`` (d); their own shape is ``code_shape``, (d,) or (c, h, w).
    ``trainable`` is False when there is nothing to learn.
    """

    name: str
    options: tuple[str, ...] = ()  # what a user may set through make_encoder
    trainable = True
    whitened = False  # codes of unit length, spread alike in all directions: products are comparable as they are

    def __init__(self, input_shape: Ints, code_shape: Ints) -> None:
        super().__init__()
        self.input_shape = tuple(int(side) for side in input_shape)
        self.code_shape = tuple(int(side) for side in code_shape)
        self.n_codes = math.prod(self.code_shape)

    def encode(self, x: Tensor) -> Tensor:
        """(b, *input_shape) -> codes (b, n_codes)."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Codes (b, n_codes) -> reconstruction (b, *input_shape)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, *input_shape) -> codes (b, n_codes) and reconstruction (b, *input_shape)."""
        z = self.encode(x)
        return z, self.decode(z)

    def config(self) -> dict[str, Any]:
        """JSON-able keywords with which :func:`build_encoder` builds the same architecture."""
        return {"name": self.name, "input_shape": list(self.input_shape)}


class IdentityEncoder(Encoder):
    """Codes are the flattened input: for embeddings that people already have."""

    name = "identity"
    trainable = False

    def __init__(self, input_shape: Ints, *, generator: torch.Generator | None = None) -> None:
        super().__init__(input_shape, (math.prod(input_shape),))

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        return z.reshape(-1, *self.input_shape)


class MLPAutoencoder(Encoder):
    """Fully-connected auto-encoder for vectors (images are flattened): ReLU hidden layers, linear code and output."""

    name = "mlp"
    options = ("latent_dim", "hidden")

    def __init__(self, input_shape: Ints, latent_dim: int, hidden: Ints, *, generator: torch.Generator) -> None:
        super().__init__(input_shape, (latent_dim,))
        self.hidden = tuple(hidden)
        widths = [math.prod(self.input_shape), *self.hidden, latent_dim]
        self.encoder = dense(widths)
        self.decoder = dense(widths[::-1])
        reset_parameters(self, generator)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x.flatten(1))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z).reshape(-1, *self.input_shape)

    def config(self) -> dict[str, Any]:
        return super().config() | {"latent_dim": self.n_codes, "hidden": list(self.hidden)}


class ImageAutoencoder(Encoder):
    """Abstract convolutional auto-encoder: stages that shrink the map, and a decoder that mirrors them.

    Convolutions have odd kernels and "same" padding, so that stride s takes a side h to ceil(h / s); output padding in
    the mirrored transposed convolutions restores every side exactly. No batch norm; the last layer is linear.
    ``channels``, ``strides`` and ``kernels`` have one entry per stage and are the paper's by default.
    """

    options = ("channels", "strides", "kernels")
    base_channels: tuple[int, ...]
    base_strides: tuple[int, ...]
    base_kernels: tuple[int, ...]
    block: type[Residual] | None = None  # of all stages after the first; None for plain convolutions

    def __init__(
        self,
        input_shape: Ints,
        channels: Ints = (),
        strides: Ints = (),
        kernels: Ints = (),
        *,
        generator: torch.Generator,
    ) -> None:
        channels = tuple(channels or self.base_channels)
        strides, kernels = tuple(strides or self.base_strides), tuple(kernels or self.base_kernels)
        maps = _maps(input_shape, strides)
        super().__init__(input_shape, (channels[-1], *maps[-1]))
        self.channels, self.strides, self.kernels = channels, strides, kernels
        widths = (self.input_shape[0], *channels)
        stages = list(zip(range(len(channels)), widths[:-1], widths[1:], kernels, strides, strict=True))
        self.encoder = nn.Sequential(*(self._down(*stage) for stage in stages))
        self.decoder = nn.Sequential(*(self._up(*stage, maps[stage[0]]) for stage in reversed(stages)))
        reset_parameters(self, generator)

    def _down(self, i: int, outer: int, inner: int, kernel: int, stride: int) -> nn.Module:
        """Encoder stage i: ``outer`` channels to ``inner`` channels."""
        first = conv(outer, inner, kernel, stride)
        if i > 0 and self.block is not None:
            skip = nn.Identity() if outer == inner and stride == 1 else shrink(outer, inner, stride)
            return self.block(first, conv(inner, inner, kernel, 1), skip)
        return first if self.block is PreactResidual else nn.Sequential(first, nn.ReLU())

    def _up(self, i: int, outer: int, inner: int, kernel: int, stride: int, size: tuple[int, int]) -> nn.Module:
        """Decoder stage i: ``inner`` channels back to ``outer`` channels and to maps of ``size``."""
        last = deconv(inner, outer, kernel, stride, size)
        if i > 0 and self.block is not None:
            skip = nn.Identity() if outer == inner and stride == 1 else enlarge(inner, outer, size)
            return self.block(conv(inner, inner, kernel, 1), last, skip)
        return last if i == 0 else nn.Sequential(last, nn.ReLU())

    def encode(self, x: Tensor) -> Tensor:
        # channels-last maps are a third faster on a CPU; flattened codes keep the logical order (c, h, w)
        return self.encoder(x.to(memory_format=torch.channels_last)).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z.reshape(-1, *self.code_shape).to(memory_format=torch.channels_last)).contiguous()

    def config(self) -> dict[str, Any]:
        return super().config() | {option: list(getattr(self, option)) for option in self.options}


class ConvAutoencoder(ImageAutoencoder):
    """Network of the paper's MNIST experiment: 28 > 14 > 7 > 4, d = 480; a ReLU follows each encoder layer."""

    name = "conv"
    base_channels, base_strides, base_kernels = (10, 20, 30), (2, 2, 2), (5, 3, 3)


class ResidualAutoencoder(ImageAutoencoder):
    """Network of the paper's Fashion-MNIST experiment: a convolution, then three residual blocks, all 3 x 3.

    The paper leaves the strides open; ours are 2, 2, 2, 1: 28 > 14 > 7 > 4 > 4, d = 640.
    """

    name = "residual"
    base_channels, base_strides, base_kernels = (10, 20, 30, 40), (2, 2, 2, 1), (3, 3, 3, 3)
    block = Residual


class PreactResidualAutoencoder(ImageAutoencoder):
    """Network of the paper's Stanford Online Products experiment: a convolution, then three pre-activation blocks.

    The paper leaves the strides open; ours are 2, 2, 2, 1: 32 > 16 > 8 > 4 > 4, d = 160. Codes are signed: no ReLU
    follows the last addition.
    """

    name = "preact-residual"
    base_channels, base_strides, base_kernels = (10, 20, 30, 10), (2, 2, 2, 1), (3, 3, 3, 3)
    block = PreactResidual


ENCODERS: dict[str, type[Any]] = {
    cls.name: cls
    for cls in (ConvAutoencoder, ResidualAutoencoder, PreactResidualAutoencoder, MLPAutoencoder, IdentityEncoder)
}


def given_options(name: str, options: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """The options of an encoder that are not None; InvalidInputError names one that it does not have."""
    given = {option: value for option, value in options.items() if value is not None}
    if unknown := set(given) - set(known):
        raise InvalidInputError(f"Encoder {name!r} has no option {min(unknown)!r}, only {list(known)}.")
    return given


def make_encoder(
    name: str,
    input_shape: Ints,
    n_clusters: int,
    generator: torch.Generator,
    *,
    codes_per_cluster: int = 9,
    **options: Any,
) -> Encoder:
    """Encoder sized to the data and to d > 9 k (paper, Sec. 5.1).

    Images: stages of stride 2 are added until the final map has at most 7 x 7 pixels (or a side of 2 or 3). Where a
    side of the map would be 1, or d <= 9 k, strides are set to 1 from the last stage back to the second; if that is
    not enough, the last layer is widened, with a warning.
    Vectors ("mlp"): d = max(10 k, 32); hidden widths 500, 500, 2000, each raised to d and capped at max(8 p, 2 d),
    so that short vectors get small networks. "identity" has no size to choose and ignores k.

    Parameters
    ----------
    name : "conv", "residual", "preact-residual", "mlp", "identity" or "auto"
        "auto" is "conv" for images and "identity" for vectors.
    input_shape : (p,) or (c, h, w)
    n_clusters : int
    generator : torch.Generator
    codes_per_cluster : int
        The 9 of d > 9 k, to which image encoders are widened and which all are checked for. 0 for methods that want
        short codes.
    **options
        ``channels``, ``strides``, ``kernels`` of an image encoder, ``latent_dim``, ``hidden`` of "mlp"; None means
        unset. What is given is never changed.

    Raises
    ------
    InvalidInputError
        Unknown name or option, an image encoder on vectors or on images below 8 x 8, or given sizes with d <= 9 k.
    """
    if name == "auto":
        name = "conv" if len(input_shape) == 3 else "identity"
    cls = _lookup(name)
    sizes = given_options(name, options, cls.options)
    if issubclass(cls, ImageAutoencoder):
        _check_images(name, input_shape)
        sizes = _size_images(cls, input_shape, codes_per_cluster * n_clusters, sizes)
    elif cls is MLPAutoencoder:
        sizes = _size_mlp(math.prod(input_shape), n_clusters, sizes)
    encoder = cls(input_shape, generator=generator, **sizes)
    least = codes_per_cluster * n_clusters
    if encoder.trainable and encoder.n_codes <= least:  # only through sizes that were given
        raise InvalidInputError(
            f"The code length d={encoder.n_codes} must exceed {codes_per_cluster} n_clusters={least} (paper, Sec. 5.1)"
            f": give a larger code through {' or '.join(cls.options[:2])}, or leave these options out."
        )
    return encoder


def build_encoder(name: str, *, generator: torch.Generator | None = None, **architecture: Any) -> Encoder:
    """Encoder from its ``config()``; without a generator the weights are those of seed 0, to be overwritten."""
    return _lookup(name)(generator=generator or make_generator(0), **architecture)


@torch.no_grad()
def activation_entries(encoder: Encoder) -> int:
    """Entries that one sample takes in the input, the code, the reconstruction and every layer: a backward pass keeps
    nearly all of them."""
    sizes = [2 * math.prod(encoder.input_shape) + encoder.n_codes]
    leaves = [module for module in encoder.modules() if module is not encoder and not list(module.children())]
    hooks = [leaf.register_forward_hook(lambda module, given, out: sizes.append(out.numel())) for leaf in leaves]
    device = next(iter(encoder.parameters()), torch.empty(0)).device
    encoder(torch.zeros(1, *encoder.input_shape, device=device))
    for hook in hooks:
        hook.remove()
    return sum(sizes)


@torch.no_grad()
def reset_parameters(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight and bias of ``module`` anew, as torch does by default but from ``generator`` alone.

    Convolutions and linear layers: U(-1, 1) / sqrt(fan in). Normalisation layers go back to their constants. Values
    depend on the generator only, not on the device of the module.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters(recurse=False):
                draw = torch.rand(parameter.shape, generator=generator, device=generator.device)
                parameter.copy_((2 * draw - 1) * bound)
        elif isinstance(layer, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm):
            layer.reset_parameters()
        elif any(True for _ in layer.parameters(recurse=False)):
            raise TypeError(f"reset_parameters does not know how to draw a {type(layer).__name__}")


def _maps(input_shape: Ints, strides: Ints) -> list[tuple[int, int]]:
    """Map sizes (h, w): of the input, then after each stage."""
    maps = [(input_shape[1], input_shape[2])]
    for stride in strides:
        maps.append((-(-maps[-1][0] // stride), -(-maps[-1][1] // stride)))
    return maps


def _lookup(name: str) -> type[Any]:
    if name not in ENCODERS:
        raise InvalidInputError(f"Encoder {name!r} is unknown: choose one of {', '.join(ENCODERS)} or auto.")
    return ENCODERS[name]


def _check_images(name: str, input_shape: Ints) -> None:
    if len(input_shape) != 3:
        raise InvalidInputError(
            f"Encoder {name!r} needs images, but X holds vectors: pass X as (n, h, w), (n, h, w, c) or (n, c, h, w), "
            "or choose encoder 'mlp' or 'identity'."
        )
    if min(input_shape[1:]) < MIN_SIDE:
        raise InvalidInputError(
            f"Encoder {name!r} needs images of at least {MIN_SIDE} x {MIN_SIDE} pixels, but X has {input_shape[1]} x "
            f"{input_shape[2]}: choose encoder 'mlp', which takes any size, or enlarge the images (--image-size)."
        )


def _size_images(
    cls: type[ImageAutoencoder], input_shape: Ints, least: int, given: dict[str, Any]
) -> dict[str, list[int]]:
    """Channels, strides and kernels by the rule of :func:`make_encoder`, for codes of more than ``least`` entries."""
    stages = _stages(cls, input_shape, given)
    channels, strides = stages["channels"], stages["strides"]
    for i in range(len(strides) - 1, 0, -1) if "strides" not in given else ():
        h, w = _maps(input_shape, strides)[-1]
        if min(h, w) >= 2 and channels[-1] * h * w > least:
            break
        strides[i] = 1
    area = math.prod(_maps(input_shape, strides)[-1])
    if "channels" not in given and channels[-1] * area <= least:
        wide = least // area + 1
        warnings.warn(
            f"The last layer of encoder {cls.name!r} was widened from {channels[-1]} to {wide} channels: the code "
            f"length must exceed 9 n_clusters={least} (paper, Sec. 5.1), and is now {wide * area}.",
            SizingWarning,
            stacklevel=3,
        )
        channels[-1] = wide
    return stages


def _stages(cls: type[ImageAutoencoder], input_shape: Ints, given: dict[str, Any]) -> dict[str, list[int]]:
    """The paper's stages, or those given with the rest filled in; more stages for large images if none are given."""
    n = len(_positive_ints("channels", given.get("channels", cls.base_channels)))
    paper = {
        "channels": cls.base_channels,
        "strides": cls.base_strides if n == len(cls.base_strides) else (2,) * n,
        "kernels": (cls.base_kernels + cls.base_kernels[-1:] * n)[:n],
    }
    stages = {option: _positive_ints(option, given.get(option, paper[option])) for option in cls.options}
    if any(len(sizes) != n for sizes in stages.values()) or any(kernel % 2 == 0 for kernel in stages["kernels"]):
        raise InvalidInputError(f"Give channels, strides and (odd) kernels one entry per stage each, not {stages}.")
    if not given:
        _grow(stages, input_shape)
    return stages


def _grow(stages: dict[str, list[int]], input_shape: Ints) -> None:
    """Halve the final map until it has at most MAX_MAP pixels; channels keep growing by 10 except to a narrow end."""
    channels, strides, kernels = stages["channels"], stages["strides"], stages["kernels"]
    h, w = _maps(input_shape, strides)[-1]
    while h * w > MAX_MAP and min(h, w) > 2:
        h, w = -(-h // 2), -(-w // 2)
        if 1 in strides:
            strides[strides.index(1)] = 2
            continue
        if channels[-1] > channels[-2]:
            channels.append(channels[-1] + 10)
        else:
            channels.insert(-1, channels[-2] + 10)
        strides.append(2)
        kernels.append(kernels[-1])


def _size_mlp(p: int, n_clusters: int, given: dict[str, Any]) -> dict[str, Any]:
    """Widths by the rule of :func:`make_encoder`."""
    (d,) = _positive_ints("latent_dim", [given.get("latent_dim", max(10 * n_clusters, 32))])
    widths = [min(max(width, d), max(8 * p, 2 * d)) for width in (500, 500, 2000)]
    return {"latent_dim": d, "hidden": _positive_ints("hidden", given.get("hidden", widths))}


def _positive_ints(option: str, values: Any) -> list[int]:
    if (
        isinstance(values, list | tuple)
        and values
        and all(is_number(value, Integral) and value > 0 for value in values)
    ):
        return list(map(int, values))
    raise InvalidInputError(f"{option} must hold positive integers, not {values!r}.")
