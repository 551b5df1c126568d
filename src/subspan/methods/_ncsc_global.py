"""``recipe="global"``: the teacher of the classifiers is the self-expression of all samples by all others.

The stages are those of Algorithm 1 (:mod:`subspan.methods._ncsc_stages`); where positive pairs come from differs, and
what classifiers learn first is searched for on them (:mod:`subspan.proposals`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from subspan._random import generator
from subspan.methods._ncsc_setting import Setting
from subspan.neighbours import GlobalSelfExpression, Neighbours
from subspan.pairs import Pairs
from subspan.selection import WHITE, Graph, choose_expression, choose_graph, landmarks

NEIGHBOURS = (3, 10)  # fewest and most per sample


class ChosenGraph(nn.Module):
    """The graph, with the number of landmarks, as a tensor: a run that goes on keeps what it has chosen."""

    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(4, dtype=torch.float64))  # gamma 0: nothing yet

    def write(self, graph: Graph) -> None:
        among = 0 if graph.among is None else len(graph.among)
        self.values.copy_(torch.tensor([graph.gamma, graph.m, graph.positive, among], dtype=torch.float64))

    def read(self, n: int) -> Graph | None:
        """What was written, for n samples."""
        gamma, m, positive, among = self.values.tolist()
        if not gamma:
            return None
        return Graph(gamma, int(m), bool(positive), landmarks(n).to(self.values.device) if among else None)


@dataclass
class GlobalSetting(Setting):
    """What the stages share, with positive pairs from the whole data set.

    ``gamma=None`` and ``positive=None`` are chosen by :func:`subspan.selection.choose_expression`, or together with the
    number of neighbours, where that and gamma are open, by :func:`subspan.selection.choose_graph`. Whitened codes have
    gamma 100 and near neighbours.
    """

    n_neighbors: int = NEIGHBOURS[1]
    open_neighbors: bool = False
    gamma: float | None = None
    chosen: ChosenGraph = field(default_factory=ChosenGraph)
    graph: Graph | None = None
    neighbours: Neighbours | None = None
    searched: Tensor | None = None  # the codes whose neighbours these are
    found: dict[float, Pairs] = field(default_factory=dict)  # the last pairs, by u

    def encode_all(self) -> None:
        super().encode_all()
        if self.graph is None:  # a run that goes on
            self.graph = self.chosen.read(self.samples.n)
        if self.graph is not None:
            self.layer.gamma, self.positive = self.graph.gamma, self.graph.positive

    def positives(self, u: float, gen: torch.Generator) -> Pairs:
        if self.searched is not self.codes:
            self.search()
        self.chosen.write(cast(Graph, self.graph))  # a stage that is tried again has forgotten it
        if u not in self.found:
            self.found = {u: cast(Neighbours, self.neighbours).pairs(u, self.encoder.whitened)}
        return self.found[u]

    def most_pairs(self) -> int:
        return self.n_neighbors if self.graph is None else self.graph.m

    def search(self) -> None:
        """Find the neighbours of all samples for the present codes, and gamma and their number if these are open."""
        Z = self.normalise(self.codes)
        if self.graph is None:
            self.graph = self._choose(Z)
        gamma, m, positive, among = self.graph
        self.layer.gamma, self.positive = gamma, positive
        fitted = GlobalSelfExpression(gamma, positive).fit(Z)
        self.neighbours = fitted.neighbours(Z, m, gen=generator(0), among=among)
        self.searched, self.found = self.codes, {}

    def _choose(self, Z: Tensor) -> Graph:
        k, m, white = self.n_clusters, self.n_neighbors, self.encoder.whitened
        if self.open_neighbors and not white:
            return choose_graph(Z, k, m, self.positive)
        gamma = WHITE if self.gamma is None and white else self.gamma
        if gamma is not None and self.positive is not None:
            return Graph(gamma, m, self.positive)
        found = choose_expression(Z, k, m, gamma, self.positive)
        return Graph(found.gamma, m, found.positive)


def count_neighbours(n: int, n_clusters: int) -> int:
    """Neighbours per sample: half an average cluster, from 3 to 10."""
    low, high = NEIGHBOURS
    return min(max(n // (2 * n_clusters), low), high)
