"""Self-expression with zero diagonal: every code as a ridge-weighted combination of the others (layer 1).

Rows are samples, so ``Z ~ C Z``. For fixed codes the minimiser of Eq. 9 over ``C`` with ``diag(C) = 0`` is known:
with ``rho = 2 / lambda_1`` and ``H = Z (Z^T Z + rho I)^-1 Z^T`` it is ``c_ij = H_ij / (1 - H_ii)``
(Lu et al. 2012; Steck 2019). Linear systems are solved in float64 whatever the dtype of the codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from subspan._resources import available_bytes
from subspan.errors import InvalidInputError, ResourceError, SelfExpressionError

Method = Literal["auto", "direct", "woodbury"]

_JITTERS = (0.0, 1e-10, 1e-8, 1e-6)  # relative to the mean diagonal of the system
_MIN_SLACK = 1e-9  # 1 - H_ii below this is rounding noise
_COPIES = 4  # parameter, gradient and the two moments of Adam
_INITIAL_COEFFICIENT = 1e-4


def ridge_weight(Z: Tensor, gamma: float) -> Tensor:
    """Ridge weight that follows the scale of the codes, ``rho = gamma * trace(Z^T Z) / d``.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
    gamma : float, at least 0

    Returns
    -------
    Tensor
        Scalar of the dtype of ``Z``, differentiable.

    Raises
    ------
    InvalidInputError
        ``Z`` is not a matrix of floats, or ``gamma`` is negative or not finite.
    """
    _check_codes(Z)
    _check_gamma(gamma)
    return (gamma / Z.shape[1] * (Z * Z).sum(dtype=torch.float64)).to(Z.dtype)


def closed_form_coefficients(Z: Tensor, rho: Tensor | float, method: Method = "auto") -> Tensor:
    """Minimiser of ``||C||_F^2 + 1/rho ||Z - C Z||_F^2`` with zero diagonal (Eq. 9 with ``lambda_1 = 2 / rho``).

    Parameters
    ----------
    Z : Tensor of shape (n, d)
        Codes; float32 codes are solved for in float64.
    rho : Tensor or float, at least 0
        Ridge weight. A tensor keeps its gradient.
    method : {"auto", "direct", "woodbury"}
        ``"woodbury"`` factors a d x d matrix, ``"direct"`` an n x n one; ``"auto"`` takes the smaller.

    Returns
    -------
    Tensor of shape (n, n)
        ``C`` in the dtype of ``Z``, differentiable in ``Z`` and ``rho``.

    Raises
    ------
    InvalidInputError
        Wrong shape, dtype, ``rho`` or ``method``.
    SelfExpressionError
        The system has no stable solution, or the codes are not finite.
    """
    _check_codes(Z)
    ridge = _check_rho(rho, Z)
    if method == "auto":
        method = "direct" if len(Z) <= Z.shape[1] else "woodbury"
    if method == "woodbury":
        W, h, _, _ = _whiten(Z, ridge)
        rows = W / _slack(h)[:, None]  # (n, d)
        C = rows.to(Z.dtype) @ W.to(Z.dtype).T
    elif method == "direct":
        P = _dual_inverse(Z, ridge)  # (I - H) / rho, so H_ij / (1 - H_ii) = -P_ij / P_ii
        C = (-P / P.diagonal()[:, None]).to(Z.dtype)
    else:
        raise InvalidInputError(f"method is {method!r}; choose 'auto', 'direct' or 'woodbury'.")
    return C.fill_diagonal_(0.0)


def whiten(Z: Tensor, rho: Tensor | float) -> Tensor:
    """Codes ``W`` whose inner products are the ridge hat matrix, ``W W^T = Z (Z^T Z + rho I)^-1 Z^T``.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
    rho : Tensor or float, at least 0

    Returns
    -------
    Tensor of shape (n, d)
        In the dtype of ``Z``, differentiable. :func:`leverages` gives the diagonal of ``W W^T``.

    Raises
    ------
    InvalidInputError
        Wrong shape, dtype or ``rho``.
    SelfExpressionError
        The system cannot be factored, or the codes are not finite.
    """
    _check_codes(Z)
    return _whiten(Z, _check_rho(rho, Z))[0].to(Z.dtype)


def leverages(W: Tensor) -> Tensor:
    """Diagonal ``h_i = H_ii``, shape (n,), of the hat matrix from whitened codes ``W`` of shape (n, d)."""
    return (W * W).sum(dim=1)


def self_expression_terms(Z: Tensor, rho: Tensor | float) -> tuple[Tensor, Tensor]:
    """The two self-expression terms of Eq. 9 at the closed form, without an n x n matrix larger than the codes.

    The residual is the leave-one-out one, ``z_i - (C Z)_i = rho M z_i / (1 - h_i)`` with
    ``M = (Z^T Z + rho I)^-1``, and ``||c_i||^2 = h_i / (1 - h_i) - rho ||M z_i||^2 / (1 - h_i)^2``. These differences
    cancel badly where leverages come close to 1, so for n <= d both terms come from the (then small) n x n inverse.
    Time is O(n d min(n, d)), memory O(n d).

    Parameters
    ----------
    Z : Tensor of shape (n, d)
    rho : Tensor or float, at least 0

    Returns
    -------
    tuple of two Tensors
        ``||C||_F^2`` and ``||Z - C Z||_F^2``, scalars in the dtype of ``Z``, differentiable in ``Z`` and ``rho``.

    Raises
    ------
    InvalidInputError
        Wrong shape, dtype or ``rho``.
    SelfExpressionError
        The system has no stable solution, or the codes are not finite.
    """
    _check_codes(Z)
    ridge = _check_rho(rho, Z)
    norm, residual = _dual_terms(Z, ridge) if len(Z) <= Z.shape[1] else _primal_terms(Z, ridge)
    return norm.to(Z.dtype), residual.to(Z.dtype)


class SelfExpression(nn.Module):
    """Interface of the self-expression layers; abstract.

    Parameters
    ----------
    gamma : float, at least 0
        Relative ridge weight, see :func:`ridge_weight`.
    """

    def __init__(self, gamma: float):
        super().__init__()
        _check_gamma(gamma)
        self.gamma = gamma

    def ridge(self, Z: Tensor) -> Tensor:
        """Ridge weight ``rho`` (scalar) for the codes ``Z`` of shape (n, d)."""
        return ridge_weight(Z, self.gamma)

    def coefficients(self, Z: Tensor, batch: int = 0) -> Tensor:
        """Coefficients ``C`` of shape (n, n), zero diagonal, for the codes ``Z`` (n, d) of one batch."""
        raise NotImplementedError

    def terms(self, Z: Tensor, batch: int = 0) -> tuple[Tensor, Tensor]:
        """``||C||_F^2`` and ``||Z - C Z||_F^2`` (Eq. 9), scalars, for the codes ``Z`` (n, d) of one batch."""
        raise NotImplementedError

    def forward(self, Z: Tensor, batch: int = 0) -> Tensor:
        """Same as :meth:`coefficients`."""
        return self.coefficients(Z, batch)


class ClosedFormSelfExpression(SelfExpression):
    """Coefficients solved for anew from every batch; no parameters, so batches may be shuffled.

    Parameters
    ----------
    gamma : float, at least 0
        Relative ridge weight, see :func:`ridge_weight`.
    method : {"auto", "direct", "woodbury"}
        See :func:`closed_form_coefficients`.
    """

    def __init__(self, gamma: float, method: Method = "auto"):
        super().__init__(gamma)
        self.method: Method = method

    def coefficients(self, Z: Tensor, batch: int = 0) -> Tensor:
        """Closed-form ``C`` of shape (n, n); ``batch`` is ignored."""
        return closed_form_coefficients(Z, self.ridge(Z), self.method)

    def terms(self, Z: Tensor, batch: int = 0) -> tuple[Tensor, Tensor]:
        """Both terms by :func:`self_expression_terms`; ``batch`` is ignored."""
        return self_expression_terms(Z, self.ridge(Z))


class LearnedSelfExpression(SelfExpression):
    """One free coefficient matrix per fixed batch, as the paper trains it.

    Sample ``r`` of batch ``b`` must be row ``r`` of the codes every time that batch is seen.

    Parameters
    ----------
    batch_sizes : sequence of int
        Number of samples in each batch.
    gamma : float, at least 0
        Relative ridge weight, see :func:`ridge_weight`.
    memory_limit : int, optional
        Bytes that training the coefficients may take; by default the memory that is available now.
    zero_diagonal : bool
        False: the diagonal is learned like every other entry.

    Raises
    ------
    InvalidInputError
        No batch, or a batch without samples.
    ResourceError
        Coefficients, gradients and the optimiser's moments would exceed ``memory_limit``.
    """

    def __init__(
        self, batch_sizes: Sequence[int], gamma: float, memory_limit: int | None = None, *, zero_diagonal: bool = True
    ):
        super().__init__(gamma)
        self.zero_diagonal = zero_diagonal
        if len(batch_sizes) == 0 or min(batch_sizes) < 1:
            raise InvalidInputError(f"batch_sizes is {list(batch_sizes)}; give at least one size, each at least 1.")
        _check_memory(batch_sizes, available_bytes() if memory_limit is None else memory_limit)
        self.weights = nn.ParameterList(
            nn.Parameter(self._masked(torch.full((size, size), _INITIAL_COEFFICIENT))) for size in batch_sizes
        )

    def coefficients(self, Z: Tensor, batch: int = 0) -> Tensor:
        """Learned ``C`` of shape (n, n) of one batch, diagonal masked if asked; the values of ``Z`` are not used.

        Raises
        ------
        InvalidInputError
            There is no such batch, or ``Z`` has another number of rows than it.
        """
        if not 0 <= batch < len(self.weights):
            raise InvalidInputError(f"batch is {batch}; give a number from 0 to {len(self.weights) - 1}.")
        weight = self.weights[batch]
        if len(weight) != len(Z):
            raise InvalidInputError(
                f"batch {batch} has {len(weight)} samples but {len(Z)} codes came; keep the batches fixed."
            )
        return self._masked(weight.clone())

    def _masked(self, C: Tensor) -> Tensor:
        return C.fill_diagonal_(0.0) if self.zero_diagonal else C

    def terms(self, Z: Tensor, batch: int = 0) -> tuple[Tensor, Tensor]:
        """Both terms of Eq. 9 from the dense ``C``."""
        C = self.coefficients(Z, batch)
        return C.square().sum(), (Z - C @ Z).square().sum()


def learned_bytes(batch_sizes: Sequence[int]) -> int:
    """Bytes that training a :class:`LearnedSelfExpression` takes: coefficients, gradients, two moments of Adam."""
    return _COPIES * torch.get_default_dtype().itemsize * sum(size * size for size in batch_sizes)


def _check_memory(batch_sizes: Sequence[int], limit: int | None) -> None:
    needed = learned_bytes(batch_sizes)
    if limit is None or needed <= limit:
        return
    largest, total = max(batch_sizes), sum(batch_sizes)
    per_entry = learned_bytes([1])
    fitting = limit // (per_entry * largest * largest) * largest
    if fitting == 0:  # not even one batch of this size
        fitting = math.isqrt(limit // per_entry)
    size = min(largest, limit // (per_entry * total))
    raise ResourceError(
        f"Learned coefficients for {total} samples in batches of {largest} take {needed / 1e9:.3g} GB and "
        f"{limit / 1e9:.3g} GB may be used: use the closed form, or at most {fitting} samples"
        + (f", or batches of at most {size}." if size > 0 else ".")
    )


def _whiten(Z: Tensor, rho: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``W`` (n, d), ``h`` (n,), the Cholesky factor ``L`` (d, d) of ``Z^T Z + rho I`` and the rho used; float64."""
    Z64 = Z.double()
    L, used = _factor(Z64.T @ Z64, rho)
    W = torch.linalg.solve_triangular(L, Z64.T, upper=False).T  # Z L^-T
    return W, leverages(W), L, used


