"""K-means on the codes of a convolutional auto-encoder: CAE-KM, a baseline of NCSC (Zhang et al., ICML 2019, Sec. 5).

1. The auto-encoder of NCSC's experiments (:class:`subspan.encoders.ConvAutoencoder`) on ``1/2 ||x - xhat||^2``, 60
   epochs of Adam at 1e-3.
2. K-means on its codes.
"""

from __future__ import annotations

from dataclasses import dataclass

from subspan.methods._autoencoded import AutoencoderClusterer


@dataclass(eq=False, repr=False, kw_only=True)
class CAEKMeans(AutoencoderClusterer):
    """K-means on the codes of NCSC's convolutional auto-encoder.

    Parameters that are not listed and the attributes are those of
    :class:`~subspan.methods._autoencoded.AutoencoderClusterer`.

    Parameters
    ----------
    n_clusters : int
        Number of clusters, k.
    encoder : {"auto", "conv", "residual", "preact-residual", "mlp"}
        "auto": "conv" for images, "mlp" for vectors.
    encoder_options : dict, optional
        Sizes, see :func:`subspan.encoders.make_encoder`; codes are longer than 9 k, as in NCSC.
    n_init : int
        Starts of k-means.
    epochs : dict, optional
        ``{"autoencoder": 60}``.
    learning_rates : dict, optional
        ``{"autoencoder": 1e-3}``.

    Notes
    -----
    Deviation from the paper: batches of 256 samples, not 5000, for twenty times the steps at the same cost.
    """
