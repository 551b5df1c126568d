"""Self-expression over a whole data set without an n x n matrix (layer 1).

For codes ``z_i`` (rows of Z) let ``S = Z^T Z``, ``M = (S + rho I)^-1`` and ``h_i = z_i^T M z_i``. The minimiser of
Eq. 9 over C with zero diagonal is ``c_ij = z_i^T M z_j / (1 - h_i)`` (Lu et al. 2012; Steck 2019), so its symmetrised
affinity ::

    a_ij = |z_i^T M z_j| (1 / (1 - h_i) + 1 / (1 - h_j)) / 2

needs the d x d matrix S only, a sum over samples. With ``M = L L^T`` the largest entries of a row are found by a search
for the largest inner products of the whitened codes ``w_i = L^T z_i``.

Eq. 4 takes ``|c_ij|``: a sample and its opposite lie in one subspace. Seen from the mean of all samples two clusters
can be opposites too, and then only positive coefficients should join samples (``positive=True``): negative ones count
as zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import faiss
import torch
from torch import Tensor

from subspan._random import generator
from subspan._validation import iter_slices
from subspan.errors import InvalidInputError, SelfExpressionError
from subspan.pairs import Pairs

EXACT = 20_000  # samples up to which all inner products are computed
RECALL = 0.995  # of the approximate search, measured on a sample of queries
SAMPLE = 1000  # queries of that measurement, and of the one for negative products
BLOCK = 10_000
QUERIES, PRODUCTS = 2048, 2**28  # of torch_search at a time: 1 GB of products
POWER = 4.0  # of comparable affinities; the code of DSC-Net has 3.5 for faces under changing light, 8 for objects
FAINT = 0.005  # comparable affinities that are none
_MIN_SLACK = 1e-9  # 1 - h below this is rounding noise


@dataclass(frozen=True)
class Neighbours:
    """The m largest affinities of every sample.

    Attributes
    ----------
    index : Tensor of shape (n, m), int64
        Samples j in the order of falling affinity; never the sample itself.
    affinity : Tensor of shape (n, m)
        ``a_ij``.
    recall : float
        Share of the true neighbours that the search found, measured on a sample; 1 for the exact search.
    negative : float
        Share of the neighbours whose coefficient is negative.
    """

    index: Tensor
    affinity: Tensor
    recall: float = 1.0
    negative: float = 0.0

    def pairs(self, u: float = 0.0, comparable: bool = False) -> Pairs:
        """Positive pairs: rows divided by their maximum (Sec. 4) and cut at ``A_s > u`` (Eq. 6).

        ``comparable`` affinities, those of whitened codes of unit length, are divided by the largest of all, since a
        row of small ones is a sample that nobody expresses well, and raised to the power 4, which leaves the sure ones.
        Below 0.005 they are no pairs: to that power they are less than the rounding of sums over all samples.
        """
        top = self.affinity[:, :1] if not comparable else self.affinity.max()
        A_s = self.affinity / top.clamp_min(torch.finfo(self.affinity.dtype).tiny)
        row, column = (A_s > (max(u, FAINT) if comparable else u)).nonzero(as_tuple=True)
        weight = A_s[row, column]
        if comparable:
            weight = weight**POWER
        return Pairs.from_entries(row, self.index[row, column], weight, len(self.index), alike=not comparable)


class GlobalSelfExpression:
    """Zero-diagonal ridge self-expression of all samples by all others.

    Parameters
    ----------
    gamma : float, above 0
        Ridge weight relative to the mean eigenvalue of S: ``rho = gamma trace(S) / d``.
    positive : bool
        Negative coefficients count as zero.

    Attributes
    ----------
    S : Tensor of shape (d, d), float64
    n_seen : int
    rho : float
    root : Tensor of shape (d, d), float64
        Lower triangular L with ``L L^T = M``.
    """

    def __init__(self, gamma: float, positive: bool = False):
        if not (math.isfinite(gamma) and gamma > 0):
            raise InvalidInputError(f"gamma is {gamma!r}; give a number above 0.")
        self.gamma, self.positive = gamma, positive

    def fit(self, Z: Tensor | Iterable[Tensor]) -> GlobalSelfExpression:
        """Sum S over the codes, given whole (n, d) or in batches (b, d), in one pass and in float64.

        Raises
        ------
        InvalidInputError
            No codes, or batches of different width.
        SelfExpressionError
            The codes are not finite, or all zero.
        """
        S, n = None, 0
        for batch in Z.split(BLOCK) if isinstance(Z, Tensor) else Z:
            part = batch.double()
            if part.ndim != 2 or (S is not None and len(S) != part.shape[1]):
                raise InvalidInputError(f"A batch of codes is {tuple(batch.shape)}; give (b, d) with one d.")
            S = part.T @ part if S is None else S.addmm_(part.T, part)
            n += len(part)
        if S is None or n == 0:
            raise InvalidInputError("There are no codes: give at least one batch.")
        self.S, self.n_seen = S, n
        return self._solve()

    def at(self, gamma: float, positive: bool = False) -> GlobalSelfExpression:
        """The same of the same samples, with other parameters; S is not summed again."""
        other = GlobalSelfExpression(gamma, positive)
        other.S, other.n_seen = self.S, self.n_seen
        return other._solve()

    def _solve(self) -> GlobalSelfExpression:
        S = self.S
        self.rho = float(self.gamma * S.trace() / len(S))
        if not (math.isfinite(self.rho) and self.rho > 0):
            raise SelfExpressionError(
                f"The codes have trace(Z^T Z) = {float(S.trace())}: give finite codes, not all zero."
            )
        system = S + self.rho * torch.eye(len(S), dtype=S.dtype, device=S.device)
        upper = torch.linalg.cholesky(system, upper=True)  # system = U^T U, so M = U^-1 U^-T and L = U^-1
        self.root = torch.linalg.solve_triangular(upper, torch.eye(len(S), dtype=S.dtype, device=S.device), upper=True)
        return self

    def whiten(self, Z: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened codes (n, d), and ``1 / (1 - h)`` (n,), in the dtype of Z (n, d), block by block."""
        W, slack = torch.empty_like(Z), Z.new_empty(len(Z))
        for rows in iter_slices(len(Z), BLOCK):
            w = Z[rows].double() @ self.root
            W[rows] = w.to(Z.dtype)
            slack[rows] = (1 / (1 - w.square().sum(dim=1)).clamp_min(_MIN_SLACK)).to(Z.dtype)
        return W, slack

    def affinity(self, Z_i: Tensor, Z_j: Tensor) -> Tensor:
        """``a_ij`` (a, b) between codes Z_i (a, d) and Z_j (b, d) of samples that ``fit`` saw, no sample twice."""
        (W_i, slack_i), (W_j, slack_j) = self.whiten(Z_i), self.whiten(Z_j)
        return self._size(W_i @ W_j.T) * (slack_i[:, None] + slack_j) / 2

    def _size(self, product: Tensor) -> Tensor:
        return product.clamp_min(0.0) if self.positive else product.abs()

    def neighbours(
        self,
        Z: Tensor,
        m: int,
        method: str = "auto",
        gen: torch.Generator | None = None,
        among: Tensor | None = None,
    ) -> Neighbours:
        """The m largest affinities of each of the n samples.

        Products are searched for with FAISS (on CUDA with torch) and the 2 m best are ranked by the exact ``a_ij``.
        Large negative products count as much as positive ones, unless ``positive``; they are searched for if any of
        them is among the m best of a sample of queries.

        Parameters
        ----------
        Z : Tensor of shape (n, d)
            The codes that ``fit`` saw.
        m : int
            At most n - 1 are returned, one less than there are in ``among``.
        method : {"auto", "exact", "ivf"}
            "auto" is exact up to 20,000 samples, then an inverted file whose recall is measured and reported.
        gen : torch.Generator, optional
            Draws the queries of the measurements.
        among : Tensor of shape (q,), int64, optional
            The samples that may be neighbours, all by default. Of few landmarks the nearest are as far away as half a
            cluster reaches.

        Raises
        ------
        InvalidInputError
            Unknown method, or m below 1.
        """
        n = len(Z)
        if m < 1 or method not in ("auto", "exact", "ivf"):
            raise InvalidInputError(f"m={m}, method={method!r}; give m >= 1 and 'auto', 'exact' or 'ivf'.")
        W, slack = self.whiten(Z)
        base = W if among is None else W[among]
        m, others = int(m), len(base) - 1  # FAISS takes no integers of NumPy
        m, wide = min(m, others), min(2 * m, others) + 1  # one more for the sample itself
        if W.is_cuda:
            search, recall = torch_search(base, self._size), 1.0
        else:
            exact = method == "exact" or (method == "auto" and len(base) <= EXACT)
            some = torch.randperm(n, generator=gen or generator(0))[:SAMPLE]
            search, recall = _faiss_search(base, W[some], m + 1, exact, self.positive)
        index = torch.empty(n, m, dtype=torch.int64, device=W.device)
        affinity, negative = W.new_empty(n, m), 0
        for rows in iter_slices(n, BLOCK):
            j, product = search(W[rows], wide)
            if among is not None:
                j = torch.where(j < 0, j, among[j])
            index[rows], affinity[rows], below = _rank(j, product, self._size(product), rows.start, slack, m)
            negative += below
        return Neighbours(index, affinity, recall, negative / max(n * m, 1))


Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # (queries, m) -> index and product of candidates


