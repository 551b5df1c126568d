"""Codes of an auto-encoder that is trained on reconstruction alone, for methods that cluster vectors ("SSC-CAE")."""

from __future__ import annotations

from typing import Any

import numpy as np

from subspan._random import generator
from subspan._validation import check_samples, fit_scaling
from subspan.base import resolve_device
from subspan.encoders import make_encoder
from subspan.pretraining import Reconstruction, encode
from subspan.training import train


def learn_codes(
    X: np.ndarray,
    n_clusters: int,
    seed: int,
    *,
    encoder: str,
    epochs: int,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    encoder_options: dict[str, Any] | None = None,
    device: str = "auto",
) -> np.ndarray:
    """Codes float32 (n, d) of the samples X after ``epochs`` of ``1/2 ||x - xhat||^2`` on them.

    Parameters
    ----------
    X : array of shape (n, h, w) or what else estimators take
    n_clusters : int
        Sizes the code (d > 9 k).
    seed : int
    encoder, encoder_options
        See :func:`subspan.encoders.make_encoder`.
    epochs, learning_rate, batch_size, device

    Raises
    ------
    InvalidInputError
        Unknown encoder or option, or one that cannot take X.
    """
    place = resolve_device(device)
    samples = check_samples(X, channel_axis="auto")
    samples = samples.with_scaling(fit_scaling(samples))
    network = make_encoder(encoder, samples.shape, n_clusters, generator(seed, 1), **(encoder_options or {})).to(place)
    phase = Reconstruction(
        samples, network, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, device=place, min_steps=50
    )
    train([phase], {"encoder": network}, n_samples=samples.n, seed=seed)
    return encode(samples, network.eval(), place).cpu().numpy()
