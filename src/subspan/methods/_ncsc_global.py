"""``recipe="global"``: the teacher of the classifiers is the self-expression of all samples by all others.

The stages are those of Algorithm 1 (:mod:`subspan.methods._ncsc_stages`); where positive pairs come from differs, and
what classifiers learn first is searched for on them (:mod:`subspan.proposals`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from subspan._random import generator
from subspan.methods._ncsc_setting import Setting
from subspan.neighbours import GlobalSelfExpression, Neighbours
from subspan.pairs import Pairs
from subspan.selection import choose_gamma, choose_graph

NEIGHBOURS = (3, 10)  # fewest and most per sample


@dataclass
class GlobalSetting(Setting):
    """What the stages share, with positive pairs from the whole data set.

    ``gamma=None`` is chosen by :func:`subspan.selection.choose_gamma`, or together with the number of neighbours, where
    that is open as well, by :func:`subspan.selection.choose_graph`.
    """

    n_neighbors: int = NEIGHBOURS[1]
    open_neighbors: bool = False
    among: Tensor | None = None  # samples that may be neighbours; None: all
    gamma: float | None = None
    neighbours: Neighbours | None = None
    searched: Tensor | None = None  # the codes whose neighbours these are
    found: dict[float, Pairs] = field(default_factory=dict)  # the last pairs, by u

    def positives(self, u: float, gen: torch.Generator) -> Pairs:
        if self.searched is not self.codes:
            self.search()
        if u not in self.found:
            self.found = {u: cast(Neighbours, self.neighbours).pairs(u)}
        return self.found[u]

    def most_pairs(self) -> int:
        return self.n_neighbors

    def search(self) -> None:
        """Find the neighbours of all samples for the present codes, and gamma if it is still open."""
        Z = self.normalise(self.codes)
        if self.gamma is None and self.open_neighbors:
            self.gamma, self.n_neighbors, self.among = choose_graph(Z, self.n_clusters, self.n_neighbors)
        elif self.gamma is None:
            self.gamma, _ = choose_gamma(Z, self.n_clusters, self.n_neighbors)
        self.layer.gamma = self.gamma
        found = GlobalSelfExpression(self.gamma).fit(Z)
        self.neighbours = found.neighbours(Z, self.n_neighbors, gen=generator(0), among=self.among)
        self.searched, self.found = self.codes, {}


def count_neighbours(n: int, n_clusters: int) -> int:
    """Neighbours per sample: half an average cluster, from 3 to 10."""
    low, high = NEIGHBOURS
    return min(max(n // (2 * n_clusters), low), high)
