"""Deep subspace clustering networks (DSC-Net; Ji, Zhang, Li, Salzmann, Reid: Deep subspace clustering networks,
NeurIPS 2017), in row form.

Self-expression     min ||C||_p   s.t.  Z = C Z, diag(C) = 0                                            (Sec. 3)
Loss                L = 1/2 ||X - Xhat||_F^2 + lambda_1 ||C||_p + lambda_2 / 2 ||Z - C Z||_F^2           (Sec. 3)
                    Z = encode(X), Xhat = decode(C Z), diag(C) = 0
p = 1 (DSC-Net-L1)  ||C||_1 = sum_ij |c_ij|;   p = 2 (DSC-Net-L2)  ||C||_F^2
Weights             lambda_1 = 1,  lambda_2 = 10^(k / 10 - 3)                                            (Sec. 4)

C is a layer of n x n weights between encoder and decoder. The auto-encoder is trained without it first; then all
weights are trained on L with all samples as one batch, and |C| + |C|^T is clustered.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from subspan._parameters import check_choice, check_integer, check_number, check_overrides
from subspan._random import generator
from subspan._validation import Samples
from subspan.checkpoint import load_module_tensors, module_tensors
from subspan.encoders import Encoder, activation_entries, build_encoder, make_encoder
from subspan.errors import SizingWarning
from subspan.methods._self_expressive import PHASE, SelfExpressiveClusterer
from subspan.pretraining import Reconstruction
from subspan.progress import Progress
from subspan.self_expression import LearnedSelfExpression
from subspan.training import Phase, Record, train

MIN_STEPS = 50  # of pre-training per epoch
_COPIES = 9  # of C in a step: weight, gradient, two moments of Adam, masked weight, and temporaries of both passes


def loss_terms(
    x: Tensor, xhat: Tensor, Z: Tensor, C: Tensor, norm: str, lambda_1: float, lambda_2: float
) -> dict[str, Tensor]:
    """The three terms of the loss, sums over all samples as in the paper.

    Parameters
    ----------
    x, xhat : Tensors of shape (n, ...)
    Z : Tensor of shape (n, d)
    C : Tensor of shape (n, n), zero diagonal
    norm : "l1" or "l2"
    lambda_1, lambda_2 : float
    """
    size = C.abs().sum() if norm == "l1" else C.square().sum()
    return {
        "reconstruction": (x - xhat).square().sum() / 2,
        "C_norm": lambda_1 * size,
        "self_expression": lambda_2 / 2 * (Z - C @ Z).square().sum(),
    }


class SelfExpressionPhase(Phase):
    """Everything on L; the samples ``rows`` are the one batch.

    With ``unit`` the self-expression term sees codes of unit length, the decoder always C times the codes themselves.
    """

    def __init__(
        self,
        samples: Samples,
        rows: np.ndarray,
        encoder: Encoder,
        layer: LearnedSelfExpression,
        *,
        norm: str,
        weights: tuple[float, float],
        unit: bool,
        epochs: int,
        rates: dict[str, float],
        device: torch.device,
    ):
        super().__init__(PHASE, epochs, len(rows))
        self.samples, self.rows, self.encoder, self.layer = samples, rows, encoder, layer
        self.norm, self.weights, self.unit, self.rates, self.device = norm, weights, unit, rates, device

    def start(self) -> None:
        self.x = self.samples.batch(self.rows).to(self.device)

    def parameter_groups(self) -> list[dict]:
        groups = [{"params": list(self.layer.parameters()), "lr": self.rates["self_expression"]}]
        if self.encoder.trainable:
            groups.append({"params": list(self.encoder.parameters()), "lr": self.rates["encoder"]})
        return groups

    def batches(self, n_samples: int, gen: torch.Generator) -> list[None]:
        return [None]

    def losses(self, batch: None, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        z = self.encoder.encode(self.x)
        C = self.layer.coefficients(z)
        xhat = self.encoder.decode(C @ z)
        self.code_norm = float(z.detach().norm(dim=1).mean())
        Z = normalize(z, dim=1) if self.unit else z
        yield loss_terms(self.x, xhat, Z, C, self.norm, *self.weights)

    def monitor(self) -> Record:
        return {"mean_code_norm": self.code_norm}  # codes that shrink lower the self-expression term for free


@dataclass(eq=False, repr=False, kw_only=True)
class DSCNet(SelfExpressiveClusterer):
    """Subspace clustering by an auto-encoder with a self-expressive layer.

    C has n x n weights, each with a gradient and two moments: above some 10,000 samples use ``max_samples``. The raw
    affinity is the default; the published post-processing is ``keep``, ``subspace_dim`` and ``power``.

    Parameters that are not listed and the attributes are those of
    :class:`~subspan.methods._self_expressive.SelfExpressiveClusterer`; vectors there are the codes here, and
    ``transform`` gives the codes. ``encoder_`` is the trained network.

    Parameters
    ----------
    norm : {"l2", "l1"}
        Penalty on C: DSC-Net-L2 or DSC-Net-L1.
    lambda_coefficients : float
        lambda_1.
    lambda_expression : float, optional
        lambda_2; ``10 ** (n_clusters / 10 - 3)`` by default.
    zero_diagonal : bool
        The constraint diag(C) = 0 of the paper. False learns the diagonal too: the trace of C is then positive, and
        ``subspace_dim``, which takes eigenvalues by modulus, no longer takes as many negative ones as positive ones.
        Only with few epochs, since C = I is the best expression of all.
    normalize : bool
        Self-expression of codes of unit length; the paper takes the codes as they are.
    encoder : {"auto", "conv", "residual", "preact-residual", "mlp", "identity"}
        "auto": "conv" for images, "identity" for vectors.
    encoder_options : dict, optional
        Sizes, see :func:`subspan.encoders.make_encoder`; given sizes need not meet d > 9 k.
    batch_size : int
        Of pre-training, which sees all samples whatever ``max_samples`` is.
    epochs : dict, optional
        Overrides of "autoencoder" (30) and "self_expression" (500).
    learning_rates : dict, optional
        Overrides of "autoencoder" (pre-training), "encoder" (afterwards) and "self_expression" (C), each 1e-3.
    checkpoint_dir : path, optional
        Save the state, C and its moments included, after every epoch.
    resume : bool
        Continue from the state in ``checkpoint_dir``, if there is one, to the result of an unbroken run.
    """

    normalize: bool = False
    norm: Literal["l1", "l2"] = "l2"
    lambda_coefficients: float = 1.0
    lambda_expression: float | None = None
    zero_diagonal: bool = True
    encoder: str = "auto"
    encoder_options: dict[str, Any] | None = None
    batch_size: int = 256
    epochs: dict[str, int] | None = None
    learning_rates: dict[str, float] | None = None
    checkpoint_dir: Any = None
    resume: bool = False

    _epochs: ClassVar[dict[str, int]] = {"autoencoder": 30, "self_expression": 500}
    _rates: ClassVar[dict[str, float]] = {"autoencoder": 1e-3, "encoder": 1e-3, "self_expression": 1e-3}

    @property
    def n_iter_(self) -> int:
        """Epochs of the training of C."""
        history: Any = self.history_
        return sum(record["phase"] == PHASE for record in history)

    def _represent(self, samples: Samples, rows: np.ndarray, seed: int) -> Tensor:
        encoder = self._network(samples.shape, generator(seed, 2)).to(self._device)
        layer = LearnedSelfExpression(
            [len(rows)], gamma=0.0, memory_limit=self.memory_limit, zero_diagonal=self.zero_diagonal
        ).to(self._device)
        outcome = train(
            self._phases(samples, rows, encoder, layer),
            {"encoder": encoder, "layer": layer},
            n_samples=samples.n,
            seed=seed,
            checkpoint=self._checkpoint(samples, seed),
            callbacks=[Progress()] if self.verbose else [],
        )
        self.history_, self.stop_reasons_ = list(map(dict, outcome.history)), outcome.stop_reasons
        self.encoder_ = encoder.eval()
        Z = self._gather(samples, rows)
        self.coefficients_ = layer.coefficients(Z).detach().cpu().numpy()
        return Z

    def _phases(
        self, samples: Samples, rows: np.ndarray, encoder: Encoder, layer: LearnedSelfExpression
    ) -> list[Phase]:
        epochs, rates = self._all_epochs(), self._all_rates()
        phases: list[Phase] = []
        if encoder.trainable:
            phases.append(
                Reconstruction(
                    samples,
                    encoder,
                    epochs=epochs["autoencoder"],
                    batch_size=self.batch_size,
                    learning_rate=rates["autoencoder"],
                    device=self._device,
                    min_steps=MIN_STEPS,
                )
            )
        expression = self.lambda_expression
        if expression is None:
            expression = 10 ** (self.n_clusters / 10 - 3)
        phases.append(
            SelfExpressionPhase(
                samples,
                rows,
                encoder,
                layer,
                norm=self.norm,
                weights=(self.lambda_coefficients, expression),
                unit=self.normalize,
                epochs=epochs["self_expression"],
                rates=rates,
                device=self._device,
            )
        )
        return phases

    def _network(self, shape: tuple[int, ...], gen: torch.Generator) -> Encoder:
        return make_encoder(
            self.encoder, shape, self.n_clusters, gen, codes_per_cluster=0, **(self.encoder_options or {})
        )

    @torch.no_grad()
    def _vectors(self, batch: Tensor) -> Tensor:
        return super()._vectors(self.encoder_.encode(batch))

    def _codes(self, batch: Tensor) -> Tensor:
        return self.encoder_.encode(batch)

    def _entries(self, shape: tuple[int, ...]) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SizingWarning)  # said when the network is built for training
            return activation_entries(self._network(shape, generator(0)))

    def _bytes(self, n: int, d: int) -> int:
        training = 4 * _COPIES * n * n + 3 * 4 * n * d
        return max(training, super()._bytes(n, d))

    def _coefficient_bytes(self, n: int, d: int) -> int:
        return 4 * n * n

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, extra = super()._state()
        return tensors | module_tensors({"encoder": self.encoder_}), {**extra, "encoder": self.encoder_.config()}

    def _restore(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        super()._restore(tensors, extra)
        encoder = build_encoder(**extra["encoder"])
        load_module_tensors({"encoder": encoder}, tensors)
        self.encoder_ = encoder.to(self._device).eval()

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        check_choice("norm", self.norm, ("l1", "l2"))
        check_number("lambda_coefficients", self.lambda_coefficients, 0.0)
        if self.lambda_expression is not None:
            check_number("lambda_expression", self.lambda_expression, 0.0)
        check_integer("batch_size", self.batch_size, 1)
        check_overrides("epochs", self.epochs, self._epochs, whole=True)
        check_overrides("learning_rates", self.learning_rates, self._rates)