def _primal_terms(Z: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`self_expression_terms` from the d x d system, float64."""
    W, h, L, ridge = _whiten(Z, rho)
    slack = _slack(h)
    ZM = torch.linalg.solve_triangular(L, W, upper=False, left=False)  # (n, d)
    shrunk = (ZM * ZM).sum(dim=1) / slack**2  # ||M z_i||^2 / (1 - h_i)^2
    return (h / slack - ridge * shrunk).sum(), (ridge * ridge * shrunk).sum()


def _dual_terms(Z: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`self_expression_terms` from the n x n system, float64."""
    P = _dual_inverse(Z, rho)
    rows = P / P.diagonal()[:, None]  # I - C
    off_diagonal = rows - torch.diag(rows.diagonal())
    return off_diagonal.square().sum(), (rows @ Z.double()).square().sum()


def _dual_inverse(Z: Tensor, rho: Tensor) -> Tensor:
    """``(Z Z^T + rho I)^-1``, float64 (n, n)."""
    Z64 = Z.double()
    return torch.cholesky_inverse(_factor(Z64 @ Z64.T, rho)[0])


def _factor(gram: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor of ``gram + rho I`` with the smallest jitter that is stable, and rho with that jitter."""
    scale = (gram.diagonal().mean() + rho).detach()
    if not bool(torch.isfinite(scale)):
        raise SelfExpressionError(
            "The codes hold NaN, infinite or huge values: check the data and lower the step size."
        )
    if float(scale) == 0:
        raise SelfExpressionError(
            "All codes are zero, so that none can express another: check for samples that are all zero, or all equal."
        )
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    tolerance = len(gram) * torch.finfo(gram.dtype).eps * scale
    for jitter in _JITTERS:
        used = rho + jitter * scale
        L, info = torch.linalg.cholesky_ex(gram + used * eye)
        # a pivot of the size of rounding errors means that the factor is noise even where the factorisation ended well
        if int(info) == 0 and bool(L.diagonal().detach().min() ** 2 > tolerance):
            return L, used
    raise SelfExpressionError("The self-expression system is singular: raise gamma.")


def _slack(h: Tensor) -> Tensor:
    """``1 - h`` after a check that it is more than rounding noise."""
    slack = 1.0 - h
    if bool(slack.detach().min() <= _MIN_SLACK):
        raise SelfExpressionError("Some codes are expressed by themselves alone (leverage 1): raise gamma.")
    return slack


def _check_codes(Z: Tensor) -> None:
    if Z.ndim != 2 or 0 in Z.shape or not Z.is_floating_point():
        raise InvalidInputError(f"Codes are {tuple(Z.shape)} of {Z.dtype}; give a non-empty (n, d) matrix of floats.")


def _check_gamma(gamma: float) -> None:
    if not (math.isfinite(gamma) and gamma >= 0):
        raise InvalidInputError(f"gamma is {gamma}; give a finite number of at least 0.")


def _check_rho(rho: Tensor | float, Z: Tensor) -> Tensor:
    """``rho`` as a float64 scalar on the device of ``Z``; NaN passes, since it comes from non-finite codes."""
    ridge = torch.as_tensor(rho, dtype=torch.float64, device=Z.device)
    if ridge.ndim != 0 or bool(ridge.detach() < 0):
        raise InvalidInputError(f"rho is {rho}; give one number of at least 0.")
    return ridge
