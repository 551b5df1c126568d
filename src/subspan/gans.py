"""Networks of the adversarial methods, sized to the data, and what these methods share (layer 1).

Images: the networks that InfoGAN and ClusterGAN use for MNIST, two 4 x 4 convolutions of stride 2 and one hidden layer,
mirrored in the generator. Vectors: two hidden layers. Weights are left undrawn: see :func:`draw_normal`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, one_hot, relu
from torch.nn.utils import skip_init

from subspan.errors import InvalidInputError

MIN_SIDE = 4  # smallest image side
HIDDEN = {"image": 1024, "vector": 256}


class Trunk(nn.Module):
    """Sample (b, *shape) -> features (b, hidden).

    Parameters
    ----------
    shape : (p,) or (c, h, w)
    width : int
        Channels of the first convolution; the second has twice as many.
    hidden : int, optional
        Length of the features; 1024 for images, 256 for vectors.
    slope : float
        Of the leaky ReLUs.
    norm : bool
        Batch normalisation after every layer but the first; none for a critic with a gradient penalty.
    """

    def __init__(self, shape: Sequence[int], width: int, hidden: int | None, *, slope: float, norm: bool) -> None:
        super().__init__()
        self.slope = slope
        self.n_features = hidden_width(shape, hidden)
        if len(shape) == 3:
            c, h, w = shape
            area = (h // 2 // 2) * (w // 2 // 2)
            layers = [_conv(c, width), _conv(width, 2 * width), _linear(2 * width * area, self.n_features)]
            norms = [nn.BatchNorm2d(2 * width), nn.BatchNorm1d(self.n_features)]
        else:
            layers = [_linear(shape[0], self.n_features), _linear(self.n_features, self.n_features)]
            norms = [nn.BatchNorm1d(self.n_features)]
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList([nn.Identity(), *(norms if norm else [nn.Identity() for _ in norms])])

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = leaky_relu(norm(layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)), self.slope)
        return x


class Generator(nn.Module):
    """Latent vector (b, n_latent) -> sample (b, *shape): in [0, 1] for images, unbounded for vectors."""

    def __init__(self, shape: Sequence[int], n_latent: int, width: int, hidden: int | None) -> None:
        super().__init__()
        self.shape = tuple(shape)
        n = hidden_width(shape, hidden)
        if len(self.shape) == 3:
            c, h, w = self.shape
            self.map = (2 * width, -(-h // 4), -(-w // 4))  # enlarged twice, then cropped to h x w
            layers = [_linear(n_latent, n), _linear(n, math.prod(self.map)), _deconv(2 * width, width)]
            norms = [nn.BatchNorm1d(n), nn.BatchNorm2d(2 * width), nn.BatchNorm2d(width)]
            self.out: nn.Module = _deconv(width, c)
        else:
            self.map = (n, 1, 1)
            layers = [_linear(n_latent, n), _linear(n, n)]
            norms = [nn.BatchNorm1d(n), nn.BatchNorm2d(n)]
            self.out = _linear(n, self.shape[0])
        self.layers, self.norms = nn.ModuleList(layers), nn.ModuleList(norms)

    def forward(self, z: Tensor) -> Tensor:
        x = relu(self.norms[0](self.layers[0](z)))
        x = relu(self.norms[1](self.layers[1](x).reshape(-1, *self.map)))
        if len(self.shape) == 1:
            return self.out(x.flatten(1))
        x = relu(self.norms[2](self.layers[2](x)))
        return self.out(x)[:, :, : self.shape[1], : self.shape[2]].sigmoid()


def hidden_width(shape: Sequence[int], hidden: int | None) -> int:
    """``hidden``, or the papers' width for samples of this shape.

    Raises
    ------
    InvalidInputError
        Images below 4 x 4 pixels.
    """
    if len(shape) == 3 and min(shape[1:]) < MIN_SIDE:
        raise InvalidInputError(
            f"X has images of {shape[1]} x {shape[2]} pixels, and at least {MIN_SIDE} x {MIN_SIDE} are needed: "
            "enlarge the images, or reshape X to vectors (n, p)."
        )
    return hidden if hidden is not None else HIDDEN["image" if len(shape) == 3 else "vector"]


@torch.no_grad()
def draw_normal(module: nn.Module, gen: torch.Generator, std: float = 0.02) -> None:
    """Draw all weights from N(0, std^2) and set biases to zero; batch normalisation keeps its constants."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            layer.weight.copy_(std * torch.randn(layer.weight.shape, generator=gen))
            assert layer.bias is not None
            layer.bias.zero_()


def draw_clusters(n: int, n_clusters: int, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform cluster numbers (n,) and the same one-hot (n, k), on the CPU."""
    c = torch.randint(n_clusters, (n,), generator=gen)
    return c, one_hot(c, n_clusters).float()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, gen: torch.Generator) -> Tensor:
    """``E (||grad critic(x)|| - 1)^2`` at random points x between real and generated samples (Gulrajani et al., 2017).

    Parameters
    ----------
    critic : callable
        (b, ...) -> (b,) or (b, 1), each value a function of its own sample alone.
    real, fake : Tensor of shape (b, ...)
    gen : torch.Generator
    """
    t = torch.rand(len(real), *[1] * (real.dim() - 1), generator=gen).to(real.device)
    x = (t * real + (1 - t) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def _linear(inputs: int, outputs: int) -> nn.Module:
    # skip_init, here and below: torch would draw initial weights from its global generator
    return skip_init(nn.Linear, inputs, outputs)


def _conv(inputs: int, outputs: int) -> nn.Module:
    return skip_init(nn.Conv2d, inputs, outputs, 4, 2, 1)


def _deconv(inputs: int, outputs: int) -> nn.Module:
    return skip_init(nn.ConvTranspose2d, inputs, outputs, 4, 2, 1)
