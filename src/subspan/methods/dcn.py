"""Deep clustering network (DCN; Yang, Fu, Sidiropoulos, Hong: Towards k-means-friendly spaces, ICML 2017).

    min over network, M, s of  sum_i ||x_i - g(f(x_i))||^2 + lambda / 2 ||f(x_i) - m_{s_i}||^2

f is the encoder, g the decoder, M = (m_1 .. m_k) are the centres, s_i is the cluster of sample i. Alternating updates:

- network       a gradient step on a batch, centres and clusters fixed
- clusters      ``s_i = argmin_j ||f(x_i) - m_j||``
- centres       ``m_j <- m_j - (m_j - f(x_i)) / c_j`` for s_i = j, where c_j counts the samples that cluster j received
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subspan._parameters import check_number
from subspan._validation import Samples
from subspan.centroids import nearest
from subspan.encoders import Encoder
from subspan.heads import live_labels
from subspan.methods._autoencoded import Centers, StackedClusterer
from subspan.pretraining import encode
from subspan.training import Phase, Record, settled

FIRST_COUNT = 100.0  # c_j before the first sample: a first batch does not throw the centres of k-means away


class CountedCenters(Centers):
    """Centres that move by counts, not by gradient: ``counts`` (k,) are the c_j."""

    counts: Tensor

    def __init__(self, k: int, d: int) -> None:
        super().__init__(k, d, learned=False)
        self.register_buffer("counts", torch.full((k,), FIRST_COUNT, dtype=torch.float64))

    @torch.no_grad()
    def receive(self, Z: Tensor) -> None:
        """Assign codes (b, d) to the nearest centres and move these, as if one code came after the other."""
        moved, counts = running_means(self.weight, self.counts, Z, nearest(Z, self.weight))
        self.weight.copy_(moved)
        self.counts.copy_(counts)


def running_means(centers: Tensor, counts: Tensor, Z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """All centre updates of a batch at once: with steps 1 / c_j a centre is the mean of what it received.

    Parameters
    ----------
    centers : Tensor of shape (k, d)
    counts : Tensor of shape (k,)
    Z : Tensor of shape (b, d)
    labels : Tensor of shape (b,)

    Returns
    -------
    centers : Tensor of shape (k, d)
    counts : Tensor of shape (k,)
    """
    one_hot = torch.nn.functional.one_hot(labels, len(centers)).to(counts.dtype)
    received = counts + one_hot.sum(dim=0)
    total = counts[:, None] * centers + one_hot.T @ Z.to(counts.dtype)
    return (total / received[:, None]).to(centers.dtype), received


class DCNPhase(Phase):
    """Alternating updates, batch by batch."""

    def __init__(
        self,
        samples: Samples,
        encoder: Encoder,
        centers: CountedCenters,
        *,
        lam: float,
        n_init: int,
        tolerance: float,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        device: torch.device,
    ):
        super().__init__("clustering", epochs, batch_size)
        self.samples, self.encoder, self.centers = samples, encoder, centers
        self.lam, self.n_init, self.tolerance = lam, n_init, tolerance
        self.learning_rate, self.device = learning_rate, device

    def start(self) -> None:
        self.labels = nearest(encode(self.samples, self.encoder, self.device), self.centers.weight)

    def reset(self, gen: torch.Generator, restart: int) -> None:
        self.centers.place(encode(self.samples, self.encoder, self.device), self.n_init, gen)
        self.start()

    def parameter_groups(self) -> list[dict]:
        return [{"params": list(self.encoder.parameters()), "lr": self.learning_rate}]

    def losses(self, batch: Tensor, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        x = self.samples.batch(batch).to(self.device)
        z, xhat = self.encoder(x)
        m = self.centers.weight[self.labels[batch.to(self.device)]]
        yield {
            "reconstruction": (x - xhat).square().sum() / len(x),
            "k_means": self.lam / 2 * (z - m).square().sum() / len(x),
        }
        with torch.no_grad():  # the network has moved: now the clusters and the centres
            self.centers.receive(self.encoder.encode(x))

    def monitor(self) -> Record:
        before = self.labels
        self.start()
        changed = float((self.labels != before).float().mean())
        return {"changed": changed, "live_clusters": live_labels(self.labels, len(self.centers.weight))}

    def stop(self, records: list[Record]) -> str | None:
        return settled(records[-1], self.tolerance)


@dataclass(eq=False, repr=False, kw_only=True)
class DCN(StackedClusterer):
    """Deep clustering network: an auto-encoder with a k-means term.

    Parameters that are not listed and the attributes are those of
    :class:`~subspan.methods._autoencoded.AutoencoderClusterer`.

    Parameters
    ----------
    n_clusters : int
        Number of clusters, k.
    lam : float
        lambda, weight of the k-means term; 0 leaves the auto-encoder alone.
    encoder : {"mlp", "conv", "residual", "preact-residual"}
        "mlp" is the paper's p-500-500-2000-10. An image encoder has no layer-wise training.
    encoder_options : dict, optional
        Sizes: "latent_dim" (10) and "hidden" ([500, 500, 2000]) of "mlp".
    corruption : float
        Share of dropout in layer-wise training.
    tolerance : float
        Stop when a smaller share of the labels changed in an epoch; 0, the paper's way, runs all epochs.
    n_init : int
        Starts of the k-means that places the centres.
    epochs : dict, optional
        Overrides of "layers" (250, each layer), "autoencoder" (250) and "clustering" (50).
    learning_rates : dict, optional
        Overrides of "layers" (1e-3), "autoencoder" (1e-3) and "clustering" (1e-4).

    Notes
    -----
    Deviations from the paper and its released code for raw MNIST, whose epochs, batches, counts and weights these are:

    1. *Adam* in place of SGD with momentum: it needs no rate per data set. Decoder weights are not tied.
    2. *Clusters* s_i are renewed for all samples at the end of an epoch, not batch by batch; samples are shuffled.
    3. *Centres* follow the counts alone; the released code also runs k-means anew every ten epochs, and for the labels.
    """

    lam: float = 2.0
    corruption: float = 0.0
    tolerance: float = 0.0

    _epochs: ClassVar[dict[str, int]] = {"layers": 250, "autoencoder": 250, "clustering": 50}
    _rates: ClassVar[dict[str, float]] = StackedClusterer._rates | {"clustering": 1e-4}

    def _make_centers(self, d: int) -> Centers:
        return CountedCenters(self.n_clusters, d)

    def _clustering(self, samples: Samples, encoder: Encoder, centers: Centers) -> list[Phase]:
        assert isinstance(centers, CountedCenters)
        phase = DCNPhase(
            samples,
            encoder,
            centers,
            lam=self.lam,
            n_init=self.n_init,
            tolerance=self.tolerance,
            epochs=self._epochs_of("clustering"),
            batch_size=self.batch_size,
            learning_rate=self._rate_of("clustering"),
            device=self._device,
        )
        return [phase]

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        check_number("lam", self.lam, 0.0)
        check_number("tolerance", self.tolerance, 0.0, 1.0)
