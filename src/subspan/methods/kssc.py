"""Kernel sparse subspace clustering (KSSC; Patel, Vidal: Kernel sparse subspace clustering, ICIP 2014), in row form.

Eq. (3):  min ||C||_1 + lam / 2 ||Phi(X) - C Phi(X)||_F^2   s.t. diag(C) = 0
Eq. (4):  the second term is trace(K - 2 C K + C K C^T), with K_ij = kappa(x_i, x_j)

    polynomial:  kappa(x, y) = (x . y + a)^b
    Gaussian:    kappa(x, y) = exp(-||x - y||^2 / sigma)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from subspan._parameters import check_above, check_choice, check_integer, check_number
from subspan.convex import orthogonal_factor
from subspan.errors import SelfExpressionError
from subspan.methods._self_expressive import Expression, SelfExpressiveClusterer
from subspan.sparse_codes import BLOCK_ENTRIES, COHERENT, active_set_lasso, blockwise_admm
from subspan.subspaces import kernel_ridge_bases, squared_residuals

_MEDIAN_ROWS = 1000  # samples that the median distance is taken over


@dataclass(eq=False, repr=False, kw_only=True)
class KSSC(SelfExpressiveClusterer):
    """Subspace clustering by l1 self-expression in the feature space of a kernel.

    ``predict`` measures the ridge residual in that feature space, so the fitted samples are kept with the model.

    Parameters that are not listed and the attributes are those of
    :class:`~subspan.methods._self_expressive.SelfExpressiveClusterer`, and ``kkt_residual_``.

    Parameters
    ----------
    kernel : {"poly", "rbf", "linear"}
    degree : int
        b of the polynomial kernel.
    coef0 : float
        a of the polynomial kernel.
    sigma : float or "median"
        Width of the Gaussian kernel; "median" is the median squared distance of the samples.
    alpha_z : float
        As in SSC, above 1, with kernel values for inner products: ``lam = alpha_z / min_i max_{j != i} |K_ij|``.
    solver : {"auto", "admm", "lasso"}
        As in SSC. ADMM works on the Gram matrix; "lasso" on the rows of a factor ``U`` with ``U U^T = K``.
    tol : float
        Bound on ``kkt_residual_``.
    max_iter : int
        Of ADMM.
    """

    kernel: Literal["poly", "rbf", "linear"] = "poly"
    degree: int = 2
    coef0: float = 1.0
    sigma: float | Literal["median"] = "median"
    alpha_z: float = 20.0
    solver: Literal["auto", "admm", "lasso"] = "auto"
    scale_rows: bool = True
    tol: float = 1e-3
    max_iter: int = 2000

    _dtype: ClassVar[torch.dtype] = torch.float64
    _too_few: ClassVar[str] = "a larger alpha_z keeps more coefficients, a larger sigma makes the RBF kernel wider"

    @property
    def kkt_residual_(self) -> float:
        """Largest violation of the optimality conditions; subgradients of the l1 norm are in [-1, 1]."""
        history: Any = self.history_
        return history[0]["kkt"]

    def _express(self, Z: Tensor) -> Expression:
        self._width = _median_distance(Z) if self.sigma == "median" else float(self.sigma)
        K = self._kernel(Z, Z)
        if not bool(K.isfinite().all()):
            raise SelfExpressionError("kernel values are too large: lower degree or coef0, or set normalize=True")
        others, norms = K.abs().fill_diagonal_(0.0).amax(dim=1), K.diagonal().clamp_min(0.0).sqrt()
        others = others[others > COHERENT * norms * norms.amax()]
        weight = float(self.alpha_z) / (float(others.min()) if len(others) else 1.0)
        factor = orthogonal_factor(gram=K)
        if self.solver == "lasso" or (self.solver == "auto" and not Z.is_cuda):
            found = active_set_lasso(factor[0], factor[0], weight, tol=self.tol)
        else:
            found = blockwise_admm(None, None, factor, weight, gram=K, tol=self.tol, max_iter=self.max_iter)
        figures = {"kkt": found.kkt, "per_sample": found.C.nnz / len(Z)}
        return Expression(found.C, found.n_iter, found.stop_reason, figures)

    def _kernel(self, X: Tensor, Y: Tensor) -> Tensor:
        """Kernel values (a, b) of rows ``X`` (a, p) with rows ``Y`` (b, p)."""
        inner = X @ Y.T
        if self.kernel == "linear":
            return inner
        if self.kernel == "poly":
            return (inner + self.coef0) ** self.degree
        return torch.exp(-_squared_distances(X, Y, inner) / self._width)

    def _fit_subspaces(self, Z: Tensor, labels: Tensor) -> None:
        order = torch.argsort(labels, stable=True)
        self._anchors, self._sizes = Z[order], torch.bincount(labels, minlength=self.n_clusters).tolist()
        gram = self._kernel(self._anchors, self._anchors)
        self._bases = kernel_ridge_bases(gram, labels[order], self.n_clusters, self.predict_ridge)

    def _residuals(self, V: Tensor) -> Tensor:
        anchors = self._anchors.to(V.device)
        values = self._kernel(V, anchors).split(self._sizes, dim=1)
        return squared_residuals(self._square_norms(V), values, [b.to(V.device) for b in self._bases])

    def _square_norms(self, V: Tensor) -> Tensor:
        """``kappa(v, v)`` for every row of ``V`` (b, p)."""
        inner = V.square().sum(1)
        if self.kernel == "rbf":
            return torch.ones_like(inner)
        return inner if self.kernel == "linear" else (inner + self.coef0) ** self.degree

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, extra = super()._state()
        tensors["anchors"] = self._anchors.cpu().contiguous()
        return tensors, {**extra, "sizes": self._sizes, "width": self._width}

    def _restore(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        super()._restore(tensors, extra)
        self._anchors, self._sizes, self._width = tensors["anchors"], extra["sizes"], extra["width"]

    def _coefficient_bytes(self, n: int, d: int) -> int:
        # kernel, its eigenvectors with workspace, and codes that may be as long as the kernel's rank
        return 5 * 8 * n * n + 2 * 12 * n * n + 8 * 8 * min(n * n, max(BLOCK_ENTRIES, n))

    def _affinity_bytes(self, n: int, d: int) -> int:
        return 4 * 12 * n * n

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        check_above(1, alpha_z=self.alpha_z)
        check_above(0, tol=self.tol)
        check_integer("max_iter", self.max_iter, 1)
        check_choice("kernel", self.kernel, ("poly", "rbf", "linear"))
        check_choice("solver", self.solver, ("auto", "admm", "lasso"))
        check_integer("degree", self.degree, 1)  # with another degree, or coef0 below 0, there are no subspaces
        check_number("coef0", self.coef0, 0.0)
        if not isinstance(self.sigma, str) or self.sigma != "median":
            check_above(0, sigma=self.sigma)


def _squared_distances(X: Tensor, Y: Tensor, inner: Tensor) -> Tensor:
    return (X.square().sum(1)[:, None] + Y.square().sum(1) - 2.0 * inner).clamp_min(0.0)


def _median_distance(Z: Tensor) -> float:
    """Median squared distance among evenly spaced samples, 1 if they coincide."""
    Z = Z[:: -(-len(Z) // _MEDIAN_ROWS)]
    D = _squared_distances(Z, Z, Z @ Z.T)
    i, j = torch.triu_indices(len(Z), len(Z), offset=1)
    return (float(D[i, j].median()) if len(i) else 0.0) or 1.0
