"""Choice of codes and their ridge weight without labels (layer 2): what falls most clearly into k clusters.

Of the graph of nearest neighbours, let ``N = D^-1/2 A D^-1/2``. The mean of the k largest eigenvalues of N bounds from
above, over all partitions into k clusters, the mean share of a cluster's edges that stay within it (the normalised
association of Shi and Malik, 2000; the bound is Ky Fan's). Codes that mix the clusters lose edges to other clusters
whatever the partition, and the bound falls.

The few nearest neighbours of a sample can be coincidences: two texts with a rare word in common. Then they fall into
clear clusters that say nothing about who is near at the scale of a cluster, half of whose samples are looked at for
that (:func:`choose_graph`).

Eq. 4 takes the size of coefficients, since a subspace holds the opposite of each of its samples. Other clusters do not,
and codes are centred: two clusters on opposite sides of the mean express each other, negatively. Then the graph without
negative coefficients falls into clusters far more clearly (:func:`choose_expression`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from subspan._random import generator
from subspan._validation import Samples
from subspan.encoders import Encoder
from subspan.information import label_information
from subspan.neighbours import GlobalSelfExpression, Neighbours
from subspan.pairs import Pairs
from subspan.pretraining import encode_each, fitted_samples
from subspan.spectral import spectral_embedding, spectral_labels

SAMPLES = 5000  # that are looked at
GAMMAS = (0.1, 1.0, 10.0, 100.0)
WHITE = GAMMAS[-1]  # of codes that are whitened already: their products stay as they are
LANDMARKS, FAR = 3000, 150  # samples that are looked at at the scale of a cluster, and neighbours of each at most
NEGATIVE = 0.001  # share of the neighbours with negative coefficients from which it matters what these count,
CLEARER = 0.75  # and what positive ones alone may leave open at most, of 1 - association, if they alone count
LOST = 1e-3  # of the edges: less is none, where clusters are counted
FACTOR = 100.0  # by which gamma must differ at that scale before near neighbours are doubted,
MISLED = 0.75  # and what their clusters tell there, as a share of what can be told, if they mislead
PAIRS = 3_000_000  # of all samples with far neighbours, but m for each at least


def association(pairs: Pairs, k: int) -> float:
    """Mean of the k largest eigenvalues of the normalised symmetric affinity of ``pairs``, at most 1."""
    return float(1 - spectral_embedding(pairs.symmetric(), min(k, pairs.n), seed=0)[0].mean())


class Coefficients(NamedTuple):
    """Which coefficients make a graph of neighbours, see :func:`choose_expression`."""

    gamma: float
    positive: bool  # negative ones count as zero
    association: float


def choose_expression(
    Z: Tensor, k: int, m: int, gamma: float | None = None, positive: bool | None = None
) -> Coefficients:
    """gamma with the largest :func:`association` of the graph of m neighbours, and whether positive ones alone count.

    Negative ones count by their size, as in Eq. 4, unless they are more than one in a thousand neighbours and the graph
    without them leaves at most 0.75 as much open of what an association of one would be. It must not fall more clearly
    into 2 k clusters, the halves of lines through the mean. At most 5000 samples are looked at.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
        Codes.
    k, m : int
        Clusters, and neighbours of each sample.
    gamma : float, optional
    positive : bool, optional
        Given ones are not chosen.
    """
    Z = Z[_some(len(Z)).to(Z.device)]
    fitted = GlobalSelfExpression(1.0).fit(Z)
    gammas = GAMMAS if gamma is None else (gamma,)

    def best(positive: bool) -> tuple[Coefficients, Neighbours]:
        found = []
        for g in gammas:
            neighbours = _graph(fitted.at(g, positive), Z, m)
            found.append((Coefficients(g, positive, association(neighbours.pairs(), k)), neighbours))
        return max(found, key=lambda one: one[0].association)

    chosen, neighbours = best(bool(positive))
    if positive is not None or neighbours.negative < NEGATIVE:
        return chosen
    other, neighbours = best(True)
    clearer = 1 - other.association < CLEARER * (1 - chosen.association)
    return other if clearer and not _halves(neighbours.pairs(), k) else chosen


def _halves(pairs: Pairs, k: int) -> bool:
    """Whether pairs fall more clearly into 2 k clusters than into k or a number between.

    That is, whether ``1 - eigenvalue`` rises by the largest factor after the first 2 k of them.
    """
    if 2 * k >= pairs.n:
        return False
    lost = spectral_embedding(pairs.symmetric(), 2 * k + 1, seed=0)[0].clip(LOST)
    return int((lost[k:] / lost[k - 1 : -1]).argmax()) == k


class Graph(NamedTuple):
    """How neighbours are found: see :func:`choose_graph`."""

    gamma: float
    m: int  # neighbours of each sample,
    positive: bool = False  # without negative coefficients,
    among: Tensor | None = None  # and the samples that may be neighbours; None: all


def choose_graph(Z: Tensor, k: int, m: int, positive: bool | None = None) -> Graph:
    """gamma, and the neighbours of each of the n samples: the m nearest, unless these mislead.

    gamma is chosen twice (:func:`choose_expression`): for m neighbours, and for as many as half a cluster has among at
    most 3000 landmarks. Where the two differ by a factor of 100 or more, spectral clustering of either graph of the
    landmarks shows whether the near clusters are any at the other scale: what they tell about the far neighbours
    (:func:`~subspan.information.label_information`) is compared with what the far clusters tell. Below 0.75 of it, the
    neighbours of all samples are sought among the landmarks, of more than 20,000 samples fewer for each, so that memory
    does not grow.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
        Codes.
    k, m : int
        Clusters, and near neighbours.
    positive : bool, optional
        Whether negative coefficients count as zero; chosen if left out.
    """
    found = choose_expression(Z, k, m, positive=positive)
    near = Graph(found.gamma, m, found.positive)
    among = landmarks(len(Z)).to(Z.device)
    scale = _scale(len(Z), k)
    if scale <= m:
        return near
    some = Z[among]
    found = choose_expression(some, k, scale, positive=positive)
    far = Graph(found.gamma, scale, found.positive, among)
    if max(near.gamma, far.gamma) < FACTOR * min(near.gamma, far.gamma):
        return near
    fitted = GlobalSelfExpression(1.0).fit(some)
    graphs = [_graph(fitted.at(graph.gamma, graph.positive), some, graph.m).pairs() for graph in (near, far)]
    labels = [torch.from_numpy(spectral_labels(pairs.symmetric(), k, seed=0)) for pairs in graphs]
    told = [label_information(one.to(Z.device), graphs[1], k) for one in labels]
    if told[0] >= MISLED * told[1]:
        return near
    return far._replace(m=most_neighbours(len(Z), k, m))


def most_neighbours(n: int, k: int, m: int) -> int:
    """Neighbours of each of n samples that :func:`choose_graph` may take instead of m."""
    return max(m, min(_scale(n, k), PAIRS // n))


def _scale(n: int, k: int) -> int:
    """Neighbours among the landmarks at the scale of a cluster."""
    return min(min(n, LANDMARKS) // (2 * k), FAR)


def landmarks(n: int) -> Tensor:
    """The at most 3000 of n samples among which far neighbours are sought."""
    return _some(n, LANDMARKS)


def _graph(fitted: GlobalSelfExpression, Z: Tensor, m: int) -> Neighbours:
    return fitted.neighbours(Z, m, gen=generator(0))


def choose_encoder(
    samples: Samples,
    encoders: Mapping[str, Encoder],
    k: int,
    m: int,
    device: torch.device,
    positive: bool = False,
) -> tuple[str, dict[str, float]]:
    """Name of the encoder with the largest :func:`association`, each at its best gamma, and the value of each.

    Whitened codes have gamma 100, which leaves their products as they are. Rows are divided by their maximum for all.
    At most 5000 samples are looked at, of large images as many as an encoder is fitted to.

    Parameters
    ----------
    samples : Samples
    encoders : mapping of str to Encoder
        That need no training. They are fitted here.
    k, m : int
        Clusters, and neighbours of each sample.
    device : torch.device
    positive : bool
        Negative coefficients count as zero. They are not compared here: pixels without them fall into clusters of
        bright and of dark images.
    """
    limit = min(fitted_samples(encoder, samples.n) for encoder in encoders.values())
    some = samples.subset(_some(samples.n, limit))
    scores = {}
    for name, z in encode_each(some, encoders, device):
        white = encoders[name].whitened
        Z = z if white else normalize(z - z.mean(dim=0), dim=1)
        scores[name] = choose_expression(Z, k, m, WHITE if white else None, positive).association
    return max(scores, key=lambda name: scores[name]), scores


def _some(n: int, limit: int = SAMPLES) -> Tensor:
    return torch.randperm(n, generator=generator(0))[: min(limit, SAMPLES)].sort().values
