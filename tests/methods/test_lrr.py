from __future__ import annotations

import warnings

import numpy as np
import pytest
from self_expressive_laws import SelfExpressiveLaws, planted
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan.errors import InvalidInputError, IsolationWarning
from subspan.methods.lrr import LRR
from subspan.metrics import ari


class TestLaws(SelfExpressiveLaws):
    estimator = LRR
    exact = {"lam": 0.5}  # noqa: RUF012  # heavy enough for a noise term of zero
    leak = 1e-4  # the tolerance of ADMM


class TestLawsNoiseless(SelfExpressiveLaws):
    estimator = LRR
    options = {"lam": None}  # noqa: RUF012
    leak = 1e-6


@parametrize_with_checks([LRR()])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def unit_rows(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_noiseless_minimiser_is_the_shape_interaction_matrix(seed):
    X, y, _ = planted(seed, k=3, dim=3, m=12)
    C = LRR(3, lam=None, random_state=0).fit(X).coefficients_
    U = np.linalg.svd(unit_rows(X), full_matrices=False)[0][:, :9]
    np.testing.assert_allclose(C, U @ U.T, atol=2e-5)
    assert np.abs(C[y[:, None] != y]).max() < 2e-5  # block diagonal


def test_a_heavy_noise_weight_approaches_the_noiseless_minimiser():
    X, _, _ = planted(2, k=2, dim=2, m=10)
    C = LRR(2, lam=1e3, tol=1e-9, max_iter=20_000, random_state=0).fit(X).coefficients_
    np.testing.assert_allclose(C, LRR(2, lam=None, random_state=0).fit(X).coefficients_, atol=1e-3)


def test_outlying_samples_are_left_to_the_noise_term():
    X, y, _ = planted(3, k=3, dim=2, p=40, m=20)
    rng = np.random.default_rng(0)
    bad = np.array([3, 25, 50])
    X[bad] = rng.normal(size=(3, 40))
    model = LRR(3, lam=0.4, random_state=0).fit(X)
    good = np.setdiff1d(np.arange(60), bad)
    assert ari(y[good], model.labels_[good]) == 1.0
    Z = unit_rows(X)
    left = np.linalg.norm(Z - model.coefficients_ @ Z, axis=1)
    assert left[bad].min() > 3 * left[good].max()


def test_coefficients_that_are_all_zero_are_told():
    """Few samples of many subspaces: with lam ||X||^2 <= 1 the least of nuclear norm and noise is no coefficient."""
    X, y, _ = planted(0, k=20, dim=4, p=400, m=5)
    with pytest.warns(IsolationWarning, match="100 of 100 samples have no coefficient .* a larger lam"):
        LRR(20, lam=0.05, random_state=0).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ari(y, LRR(20, lam=1.0, random_state=0).fit(X).labels_) == 1.0


def test_wrong_options_are_named():
    for bad in ({"lam": 0.0}, {"max_iter": 10.5}, {"tol": "a"}):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            LRR(2, **bad).fit(np.eye(4))
