"""What methods that train networks in one phase and then read labels from them share (layer 4).

A method says which networks it has (``_build``), how they are trained (``_phase``) and how a trained one reads a sample
(``_read``); training, checkpoints, labels, prediction, saving and loading are here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from subspan._parameters import check_integer, check_overrides
from subspan._random import generator
from subspan._resources import LIBRARIES
from subspan._validation import Samples, iter_slices
from subspan.base import Clusterer
from subspan.centroids import kmeans_centers, nearest
from subspan.checkpoint import load_module_tensors, module_tensors
from subspan.errors import DivergenceError
from subspan.heads import live_clusters
from subspan.layers import refresh_statistics
from subspan.progress import Progress
from subspan.training import Phase, Record, train

READ_BATCH = 2000
STEP_COPIES = 6  # of the activations of a batch: two networks at most, forwards and backwards, and what they keep
MIN_BATCH = 4  # batches are of nearly one size: none of them has a single sample, which batch normalisation refuses
Read = Callable[[Tensor], tuple[Tensor, Tensor]]  # scaled samples (b, ...) -> codes (b, d), log-probabilities (b, k)


class NetworkPhase(Phase):
    """Abstract phase that reports, after every epoch, what the networks say about all samples.

    Parameters
    ----------
    name : str
    samples : Samples
    networks : dict of str to nn.Module
    reader : str
        Name of the network that reads samples.
    read : Read
    device : torch.device
    epochs, batch_size, min_steps : int
    """

    def __init__(
        self,
        name: str,
        samples: Samples,
        networks: dict[str, nn.Module],
        reader: str,
        read: Read,
        *,
        device: torch.device,
        epochs: int,
        batch_size: int,
        min_steps: int = 1,
    ):
        super().__init__(name, epochs, batch_size, min_steps)
        self.samples, self.networks, self.reader, self.read, self.device = samples, networks, reader, read, device
        self.labels: Tensor | None = None

    def start(self) -> None:
        self.labels = self.score().argmax(dim=1)

    def score(self) -> Tensor:
        """Log-probabilities (n, k) of all samples, on the CPU."""
        network = self.networks[self.reader]
        refresh_statistics(network, spread_batches(self.samples, self.device))
        log_p = read_all(self.samples, self.read, self.device)[1]
        network.train()
        return log_p

    def monitor(self) -> Record:
        log_p = self.score()
        labels, before = log_p.argmax(dim=1), self.labels
        self.labels = labels
        changed = 1.0 if before is None else float((labels != before).float().mean())
        return {"live_clusters": live_clusters(log_p), "changed": changed}


# eq and repr stay scikit-learn's; the generated __init__ only assigns, as scikit-learn asks
@dataclass(eq=False, repr=False, kw_only=True)
class NetworkClusterer(Clusterer):
    """Abstract base of methods with one phase of training.

    Parameters
    ----------
    n_clusters : int
        Number of clusters, k.
    width : int
        Channels of the first convolution; all others follow.
    epochs : int
    batch_size : int
        Of one optimiser step, at least 4.
    learning_rates : dict, optional
        Overrides by network.
    channel_axis : {"auto", 1, -1}
        Where images of shape (n, ., ., .) have their channels.
    random_state : int, RandomState or None
    device : str or torch.device
        "auto" takes CUDA when present.
    verbose : int
        1 shows a progress bar.
    checkpoint_dir : path, optional
        Save the state after every epoch.
    resume : bool
        Continue from the state in ``checkpoint_dir``, if there is one, to the result of an unbroken run.

    Attributes
    ----------
    networks_ : dict of str to nn.Module
    centres_ : Tensor of shape (k, d)
        Of the codes, where labels come from k-means; else empty.
    """

    n_clusters: int = field(default=10, kw_only=False)
    width: int = 64
    epochs: int = 50
    batch_size: int = 128
    learning_rates: dict[str, float] | None = None
    channel_axis: Any = "auto"
    random_state: Any = None
    device: str | torch.device = "auto"
    verbose: int = 0
    checkpoint_dir: Any = None
    resume: bool = False

    _kmeans: ClassVar[bool] = False  # a method with the choice has it as a property

    def _build(self, shape: tuple[int, ...]) -> dict[str, nn.Module]:
        """The networks for samples of this shape, weights undrawn."""
        raise NotImplementedError

    def _draw(self, network: nn.Module, gen: torch.Generator) -> None:
        """Draw all weights of a network."""
        raise NotImplementedError

    def _phase(self, samples: Samples, networks: dict[str, nn.Module]) -> Phase:
        raise NotImplementedError

    def _read(self, networks: dict[str, nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (b, d) and log-probabilities of the clusters (b, k) of scaled samples x."""
        raise NotImplementedError

    def _fit(self, samples: Samples, seed: int) -> None:
        self._fitted_with = self.get_params(deep=False)
        networks = self._build(samples.shape)
        gen = generator(seed, 1)
        for network in networks.values():
            self._draw(network, gen)
            network.to(self._device)
        outcome = train(
            [self._phase(samples, networks)],
            networks,
            n_samples=samples.n,
            seed=seed,
            checkpoint=self._checkpoint(samples, seed),
            callbacks=[Progress()] if self.verbose else [],
        )
        self.history_, self.stop_reasons_ = outcome.history, outcome.stop_reasons
        self.networks_ = {name: network.eval() for name, network in networks.items()}
        codes, log_p = read_all(samples, lambda x: self._read(networks, x), self._device)
        if not bool(log_p.isfinite().all() and codes.isfinite().all()):
            raise DivergenceError("what the trained network says is not finite: lower the learning rates")
        centres = torch.empty(0)
        if self._kmeans:
            centres = kmeans_centers(codes.clone(), self.n_clusters, n_init=10, gen=generator(seed, 2))[0]
        self.centres_ = centres.to(self._device)
        self.labels_ = assign(codes, log_p, centres).numpy()

    def _labels(self, batch: Tensor) -> Tensor:
        return assign(*self._read(self.networks_, batch), self.centres_)

    def _codes(self, batch: Tensor) -> Tensor:
        return self._read(self.networks_, batch)[0]

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return module_tensors(self.networks_) | {"centres": self.centres_}, {"fitted_with": self._fitted_with}

    def _restore(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        self.centres_ = tensors["centres"].to(self._device)
        # parameters may have been set after the fit; older models do not say what it had
        self._fitted_with = extra.get("fitted_with", self.get_params(deep=False))
        self.networks_ = type(self)(**self._fitted_with)._build(self.sample_shape_)
        load_module_tensors(self.networks_, tensors)
        for network in self.networks_.values():
            network.to(self._device).eval()

    def estimate_resources(self, X) -> dict[str, Any]:
        """Expected peak memory of ``fit`` on X in bytes, by part; nothing is trained."""
        samples = self._inspect(X)
        networks = {name: network.to("meta") for name, network in self._build(samples.shape).items()}  # no numbers
        codes, log_p, entries = self._trace(networks, torch.empty(1, *samples.shape, device="meta"))
        weights = sum(parameter.numel() for network in networks.values() for parameter in network.parameters())
        rows = min(max(READ_BATCH, STEP_COPIES * self.batch_size), samples.n)
        parts = {
            "libraries": LIBRARIES,
            "networks": 4 * 4 * weights,  # weights, gradients and two moments
            "activations": 4 * rows * entries,
            "codes": 2 * 4 * samples.n * (codes.numel() + log_p.numel()),
        }
        return {"memory_bytes": sum(parts.values()), "parts": parts, "n_codes": codes.numel()}

    @torch.no_grad()
    def _trace(self, networks: dict[str, nn.Module], x: Tensor) -> tuple[Tensor, Tensor, int]:
        """What :meth:`_read` gives for one sample x, and the number of entries of all layers on the way."""
        sizes: list[int] = []

        def count(module: nn.Module, inputs: Any, output: Any) -> None:
            sizes.append(output.numel())

        for network in networks.values():
            for layer in network.eval().modules():
                if not list(layer.children()):
                    layer.register_forward_hook(count)
        codes, log_p = self._read(networks, x)
        return codes, log_p, x.numel() + sum(sizes)

    def _rate(self, network: str) -> float:
        return self._all_rates()[network]

    def _validate_parameters(self) -> None:
        for name in ("width", "epochs"):
            check_integer(name, getattr(self, name), 1)
        check_integer("batch_size", self.batch_size, MIN_BATCH)
        check_overrides("learning_rates", self.learning_rates, self._rates)


def spread_batches(samples: Samples, device: torch.device) -> Iterator[Tensor]:
    """All samples in batches taken from everywhere in the data, so that sorted data make no one-sided batches."""
    count = max(1, samples.n // READ_BATCH)
    for start in range(count):
        yield samples.batch(torch.arange(start, samples.n, count)).to(device)


@torch.no_grad()
def read_all(samples: Samples, read: Read, device: torch.device) -> tuple[Tensor, Tensor]:
    """Codes (n, d) and log-probabilities (n, k) of all samples, on the CPU."""
    parts = [read(samples.batch(rows).to(device)) for rows in iter_slices(samples.n, READ_BATCH)]
    return torch.cat([codes.cpu() for codes, _ in parts]), torch.cat([log_p.cpu() for _, log_p in parts])


def assign(codes: Tensor, log_p: Tensor, centres: Tensor) -> Tensor:
    """Labels (b,): the nearest of the centres (k, d) where there are any, else the likeliest cluster."""
    if not len(centres):
        return log_p.argmax(dim=1)
    return nearest(codes, centres)
