"""SSC by orthogonal matching pursuit (SSC-OMP; You, Robinson, Vidal: Scalable sparse subspace clustering by orthogonal
matching pursuit, CVPR 2016), in row form.

Eq. (4):  min ||x_i - c_i X||_2^2   s.t. ||c_i||_0 <= k, c_ii = 0, solved greedily (Alg. 1):
    T_0 = {},  q_0 = x_i
    while |T| < k and ||q||_2 > eps:
        T <- T + argmax_{j != i} |x_j . q|
        q <- x_i - (projection of x_i onto span{x_j : j in T})
Alg. 2:   A = |C| + |C|^T, spectral clustering. Rows of C are divided by their maximum first, as in SSC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy import sparse
from torch import Tensor

from subspan._parameters import check_above, check_integer
from subspan.methods._self_expressive import Expression, SelfExpressiveClusterer
from subspan.sparse_codes import BLOCK_ENTRIES, row_blocks


@dataclass(eq=False, repr=False, kw_only=True)
class SSCOMP(SelfExpressiveClusterer):
    """Subspace clustering by greedy sparse self-expression; C is sparse and nothing of size n x n appears.

    Parameters that are not listed and the attributes are those of
    :class:`~subspan.methods._self_expressive.SelfExpressiveClusterer`.

    Parameters
    ----------
    n_nonzero : int
        k, the most coefficients of a sample; the paper uses 10 for digits and 5 for faces.
    eps : float
        A sample is done when its residual is at most this.
    """

    n_nonzero: int = 10
    eps: float = 1e-3
    scale_rows: bool = True

    _dtype: ClassVar[torch.dtype] = torch.float32
    _too_few: ClassVar[str] = "a smaller eps takes more of them"

    def _express(self, Z: Tensor) -> Expression:
        C = omp_codes(Z, self.n_nonzero, self.eps)
        return Expression(C, self.n_nonzero, "greedy", {"per_sample": C.nnz / len(Z)})

    def _coefficient_bytes(self, n: int, d: int) -> int:
        rows = min(n, max(1, BLOCK_ENTRIES // n))
        # a block of correlations, and the gathered atoms of its rows in float64
        return 3 * 12 * n * self.n_nonzero + 3 * 4 * rows * n + 3 * 8 * rows * self.n_nonzero * d

    def _affinity_bytes(self, n: int, d: int) -> int:
        return 4 * 12 * n * self.n_nonzero

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        check_integer("n_nonzero", self.n_nonzero, 1)
        check_above(0, eps=self.eps)


def omp_codes(Z: Tensor, n_nonzero: int, eps: float) -> sparse.csr_array:
    """Orthogonal matching pursuit of every sample over all others (Alg. 1).

    Parameters
    ----------
    Z : Tensor of shape (n, d)
        Correlations are taken in its dtype, least squares in float64.
    n_nonzero : int
    eps : float

    Returns
    -------
    csr_array of shape (n, n), float64
    """
    n = len(Z)
    parts = [_omp_block(Z, rows, min(n_nonzero, n - 1), eps) for rows in row_blocks(n, n)]
    return sparse.csr_array(sparse.vstack(parts))


def _omp_block(Z: Tensor, rows: slice, k: int, eps: float) -> sparse.csr_array:
    """Codes of the samples ``Z[rows]``, all advanced together one atom at a time."""
    X = Z[rows].double()  # (b, d)
    b, n = len(X), len(Z)
    chosen = torch.zeros(b, k, dtype=torch.int64, device=Z.device)
    codes = torch.zeros(b, k, dtype=torch.float64, device=Z.device)
    banned = torch.arange(rows.start, rows.stop, device=Z.device)[:, None]  # own index, then T
    residual = X.clone()
    floor = max(eps, 16 * torch.finfo(Z.dtype).eps)  # below, the residual is rounding noise
    is_open = (residual.norm(dim=1) > floor).nonzero().ravel()
    for t in range(k):
        if len(is_open) == 0:
            break
        q = residual[is_open]
        inner = (q.to(Z.dtype) @ Z.T).abs_()
        inner.scatter_(1, banned[is_open], -1.0)
        best = inner.argmax(dim=1)
        trial = torch.cat([chosen[is_open, :t], best[:, None]], dim=1)
        atoms = Z[trial].double()  # (b', t + 1, d)
        L, info = torch.linalg.cholesky_ex(atoms @ atoms.mT)
        pivots = L.diagonal(dim1=1, dim2=2).amin(dim=1) ** 2
        sound = (info == 0) & (pivots > 1e-12)  # an atom in the span of T adds nothing: the sample is done
        is_open, trial, atoms, L = is_open[sound], trial[sound], atoms[sound], L[sound]
        x = X[is_open]
        values = torch.cholesky_solve(atoms @ x[:, :, None], L)[:, :, 0]  # (b', t + 1)
        chosen[is_open, : t + 1], codes[is_open, : t + 1] = trial, values
        residual[is_open] = x - (values[:, None, :] @ atoms)[:, 0]
        banned = torch.cat([banned, banned[:, :1]], dim=1)
        banned[is_open, t + 1] = trial[:, t]
        is_open = is_open[residual[is_open].norm(dim=1) > floor]
    i, j = codes.nonzero(as_tuple=True)
    entries = codes[i, j].cpu().numpy(), (i.cpu().numpy(), chosen[i, j].cpu().numpy())
    return sparse.csr_array(entries, shape=(b, n))
