"""Low-rank representation (LRR; Liu, Lin, Yan, Sun, Yu, Ma: Robust recovery of subspace structures by low-rank
representation, IEEE TPAMI 35(1), 2013), in row form.

Noiseless:  min ||C||_*  s.t. X = C X.   Unique minimiser C = U_r U_r^T for X = U_r S_r V_r^T (Theorem 4.1).
Noisy:      min ||C||_* + lam ||E||_{2,1}  s.t. X = C X + E   (sample-wise noise: rows of E).
Alg. 2:     factors of C, unit rows, cosines raised to a power, spectral clustering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subspan._parameters import check_above, check_integer
from subspan.convex import low_rank_admm, thin_svd
from subspan.methods._self_expressive import Expression, SelfExpressiveClusterer

_RANK_TOLERANCE = 1e-5  # samples come as float32, so smaller singular values are rounding noise


@dataclass(eq=False, repr=False, kw_only=True)
class LRR(SelfExpressiveClusterer):
    """Subspace clustering by low-rank self-expression.

    Parameters that are not listed and the attributes are those of
    :class:`~subspan.methods._self_expressive.SelfExpressiveClusterer`. A large ``subspace_dim`` with ``power=2`` is
    the paper's Algorithm 2 but for negative cosines, which we cut and the paper squares, and for the factors, which are
    those of C there and of (C + C^T) / 2 here.

    Parameters
    ----------
    lam : float or None
        Weight of the noise, per sample of unit length; None is the noiseless closed form.
    tol : float
        Bound on the relative residuals of ADMM.
    max_iter : int
        Of ADMM.
    """

    lam: float | None = 0.18
    tol: float = 1e-5
    max_iter: int = 1000

    _dtype: ClassVar[torch.dtype] = torch.float64
    _too_few: ClassVar[str] = "a larger lam lets less of the data be noise"

    def _express(self, Z: Tensor) -> Expression:
        if self.lam is None:
            U, _, _ = thin_svd(Z, _RANK_TOLERANCE)
            return Expression(_product(U, U), figures={"rank": float(U.shape[1])})
        found, U = low_rank_admm(Z, self.lam, tol=self.tol, max_iter=self.max_iter)
        rank = float(torch.linalg.matrix_rank(found.codes))
        figures = {"primal": found.primal, "dual": found.dual, "rank": rank}
        return Expression(_product(found.codes, U), found.n_iter, found.stop_reason, figures)

    def _coefficient_bytes(self, n: int, d: int) -> int:
        r = min(n, d)
        return 4 * n * n + 10 * 8 * n * r + 4 * 8 * r * r

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        check_integer("max_iter", self.max_iter, 1)
        check_above(0, tol=self.tol)
        if self.lam is not None:
            check_above(0, lam=self.lam)


def _product(W: Tensor, U: Tensor):
    """``C = W U^T`` in float32: only its size is n x n."""
    return (W.float() @ U.float().T).cpu().numpy()
