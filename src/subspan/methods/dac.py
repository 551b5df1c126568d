"""Deep adaptive image clustering (DAC; Chang, Wang, Meng, Xiang, Pan: Deep Adaptive Image Clustering, ICCV 2017).

Clustering as binary classification of pairs, whose labels are made by the network that learns them:

- label features     ``l_i = softmax(f(x_i)) / ||softmax(f(x_i))||_2``, so that ``||l_i|| = 1`` and ``l_i >= 0``
- similarity         ``g_ij = l_i . l_j`` in [0, 1]
- labels of pairs    ``r_ij = 1`` if ``g_ij > u(lambda)``, ``0`` if ``g_ij <= l(lambda)``, none in between
- weights            ``v_ij = 1`` for pairs that have a label, else ``0``
- objective          ``min_w,lambda sum_ij v_ij L(r_ij, g_ij) + u(lambda) - l(lambda)``,
                     ``L(r, g) = -r log g - (1 - r) log(1 - g)``
- thresholds         ``u = 0.95 - lambda``, ``l = 0.455 + 0.1 lambda``; after every epoch
                     ``lambda <- lambda - eta d(u - l)/d lambda = lambda + 1.1 eta``, from 0 until ``l > u``
- clusters           ``argmax_h l_ih``; at the optimum label features are one-hot (Theorem 1)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, normalize, relu
from torch.nn.utils import skip_init

from subspan._parameters import check_integer, check_number
from subspan._validation import Samples
from subspan.augment import augment
from subspan.errors import InvalidInputError
from subspan.methods._networks import NetworkClusterer, NetworkPhase
from subspan.training import Phase, Record

VALID_SIDE = 22  # from this side on, six 3 x 3 convolutions and two poolings leave a map without padding
RMS = (0.0, 0.9)  # Adam without momentum is RMSProp, with its first steps corrected for bias


@dataclass(eq=False, repr=False, kw_only=True)
class DAC(NetworkClusterer):
    """Deep adaptive image clustering: pairs that the network is sure of teach it the others.

    Parameters that are not listed and the attributes are those of :class:`~subspan.methods._networks.NetworkClusterer`;
    ``learning_rates`` has the key "network" (1e-3).

    Parameters
    ----------
    epochs : int
        At most; training ends when the thresholds meet, after 46 epochs at the default ``eta``.
    eta : float
        Step of ``lambda``. ``0.45 / (1.1 E)`` or a little more makes the thresholds meet in E epochs.
    block_size : int
        Samples whose pairs are labelled at once.
    passes : int
        How often a labelled block is learnt, in batches of ``batch_size``.
    augmentation : bool
        Learn pairs of randomly changed images (vectors are never changed).
    """

    epochs: int = 100
    eta: float = 0.009
    block_size: int = 1000
    passes: int = 5
    augmentation: bool = True

    _rates: ClassVar[dict[str, float]] = {"network": 1e-3}

    def predict_proba(self, X) -> np.ndarray:
        """Softmax scores of the samples of X, float32 of shape (n, k)."""
        return self._map(X, lambda x: self._read(self.networks_, x)[1].exp())

    def _build(self, shape: tuple[int, ...]) -> dict[str, nn.Module]:
        return {"network": LabelNetwork(shape, self.n_clusters, self.width)}

    def _draw(self, network: nn.Module, gen: torch.Generator) -> None:
        assert isinstance(network, LabelNetwork)
        network.draw(gen)

    def _phase(self, samples: Samples, networks: dict[str, nn.Module]) -> Phase:
        return PairPhase(self, samples, networks)

    def _read(self, networks: dict[str, nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
        scores = networks["network"](x)
        return label_features(scores), scores.log_softmax(dim=1)

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        check_number("eta", self.eta, 1e-12)
        check_integer("block_size", self.block_size, self.batch_size)
        check_integer("passes", self.passes, 1)
        if not isinstance(self.augmentation, bool):
            raise InvalidInputError(f"augmentation is {self.augmentation!r}; give True or False.")


def label_features(scores: Tensor) -> Tensor:
    """Scores (b, k) -> label features (b, k): the softmax, of unit l2 norm (the constraint layer)."""
    return normalize((scores - scores.amax(dim=1, keepdim=True)).exp(), dim=1)


def thresholds(lam: float) -> tuple[float, float]:
    """``u(lambda)`` and ``l(lambda)``."""
    return 0.95 - lam, 0.455 + 0.1 * lam


def lambda_at(epoch: int, eta: float) -> float:
    """``lambda`` after ``epoch`` steps of gradient descent on ``u - l``, whose derivative is -1.1."""
    return 1.1 * float(eta) * epoch


def label_pairs(G: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Labels ``R`` and weights ``V`` (b, b), booleans, of the pairs with similarities ``G`` (b, b)."""
    upper, lower = thresholds(lam)
    R = upper < G
    return R, R | (lower >= G)


def pair_loss(G: Tensor, R: Tensor, V: Tensor) -> Tensor:
    """``sum_ij v_ij L(r_ij, g_ij)`` over the number of all pairs."""
    G = G.clamp(1e-6, 1 - 1e-6)
    return -(torch.where(R, G.log(), (1 - G).log()) * V).sum() / G.numel()


