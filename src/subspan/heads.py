"""Classifier heads: codes -> cluster scores, for several independent starts at once (layer 1).

A head that starts badly stays in a poor local optimum, so R heads with their own weights are trained side by side and
one is kept. Every weight has a leading axis R and every layer is one batched matrix product.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, relu

from subspan.errors import InvalidInputError

MOMENTUM = 0.05  # of the running statistics of batch normalisation
EPSILON = 1e-5  # added to a variance
LIVE = 0.01  # a cluster with less than this share of n / k samples counts as empty


class _Layer(nn.Module):
    """R independent layers relu(batch_norm(x @ weight)): (R, m, i) -> (R, m, o)."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, n_starts: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_starts, inputs, outputs))
        self.gain = nn.Parameter(torch.ones(n_starts, 1, outputs))
        self.bias = nn.Parameter(torch.zeros(n_starts, 1, outputs))
        self.register_buffer("running_mean", torch.zeros(n_starts, 1, outputs))
        self.register_buffer("running_var", torch.ones(n_starts, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        n_starts, _, outputs = self.weight.shape
        if not self.training:  # the normalisation is linear then, and goes into the weights
            scale = self.gain * (self.running_var + EPSILON).rsqrt()
            shift = self.bias - self.running_mean * scale
            return relu(torch.baddbmm(shift, x.expand(n_starts, -1, -1), self.weight * scale))
        if len(x) == 1:  # all starts see the same: one product
            y = x[0] @ self.weight.transpose(0, 1).reshape(-1, n_starts * outputs)
        else:
            y = (x @ self.weight).transpose(0, 1).reshape(-1, n_starts * outputs)
        mean, var = self.running_mean.view(-1), self.running_var.view(-1)
        y = batch_norm(y, mean, var, self.gain.view(-1), self.bias.view(-1), True, MOMENTUM, EPSILON)
        return relu(y.view(-1, n_starts, outputs).transpose(0, 1))


class Heads(nn.Module):
    """Abstract: R independent classifiers on standardised codes.

    Parameters
    ----------
    n_starts : int
        R.
    code_shape : tuple of int
        (d,) or (c, h, w).
    n_clusters : int
        Number of clusters, k.
    width : int
        Hidden width.
    """

    name: str
    mean: Tensor
    std: Tensor
    prior: Tensor  # (R, k), the cluster sizes that each start expects

    def __init__(self, n_starts: int, code_shape: tuple[int, ...], n_clusters: int, width: int):
        super().__init__()
        self.n_starts, self.code_shape, self.n_clusters, self.width = n_starts, tuple(code_shape), n_clusters, width
        n_codes = math.prod(self.code_shape)
        self.register_buffer("mean", torch.zeros(n_codes))
        self.register_buffer("std", torch.ones(n_codes))
        self.register_buffer("prior", torch.full((n_starts, n_clusters), 1.0 / n_clusters))
        self.layers = nn.ModuleList()
        self.out = nn.Parameter(torch.zeros(0))
        self.out_bias = nn.Parameter(torch.zeros(n_starts, 1, n_clusters))

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics (d,) with which codes are standardised before the first layer."""
        self.mean.copy_(mean)
        # a code that hardly varies (a dead ReLU) must not be blown up
        self.std.copy_(torch.where(std > 1e-3 * std.max(), std, 1.0))

    @torch.no_grad()
    def reset_parameters(self, gen: torch.Generator) -> None:
        """Draw all weights anew (He et al., 2015) from ``gen`` and reset the statistics of batch normalisation."""
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            draw = torch.randn(layer.weight.shape, generator=gen, device=gen.device)
            layer.weight.copy_(draw * math.sqrt(2 / layer.weight.shape[1]))
            layer.gain.fill_(1.0)
            layer.bias.zero_()
            layer.running_mean.zero_()
            layer.running_var.fill_(1.0)
        draw = torch.randn(self.out.shape, generator=gen, device=gen.device)
        self.out.copy_(draw / math.sqrt(self.out.shape[1]))
        self.out_bias.zero_()

    def forward(self, z: Tensor) -> Tensor:
        """Codes (b, d) -> scores before the softmax (R, b, k)."""
        x = self.features(((z - self.mean) / self.std).reshape(-1, *self.code_shape))
        return x @ self.out + self.out_bias

    def features(self, z: Tensor) -> Tensor:
        """Standardised codes (b, *code_shape) -> hidden features (R, b, f)."""
        raise NotImplementedError

    @torch.no_grad()
    def take(self, other: Heads, start: int) -> None:
        """Become start number ``start`` of ``other``, with all starts of this object."""
        single = dict(other.named_parameters()) | dict(other.named_buffers())
        for name, target in (dict(self.named_parameters()) | dict(self.named_buffers())).items():
            source = single[name]
            target.copy_(source if name in ("mean", "std") else source[start : start + 1])

    def config(self) -> dict[str, Any]:
        """JSON-able keywords with which :func:`build_heads` builds the same architecture."""
        return {
            "name": self.name,
            "n_starts": self.n_starts,
            "code_shape": list(self.code_shape),
            "n_clusters": self.n_clusters,
            "width": self.width,
        }


class ConvHeads(Heads):
    """The paper's classifier (Sec. 5.1): up to three 2 x 2 convolutions, then one that covers what remains of the map.

    On the 4 x 4 maps of the paper's encoders the map shrinks 4 > 3 > 2 > 1 and the last convolution is 1 x 1. Batch
    normalisation and the width are ours: the paper does not give them.
    """

    name = "conv"

    def __init__(self, n_starts: int, code_shape: tuple[int, ...], n_clusters: int, width: int = 64):
        super().__init__(n_starts, code_shape, n_clusters, width)
        channels, h, w = self.code_shape
        self.n_convs = min(3, h - 1, w - 1)
        for i in range(self.n_convs):
            self.layers.append(_Layer(n_starts, 4 * (channels if i == 0 else width), width))
        area = (h - self.n_convs) * (w - self.n_convs)
        self.out = nn.Parameter(torch.zeros(n_starts, area * (width if self.n_convs else channels), n_clusters))

    def features(self, z: Tensor) -> Tensor:
        x = z.permute(0, 2, 3, 1)[None]  # (1, b, h, w, c)
        for layer in self.layers:
            b, h, w = x.shape[1], x.shape[2] - 1, x.shape[3] - 1
            patches = torch.stack([x[:, :, i : i + h, j : j + w] for i in (0, 1) for j in (0, 1)], dim=4)
            x = layer(patches.reshape(len(x), b * h * w, -1)).view(self.n_starts, b, h, w, -1)
        return x.flatten(2)


class MLPHeads(Heads):
    """Two hidden layers with batch normalisation, for codes without a spatial layout."""

    name = "mlp"

    def __init__(self, n_starts: int, code_shape: tuple[int, ...], n_clusters: int, width: int = 256):
        super().__init__(n_starts, code_shape, n_clusters, width)
        n_codes = math.prod(self.code_shape)
        self.layers.extend([_Layer(n_starts, n_codes, width), _Layer(n_starts, width, width)])
        self.out = nn.Parameter(torch.zeros(n_starts, width, n_clusters))

    def features(self, z: Tensor) -> Tensor:
        x = z.flatten(1)[None]  # (1, b, d)
        for layer in self.layers:
            x = layer(x)
        return x


HEADS: dict[str, type[Heads]] = {cls.name: cls for cls in (ConvHeads, MLPHeads)}
WIDTHS = {"conv": 64, "mlp": 256}


def build_heads(name: str, n_starts: int, code_shape, n_clusters: int, width: int | None = None) -> Heads:
    """Heads by name: "conv" (codes with a spatial layout), "mlp", or "auto" (by the layout).

    Raises
    ------
    InvalidInputError
        Unknown name, or "conv" for flat codes.
    """
    code_shape = tuple(code_shape)
    if name == "auto":
        name = "conv" if len(code_shape) == 3 else "mlp"
    if name not in HEADS:
        raise InvalidInputError(f"head is {name!r}; choose one of {', '.join(HEADS)} or 'auto'.")
    if name == "conv" and len(code_shape) != 3:
        raise InvalidInputError("head 'conv' needs codes with a spatial layout; choose 'mlp' for vector codes.")
    return HEADS[name](n_starts, code_shape, n_clusters, WIDTHS[name] if width is None else width)


def live_clusters(log_p: Tensor) -> int:
    """Number of clusters of (n, k) log-probabilities that hold at least a hundredth of an equal share."""
    return live_labels(log_p.argmax(dim=1), log_p.shape[1])


def live_labels(labels: Tensor, k: int) -> int:
    """The same from labels (n,)."""
    return int((torch.bincount(labels, minlength=k) >= max(1.0, LIVE * len(labels) / k)).sum())
