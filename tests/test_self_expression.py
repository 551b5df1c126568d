from __future__ import annotations

import pytest
import torch

from subspan import self_expression
from subspan.errors import InvalidInputError, ResourceError, SelfExpressionError
from subspan.losses import L_sub
from subspan.self_expression import (
    ClosedFormSelfExpression,
    LearnedSelfExpression,
    closed_form_coefficients,
    learned_bytes,
    leverages,
    ridge_weight,
    self_expression_terms,
    whiten,
)

SHAPES = [(5, 12), (9, 9), (30, 4), (17, 6)]
CASES = [(n, d, seed) for seed, (n, d) in enumerate(SHAPES * 2)]
METHODS = ["auto", "direct", "woodbury"]


def codes(n, d, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.rand(d, generator=generator, dtype=torch.float64) + 0.2
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * scales).to(dtype)


def dense_terms(Z, rho):
    C = closed_form_coefficients(Z, rho)
    return C.square().sum(), (Z - C @ Z).square().sum()


@pytest.mark.parametrize(("n", "d", "seed"), CASES)
def test_ridge_weight_is_gamma_times_mean_eigenvalue(n, d, seed):
    Z = codes(n, d, seed)
    expected = 3.0 * torch.linalg.eigvalsh(Z.T @ Z).mean()
    torch.testing.assert_close(ridge_weight(Z, 3.0), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "d", "seed"), CASES)
def test_gradient_of_eq9_vanishes_off_the_diagonal(n, d, seed, method):
    # C minimises Eq. 9 under diag(C) = 0, so only the diagonal may have a gradient, and it must have one
    Z = codes(n, d, seed)
    rho = ridge_weight(Z, 0.5)
    C = closed_form_coefficients(Z, rho, method).requires_grad_()
    (gradient,) = torch.autograd.grad(L_sub(C, Z, Z, Z, lambda_1=2 / rho), C)
    assert torch.equal(C.diagonal(), torch.zeros(n, dtype=C.dtype))
    assert (gradient - torch.diag(gradient.diagonal())).abs().max() < 1e-9
    assert gradient.diagonal().abs().min() > 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "d", "seed"), CASES)
def test_rows_are_leave_one_out_ridge_regressions(n, d, seed, method):
    Z, rho = codes(n, d, seed), 0.7
    C = closed_form_coefficients(Z, rho, method)
    for i in range(n):
        others = torch.arange(n) != i
        gram = Z[others] @ Z[others].T + rho * torch.eye(n - 1, dtype=Z.dtype)
        expected = torch.linalg.solve(gram, Z[others] @ Z[i])
        torch.testing.assert_close(C[i, others], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("gamma", [1e-3, 0.1, 10.0, 1e4])
@pytest.mark.parametrize(("n", "d", "seed"), CASES)
def test_woodbury_equals_direct(n, d, seed, gamma):
    Z = codes(n, d, seed)
    rho = ridge_weight(Z, gamma)
    direct, woodbury = (closed_form_coefficients(Z, rho, method) for method in ("direct", "woodbury"))
    torch.testing.assert_close(direct, woodbury, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "d", "seed"), CASES)
def test_float32_is_solved_in_float64(n, d, seed, method):
    Z = codes(n, d, seed, torch.float32)
    rho = ridge_weight(Z, 0.1)
    C = closed_form_coefficients(Z, rho, method)
    assert C.dtype == torch.float32
    torch.testing.assert_close(C.double(), closed_form_coefficients(Z.double(), rho.double()), rtol=0, atol=1e-5)


def test_float32_survives_ill_conditioned_codes():
    # condition number 1e10 of the Gram matrix: a float32 Cholesky loses every digit (or fails)
    Z = codes(40, 8, 0) * torch.logspace(0, -5, 8, dtype=torch.float64)
    rho = ridge_weight(Z, 1e-8)
    C = closed_form_coefficients(Z.float(), rho)
    exact = closed_form_coefficients(Z.float().double(), rho)
    assert (C.double() - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("method", ["direct", "woodbury"])
@pytest.mark.parametrize(("n", "d"), [(4, 6), (6, 3)])
def test_coefficients_are_differentiable_in_codes_and_ridge(n, d, method):
    Z = codes(n, d, 1).requires_grad_()
    rho = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, r: closed_form_coefficients(z, r, method), (Z, rho))


