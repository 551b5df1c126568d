"""K-means on the codes of a stacked auto-encoder: SAE-KM, the starting point of DEC (Xie, Girshick, Farhadi:
Unsupervised deep embedding for clustering analysis, ICML 2016, Sec. 3.2).

1. Layer-wise denoising training (Eqs. 6-9, see :mod:`subspan.stacked`).
2. End-to-end training of the whole network on ``||x - xhat||^2``, without dropout.
3. K-means on the codes, 20 starts.
"""

from __future__ import annotations

from dataclasses import dataclass

from subspan.methods._autoencoded import StackedClusterer


@dataclass(eq=False, repr=False, kw_only=True)
class SAEKMeans(StackedClusterer):
    """K-means on the codes of a stacked denoising auto-encoder.

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
    n_init : int
        Starts of k-means.
    epochs : dict, optional
        Overrides of the epochs of "layers" (180, each layer) and "autoencoder" (360).
    learning_rates : dict, optional
        Overrides of "layers" (1e-3) and "autoencoder" (1e-3).

    Notes
    -----
    Deviations from the paper:

    1. *Adam* at 1e-3 in place of SGD at 0.1, divided by 10 every 20,000 steps: it needs no rate per data set.
    2. *Initial weights* are U(-1, 1) / sqrt(fan in) in place of N(0, 0.01^2), whose signal vanishes in narrow layers.
    3. *Epochs.* 180 and 360 are the 50,000 and 100,000 steps of 256 samples of the paper on 70,000 samples.
    """