class PairPhase(NetworkPhase):
    """Label the pairs of a block, then learn them on two changed versions of every image."""

    def __init__(self, model: DAC, samples: Samples, networks: dict[str, nn.Module]):
        super().__init__(
            "pairs",
            samples,
            networks,
            "network",
            lambda x: model._read(networks, x),
            device=model._device,
            epochs=model.epochs,
            batch_size=model.batch_size,
        )
        self.model, self.network = model, networks["network"]
        self.augmented = bool(model.augmentation) and samples.kind == "image"
        self.counts = torch.zeros(3, dtype=torch.float64)  # positive, negative and all pairs of an epoch

    def parameter_groups(self) -> list[dict]:
        return [{"params": list(self.network.parameters()), "lr": self.model._rate("network"), "betas": RMS}]

    def batches(self, n_samples: int, gen: torch.Generator) -> Sequence[Any]:
        self.counts.zero_()
        count = max(1, round(n_samples / self.model.block_size))
        return torch.randperm(n_samples, generator=gen).tensor_split(count)

    def losses(self, batch: Tensor, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        x = self.samples.batch(batch).to(self.device)
        with torch.no_grad():
            L = label_features(self.network(x))
        R, V = label_pairs(L @ L.T, lambda_at(self.epoch, self.model.eta))
        self.counts += torch.tensor([int(R.sum()), int((V & ~R).sum()), R.numel()])
        count = max(1, round(len(batch) / self.batch_size))
        for _ in range(self.model.passes):
            for rows in torch.randperm(len(batch), generator=gen).tensor_split(count):
                rows = rows.to(self.device)
                views = [self.change(x[rows], gen) for _ in range(2)]
                first, second = label_features(self.network(torch.cat(views))).chunk(2)
                yield {"pairs": pair_loss(first @ second.T, R[rows][:, rows], V[rows][:, rows])}

    def change(self, x: Tensor, gen: torch.Generator) -> Tensor:
        return augment(x, gen) if self.augmented else x

    def monitor(self) -> Record:
        upper, lower = thresholds(lambda_at(self.epoch, self.model.eta))
        positive, negative, pairs = self.counts.tolist()
        shares = {"positive_share": positive / pairs, "negative_share": negative / pairs}
        return {"u": upper, "l": lower} | shares | super().monitor()

    def stop(self, records: list[Record]) -> str | None:
        upper, lower = thresholds(lambda_at(self.epoch + 1, self.model.eta))
        return "thresholds met: every pair has a label" if lower > upper else None


class LabelNetwork(nn.Module):
    """Scores (b, k) of samples: the all-convolutional network of the MNIST experiment, sized to any image.

    Three 3 x 3 convolutions, max-pooling, three more with twice the channels, max-pooling, a 1 x 1 convolution to k
    maps and their mean, then two layers that begin as the identity; batch normalisation everywhere and ReLU, also on
    the scores. Images with a side below 22 are padded in every convolution. Vectors: two hidden layers of
    ``4 width`` instead of the convolutions.

    Raises
    ------
    InvalidInputError
        Images below 4 x 4 pixels.
    """

    def __init__(self, shape: Sequence[int], n_clusters: int, width: int):
        super().__init__()
        self.image = len(shape) == 3
        k = n_clusters
        if self.image:
            side = min(shape[1:])
            if side < 4:
                raise InvalidInputError(
                    f"X has images of {shape[1]} x {shape[2]} pixels, and DAC needs at least 4 x 4: "
                    "enlarge the images, or reshape X to vectors (n, p)."
                )
            padding = 0 if side >= VALID_SIDE else 1
            widths = [shape[0], *[width] * 3, *[2 * width] * 3]
            sizes = [(a, b, 3, 1, padding) for a, b in pairwise(widths)]
            self.layers = nn.ModuleList([skip_init(nn.Conv2d, *size) for size in [*sizes, (2 * width, k, 1, 1, 0)]])
            self.norms = nn.ModuleList([nn.BatchNorm2d(n) for n in [*widths[1:], k]])
            self.pooled = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(2 * width), nn.BatchNorm2d(k)])
        else:
            widths = [shape[0], 4 * width, 4 * width, k]
            self.layers = nn.ModuleList([skip_init(nn.Linear, a, b) for a, b in pairwise(widths)])
            self.norms = nn.ModuleList([nn.BatchNorm1d(n) for n in widths[1:]])
        self.last = nn.ModuleList([skip_init(nn.Linear, k, k) for _ in range(2)])
        self.last_norms = nn.ModuleList([nn.BatchNorm1d(k) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        if self.image:
            x = x.contiguous(memory_format=torch.channels_last)
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = relu(norm(layer(x)))
            if self.image and i in (2, 5):
                x = self.pooled[i // 3](max_pool2d(x, 2))
        if self.image:
            x = self.pooled[2](x.mean(dim=(2, 3), keepdim=True)).flatten(1)
        for layer, norm in zip(self.last, self.last_norms, strict=True):
            x = relu(norm(layer(x)))
        return x

    @torch.no_grad()
    def draw(self, gen: torch.Generator) -> None:
        """Weights from N(0, 2 / fan in) (He et al., 2015), biases zero; the last two layers are the identity."""
        for layer in (*self.layers, *self.last):
            assert isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None  # noqa: PT018
            draw = torch.randn(layer.weight.shape, generator=gen)
            layer.weight.copy_(draw * math.sqrt(2 / layer.weight[0].numel()))
            layer.bias.zero_()
        for layer in self.last:
            assert isinstance(layer, nn.Linear)
            nn.init.eye_(layer.weight)
