"""What the methods that cluster the codes of an auto-encoder share (layer 4): pre-train > codes > centres > nearest."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from subspan._parameters import check_choice, check_integer, check_number, check_overrides
from subspan._random import generator
from subspan._resources import LIBRARIES
from subspan._scaling import Scaling
from subspan._validation import Samples, iter_slices
from subspan.base import PREDICT_BATCH, Clusterer, load
from subspan.centroids import kmeans_centers, nearest
from subspan.checkpoint import load_module_tensors, module_tensors
from subspan.encoders import Encoder, MLPAutoencoder, build_encoder, make_encoder
from subspan.errors import DivergenceError, InvalidInputError
from subspan.pretraining import Reconstruction, encode
from subspan.progress import Progress
from subspan.stacked import denoising_phases
from subspan.training import Phase, train

SCALING_ROWS = 500


class Centers(nn.Module):
    """Centres ``weight`` (k, d): zero until they are placed. Learnt by gradient unless ``learned`` is False."""

    def __init__(self, k: int, d: int, *, learned: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(k, d), requires_grad=learned)

    @torch.no_grad()
    def place(self, codes: Tensor, n_init: int, gen: torch.Generator) -> None:
        """Move the centres to those of k-means on ``codes`` (n, d)."""
        self.weight.copy_(kmeans_centers(codes, len(self.weight), n_init=n_init, gen=gen)[0])


# eq and repr stay scikit-learn's; the generated __init__ only assigns, as scikit-learn asks
@dataclass(eq=False, repr=False, kw_only=True)
class AutoencoderClusterer(Clusterer):
    """Abstract base: an auto-encoder is trained, and a sample belongs to the centre nearest to its code.

    Parameters
    ----------
    n_clusters : int
        Number of clusters, k.
    encoder : str
        The auto-encoder.
    encoder_options : dict, optional
        Its sizes, see :func:`subspan.encoders.make_encoder`.
    batch_size : int
    n_init : int
        Starts of k-means on the codes.
    epochs : dict, optional
        Overrides of the epochs of each phase.
    learning_rates : dict, optional
        Overrides of the learning rate of each phase.
    pretrained : path, optional
        Folder of a saved model (of ``save``, or "model" of a run) whose auto-encoder is the same: it is taken, with its
        scaling, and not trained first. So methods can be compared, or tried again, on one auto-encoder.
    channel_axis : {"auto", 1, -1}
    random_state : int, RandomState or None
    device : str or torch.device
    verbose : int
        1 shows a progress bar.
    checkpoint_dir : path, optional
        Save the state after every epoch.
    resume : bool
        Continue from the state in ``checkpoint_dir``, if there is one, to the result of an unbroken run.

    Attributes
    ----------
    encoder_ : Encoder
    centers_ : Tensor of shape (k, d)
    """

    n_clusters: int = field(default=10, kw_only=False)
    encoder: str = "auto"
    encoder_options: dict | None = None
    batch_size: int = 256
    n_init: int = 20
    epochs: dict | None = None
    learning_rates: dict | None = None
    pretrained: Any = None
    channel_axis: Any = "auto"
    random_state: Any = None
    device: str | torch.device = "auto"
    verbose: int = 0
    checkpoint_dir: Any = None
    resume: bool = False

    _encoders: ClassVar[tuple[str, ...]] = ("auto", "conv", "residual", "preact-residual", "mlp")
    _epochs: ClassVar[dict[str, int]] = {"autoencoder": 60}
    _rates: ClassVar[dict[str, float]] = {"autoencoder": 1e-3}

    def predict(self, X):
        """Nearest centre of the code of each sample of X, int64 of shape (n,)."""
        return super().predict(X)

    def estimate_resources(self, X) -> dict[str, Any]:
        """Expected peak memory of ``fit`` on X in bytes, by part; nothing is trained."""
        samples = self._inspect(X)
        encoder = self._make_encoder(samples.shape, generator(0))
        if self.pretrained is not None:
            load_encoder(self.pretrained, encoder, samples.shape, self._family)
        weights = sum(parameter.numel() for parameter in encoder.parameters())
        activations = min(PREDICT_BATCH, samples.n) * (2 * math.prod(samples.shape) + encoder.n_codes + 4000)
        parts = {
            "libraries": LIBRARIES,
            "network": 4 * 4 * weights,  # weights, gradients and two moments
            "activations": 2 * 4 * activations,
            "codes": 4 * 4 * samples.n * (encoder.n_codes + self.n_clusters),
        }
        return {"memory_bytes": sum(parts.values()), "parts": parts, "n_codes": encoder.n_codes}

    def _fit(self, samples: Samples, seed: int) -> None:
        device = self._device
        encoder = self._make_encoder(samples.shape, generator(seed, 1))
        if self.pretrained is None:
            self.scaling_ = self._scaling(samples)
        else:
            encoder, self.scaling_ = load_encoder(self.pretrained, encoder, samples.shape, self._family)
        samples = samples.with_scaling(self.scaling_)
        encoder.to(device)
        centers = self._make_centers(encoder.n_codes).to(device)
        pretraining = [] if self.pretrained is not None else self._pretraining(samples, encoder)
        clustering = self._clustering(samples, encoder, centers)
        outcome = train(
            [*pretraining, *clustering],
            {"encoder": encoder, "centers": centers},
            n_samples=samples.n,
            seed=seed,
            checkpoint=self._checkpoint(samples, seed),
            callbacks=[Progress()] if self.verbose else [],
        )
        if not clustering:
            centers.place(encode(samples, encoder, device), self.n_init, generator(seed, 2))
        self.history_, self.stop_reasons_ = outcome.history, outcome.stop_reasons
        self.encoder_, self.centers_ = encoder.eval(), centers.weight.detach()
        self.labels_ = self._label_all(samples).numpy()

    @property
    def _family(self) -> type[AutoencoderClusterer]:
        """Estimators whose auto-encoder sees samples on the same scale."""
        return AutoencoderClusterer

    def _scaling(self, samples: Samples) -> Scaling:
        return self.scaling_

    def _make_encoder(self, shape: tuple[int, ...], gen: torch.Generator) -> Encoder:
        name = self.encoder
        if name == "auto":
            name = "conv" if len(shape) == 3 else "mlp"
        return make_encoder(name, shape, self.n_clusters, gen, **(self.encoder_options or {}))

    def _make_centers(self, d: int) -> Centers:
        return Centers(self.n_clusters, d)

    def _pretraining(self, samples: Samples, encoder: Encoder) -> list[Phase]:
        """Phases that train the auto-encoder alone."""
        phase = Reconstruction(
            samples,
            encoder,
            epochs=self._epochs_of("autoencoder"),
            batch_size=self.batch_size,
            learning_rate=self._rate_of("autoencoder"),
            device=self._device,
        )
        return [phase]

    def _clustering(self, samples: Samples, encoder: Encoder, centers: Centers) -> list[Phase]:
        """Phases that place and move the centres; without any, the centres are those of k-means on the codes."""
        return []

    def _epochs_of(self, phase: str) -> int:
        return self._all_epochs()[phase]

    def _rate_of(self, phase: str) -> float:
        return self._all_rates()[phase]

    @torch.no_grad()
    def _label_all(self, samples: Samples) -> Tensor:
        parts = []
        for rows in iter_slices(samples.n, PREDICT_BATCH):
            codes = self.encoder_.encode(samples.batch(rows).to(self._device))
            if not bool(codes.isfinite().all()):
                raise DivergenceError("the codes of the trained encoder are not finite: lower the learning rates")
            parts.append(nearest(codes, self.centers_).cpu())
        return torch.cat(parts)

    def _labels(self, batch: Tensor) -> Tensor:
        return nearest(self.encoder_.encode(batch), self.centers_)

    def _codes(self, batch: Tensor) -> Tensor:
        return self.encoder_.encode(batch)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return module_tensors({"encoder": self.encoder_}) | {"centers": self.centers_}, {
            "encoder": self.encoder_.config()
        }

    def _restore(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        self.centers_ = tensors.pop("centers").to(self._device)
        self.encoder_ = build_encoder(**extra["encoder"])
        load_module_tensors({"encoder": self.encoder_}, tensors)
        self.encoder_.to(self._device).eval()

    def _validate_parameters(self) -> None:
        check_choice("encoder", self.encoder, self._encoders)
        if self.pretrained is not None and not isinstance(self.pretrained, str | os.PathLike):
            raise InvalidInputError(f"pretrained is {self.pretrained!r}; give the folder of a saved model.")
        for name in ("batch_size", "n_init"):
            check_integer(name, getattr(self, name), 1)
        check_overrides("epochs", self.epochs, self._epochs, whole=True)
        check_overrides("learning_rates", self.learning_rates, self._rates)


@dataclass(eq=False, repr=False, kw_only=True)
class StackedClusterer(AutoencoderClusterer):
    """Abstract base of DEC's family: the network p-500-500-2000-10, trained layer by layer, then end to end.

    Samples are scaled so that the mean square of their entries is 1, as in DEC (Sec. 4.2): Student's kernel has unit
    width. With a convolutional encoder there is no layer-wise training.

    Parameters
    ----------
    corruption : float in [0, 1)
        Share of dropout in layer-wise training.
    """

    encoder: str = "mlp"
    corruption: float = 0.2

    _encoders: ClassVar[tuple[str, ...]] = ("mlp", "conv", "residual", "preact-residual")
    _sizes: ClassVar[dict[str, Any]] = {"latent_dim": 10, "hidden": [500, 500, 2000]}
    _epochs: ClassVar[dict[str, int]] = {"layers": 180, "autoencoder": 360}
    _rates: ClassVar[dict[str, float]] = {"layers": 1e-3, "autoencoder": 1e-3}

    @property
    def _family(self) -> type[AutoencoderClusterer]:
        return StackedClusterer

    def _scaling(self, samples: Samples) -> Scaling:
        return unit_mean_square(samples.with_scaling(self.scaling_))

    def _make_encoder(self, shape: tuple[int, ...], gen: torch.Generator) -> Encoder:
        options = (self._sizes if self.encoder == "mlp" else {}) | (self.encoder_options or {})
        return make_encoder(self.encoder, shape, self.n_clusters, gen, codes_per_cluster=0, **options)

    def _pretraining(self, samples: Samples, encoder: Encoder) -> list[Phase]:
        end_to_end = super()._pretraining(samples, encoder)
        if not isinstance(encoder, MLPAutoencoder) or self._epochs_of("layers") == 0:
            return end_to_end
        layers = denoising_phases(
            samples,
            encoder,
            corruption=self.corruption,
            epochs=self._epochs_of("layers"),
            batch_size=self.batch_size,
            learning_rate=self._rate_of("layers"),
            device=self._device,
        )
        return [*layers, *end_to_end]

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        check_number("corruption", self.corruption, 0.0, 0.99)


def load_encoder(
    folder: Any, wanted: Encoder, shape: tuple[int, ...], family: type[AutoencoderClusterer]
) -> tuple[Encoder, Scaling]:
    """Auto-encoder and scaling of the model that was saved in a folder, if it is built as ``wanted`` is.

    Raises
    ------
    CheckpointError
        There is no model, or it is damaged.
    InvalidInputError
        It has no auto-encoder, or another one, or one for another scale of samples, or samples of another shape.
    """
    model = load(Path(folder).expanduser())
    if not isinstance(model, family):
        raise InvalidInputError(
            f"pretrained: the {type(model).__name__} in '{folder}' holds no auto-encoder that can be taken: give a "
            f"model of SAEKMeans, DEC, IDEC or DCN{'' if family is StackedClusterer else ', or of CAEKMeans'}."
        )
    if model.sample_shape_ != tuple(shape):
        raise InvalidInputError(
            f"pretrained: the model in '{folder}' takes samples of {model.sample_shape_}, but X has {tuple(shape)}."
        )
    if model.encoder_.config() != wanted.config():
        raise InvalidInputError(
            f"pretrained: the auto-encoder in '{folder}' is {model.encoder_.config()}, but this one would be "
            f"{wanted.config()}: give the same encoder and encoder_options."
        )
    return model.encoder_, model.scaling_


def unit_mean_square(samples: Samples) -> Scaling:
    """The scaling of ``samples``, further divided so that the mean square of all entries is 1."""
    total = sum(float(samples.batch(rows).double().square().sum()) for rows in iter_slices(samples.n, SCALING_ROWS))
    rms = math.sqrt(total / (samples.n * math.prod(samples.shape)))
    return replace(samples.scaling, scale=samples.scaling.scale * (rms or 1.0))