def test_duplicates_share_their_coefficients():
    Z = codes(8, 5, 3)
    Z = torch.cat([Z, Z[:1]])
    C = closed_form_coefficients(Z, 0.1)
    torch.testing.assert_close(C[0, -1], C[-1, 0])
    torch.testing.assert_close(C[0, 1:-1], C[-1, 1:-1])
    assert C[0].abs().argmax() == 8  # the duplicate explains best


def test_one_sample_and_zero_codes_have_no_coefficients():
    assert closed_form_coefficients(codes(1, 3, 0), 1.0).tolist() == [[0.0]]
    assert not closed_form_coefficients(torch.zeros(4, 2), 1.0).any()


@pytest.mark.parametrize(("n", "d", "seed"), CASES)
def test_whitened_codes_give_the_hat_matrix(n, d, seed):
    Z, rho = codes(n, d, seed), 0.3
    W = whiten(Z, rho)
    H = Z @ torch.linalg.inv(Z.T @ Z + rho * torch.eye(d, dtype=Z.dtype)) @ Z.T
    assert W.shape == (n, d)
    torch.testing.assert_close(W @ W.T, H, rtol=0, atol=1e-10)
    torch.testing.assert_close(leverages(W), H.diagonal(), rtol=0, atol=1e-10)
    assert whiten(Z.float(), rho).dtype == torch.float32


@pytest.mark.parametrize("gamma", [1e-4, 0.1, 30.0])
@pytest.mark.parametrize(("n", "d", "seed"), CASES)
def test_terms_equal_the_dense_formula_with_gradients(n, d, seed, gamma):
    Z = codes(n, d, seed).requires_grad_()
    gradients = []
    for fast, dense in zip(
        self_expression_terms(Z, ridge_weight(Z, gamma)), dense_terms(Z, ridge_weight(Z, gamma)), strict=True
    ):
        torch.testing.assert_close(fast, dense, rtol=1e-9, atol=1e-12)
        gradients.append([torch.autograd.grad(value, Z, retain_graph=True)[0] for value in (fast, dense)])
    for fast, dense in gradients:
        torch.testing.assert_close(fast, dense, rtol=1e-6, atol=1e-8 * float(dense.abs().max()))


def test_terms_never_build_an_n_by_n_matrix():
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    Z = codes(50, 4, 0).requires_grad_()
    with Watch():
        sum(self_expression_terms(Z, 0.5)).backward()
    assert 0 < max(sizes) <= 50 * 4


def test_terms_of_float32_codes_are_float32_and_accurate():
    Z = codes(30, 6, 5, torch.float32)
    for fast, exact in zip(self_expression_terms(Z, 0.1), dense_terms(Z.double(), 0.1), strict=True):
        assert fast.dtype == torch.float32
        torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "d"), [(4, 6), (6, 3)])
def test_non_finite_codes_raise_the_named_error(n, d, method, bad):
    Z = codes(n, d, 0)
    Z[1, 2] = bad
    for rho in (1.0, ridge_weight(Z, 1.0)):
        with pytest.raises(SelfExpressionError, match="NaN"):
            closed_form_coefficients(Z, rho, method)
        with pytest.raises(SelfExpressionError, match="NaN"):
            self_expression_terms(Z, rho)


@pytest.mark.parametrize(("n", "d", "rank"), [(20, 5, 2), (6, 9, 2), (6, 9, 4), (8, 12, 6)])
@pytest.mark.parametrize("seed", range(20))
def test_rank_deficient_codes_without_ridge_are_solved_with_jitter(n, d, rank, seed):
    # the Gram matrix is singular; in the limit rho -> 0, H is the projection on the span of the codes' columns.
    # For some seeds the factorisation fails, for others it ends well with pivots of rounding noise: both need jitter.
    U, V = (torch.linalg.qr(codes(size, rank, seed + shift))[0] for shift, size in enumerate((n, d)))
    C = closed_form_coefficients(U @ V.T, 0.0)
    H = U @ U.T
    expected = (H / (1 - H.diagonal())[:, None]).fill_diagonal_(0)
    assert (C - expected).abs().max() < 1e-4 * expected.abs().max()


def test_what_has_no_solution_says_to_raise_gamma():
    alone = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # nobody else lies along the second axis: leverage 1
    with pytest.raises(SelfExpressionError, match="raise gamma"):
        closed_form_coefficients(alone, 0.0)
    with pytest.raises(SelfExpressionError, match="raise gamma"):
        self_expression_terms(alone, 0.0)
    with pytest.raises(SelfExpressionError, match="raise gamma"):
        closed_form_coefficients(codes(5, 7, 0), 0.0, "woodbury")


