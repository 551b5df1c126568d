"""Sparse subspace clustering (SSC; Elhamifar, Vidal: Sparse subspace clustering: algorithm, theory, and applications,
IEEE TPAMI 35(11), 2013), in row form.

Eq. (13):  min ||C||_1 + lam_e ||E||_1 + lam_z / 2 ||N||_F^2   s.t. X = C X + E + N, diag(C) = 0  [, C 1 = 1]
Eq. (14):  lam_e = alpha_e / mu_e,  mu_e = min_i max_{j != i} ||x_j||_1
           lam_z = alpha_z / mu_z,  mu_z = min_i max_{j != i} |x_i . x_j|
Alg. 1:    divide each c_i by its largest entry, A = |C| + |C|^T, spectral clustering.

With ``B = lam_e E`` the outliers are d more atoms, ``D = [X; I / lam_e]``, of one Lasso per sample,
``min ||(c, b)||_1 + lam_z / 2 ||x - (c, b) D||^2``, which both solvers solve to the same optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from subspan._parameters import check_above, check_choice, check_integer
from subspan.convex import orthogonal_factor
from subspan.errors import InvalidInputError
from subspan.methods._self_expressive import Expression, SelfExpressiveClusterer
from subspan.sparse_codes import BLOCK_ENTRIES, COHERENT, SparseCodes, active_set_lasso, blockwise_admm, row_blocks


@dataclass(eq=False, repr=False, kw_only=True)
class SSC(SelfExpressiveClusterer):
    """Subspace clustering by l1 self-expression.

    Parameters that are not listed and the attributes are those of
    :class:`~subspan.methods._self_expressive.SelfExpressiveClusterer`, and ``kkt_residual_``.

    Parameters
    ----------
    alpha_z : float
        Weight of the noise term relative to the smallest value at which codes are not zero, above 1.
    alpha_e : float, optional
        Relative weight of the outlier term; None leaves it out.
    affine : bool
        Coefficients sum to one (affine subspaces); ADMM only.
    solver : {"auto", "admm", "lasso"}
        "lasso" is scikit-learn's coordinate descent, sample by sample on active sets; both end in the same minimiser.
        "auto" is "admm" on a GPU or with ``affine``, else "lasso", which is several times faster on a CPU.
    tol : float
        Bound on ``kkt_residual_``.
    max_iter : int
        Of ADMM.
    """

    alpha_z: float = 20.0
    alpha_e: float | None = None
    affine: bool = False
    solver: Literal["auto", "admm", "lasso"] = "auto"
    scale_rows: bool = True
    tol: float = 1e-3
    max_iter: int = 2000

    _dtype: ClassVar[torch.dtype] = torch.float64
    _too_few: ClassVar[str] = "a larger alpha_z keeps more coefficients, if the samples are not all orthogonal"

    @property
    def kkt_residual_(self) -> float:
        """Largest violation of the optimality conditions of the Lasso; subgradients of the l1 norm are in [-1, 1]."""
        history: Any = self.history_
        return history[0]["kkt"]

    def _express(self, Z: Tensor) -> Expression:
        n, d = Z.shape
        weight = float(self.alpha_z) / coherence(Z)  # Eq. (14)
        atoms = Z
        if self.alpha_e is not None:
            lam_e = float(self.alpha_e) / outlier_scale(Z)
            atoms = torch.cat([Z, torch.eye(d, dtype=Z.dtype, device=Z.device) / lam_e])
        found = self._solve(Z, atoms, weight)
        C = found.C[:, :n]
        return Expression(C, found.n_iter, found.stop_reason, {"kkt": found.kkt, "per_sample": C.nnz / n})

    def _solve(self, Z: Tensor, atoms: Tensor, weight: float) -> SparseCodes:
        if self.solver == "lasso" or (self.solver == "auto" and not Z.is_cuda and not self.affine):
            return active_set_lasso(Z, atoms, weight, tol=self.tol)
        total = None
        if self.affine:
            total = (torch.arange(len(atoms), device=Z.device) < len(Z)).to(Z.dtype)
        factor = orthogonal_factor(atoms=atoms)
        return blockwise_admm(Z, atoms, factor, weight, total=total, tol=self.tol, max_iter=self.max_iter)

    def _coefficient_bytes(self, n: int, d: int) -> int:
        m = n if self.alpha_e is None else n + d
        block = 8 * min(n * m, max(BLOCK_ENTRIES, m))
        # a Lasso code has at most d entries; index and value take 12 bytes, and joining blocks copies once
        return 2 * 12 * n * min(n, d) + 8 * block + 8 * (2 * m * min(m, d) + 2 * min(m, d) ** 2)

    def _affinity_bytes(self, n: int, d: int) -> int:
        return 4 * 12 * n * min(n, d)

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        check_above(1, alpha_z=self.alpha_z)
        check_above(0, tol=self.tol)
        check_integer("max_iter", self.max_iter, 1)
        if self.alpha_e is not None:
            check_above(0, alpha_e=self.alpha_e)
        check_choice("solver", self.solver, ("auto", "admm", "lasso"))
        if self.affine and self.solver == "lasso":
            raise InvalidInputError("solver='lasso' has no affine constraint: use solver='admm'.")


def coherence(Z: Tensor) -> float:
    """``mu_z`` of Eq. (14) for ``Z`` (n, d); samples orthogonal to all others are left out, 1 if there is no other."""
    smallest = float("inf")
    for rows in row_blocks(len(Z), len(Z)):
        inner = (Z[rows] @ Z.T).abs()
        inner[torch.arange(len(inner)), torch.arange(rows.start, rows.stop)] = 0.0
        top = inner.amax(dim=1)
        top = top[top > COHERENT * Z[rows].norm(dim=1) * Z.norm(dim=1).amax()]
        smallest = min(smallest, float(top.min())) if len(top) else smallest
    return smallest if smallest < float("inf") else 1.0


def outlier_scale(Z: Tensor) -> float:
    """``mu_e`` of Eq. (14) for ``Z`` (n, d): the second largest l1 norm, 1 if it is zero."""
    norms = Z.abs().sum(1).sort(descending=True).values
    return float(norms[min(1, len(norms) - 1)]) or 1.0
