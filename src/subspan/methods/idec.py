"""Improved deep embedded clustering (IDEC; Guo, Gao, Liu, Yin: Improved deep embedded clustering with local structure
preservation, IJCAI 2017).

    L = L_r + gamma L_c,   L_r = ||x - xhat||^2,   L_c = KL(P || Q)

P and Q are DEC's (Eqs. 1-3 there, :mod:`subspan.soft_assignments`). The decoder stays, so that the code keeps the
structure of the data while the clusters are pulled apart. Pre-training is DEC's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from subspan._parameters import check_number
from subspan.methods._self_training import SelfTrainedClusterer, SelfTraining


class IDECPhase(SelfTraining):
    """Auto-encoder and centres on ``L_r + gamma L_c``."""

    def __init__(self, *args: Any, gamma: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.gamma = gamma

    def losses(self, batch: Tensor, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        x = self.samples.batch(batch).to(self.device)
        z, xhat = self.encoder(x)
        yield {"reconstruction": mse_loss(xhat, x), "kl": self.gamma * self.kl(batch, z)}


@dataclass(eq=False, repr=False, kw_only=True)
class IDEC(SelfTrainedClusterer):
    """Improved deep embedded clustering: DEC with the reconstruction kept.

    Parameters that are not listed and the attributes are those of
    :class:`~subspan.methods._autoencoded.AutoencoderClusterer`.

    Parameters
    ----------
    n_clusters : int
        Number of clusters, k.
    gamma : float
        Weight of the clustering loss; 0 leaves the auto-encoder alone.
    encoder : {"mlp", "conv", "residual", "preact-residual"}
        "mlp" is the paper's p-500-500-2000-10. An image encoder has no layer-wise training.
    encoder_options : dict, optional
        Sizes: "latent_dim" (10) and "hidden" ([500, 500, 2000]) of "mlp".
    corruption : float
        Share of dropout in layer-wise training.
    alpha : float
        Degrees of freedom of Student's t kernel.
    update_interval : int
        T, the steps between two updates of the target.
    tolerance : float
        Stop when a smaller share of the labels changed between two updates.
    n_init : int
        Starts of the k-means that places the centres.
    epochs : dict, optional
        Overrides of "layers" (180, each layer), "autoencoder" (360) and "clustering" (143 updates of the target).
    learning_rates : dict, optional
        Overrides of "layers" (1e-3), "autoencoder" (1e-3) and "clustering" (1e-3).

    Notes
    -----
    Deviations from the paper:

    1. *Pre-training* deviates as in DEC: Adam, initial weights, epochs.
    2. *Scale of L_r.* The mean over the entries, not the sum: summed over 784 pixels it is a thousand times as large as
       gamma L_c, and nothing is clustered. L_c is a mean over the batch.
    """

    gamma: float = 0.1

    _rates: ClassVar[dict[str, float]] = SelfTrainedClusterer._rates | {"clustering": 1e-3}

    def _phase(self) -> Callable[..., SelfTraining]:
        return partial(IDECPhase, gamma=self.gamma)

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        check_number("gamma", self.gamma, 0.0)
