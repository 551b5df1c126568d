"""Information maximising GAN (InfoGAN; Chen, Duan, Houthooft, Schulman, Sutskever, Abbeel: InfoGAN: interpretable
representation learning by information maximizing generative adversarial nets, NeurIPS 2016).

- the game of G and D        ``V(D, G) = E log D(x) + E log(1 - D(G(z, c)))``                     (Eq. 1)
- information in the codes   ``I(c; G(z, c))``                                                    (Eqs. 2, 3)
- its lower bound            ``L_I(G, Q) = E log Q(c | G(z, c)) + H(c) <= I``                     (Eqs. 4, 5)
- together                   ``min_G,Q max_D V(D, G) - lambda L_I(G, Q)``                         (Eq. 6)

c is one categorical code of k values and a few continuous codes in U(-1, 1); Q shares all layers with D but the last.
The cluster of a sample is the likeliest value of the categorical code, ``argmax Q(c | x)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, leaky_relu, softplus
from torch.nn.utils import skip_init

from subspan._parameters import check_choice, check_integer, check_number
from subspan._validation import Samples
from subspan.gans import Generator, Trunk, draw_clusters, draw_normal
from subspan.methods._networks import NetworkClusterer, NetworkPhase
from subspan.training import Phase, Step

SLOPE = 0.1  # of the leaky ReLUs
BETAS = (0.5, 0.999)
MIN_STEPS = 100  # batches per epoch, at least


@dataclass(eq=False, repr=False, kw_only=True)
class InfoGAN(NetworkClusterer):
    """A GAN whose generator is told a cluster number that a reader must be able to tell from the image.

    Parameters that are not listed and the attributes are those of :class:`~subspan.methods._networks.NetworkClusterer`;
    ``learning_rates`` has the keys "discriminator" (2e-4, also of Q) and "generator" (1e-3).

    Parameters
    ----------
    noise_dim : int
        Length of z.
    n_continuous : int
        Number of continuous codes.
    hidden : int, optional
        Width of the hidden layer; 1024 for images, 256 for vectors.
    code_dim : int
        Hidden units of Q, which are the codes of ``transform``.
    info_weight : float
        ``lambda`` of Eq. 6.
    labels : {"posterior", "kmeans"}
        ``argmax Q(c | x)``, or k-means on the codes.
    """

    noise_dim: int = 62
    n_continuous: int = 2
    hidden: int | None = None
    code_dim: int = 128
    info_weight: float = 1.0
    labels: Literal["posterior", "kmeans"] = "posterior"

    _rates: ClassVar[dict[str, float]] = {"discriminator": 2e-4, "generator": 1e-3}

    @property
    def _kmeans(self) -> bool:  # type: ignore[override]
        return self.labels == "kmeans"

    def _build(self, shape: tuple[int, ...]) -> dict[str, nn.Module]:
        latent = self.noise_dim + self.n_clusters + self.n_continuous
        trunk = Trunk(shape, self.width, self.hidden, slope=SLOPE, norm=True)
        return {
            "discriminator": Discriminator(trunk, self.code_dim, self.n_clusters, self.n_continuous),
            "generator": Generator(shape, latent, self.width, self.hidden),
        }

    def _draw(self, network: nn.Module, gen: torch.Generator) -> None:
        draw_normal(network, gen)

    def _phase(self, samples: Samples, networks: dict[str, nn.Module]) -> Phase:
        return Game(self, samples, networks)

    def _read(self, networks: dict[str, nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
        _, codes, scores, _ = networks["discriminator"](x)
        return codes, scores.log_softmax(dim=1)

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        for name, low in (("noise_dim", 1), ("n_continuous", 0), ("code_dim", 1)):
            check_integer(name, getattr(self, name), low)
        if self.hidden is not None:
            check_integer("hidden", self.hidden, 1)
        check_number("info_weight", self.info_weight, 0.0)
        check_choice("labels", self.labels, ("posterior", "kmeans"))


class Discriminator(nn.Module):
    """D and Q on one trunk: sample -> logit of D (b,), codes (b, code_dim), scores (b, k), means (b, n_continuous)."""

    def __init__(self, trunk: Trunk, code_dim: int, n_clusters: int, n_continuous: int):
        super().__init__()
        self.n_clusters, self.trunk = n_clusters, trunk
        self.real = skip_init(nn.Linear, trunk.n_features, 1)
        self.code = skip_init(nn.Linear, trunk.n_features, code_dim)
        self.norm = nn.BatchNorm1d(code_dim)
        self.out = skip_init(nn.Linear, code_dim, n_clusters + n_continuous)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features = self.trunk(x)
        codes = leaky_relu(self.norm(self.code(features)), SLOPE)
        out = self.out(codes)
        return self.real(features)[:, 0], codes, out[:, : self.n_clusters], out[:, self.n_clusters :]


def draw_latent(
    n: int, n_clusters: int, noise_dim: int, n_continuous: int, gen: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Input of the generator (n, noise_dim + k + n_continuous), with its cluster numbers (n,) and continuous codes."""
    c, hot = draw_clusters(n, n_clusters, gen)
    uniform = 2 * torch.rand(n, noise_dim + n_continuous, generator=gen) - 1
    return torch.cat([uniform[:, :noise_dim], hot, uniform[:, noise_dim:]], dim=1), c, uniform[:, noise_dim:]


