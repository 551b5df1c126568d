"""Least squares regression (LSR; Lu, Min, Zhao, Zhu, Huang, Yan: Robust and efficient subspace segmentation via least
squares regression, ECCV 2012), in row form.

LSR1, Eqs. (8)-(10):   min ||X - C X||_F^2 + lam ||C||_F^2   s.t. diag(C) = 0
LSR2, Eqs. (11)-(12):  the same without the constraint.

With ``H = X (X^T X + lam I)^-1 X^T`` the minimisers are ``c_ij = H_ij / (1 - H_ii)``, ``c_ii = 0``, and ``C = H``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subspan._parameters import check_above
from subspan.methods._self_expressive import Expression, SelfExpressiveClusterer
from subspan.self_expression import closed_form_coefficients, whiten


@dataclass(eq=False, repr=False, kw_only=True)
class LSR(SelfExpressiveClusterer):
    """Subspace clustering by ridge self-expression: closed form, no network, no iteration.

    Parameters that are not listed and the attributes are those of
    :class:`~subspan.methods._self_expressive.SelfExpressiveClusterer`.

    Parameters
    ----------
    lam : float
        Ridge weight for samples of unit length. 0.004 is the paper's value for ten faces of Extended Yale B.
    zero_diagonal : bool
        LSR1 (default) or LSR2.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(size=(20, 2)) @ rng.normal(size=(2, 9)) for _ in range(3)])
    >>> sorted(np.bincount(LSR(n_clusters=3, random_state=0).fit(X).labels_).tolist())
    [20, 20, 20]
    """

    lam: float = 0.004
    zero_diagonal: bool = True

    # the linear system is float64 inside; only C itself, n x n, is float32
    _dtype: ClassVar[torch.dtype] = torch.float32
    _too_few: ClassVar[str] = "a smaller lam makes coefficients larger"

    def _express(self, Z: Tensor) -> Expression:
        if self.zero_diagonal:
            C = closed_form_coefficients(Z, self.lam)
        else:
            W = whiten(Z, self.lam)
            C = W @ W.T
        return Expression(C.cpu().numpy())

    def _coefficient_bytes(self, n: int, d: int) -> int:
        system = 4 * 8 * n * n if n <= d and self.zero_diagonal else 4 * 8 * d * (n + d)
        return 4 * n * n + system

    def _validate_parameters(self) -> None:
        super()._validate_parameters()
        check_above(0, lam=self.lam)
