"""Layers that the encoders are made of (layer 1). Weights are left undrawn: see ``encoders.reset_parameters``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu
from torch.nn.utils import skip_init


class Residual(nn.Module):
    """relu(second(relu(first(x))) + skip(x))."""

    def __init__(self, first: nn.Module, second: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.skip = first, second, skip

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.second(relu(self.first(x))) + self.skip(x))


class PreactResidual(Residual):
    """second(relu(first(relu(x)))) + skip(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(relu(self.first(relu(x)))) + self.skip(x)


class Shrink(nn.Conv2d):
    """1 x 1 convolution of every ``step``-th pixel.

    The same as a strided 1 x 1 convolution, whose backward pass corrupts memory on CPUs for channels-last maps when
    the batch size changes (torch 2.13.0).
    """

    step = 1

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, :: self.step, :: self.step])


class Enlarge(nn.Conv2d):
    """1 x 1 convolution, then nearest-neighbour enlargement to maps of ``size``."""

    size = (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return interpolate(super().forward(x), self.size)


def conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """Convolution with "same" padding."""
    # skip_init, here and below: torch would draw initial weights from its global generator
    return skip_init(nn.Conv2d, inputs, outputs, kernel, stride, kernel // 2)


def deconv(inputs: int, outputs: int, kernel: int, stride: int, size: tuple[int, int]) -> nn.Module:
    """Transposed convolution to maps of exactly ``size`` from maps of ceil(size / stride)."""
    extra = tuple((side - 1) % stride for side in size)
    return skip_init(nn.ConvTranspose2d, inputs, outputs, kernel, stride, kernel // 2, extra)


def shrink(inputs: int, outputs: int, step: int) -> nn.Module:
    """1 x 1 convolution of every ``step``-th pixel."""
    layer = skip_init(Shrink, inputs, outputs, 1)
    layer.step = step
    return layer


def enlarge(inputs: int, outputs: int, size: tuple[int, int]) -> nn.Module:
    """1 x 1 convolution, then enlargement to ``size``."""
    layer = skip_init(Enlarge, inputs, outputs, 1)
    layer.size = size
    return layer


def dense(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [skip_init(nn.Linear, inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def refresh_statistics(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the statistics of all batch normalisations to their means over ``batches``, and evaluation mode.

    What they are during training is left behind by the weights, and in adversarial training mixes real and generated
    samples.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if norms:
        momenta = [layer.momentum for layer in norms]
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the batches
        module.train()
        for batch in batches:
            module(batch)
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
    module.eval()