def both_signs(W: Tensor, queries: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Exact search for the largest ``|w_i . w_j|`` of some rows ``w_i`` (q, d): index (q, m) and products (q, m)."""
    search = _exact_search(W)
    index, product = _merge(search(queries, m), search(queries, m, -1.0))
    order = product.abs().topk(m, dim=1).indices
    return index.gather(1, order), product.gather(1, order)


def torch_search(W: Tensor, size: Callable[[Tensor], Tensor] = torch.abs) -> Search:
    """Exact search for the m products ``w_i . w_j`` of largest size with dense blocks of products, for CUDA."""
    block = max(1, min(QUERIES, PRODUCTS // len(W)))

    def search(queries: Tensor, m: int) -> tuple[Tensor, Tensor]:
        index, product = [], []
        for rows in queries.split(block):
            P = rows @ W.T
            best = size(P).topk(m, dim=1).indices
            index.append(best)
            product.append(P.gather(1, best))
        return torch.cat(index), torch.cat(product)

    return search


SignedSearch = Callable[..., tuple[Tensor, Tensor]]  # (queries, m, sign) -> index and product, sign * it falling


def _faiss_search(W: Tensor, some: Tensor, m: int, exact: bool, positive: bool) -> tuple[Search, float]:
    """Search of candidates with FAISS, for negative products only where the rows ``some`` have any; its recall."""
    truth = _exact_search(W)(some, m) if positive else both_signs(W, some, m)
    signed = _exact_search(W) if exact else _inverted_file(W, some, m)
    negative = not positive and bool((truth[1] < 0).any())

    def search(queries: Tensor, m: int) -> tuple[Tensor, Tensor]:
        found = signed(queries, m)
        return _merge(found, signed(queries, m, -1.0)) if negative else found

    return search, 1.0 if exact else _recall(search(some, m)[0], truth[0])


def _exact_search(W: Tensor) -> SignedSearch:
    base = W.numpy()

    def search(queries: Tensor, m: int, sign: float = 1.0) -> tuple[Tensor, Tensor]:
        product, index = faiss.knn((sign * queries).numpy(), base, m, metric=faiss.METRIC_INNER_PRODUCT)
        return torch.from_numpy(index), sign * torch.from_numpy(product)

    return search


def _inverted_file(W: Tensor, some: Tensor, m: int) -> SignedSearch:
    """Search in an inverted file; as many lists are probed as the recall on the rows ``some`` asks for."""
    n, d = W.shape
    lists = max(1, int(2 * math.sqrt(n)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 8, 64, 1
    index.train(W.numpy())
    for rows in iter_slices(n, BLOCK):
        index.add(W[rows].numpy())
    queries = some[:200].numpy()
    _, truth = faiss.knn(queries, W.numpy(), m, metric=faiss.METRIC_INNER_PRODUCT)
    index.nprobe = 4
    while index.nprobe < lists:
        index.nprobe = min(2 * index.nprobe, lists)
        if _recall(torch.from_numpy(index.search(queries, m)[1]), torch.from_numpy(truth)) >= RECALL:
            break

    def search(queries: Tensor, m: int, sign: float = 1.0) -> tuple[Tensor, Tensor]:
        product, numbers = index.search((sign * queries).numpy(), m)
        return torch.from_numpy(numbers), sign * torch.from_numpy(product)

    return search


def _recall(found: Tensor, truth: Tensor) -> float:
    return float((truth[:, :, None] == found[:, None, :]).any(dim=2).float().mean())


def _merge(positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Both result lists side by side; a sample that is in both keeps its product in one of them only."""
    index, product = (torch.cat(parts, dim=1) for parts in zip(positive, negative, strict=True))
    half = positive[0].shape[1]
    product[:, half:][product[:, half:] >= 0] = 0.0  # a negated search that found positive products
    product[:, :half][product[:, :half] < 0] = 0.0
    return index, product


def _rank(j: Tensor, product: Tensor, size: Tensor, first: int, slack: Tensor, m: int) -> tuple[Tensor, Tensor, int]:
    """The m largest ``a_ij`` of the candidates of samples ``first``, ``first + 1``, ..., without the sample itself.

    A candidate of index -1 is missing; where too few are left, the next sample takes the place with affinity 0. Also
    returns how many of them have a negative product.
    """
    own = torch.arange(first, first + len(j), device=j.device)[:, None]
    a = size * (slack[own] + slack[j.clamp_min(0)]) / 2
    a[(j == own) | (j < 0)] = 0.0
    a, order = a.topk(m, dim=1)
    j, negative = j.gather(1, order), (product.gather(1, order) < 0) & (a > 0)
    return torch.where((j < 0) | (j == own), (own + 1) % len(slack), j), a, int(negative.sum())
