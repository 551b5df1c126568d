"""Positive pairs of a whole data set, found batch by batch, and random walks on them (layer 1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import scipy.sparse
import torch
from torch import Tensor

from subspan.affinity import subspace_affinity
from subspan.centroids import kmeans_cells
from subspan.self_expression import SelfExpression

CELLS_PER_BATCH = 10
ITERATIONS, MOST = 8, 100  # of k-means, and samples of each cell that it sees at most
MAX_POSITIVES = 30  # kept per sample and batch, those with the largest A_s


@dataclass(frozen=True)
class Pairs:
    """Sparse ``M_s * A_s`` of Eq. 6: row i holds the partners that sample i is sure of.

    Attributes
    ----------
    offsets : Tensor of shape (n + 1,), int64
        Row i is ``partners[offsets[i]:offsets[i + 1]]``.
    partners : Tensor of shape (m,), int64
    weights : Tensor of shape (m,)
        ``A_s`` of the pair.
    alike : bool
        All samples count alike where steps of the walk are added up, see :meth:`normalised`. False: each by the sum of
        its weights, so one that is sure of nobody hardly counts. A walk begins with any sample that is asked for.
    """

    offsets: Tensor
    partners: Tensor
    weights: Tensor
    alike: bool = True

    @classmethod
    def from_entries(cls, i: Tensor, j: Tensor, weight: Tensor, n: int, alike: bool = True) -> Pairs:
        """Pairs (i, j) with their weights in any order; n is the number of samples."""
        order = i.argsort(stable=True)
        offsets = torch.zeros(n + 1, dtype=torch.int64, device=i.device)
        offsets[1:] = torch.bincount(i, minlength=n).cumsum(0)
        return cls(offsets, j[order], weight[order], alike)

    @property
    def n(self) -> int:
        return len(self.offsets) - 1

    def counts(self) -> Tensor:
        """Number of partners of each sample, (n,)."""
        return self.offsets.diff()

    def rows(self) -> Tensor:
        """Sample i of every pair, (m,)."""
        return torch.repeat_interleave(self.counts())

    def normalised(self) -> Tensor:
        """Weights divided by the sum of their row, (m,): the transition probabilities of the walk.

        Where samples do not count alike, by the mean of these sums, over samples with partners.
        """
        rows, weights = self.rows(), self.weights.double()
        if not self.alike:
            return (weights * int((self.counts() > 0).sum()) / weights.sum()).to(self.weights.dtype)
        total = torch.zeros(self.n, dtype=torch.float64, device=rows.device).index_add_(0, rows, weights)
        return (weights / total[rows]).to(self.weights.dtype)

    def symmetric(self) -> scipy.sparse.csr_array:
        """``(A + A^T) / 2`` of the weights A, sparse (n, n) on the CPU."""
        entries = (t.cpu().numpy() for t in (self.weights, self.partners, self.offsets))
        A = scipy.sparse.csr_array(tuple(entries), shape=(self.n, self.n))
        return scipy.sparse.csr_array((A + A.T) / 2)

    @cached_property
    def _below(self) -> Tensor:
        """Sum of all weights before each pair, float64 (m + 1,): one search finds a partner in any row."""
        return torch.cat([self.weights.new_zeros(1, dtype=torch.float64), self.weights.double().cumsum(0)])

    def walk(self, start: Tensor, steps: int, gen: torch.Generator) -> Tensor:
        """End points of random walks of ``steps`` steps from ``start`` (b,); samples without partners stay put."""
        below = self._below
        here = start
        for _ in range(steps):
            low, high = self.offsets[here], self.offsets[here + 1]
            draw = torch.rand(len(here), generator=gen, dtype=torch.float64).to(below.device)
            target = below[low] + draw * (below[high] - below[low])
            found = torch.searchsorted(below[1:], target, right=True)
            found = torch.minimum(torch.maximum(found, low), (high - 1).clamp_min(0))  # rounding at the row's ends
            here = torch.where(high > low, self.partners[found], here) if len(self.partners) else here
        return here


def random_batches(n: int, batch_size: int, gen: torch.Generator) -> list[Tensor]:
    """Random batches of n samples, of nearly equal sizes, at most ``batch_size``; every sample once."""
    return list(torch.randperm(n, generator=gen).tensor_split(-(-n // batch_size)))


def local_batches(Z: Tensor, batch_size: int, gen: torch.Generator) -> list[Tensor]:
    """Batches made of whole cells of a coarse k-means partition of the codes, cells in random order.

    In a random batch most of a sample's true neighbours are missing; cells keep them together at the same batch size.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
        Codes of unit length.
    batch_size : int
    gen : torch.Generator

    Returns
    -------
    list of Tensors
        Index tensors of nearly equal sizes, at most ``batch_size``; every sample once.
    """
    n = len(Z)
    count = -(-n // batch_size)
    if count == 1:
        return random_batches(n, batch_size, gen)
    cells = min(count * CELLS_PER_BATCH, n)
    cell = kmeans_cells(Z.cpu().numpy(), cells, iterations=ITERATIONS, most=MOST, gen=gen, spherical=True)
    order = torch.randperm(cells, generator=gen)[cell].argsort(stable=True)
    return list(order.tensor_split(count))


@torch.no_grad()
def find_positives(
    Z: Tensor,
    batches: Iterable[Tensor],
    layer: SelfExpression,
    u: float,
    limit: int = MAX_POSITIVES,
    positive: bool = False,
) -> Pairs:
    """Pairs with ``A_s > u`` (Eqs. 4 and 6) where ``C`` is that of each batch.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
        Codes as Eq. 9 sees them.
    batches : iterable of Tensors
        Index tensors.
    layer : SelfExpression
    u : float in [0, 1]
    limit : int
        Largest number of partners kept per sample and batch.
    positive : bool
        Negative coefficients count as zero.
    """
    entries = []
    for b, batch in enumerate(batches):
        batch = batch.to(Z.device)
        A_s = subspace_affinity(layer.coefficients(Z[batch], b), positive=positive).fill_diagonal_(0.0)
        weight, j = A_s.topk(min(limit, len(batch) - 1), dim=1)
        row, column = (weight > u).nonzero(as_tuple=True)
        entries.append((batch[row], batch[j[row, column]], weight[row, column]))
    i, j, weight = (torch.cat(part) for part in zip(*entries, strict=True))
    return Pairs.from_entries(i, j, weight, len(Z))
