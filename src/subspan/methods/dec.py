"""Deep embedded clustering (DEC; Xie, Girshick, Farhadi: Unsupervised deep embedding for clustering analysis, ICML
2016).

- soft assignment   ``q_ij ~ (1 + d_ij / alpha)^(-(alpha + 1) / 2)``, ``d_ij = ||z_i - mu_j||^2``, rows sum to 1 (Eq. 1)
- loss              ``L = KL(P || Q) = sum_ij p_ij log(p_ij / q_ij)``                                           (Eq. 2)
- target            ``p_ij ~ q_ij^2 / sum_i q_ij``, rows sum to 1                                               (Eq. 3)
- gradients         ``dL/dz_i = (alpha + 1) / alpha sum_j (1 + d_ij / alpha)^-1 (p_ij - q_ij) (z_i - mu_j)``    (Eq. 4)
                    ``dL/dmu_j``: minus the same terms, summed over i                                           (Eq. 5)
- initialisation    stacked denoising auto-encoder (Eqs. 6-9), then k-means on the codes

The mathematics is in :mod:`subspan.soft_assignments` and :mod:`subspan.stacked`; autograd gives Eqs. 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subspan.methods._self_training import SelfTrainedClusterer, SelfTraining

MOMENTUM = 0.9


class DECPhase(SelfTraining):
    """Encoder and centres on Eq. 2 by SGD with momentum; the decoder is dropped."""

    def optimizer(self, groups: list[dict]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, momentum=MOMENTUM)

    def losses(self, batch: Tensor, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        x = self.samples.batch(batch).to(self.device)
        yield {"kl": self.kl(batch, self.encoder.encode(x))}


@dataclass(eq=False, repr=False, kw_only=True)
class DEC(SelfTrainedClusterer):
    """Deep embedded clustering.

    Parameters that are not listed and the attributes are those of
    :class:`~subspan.methods._autoencoded.AutoencoderClusterer`.

    Parameters
    ----------
    n_clusters : int
        Number of clusters, k.
    encoder : {"mlp", "conv", "residual", "preact-residual"}
        "mlp" is the paper's p-500-500-2000-10. An image encoder has no layer-wise training.
    encoder_options : dict, optional
        Sizes: "latent_dim" (10) and "hidden" ([500, 500, 2000]) of "mlp".
    corruption : float
        Share of dropout in layer-wise training.
    alpha : float
        Degrees of freedom of Student's t kernel.
    update_interval : int
        Steps between two updates of the target.
    tolerance : float
        Stop when a smaller share of the labels changed between two updates.
    n_init : int
        Starts of the k-means that places the centres.
    epochs : dict, optional
        Overrides of "layers" (180, each layer), "autoencoder" (360) and "clustering" (143 updates of the target).
    learning_rates : dict, optional
        Overrides of "layers" (1e-3), "autoencoder" (1e-3) and "clustering" (0.01).

    Notes
    -----
    Deviations from the paper:

    1. *Adam* at 1e-3 in place of SGD at 0.1, divided by 10 every 20,000 steps, in both parts of the pre-training: it
       needs no rate per data set. The clustering phase is the paper's SGD at 0.01.
    2. *Initial weights* are U(-1, 1) / sqrt(fan in) in place of N(0, 0.01^2), whose signal vanishes in narrow layers.
    3. *Epochs.* 180 and 360 are the 50,000 and 100,000 steps of 256 samples of the paper on 70,000 samples.
    4. *Target.* The paper does not say how often it is updated, or for how long; T = 140 and 20,000 steps are those of
       IDEC. The loss is a mean over the batch, momentum is 0.9.
    """

    _rates: ClassVar[dict[str, float]] = SelfTrainedClusterer._rates | {"clustering": 0.01}

    def _phase(self) -> Callable[..., SelfTraining]:
        return DECPhase
