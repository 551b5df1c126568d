"""Principal components of a stream of rows whose features come in groups (layer 1): one pass, NumPy, float64."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.linalg.blas import dsymv, dsyrk
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

BLOCK = 1024  # rows that are gathered before they are added up
MAX_ROWS = 1024  # rows up to which they are kept as they are
CPU = torch.device("cpu")
MAX_EXACT = 4096  # features up to which the full covariance is kept
LARGE = 1000  # rows from which a few eigenvectors are found faster than by a reduction of the whole matrix


class StreamingPCA:
    """Mean and scatter of rows (Chan, Golub and LeVeque 1979), and components after each group is scaled to unit norm.

    A group is a run of d / groups features; its norm is the root mean square, over the rows, of its length.
    The centred scatter T is kept as a factor R, T = R^T R: the rows themselves at first. When these are too many, it
    is kept as a matrix (lower triangle), or, for very long rows, R is cut back to half of its size, which keeps the
    leading directions as they appear under the norms known by then (Levy and Lindenbaum 2000).

    Parameters
    ----------
    d : int
        Features of a row.
    groups : int
    k : int
        Components that will be asked for.
    device : torch.device
        Where eigenvectors are computed.
    centred : bool
        False: directions from the origin. The mean counts as zero.
    """

    def __init__(self, d: int, groups: int, k: int, device: torch.device = CPU, *, centred: bool = True) -> None:
        self.device, self.centred = device, centred
        self.n, self.mean = 0, np.zeros(d)
        self.group_squares, self.spread = np.zeros(groups), np.zeros(d)
        self.factor, self.limit = np.zeros((0, d)), max(MAX_ROWS, 4 * k)
        self.matrix: np.ndarray | None = None
        self.pending: list[np.ndarray] = []

    def fit(self, blocks: Iterable[np.ndarray]) -> StreamingPCA:
        """Take in all ``blocks`` of rows (m, d)."""
        for rows in blocks:
            self.add(rows)
        self.flush()
        return self

    def add(self, rows: np.ndarray) -> None:
        """Take in rows (m, d)."""
        self.pending.append(rows)
        if sum(map(len, self.pending)) >= BLOCK:
            self.flush()

    def flush(self) -> None:
        """Add up what is still waiting; to be called after the last rows."""
        m = sum(map(len, self.pending))
        if m == 0:
            return
        rows = np.concatenate(self.pending).astype(np.float64)
        self.pending.clear()
        self.group_squares += np.square(rows).reshape(m, len(self.group_squares), -1).sum((0, 2))
        if self.centred:
            mean = rows.mean(0)
            gap = mean - self.mean
            rows = np.concatenate([rows - mean, math.sqrt(self.n * m / (self.n + m)) * gap[None]])
            self.mean += gap * (m / (self.n + m))
        self.n += m
        self.spread += np.square(rows).sum(0)
        self._add_centred(rows)

    def _add_centred(self, rows: np.ndarray) -> None:
        d = rows.shape[1]
        if self.matrix is None:
            rows = self.factor = np.concatenate([self.factor, rows])
            if len(rows) <= self.limit:
                return
            if d > MAX_EXACT:
                scaled = rows * self.scale()
                _, left = leading_eigenpairs(scaled @ scaled.T, self.limit // 2, self.device)
                self.factor = left.T @ rows
                return
            self.matrix, self.factor = np.zeros((d, d), order="F"), rows[:0]
        self.matrix = dsyrk(1.0, rows.T, beta=1.0, c=self.matrix, overwrite_c=1, lower=1)

    def group_norm(self) -> np.ndarray:
        """Root mean square length of every group, (groups,)."""
        return np.sqrt(self.group_squares / self.n)

    def scale(self) -> np.ndarray:
        """1 / norm of the group of every feature, (d,); 1 where a group is always zero."""
        norm = self.group_norm()
        return np.repeat(1 / np.where(norm > 0, norm, 1.0), len(self.mean) // len(norm))

    def total_variance(self) -> float:
        """Variance of the scaled rows, all directions together."""
        return float(self.spread @ self.scale() ** 2) / (self.n - 1)

    def components(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Leading directions of the scaled rows.

        Returns
        -------
        variances : ndarray (k,)
            Descending; divided by n - 1.
        directions : ndarray (d, k)
            Unit columns whose largest entry is positive; zero where the rows have no spread left.
        """
        scale = self.scale()
        scaled = self.factor * scale
        short = self.matrix is None and len(scaled) < len(scale)
        if self.matrix is not None:
            gram = self.matrix * scale[:, None] * scale
        else:
            gram = scaled @ scaled.T if short else scaled.T @ scaled
        values, vectors = leading_eigenpairs(gram, k, self.device)
        values, vectors = values[::-1], vectors[:, ::-1]
        keep = values > 1e-10 * max(values[0], np.finfo(float).tiny)
        if short:
            vectors = scaled.T @ vectors / np.sqrt(np.where(keep, values, 1.0))
        largest = vectors[np.abs(vectors).argmax(0), np.arange(len(values))]
        vectors = vectors * np.where(keep, np.sign(largest), 0.0)
        missing = k - len(values)
        return np.pad(values * keep / (self.n - 1), (0, missing)), np.pad(vectors, ((0, 0), (0, missing)))


def working_bytes(d: int, n: int, k: int) -> int:
    """Expected memory of :class:`StreamingPCA` for n rows of d features in one group and k components."""
    rows = min(n, max(MAX_ROWS, 4 * k))
    side = d if n > rows and d <= MAX_EXACT else min(rows, d)
    return 8 * (2 * rows * d + 3 * side**2)


def leading_eigenpairs(matrix: np.ndarray, k: int, device: torch.device = CPU) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues (k,), ascending, and vectors (n, k), of a matrix whose lower triangle is given.

    A few pairs of a large matrix are found by Lanczos iterations to machine precision, four times faster.
    """
    n = len(matrix)
    first = max(0, n - k)
    if device.type != "cpu":
        values, vectors = torch.linalg.eigh(torch.from_numpy(matrix).to(device))
        return values[first:].cpu().numpy(), vectors[:, first:].cpu().numpy()
    if n >= LARGE and 10 * k <= n:
        lower = np.asfortranarray(matrix)
        product = LinearOperator((n, n), matvec=lambda v: dsymv(1.0, lower, v, lower=1), dtype=lower.dtype)
        with suppress(ArpackError):
            values, vectors = eigsh(product, k, which="LA", v0=np.random.default_rng(0).standard_normal(n))
            order = values.argsort()
            return values[order], vectors[:, order]
    return eigh(matrix, lower=True, subset_by_index=[first, n - 1])
