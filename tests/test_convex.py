from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Lasso

from subspan.convex import (
    group_threshold,
    lasso_admm,
    lasso_kkt,
    low_rank_admm,
    orthogonal_factor,
    singular_value_threshold,
    soft_threshold,
    thin_svd,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NORMS = {
    "l1": (lambda X, t: soft_threshold(X, t), lambda X: X.abs().sum()),
    "l21": (lambda X, t: group_threshold(X, t), lambda X: X.norm(dim=1).sum()),
    "nuclear": (lambda X, t: singular_value_threshold(X, t)[0], lambda X: torch.linalg.matrix_norm(X, "nuc")),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(("shape", "t"), [((4, 3), 0.5), ((3, 5), 1.5), ((2, 2), 100.0)])
def test_proximal_maps_minimise_what_they_should(name, shape, t):
    prox, norm = NORMS[name]
    X = normal(*shape)
    Y = prox(X, t)

    def objective(Z):
        return float(t * norm(Z) + 0.5 * (Z - X).square().sum())

    found = minimize(
        lambda z: objective(torch.from_numpy(z).reshape(shape)), Y.numpy().ravel() + 0.01, method="Powell", tol=1e-12
    )
    assert objective(Y) <= found.fun + 1e-9
    for seed in range(20):  # and it is the only one
        assert objective(Y + 1e-3 * normal(*shape, seed=seed)) > objective(Y)


def test_singular_value_threshold_equals_the_svd_formula():
    X = normal(30, 6) @ torch.diag(torch.tensor([9.0, 5, 3, 1, 0.5, 1e-9], dtype=torch.float64))
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    expected = U @ torch.diag((S - 4.0).clamp_min(0)) @ Vh
    for matrix, target in ((X, expected), (X.T, expected.T)):
        Y, values = singular_value_threshold(matrix, 4.0)
        torch.testing.assert_close(Y, target)
        torch.testing.assert_close(values.sort(descending=True).values, (S - 4.0)[S > 4.0])


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_orthogonal_factor_has_the_gram_matrix(shape):
    D = normal(*shape)
    D[1] = D[0]  # rank deficient
    for U, s in (orthogonal_factor(atoms=D), orthogonal_factor(gram=D @ D.T)):
        torch.testing.assert_close(U @ U.T, D @ D.T)
        torch.testing.assert_close(U.T @ U, torch.diag(s), atol=1e-10, rtol=0)
        assert len(s) == torch.linalg.matrix_rank(D)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("weight", [2.0, 50.0])
def test_lasso_codes_of_foreign_samples_equal_scikit_learn(seed, weight):
    D, X = normal(12, 7, seed=seed), normal(5, 7, seed=seed + 10)
    D = D / D.norm(dim=1, keepdim=True)
    found = lasso_admm(X @ D.T, orthogonal_factor(atoms=D), weight, tol=1e-8, max_iter=50_000)
    lasso = Lasso(alpha=1 / (weight * 7), fit_intercept=False, tol=1e-13, max_iter=100_000)
    expected = [lasso.fit(D.T.numpy(), x.numpy()).coef_ for x in X]
    np.testing.assert_allclose(found.codes, expected, atol=1e-6)
    assert found.stop_reason == "converged"
    assert found.kkt <= 1e-8
    assert max(found.primal, found.dual) < 1e-6


def test_kkt_residual_is_the_worst_subgradient():
    D, x = torch.eye(3, dtype=torch.float64), torch.tensor([[3.0, -2.0, 0.1]], dtype=torch.float64)
    U, _ = orthogonal_factor(atoms=D)
    exact = soft_threshold(x, 0.5)  # weight 2
    assert lasso_kkt(exact, x, U, 2.0) < 1e-12
    wrong = exact.clone()
    wrong[0, 0] -= 0.25  # gradient off by 2 * 0.25 on the support
    assert lasso_kkt(wrong, x, U, 2.0) == pytest.approx(0.5)
    missing = exact.clone()
    missing[0, 1] = 0.0  # |2 * -2| exceeds 1 by 3 off the support
    assert lasso_kkt(missing, x, U, 2.0) == pytest.approx(3.0)
    assert lasso_kkt(missing, x, U, 2.0, own=torch.tensor([1])) < 1e-12
    assert np.isnan(lasso_kkt(exact, x, U, float("nan")))
    assert np.isnan(lasso_kkt(exact, x, U, float("nan"), total=torch.ones(3, dtype=torch.float64)))
    # 2 * 0.1 stays below 1, so that a zero there is right and anything else is not
    extra = exact.clone()
    extra[0, 2] = 0.05
    assert lasso_kkt(extra, x, U, 2.0) == pytest.approx(0.9)


def test_kkt_residual_with_a_sum_constraint_counts_the_sum():
    D, x = normal(8, 4), normal(1, 4, seed=3)
    factor, total = orthogonal_factor(atoms=D), torch.ones(8, dtype=torch.float64)
    found = lasso_admm(x @ D.T, factor, 30.0, total=total, tol=1e-7, max_iter=50_000)
    assert found.kkt <= 1e-7
    assert float(found.codes.sum()) == pytest.approx(1.0, abs=1e-7)
    # optimal among feasible points: no feasible direction descends
    before = objective(found.codes, x, D, 30.0)
    for seed in range(50):
        step = 1e-3 * normal(1, 8, seed=seed)
        assert objective(found.codes + step - step.mean(), x, D, 30.0) >= before - 1e-9
    shifted = found.codes * 1.01
    assert lasso_kkt(shifted, x @ D.T, factor[0], 30.0, total=total) >= 0.01 - 1e-6


def objective(c, x, D, weight):
    return float(c.abs().sum() + weight / 2 * (x - c @ D).square().sum())


def slow_low_rank(X, lam, rho=0.5, n_iter=6000):
    """The same problem with C of shape (n, n) and E of shape (n, d), fixed penalty."""
    n = len(X)
    W, u1, u2 = np.zeros((n, n)), np.zeros((n, n)), np.zeros_like(X)
    inverse = np.linalg.inv(np.eye(n) + X @ X.T)
    for _ in range(n_iter):
        U, S, Vh = np.linalg.svd(W + u1)
        J = U @ np.diag(np.maximum(S - 1 / rho, 0)) @ Vh
        M = X - W @ X + u2
        E = M * np.maximum(1 - lam / rho / np.linalg.norm(M, axis=1, keepdims=True), 0)
        W = (J - u1 + (X - E + u2) @ X.T) @ inverse
        u1 += W - J
        u2 += X - W @ X - E
    return J


@pytest.mark.parametrize("lam", [0.3, 0.6])
@pytest.mark.parametrize("shape", [(10, 5), (8, 12)])
def test_low_rank_codes_equal_the_unreduced_problem(shape, lam):
    X = normal(*shape, seed=shape[0])
    X = X / X.norm(dim=1, keepdim=True)
    found, U = low_rank_admm(X, lam, tol=1e-9, max_iter=50_000)
    np.testing.assert_allclose(found.codes @ U.T, slow_low_rank(X.numpy(), lam), atol=1e-5)
    assert found.stop_reason == "converged"


def test_loops_say_when_they_did_not_finish():
    X = normal(10, 5)
    assert low_rank_admm(X, 0.5, tol=1e-12, max_iter=5)[0].stop_reason == "max_iter"
    found = lasso_admm(X @ X.T, orthogonal_factor(atoms=X), 10.0, own=torch.arange(10), tol=1e-12, max_iter=15)
    assert (found.stop_reason, found.n_iter) == ("max_iter", 15)
    assert np.isfinite([found.primal, found.dual, found.kkt]).all()
    assert (found.codes.diagonal() == 0).all()


def test_thin_svd_leaves_rounding_noise_out():
    X = normal(9, 2) @ normal(2, 7, seed=1)
    U, S, V = thin_svd(X)
    assert len(S) == 2
    torch.testing.assert_close(U * S @ V.T, X)
    noisy = X + 1e-7 * normal(9, 7, seed=2)
    assert len(thin_svd(noisy)[1]) == 7
    assert len(thin_svd(noisy, 1e-5)[1]) == 2
    assert len(thin_svd(torch.zeros(3, 2))[1]) == 1
