"""Choice of codes and their ridge weight without labels (layer 2): what falls most clearly into k clusters.

Of the graph of nearest neighbours, let ``N = D^-1/2 A D^-1/2``. The mean of the k largest eigenvalues of N bounds from
above, over all partitions into k clusters, the mean share of a cluster's edges that stay within it (the normalised
association of Shi and Malik, 2000; the bound is Ky Fan's). Codes that mix the clusters lose edges to other clusters
whatever the partition, and the bound falls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from subspan._random import generator
from subspan._validation import Samples
from subspan.encoders import Encoder
from subspan.neighbours import GlobalSelfExpression
from subspan.pairs import Pairs
from subspan.pretraining import encode_each, fitted_samples
from subspan.spectral import spectral_embedding

SAMPLES = 5000  # that are looked at
GAMMAS = (0.1, 1.0, 10.0, 100.0)


def association(pairs: Pairs, k: int) -> float:
    """Mean of the k largest eigenvalues of the normalised symmetric affinity of ``pairs``, at most 1."""
    return float(1 - spectral_embedding(pairs.symmetric(), min(k, pairs.n), seed=0)[0].mean())


def choose_gamma(Z: Tensor, k: int, m: int, gammas: Iterable[float] = GAMMAS) -> tuple[float, dict[float, float]]:
    """The gamma with the largest :func:`association` of the graph of m neighbours, and the value at each.

    At most 5000 samples are looked at.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
        Codes.
    k, m : int
        Clusters, and neighbours of each sample.
    gammas : iterable of float
    """
    Z = Z[_some(len(Z)).to(Z.device)]
    found = {g: GlobalSelfExpression(g).fit(Z).neighbours(Z, m, gen=generator(0)) for g in gammas}
    values = {g: association(neighbours.pairs(), k) for g, neighbours in found.items()}
    return max(values, key=lambda g: values[g]), values


def choose_encoder(
    samples: Samples, encoders: Mapping[str, Encoder], k: int, m: int, device: torch.device
) -> tuple[str, dict[str, float]]:
    """Name of the encoder with the largest :func:`association`, each at its best gamma, and the value of each.

    At most 5000 samples are looked at, of large images as many as an encoder is fitted to.

    Parameters
    ----------
    samples : Samples
    encoders : mapping of str to Encoder
        That need no training. They are fitted here.
    k, m : int
        Clusters, and neighbours of each sample.
    device : torch.device
    """
    limit = min(fitted_samples(encoder, samples.n) for encoder in encoders.values())
    some = samples.subset(_some(samples.n, limit))
    scores = {}
    for name, z in encode_each(some, encoders, device):
        gamma, values = choose_gamma(normalize(z - z.mean(dim=0), dim=1), k, m)
        scores[name] = values[gamma]
    return max(scores, key=lambda name: scores[name]), scores


def _some(n: int, limit: int = SAMPLES) -> Tensor:
    return torch.randperm(n, generator=generator(0))[: min(limit, SAMPLES)].sort().values
