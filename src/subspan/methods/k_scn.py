"""Scalable deep k-subspace clustering (k-SCN; Zhang, Ji, Harandi, Hartley, Reid: Scalable deep k-subspace clustering,
ACCV 2018), in row form.

k-subspaces       min sum_i ||z_i - z_i U_c U_c^T||^2  over labels c = s(i) and U_1 .. U_k with U_c^T U_c = I
Loss              L = 1/2 ||x - xhat||^2 + lambda / 2 ||z - z U_s U_s^T||^2,  mean over samples (``normalize=False``)
Ours              L = 1/2 ||x - xhat||^2 + lambda / 2 mean ||x||^2 ||v - v U_s U_s^T||^2,  v = z - mean z, unit length
Assignment        s(i) = argmin_c ||z_i - z_i U_c U_c^T||
Bases, k-SCN-S    the leading right singular vectors of the codes of each cluster, recomputed between epochs
Bases, k-SCN-G    a gradient step on the Grassmann manifold after every step of the network, with a retraction

The auto-encoder is pre-trained; subspaces start from a clustering of a sample of its codes; then assignment, bases
and network are updated in turn. Nothing of size n x n is built. The mathematics is in :mod:`subspan.k_subspaces`.

The literal loss falls for free when the encoder shrinks its codes and the decoder enlarges its weights (Haeffele, You,
Vidal 2021), and its balance depends on the range of pixels. Ours measures both terms as shares of what they explain;
codes are centred, else adding one vector to all of them, which every subspace can hold, lowers that share for free.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from subspan._parameters import check_choice, check_integer, check_number, check_overrides
from subspan._random import generator
from subspan._resources import LIBRARIES, available_bytes
from subspan._validation import Samples
from subspan.base import Clusterer
from subspan.checkpoint import load_module_tensors, module_tensors
from subspan.encoders import Encoder, build_encoder, make_encoder
from subspan.errors import InvalidInputError, ResourceError, SizingWarning
from subspan.heads import live_labels
from subspan.k_subspaces import (
    MAX_ITER,
    assign,
    grassmann_step,
    k_subspaces,
    random_bases,
    residuals,
    spectral_bases,
    svd_bases,
)
from subspan.pretraining import Reconstruction, encode
from subspan.progress import Progress
from subspan.training import Phase, Record, settled, train

PHASE = "subspaces"
GAMMA, KEEP = 30.0, 0.1  # self-expression of the sample that starts the subspaces: see docs/methods/k_scn.md
MIN_STEPS = 50  # per epoch


@dataclass(frozen=True)
class Start:
    """How subspaces begin: from spectral clustering of ``size`` codes, or from the best of ``restarts`` k-subspaces."""

    kind: str
    size: int
    restarts: int

    def run(self, codes: Tensor, k: int, r: int, gen: torch.Generator) -> tuple[Tensor, Tensor, list[float]]:
        """:func:`k_subspaces` of all codes (n, d) from there; the lowest residual wins, no label does."""
        sample = codes[torch.randperm(len(codes), generator=gen)[: self.size].to(codes.device)]
        if self.kind == "spectral":
            seed = int(torch.randint(2**31 - 1, (), generator=gen))
            best = spectral_bases(sample, k, r, gamma=GAMMA, keep=KEEP, seed=seed)
        else:
            runs = [k_subspaces(sample, random_bases(sample, k, r, gen)) for _ in range(self.restarts)]
            best = min(runs, key=lambda run: run[2][-1])[0]
        return k_subspaces(codes, best)


class Subspaces(nn.Module):
    """The bases and the mean of the codes, kept with the checkpoint; ``unit`` is the choice between the two losses."""

    bases: Tensor
    center: Tensor

    def __init__(self, k: int, d: int, r: int, unit: bool):
        super().__init__()
        self.unit = unit
        self.register_buffer("bases", torch.eye(d, r).repeat(k, 1, 1))
        self.register_buffer("center", torch.zeros(d))

    def points(self, z: Tensor) -> Tensor:
        """Codes (b, d) as subspaces see them: centred and of unit length, or as they are."""
        return normalize(z - self.center, dim=1) if self.unit else z


class SubspacePhase(Phase):
    """Network and subspaces in turn, on the loss above."""

    def __init__(
        self,
        samples: Samples,
        encoder: Encoder,
        subspaces: Subspaces,
        start: Start,
        *,
        update: str,
        weight: float,
        epochs: int,
        batch_size: int,
        rates: dict[str, float],
        tolerance: float,
        device: torch.device,
    ):
        super().__init__(PHASE, epochs, batch_size, MIN_STEPS)
        self.samples, self.encoder, self.subspaces, self.initial = samples, encoder, subspaces, start
        self.update, self.weight, self.rates = update, weight, rates
        self.tolerance, self.device = tolerance, device

    def start(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Codes of all samples, their mean, and the subspace of each."""
        codes = encode(self.samples, self.encoder, self.device)
        self.code_norm = float(codes.norm(dim=1).mean())
        self.subspaces.center.copy_(codes.mean(dim=0))
        self.codes = self.subspaces.points(codes)
        self.labels = assign(self.codes, self.subspaces.bases)[0]

    def reset(self, gen: torch.Generator, restart: int) -> None:
        k, _, r = self.subspaces.bases.shape
        self.subspaces.bases.copy_(self.initial.run(self.codes, k, r, gen)[0])
        self.labels = assign(self.codes, self.subspaces.bases)[0]

    def parameter_groups(self) -> list[dict]:
        return [{"params": list(self.encoder.parameters()), "lr": self.rates["encoder"]}]

    def losses(self, batch: Tensor, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        x = self.samples.batch(batch).to(self.device)
        z, xhat = self.encoder(x)
        points = self.subspaces.points(z)
        weight = self.weight * float(x.square().sum() / len(x)) if self.subspaces.unit else self.weight
        nearest = residuals(points, self.subspaces.bases).min(dim=1)
        yield {
            "reconstruction": (x - xhat).square().sum() / (2 * len(x)),
            "residual": weight / 2 * nearest.values.mean(),
        }
        if self.update == "grassmann":  # after the step of the network
            moved = grassmann_step(points.detach(), nearest.indices, self.subspaces.bases, self.rates["bases"])
            self.subspaces.bases.copy_(moved)

    def monitor(self) -> Record:
        before = self.labels
        self.refresh()
        if self.update == "svd":
            self.subspaces.bases.copy_(svd_bases(self.codes, self.labels, self.subspaces.bases))
        self.labels, values = assign(self.codes, self.subspaces.bases)
        return {
            "relative_residual": float(values.sum() / self.codes.square().sum().clamp_min(1e-30)),
            "mean_code_norm": self.code_norm,
            "changed": float((self.labels != before).double().mean()),
            "live_clusters": live_labels(self.labels, len(self.subspaces.bases)),
        }

    def stop(self, records: list[Record]) -> str | None:
        return settled(records[-1], self.tolerance)

    def collapsed(self, record: Record) -> bool:
        k = len(self.subspaces.bases)
        return k > 1 and int(record["live_clusters"]) <= k // 2


# eq and repr stay scikit-learn's; the generated __init__ only assigns, as scikit-learn asks
@dataclass(eq=False, repr=False, kw_only=True)
class KSCN(Clusterer):
    """Deep k-subspace clustering: every cluster is a linear subspace of the codes of an auto-encoder.

    With an encoder that has nothing to learn ("identity") this is k-subspaces. ``transform`` gives the codes,
    ``predict`` the subspace of smallest residual.

    Parameters
    ----------
    n_clusters : int
    subspace_dim : int
        Dimension of every subspace, below the length of the codes.
    update : {"svd", "grassmann"}
        k-SCN-S or k-SCN-G.
    lambda_residual : float
        Weight of the projection residual against the reconstruction.
    normalize : bool
        Subspaces of centred codes of unit length, and the residual in units of the samples; False is the paper's loss.
    init : {"spectral", "restarts"}
        Subspaces start from self-expression and spectral clustering of a sample of codes, or from the best of
        ``n_init`` random starts of k-subspaces on it, by residual; k-subspaces of all codes follows.
    init_samples : int
        Codes in this sample; "spectral" takes memory of their number squared.
    n_init : int
        Random starts.
    encoder : {"auto", "conv", "residual", "preact-residual", "mlp", "identity"}
        "auto": "conv" for images, "identity" for vectors.
    encoder_options : dict, optional
        Sizes, see :func:`subspan.encoders.make_encoder`; given sizes need not meet d > 9 k.
    batch_size : int
    epochs : dict, optional
        Overrides of "autoencoder" (30) and "subspaces" (20).
    learning_rates : dict, optional
        Overrides of "autoencoder" (1e-3), "encoder" (1e-4, after pre-training) and "bases" (0.1, of the Grassmann
        step; 1 is the inverse of the largest curvature, and at most 2 is safe).
    tolerance : float
        Training stops when a smaller share of the labels changed in an epoch; 0 trains to the end.
    random_state, device, channel_axis, verbose
        As in :class:`subspan.NCSC`.
    checkpoint_dir : path, optional
        Save the state after every epoch.
    resume : bool
        Continue from the state in ``checkpoint_dir``, if there is one, to the result of an unbroken run.

    Attributes
    ----------
    labels_ : ndarray of shape (n,)
    bases_ : Tensor of shape (k, d, r)
    encoder_, subspaces_ : torch modules
    history_ : list of dict
    stop_reasons_ : dict
    """

    n_clusters: int = field(default=10, kw_only=False)
    subspace_dim: int = 10
    update: str = "svd"
    lambda_residual: float = 1.0
    normalize: bool = True
    init: str = "spectral"
    init_samples: int = 5000
    n_init: int = 10
    encoder: str = "auto"
    encoder_options: dict | None = None
    batch_size: int = 256
    epochs: dict | None = None
    learning_rates: dict | None = None
    tolerance: float = 0.0
    random_state: Any = None
    device: str | torch.device = "auto"
    channel_axis: Any = "auto"
    verbose: int = 0
    checkpoint_dir: Any = None
    resume: bool = False

    _epochs: ClassVar[dict[str, int]] = {"autoencoder": 30, PHASE: 20}
    _rates: ClassVar[dict[str, float]] = {"autoencoder": 1e-3, "encoder": 1e-4, "bases": 0.1}

    def estimate_resources(self, X) -> dict[str, int]:
        """Expected peak memory of ``fit`` on X in bytes; nothing is trained."""
        samples = self._inspect(X)
        n_codes = self._network(samples.shape, generator(0)).n_codes
        return {"memory_bytes": self._bytes(samples.n, n_codes), "n_codes": n_codes}

    def _fit(self, samples: Samples, seed: int) -> None:
        self.scaling_ = self.scaling_.without_shift()
        samples = samples.with_scaling(self.scaling_)
        encoder = self._network(samples.shape, generator(seed, 1)).to(self._device)
        self._preflight(samples.n, encoder.n_codes)
        r = self._dimension(encoder.n_codes)
        subspaces = Subspaces(self.n_clusters, encoder.n_codes, r, self.normalize).to(self._device)
        start = Start(self.init, self.init_samples, self.n_init)
        if encoder.trainable:
            self._train(samples, encoder, subspaces, start, seed)
        else:
            self._alternate(encode(samples, encoder, self._device), subspaces, start, seed)
        self.encoder_, self.subspaces_ = encoder.eval(), subspaces
        codes = encode(samples, encoder, self._device)
        self.labels_ = assign(subspaces.points(codes), subspaces.bases)[0].cpu().numpy()

    def _train(self, samples: Samples, encoder: Encoder, subspaces: Subspaces, start: Start, seed: int) -> None:
        epochs, rates = self._all_epochs(), self._all_rates()
        phases = [
            Reconstruction(
                samples,
                encoder,
                epochs=epochs["autoencoder"],
                batch_size=self.batch_size,
                learning_rate=rates["autoencoder"],
                device=self._device,
                min_steps=MIN_STEPS,
            ),
            SubspacePhase(
                samples,
                encoder,
                subspaces,
                start,
                update=self.update,
                weight=self.lambda_residual,
                epochs=epochs[PHASE],
                batch_size=self.batch_size,
                rates=rates,
                tolerance=self.tolerance,
                device=self._device,
            ),
        ]
        outcome = train(
            phases,
            {"encoder": encoder, "subspaces": subspaces},
            n_samples=samples.n,
            seed=seed,
            checkpoint=self._checkpoint(samples, seed),
            callbacks=[Progress()] if self.verbose else [],
        )
        self.history_, self.stop_reasons_ = outcome.history, outcome.stop_reasons

    def _alternate(self, codes: Tensor, subspaces: Subspaces, start: Start, seed: int) -> None:
        """k-subspaces alone: there is no network to train, so the given codes are not centred."""
        codes = subspaces.points(codes)
        k, _, r = subspaces.bases.shape
        bases, _, objectives = start.run(codes, k, r, generator(seed, 2))
        subspaces.bases.copy_(bases)
        self.history_ = [{"phase": PHASE, "epoch": 0, "residual": objectives[-1]}]
        done = len(objectives) <= MAX_ITER
        self.stop_reasons_ = {PHASE: "settled: no label changes" if done else f"max_iter: {MAX_ITER} rounds"}

    def _network(self, shape: tuple[int, ...], gen: torch.Generator) -> Encoder:
        return make_encoder(
            self.encoder, shape, self.n_clusters, gen, codes_per_cluster=0, **(self.encoder_options or {})
        )

    def _dimension(self, n_codes: int) -> int:
        """``subspace_dim``, below the length of the codes where that is possible: else every residual is zero."""
        largest = max(1, n_codes - 1)
        if self.subspace_dim > largest:
            warnings.warn(
                f"subspace_dim={self.subspace_dim} was lowered to {largest}: codes have {n_codes} entries, and a "
                "subspace must be smaller. Set subspace_dim.",
                SizingWarning,
                stacklevel=4,
            )
        return min(self.subspace_dim, largest)

    def _bytes(self, n: int, n_codes: int) -> int:
        sample = min(n, self.init_samples)
        start = 60 * sample * sample if self.init == "spectral" else 4 * sample * n_codes
        return LIBRARIES + 4 * 4 * n * n_codes + start

    def _preflight(self, n: int, n_codes: int) -> None:
        needed, available = self._bytes(n, n_codes), available_bytes()
        if available is None or needed <= available:
            return
        raise ResourceError(
            f"{n} samples with codes of length {n_codes} take about {needed / 1e9:.1f} GB and {available / 1e9:.1f} GB "
            "are free: lower init_samples, give a shorter code through encoder_options, or fit fewer samples"
        )

    @property
    def bases_(self) -> Tensor:
        """Orthonormal bases of the subspaces."""
        return self.subspaces_.bases

    def _labels(self, batch: Tensor) -> Tensor:
        return assign(self.subspaces_.points(self.encoder_.encode(batch)), self.bases_)[0]

    def _codes(self, batch: Tensor) -> Tensor:
        return self.encoder_.encode(batch)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        modules = {"encoder": self.encoder_, "subspaces": self.subspaces_}
        return module_tensors(modules), {"encoder": self.encoder_.config(), "unit": self.subspaces_.unit}

    def _restore(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        self.encoder_ = build_encoder(**extra["encoder"])
        k, d, r = tensors["subspaces.bases"].shape
        self.subspaces_ = Subspaces(k, d, r, extra.get("unit", self.normalize))  # older models do not say it
        load_module_tensors({"encoder": self.encoder_, "subspaces": self.subspaces_}, tensors)
        self.encoder_.to(self._device).eval()
        self.subspaces_.to(self._device).eval()

    def _validate_parameters(self) -> None:
        check_choice("update", self.update, ("svd", "grassmann"))
        check_choice("init", self.init, ("spectral", "restarts"))
        for name in ("n_clusters", "subspace_dim", "init_samples", "n_init", "batch_size"):
            check_integer(name, getattr(self, name), 1)
        if self.init_samples < self.n_clusters:
            raise InvalidInputError(f"init_samples={self.init_samples} must be at least n_clusters={self.n_clusters}.")
        check_number("lambda_residual", self.lambda_residual, 0.0)
        check_number("tolerance", self.tolerance, 0.0)
        check_overrides("epochs", self.epochs, self._epochs, whole=True)
        check_overrides("learning_rates", self.learning_rates, self._rates)