def information(scores: Tensor, c: Tensor) -> Tensor:
    """``L_I`` of the categorical code (Eq. 5): ``mean log Q(c | x) + log k``, from scores (b, k) and codes (b,)."""
    return math.log(scores.shape[1]) - cross_entropy(scores, c)


def continuous_information(means: Tensor, codes: Tensor) -> Tensor:
    """``L_I`` of the continuous codes (Eq. 5) with Q = N(mean, 1), summed over codes; ``H`` of U(-1, 1) is log 2."""
    log_q = -0.5 * (codes - means).square() - 0.5 * math.log(2 * math.pi)
    return (log_q + math.log(2)).mean(dim=0).sum()


class Game(NetworkPhase):
    """One step of D and Q, one of G, on every batch (Eq. 6). As in practice, G maximises ``log D(G)``."""

    def __init__(self, model: InfoGAN, samples: Samples, networks: dict[str, nn.Module]):
        super().__init__(
            "game",
            samples,
            networks,
            "discriminator",
            lambda x: model._read(networks, x),
            device=model._device,
            epochs=model.epochs,
            batch_size=model.batch_size,
            min_steps=MIN_STEPS,
        )
        self.model = model

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": list(network.parameters()), "lr": self.model._rate(name), "betas": BETAS, "player": name}
            for name, network in self.networks.items()
        ]

    def losses(self, batch: Tensor, gen: torch.Generator, progress: float) -> Iterator[Step]:
        model, discriminator = self.model, self.networks["discriminator"]
        x = self.samples.batch(batch).to(self.device)
        drawn = draw_latent(len(x), model.n_clusters, model.noise_dim, model.n_continuous, gen)
        z, c, continuous = (part.to(self.device) for part in drawn)
        fake = self.networks["generator"](z)
        real, (logit, *q) = discriminator(x)[0], discriminator(fake.detach())
        yield Step(
            "discriminator", {"D": softplus(-real).mean() + softplus(logit).mean()} | self.bound(q, c, continuous)
        )
        logit, *q = discriminator(fake)
        yield Step("generator", {"G": softplus(-logit).mean()} | self.bound(q, c, continuous))

    def bound(self, q: list[Tensor], c: Tensor, continuous: Tensor) -> dict[str, Tensor]:
        """``-lambda L_I`` of both kinds of codes."""
        _, scores, means = q
        weight = -self.model.info_weight
        terms = {"information": weight * information(scores, c)}
        if self.model.n_continuous:
            terms["continuous"] = weight * continuous_information(means, continuous)
        return terms
