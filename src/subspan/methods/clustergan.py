"""ClusterGAN (Mukherjee, Asnani, Lin, Kannan: ClusterGAN: latent space clustering in generative adversarial networks,
AAAI 2019).

- latent space   ``z = (z_n, z_c)``, ``z_n ~ N(0, sigma^2 I)``, ``z_c`` one of the k unit vectors, sigma = 0.10
- the game       ``min_G,E max_D E q(D(x)) + E q(1 - D(G(z))) + beta_n E ||z_n - E(G(z))_n||^2
                 + beta_c E H(z_c, E(G(z))_c)``; H is the cross-entropy with the softmax of the encoder
- q              that of the Wasserstein GAN with gradient penalty (Gulrajani et al., NeurIPS 2017):
                 the critic minimises ``E D(G(z)) - E D(x) + 10 E (||grad D|| - 1)^2``
- clusters       k-means on the recovered latent vectors ``E(x)``
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils import skip_init

from subspan._parameters import check_choice, check_integer, check_number
from subspan._validation import Samples
from subspan.gans import Generator, Trunk, draw_clusters, draw_normal, gradient_penalty
from subspan.methods._networks import NetworkClusterer, NetworkPhase
from subspan.training import Phase, Step

SLOPE = 0.2  # of the leaky ReLUs
BETAS = (0.5, 0.9)
PENALTY = 10.0
MIN_STEPS = 100  # batches per epoch, at least


@dataclass(eq=False, repr=False, kw_only=True)
class ClusterGAN(NetworkClusterer):
    """A GAN that draws from k separate places of its latent space, and an encoder back to it.

    Parameters that are not listed and the attributes are those of :class:`~subspan.methods._networks.NetworkClusterer`;
    ``learning_rates`` has the keys "critic", "generator" and "encoder" (all 1e-4).

    Parameters
    ----------
    noise_dim : int
        Length of ``z_n``.
    sigma : float
        Standard deviation of ``z_n``.
    hidden : int, optional
        Width of the hidden layer; 1024 for images, 256 for vectors.
    beta_n, beta_c : float
        Weights of recovering ``z_n`` and ``z_c``.
    critic_steps : int
        Steps of the critic, each on a batch of its own, for one of the generator and the encoder.
    labels : {"kmeans", "argmax"}
        k-means on the recovered latent vectors, or the largest entry of ``E(x)_c``.
    """

    epochs: int = 200
    batch_size: int = 64
    noise_dim: int = 30
    sigma: float = 0.1
    hidden: int | None = None
    beta_n: float = 10.0
    beta_c: float = 10.0
    critic_steps: int = 5
    labels: Literal["kmeans", "argmax"] = "kmeans"

    _rates: ClassVar[dict[str, float]] = {"critic": 1e-4, "generator": 1e-4, "encoder": 1e-4}

    @property
    def _kmeans(self) -> bool:  # type: ignore[override]
        return self.labels == "kmeans"

    def _build(self, shape: tuple[int, ...]) -> dict[str, nn.Module]:
        latent = self.noise_dim + self.n_clusters
        return {
            "critic": Mapping(Trunk(shape, self.width, self.hidden, slope=SLOPE, norm=False), 1),
            "generator": Generator(shape, latent, self.width, self.hidden),
            "encoder": Mapping(Trunk(shape, self.width, self.hidden, slope=SLOPE, norm=False), latent),
        }

    def _draw(self, network: nn.Module, gen: torch.Generator) -> None:
        draw_normal(network, gen)

    def _phase(self, samples: Samples, networks: dict[str, nn.Module]) -> Phase:
        return Game(self, samples, networks)

    def _read(self, networks: dict[str, nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
        noise, scores = networks["encoder"](x).tensor_split([self.noise_dim], dim=1)
        return torch.cat([noise, scores.softmax(dim=1)], dim=1), scores.log_softmax(dim=1)

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        for name in ("noise_dim", "critic_steps"):
            check_integer(name, getattr(self, name), 1)
        if self.hidden is not None:
            check_integer("hidden", self.hidden, 1)
        for name in ("sigma", "beta_n", "beta_c"):
            check_number(name, getattr(self, name), 0.0)
        check_choice("labels", self.labels, ("kmeans", "argmax"))


class Mapping(nn.Module):
    """Trunk and one linear layer: the critic (one output) and the encoder (noise, then scores of the clusters)."""

    def __init__(self, trunk: Trunk, outputs: int):
        super().__init__()
        self.trunk, self.out = trunk, skip_init(nn.Linear, trunk.n_features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.trunk(x))


def draw_latent(n: int, n_clusters: int, noise_dim: int, sigma: float, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latent vectors (n, noise_dim + k), ``z_n`` before ``z_c``, and their cluster numbers (n,)."""
    c, hot = draw_clusters(n, n_clusters, gen)
    return torch.cat([sigma * torch.randn(n, noise_dim, generator=gen), hot], dim=1), c


def recovery(found: Tensor, z: Tensor, c: Tensor, noise_dim: int) -> tuple[Tensor, Tensor]:
    """Mean squared error of ``z_n`` (per entry) and cross-entropy of ``z_c``, from ``E(G(z))`` (b, noise_dim + k)."""
    return mse_loss(found[:, :noise_dim], z[:, :noise_dim]), cross_entropy(found[:, noise_dim:], c)


class Game(NetworkPhase):
    """``critic_steps`` steps of the critic, then one of the generator and the encoder together."""

    def __init__(self, model: ClusterGAN, samples: Samples, networks: dict[str, nn.Module]):
        super().__init__(
            "game",
            samples,
            networks,
            "encoder",
            lambda x: model._read(networks, x),
            device=model._device,
            epochs=model.epochs,
            batch_size=model.batch_size,
            min_steps=MIN_STEPS,
        )
        self.model = model

    def parameter_groups(self) -> list[dict[str, Any]]:
        players = {"critic": "critic", "generator": "generator", "encoder": "generator"}
        return [
            {
                "params": list(network.parameters()),
                "lr": self.model._rate(name),
                "betas": BETAS,
                "player": players[name],
            }
            for name, network in self.networks.items()
        ]

    def batches(self, n_samples: int, gen: torch.Generator) -> Sequence[Any]:
        """Tuples of ``critic_steps`` batches; the last one may have fewer."""
        batches, m = super().batches(n_samples, gen), self.model.critic_steps
        return [batches[i : i + m] for i in range(0, len(batches), m)]

    def losses(self, batch: Sequence[Tensor], gen: torch.Generator, progress: float) -> Iterator[Step]:
        critic, generator, encoder = (self.networks[name] for name in ("critic", "generator", "encoder"))
        for rows in batch:
            x = self.samples.batch(rows).to(self.device)
            with torch.no_grad():
                fake = generator(self.latent(len(x), gen)[0])
            penalty = PENALTY * gradient_penalty(critic, x, fake, gen)
            yield Step("critic", {"D": critic(fake).mean() - critic(x).mean(), "penalty": penalty})
        z, c = self.latent(len(batch[0]), gen)
        fake = generator(z)
        noise, clusters = recovery(encoder(fake), z, c, self.model.noise_dim)
        terms = {
            "G": -critic(fake).mean(),
            "noise": self.model.beta_n * noise,
            "clusters": self.model.beta_c * clusters,
        }
        yield Step("generator", terms)

    def latent(self, n: int, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        z, c = draw_latent(n, self.model.n_clusters, self.model.noise_dim, self.model.sigma, gen)
        return z.to(self.device), c.to(self.device)