@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
@pytest.mark.parametrize("solve", [closed_form_coefficients, self_expression_terms])
def test_codes_that_are_all_zero_are_named(shape, solve):
    """A relative ridge weight is zero then, whatever gamma."""
    with pytest.raises(SelfExpressionError, match="All codes are zero"):
        solve(torch.zeros(shape), 0.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: closed_form_coefficients(torch.ones(3), 1.0),
        lambda: closed_form_coefficients(torch.ones(3, 2, dtype=torch.int64), 1.0),
        lambda: closed_form_coefficients(torch.ones(0, 2), 1.0),
        lambda: closed_form_coefficients(torch.ones(3, 2), -1.0),
        lambda: closed_form_coefficients(torch.ones(3, 2), torch.ones(2)),
        lambda: closed_form_coefficients(torch.ones(3, 2), 1.0, "qr"),
        lambda: ridge_weight(torch.ones(3, 2), -0.1),
        lambda: ClosedFormSelfExpression(float("nan")),
        lambda: LearnedSelfExpression([], 1.0),
        lambda: LearnedSelfExpression([3, 0], 1.0),
        lambda: LearnedSelfExpression([3], 1.0).coefficients(torch.ones(4, 2)),
        lambda: LearnedSelfExpression([3], 1.0).coefficients(torch.ones(3, 2), batch=1),
    ],
)
def test_wrong_arguments_are_named(call):
    with pytest.raises(InvalidInputError):
        call()


@pytest.mark.parametrize("layer", [ClosedFormSelfExpression(0.5), LearnedSelfExpression([7, 12], 0.5).double()])
def test_both_layers_share_one_interface(layer):
    Z = codes(12, 4, 2)
    C = layer.coefficients(Z, batch=1)
    assert C.shape == (12, 12)
    assert not C.diagonal().any()
    assert torch.equal(layer(Z, 1), C)
    torch.testing.assert_close(layer.ridge(Z), ridge_weight(Z, 0.5))
    norm, residual = layer.terms(Z, batch=1)
    torch.testing.assert_close(norm, C.square().sum())
    torch.testing.assert_close(residual, (Z - C @ Z).square().sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learned_layer_converges_to_the_closed_form(seed):
    Z = codes(9, 4, seed)
    layer = LearnedSelfExpression([9], gamma=0.5).double()
    rho = layer.ridge(Z)
    optimiser = torch.optim.LBFGS(
        layer.parameters(), max_iter=200, tolerance_grad=1e-11, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        norm, residual = layer.terms(Z)
        value = norm + residual / rho
        value.backward()
        return value

    optimiser.step(closure)
    torch.testing.assert_close(layer(Z), closed_form_coefficients(Z, rho), rtol=0, atol=1e-6)


def test_learned_layer_masks_the_diagonal_and_keeps_batches_apart():
    layer = LearnedSelfExpression([4, 4], gamma=1.0)
    with torch.no_grad():
        layer.weights[1].fill_(3.0)
    Z = torch.ones(4, 2)
    assert layer(Z, 1).sum() == 3.0 * 12
    torch.testing.assert_close(layer(Z, 0).sum(), torch.tensor(12e-4))
    layer.terms(Z, 1)[1].backward()
    assert layer.weights[0].grad is None
    assert not layer.weights[1].grad.diagonal().any()
    assert layer.weights[1].grad.any()


def test_learned_layer_refuses_what_does_not_fit():
    assert learned_bytes([100, 50]) == 4 * 4 * (100**2 + 50**2)
    LearnedSelfExpression([100, 50], 1.0, memory_limit=200_000)
    # 16 bytes an entry: 300,000 bytes hold one batch of 100 but not two, or 200 samples in batches of 93
    with pytest.raises(ResourceError, match="at most 100 samples, or batches of at most 93"):
        LearnedSelfExpression([100, 100], 1.0, memory_limit=300_000)
    with pytest.raises(ResourceError, match="at most 25 samples"):
        LearnedSelfExpression([1000], 1.0, memory_limit=10_000)


def test_learned_layer_asks_the_system_for_its_memory(monkeypatch):
    monkeypatch.setattr(self_expression, "available_bytes", lambda: 1000)
    with pytest.raises(ResourceError):
        LearnedSelfExpression([8], 1.0)
    LearnedSelfExpression([7], 1.0)


def test_available_memory_is_a_plausible_number():
    assert self_expression.available_bytes() > 10_000_000
