from __future__ import annotations

import numpy as np
import pytest
import torch
from self_expressive_laws import SelfExpressiveLaws, planted
from sklearn.linear_model import Lasso
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan.errors import InvalidInputError
from subspan.methods.ssc import SSC
from subspan.metrics import ari


class TestLaws(SelfExpressiveLaws):
    estimator = SSC


@parametrize_with_checks([SSC()])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def unit_rows(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("affine", [False, True])
def test_admm_finds_planted_subspaces_too(affine):
    X, y, _ = planted(5, k=3, dim=3, m=20)
    model = SSC(3, solver="admm", affine=affine, random_state=0).fit(X)
    assert ari(y, model.labels_) == 1.0
    assert model.kkt_residual_ <= model.tol


def noise_weight(Z, alpha):
    """lam_z of Eq. (14), pair by pair."""
    n = len(Z)
    return alpha / min(max(abs(Z[i] @ Z[j]) for j in range(n) if j != i) for i in range(n))


def lasso_row(Z, i, weight, extra=None):
    """scikit-learn's Lasso of sample i over the others (and extra atoms)."""
    atoms = np.delete(Z, i, axis=0)
    atoms = atoms if extra is None else np.vstack([atoms, extra])
    model = Lasso(alpha=1 / (weight * Z.shape[1]), fit_intercept=False, tol=1e-12, max_iter=100_000)
    return np.insert(model.fit(atoms.T, Z[i]).coef_, i, 0.0)[: len(Z)]


@pytest.mark.parametrize("alpha", [3.0, 20.0])
@pytest.mark.parametrize("solver", ["admm", "lasso"])
def test_codes_are_scikit_learns_lasso_sample_by_sample(solver, alpha):
    X, _, _ = planted(0, k=3, dim=3, p=12, m=8, noise=0.2)
    Z = unit_rows(X)
    model = SSC(3, alpha_z=alpha, solver=solver, tol=1e-7, max_iter=20_000, random_state=0).fit(X)
    expected = [lasso_row(Z, i, noise_weight(Z, alpha)) for i in range(len(Z))]
    np.testing.assert_allclose(model.coefficients_.toarray(), expected, atol=2e-5)
    assert model.kkt_residual_ <= 1e-7
    assert model.stop_reason_ == "converged"


@pytest.mark.parametrize("solver", ["admm", "lasso"])
def test_outliers_are_more_atoms_of_one_lasso(solver):
    X, _, _ = planted(1, k=2, dim=2, p=10, m=10, noise=0.05)
    rng = np.random.default_rng(0)
    X[rng.random(X.shape) < 0.05] += 3.0  # corrupted entries
    Z = unit_rows(X)
    lam_e = 5.0 / np.sort(np.abs(Z).sum(1))[-2]  # min_i max_{j != i} ||z_j||_1 is the second largest
    extra = np.eye(Z.shape[1]) / lam_e
    expected = [lasso_row(Z, i, noise_weight(Z, 20.0), extra) for i in range(len(Z))]
    model = SSC(2, alpha_e=5.0, solver=solver, tol=1e-7, max_iter=20_000, random_state=0).fit(X)
    np.testing.assert_allclose(model.coefficients_.toarray(), expected, atol=2e-5)
    without = SSC(2, random_state=0).fit(X).coefficients_
    assert abs(without - model.coefficients_).max() > 0.05


def test_outlier_term_saves_corrupted_samples():
    X, y, _ = planted(2, k=3, dim=2, p=60, m=12)
    rng = np.random.default_rng(1)
    for row in X:
        row[rng.choice(60, 2, replace=False)] += rng.choice([-2.0, 2.0], 2)
    assert ari(y, SSC(3, alpha_e=3.0, alpha_z=800.0, random_state=0).fit(X).labels_) > 0.9


def test_affine_codes_sum_to_one_and_separate_parallel_planes():
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    # two parallel planes off the origin: the linear spans share two of three directions
    X = np.vstack([rng.normal(size=(20, 2)) @ plane[:2] + shift * plane[2] for shift in (2.0, -2.0)])
    y = np.repeat([0, 1], 20)
    model = SSC(2, affine=True, normalize=False, alpha_z=50.0, tol=1e-4, max_iter=20_000, random_state=0).fit(X)
    np.testing.assert_allclose(model.coefficients_.sum(axis=1), 1.0, atol=2e-4)
    assert model.kkt_residual_ <= 1e-4
    assert ari(y, model.labels_) == 1.0


def test_unfinished_iterations_are_reported():
    X, _, _ = planted(3, noise=0.2)
    model = SSC(3, solver="admm", tol=1e-12, max_iter=20, random_state=0).fit(X)
    assert model.stop_reason_ == "max_iter"
    assert model.kkt_residual_ > 1e-12
    assert model.n_iter_ == 20


def test_below_the_smallest_useful_weight_all_codes_are_zero():
    # alpha_z = 1 is the threshold of Eq. (14) for the sample that sets mu_z
    X, _, _ = planted(4, noise=0.3)
    Z = unit_rows(X)
    inner = np.abs(Z @ Z.T - np.eye(len(Z)))
    hardest = inner.max(1).argmin()
    for alpha, is_zero in ((0.99, True), (1.05, False)):
        C = SSC(3, alpha_z=alpha)._express(torch.from_numpy(Z)).C.toarray()  # fit refuses what is below 1
        assert (C[hardest] == 0).all() == is_zero


def test_wrong_options_are_named():
    numbers = {"alpha_e": -1.0, "tol": 0, "alpha_z": 0.5, "max_iter": 10.5}
    for bad in ({"solver": "lars"}, {"affine": True, "solver": "lasso"}, *({k: v} for k, v in numbers.items())):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            SSC(2, **bad).fit(np.eye(4))
