from __future__ import annotations

import numpy as np
import pytest
from self_expressive_laws import SelfExpressiveLaws, planted
from sklearn.linear_model import Lasso
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan.errors import InvalidInputError, IsolationWarning, SelfExpressionError
from subspan.methods.kssc import KSSC
from subspan.methods.ssc import SSC
from subspan.metrics import ari


class TestLaws(SelfExpressiveLaws):
    estimator = KSSC
    options = {"coef0": 0.0}  # noqa: RUF012  # the homogeneous kernel maps subspaces to independent subspaces


@parametrize_with_checks([KSSC()])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def unit_rows(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("solver", ["admm", "lasso"])
def test_linear_kernel_is_ssc(solver):
    X, _, _ = planted(0, k=3, dim=3, p=12, m=8, noise=0.2)
    options = {"solver": solver, "tol": 1e-7, "max_iter": 20_000, "random_state": 0}
    kernel, plain = KSSC(3, kernel="linear", **options).fit(X), SSC(3, **options).fit(X)
    np.testing.assert_allclose(kernel.coefficients_.toarray(), plain.coefficients_.toarray(), atol=1e-5)
    np.testing.assert_array_equal(kernel.labels_, plain.labels_)


@pytest.mark.parametrize("solver", ["admm", "lasso"])
@pytest.mark.parametrize("kernel", ["poly", "rbf"])
def test_codes_are_the_lasso_in_feature_space(kernel, solver):
    X, _, _ = planted(1, k=2, dim=2, p=6, m=9, noise=0.1)
    Z = unit_rows(X)
    if kernel == "poly":
        K, options = polynomial_kernel(Z, degree=3, gamma=1, coef0=0.5), {"degree": 3, "coef0": 0.5}
    else:
        K, options = rbf_kernel(Z, gamma=1 / 0.7), {"sigma": 0.7}
    model = KSSC(2, kernel=kernel, solver=solver, tol=1e-7, max_iter=50_000, random_state=0, **options).fit(X)
    weight = 20.0 / (np.abs(K) - np.diag(np.diag(K))).max(1).min()
    values, Q = np.linalg.eigh(K)
    features = Q * np.sqrt(np.maximum(values, 0))  # rows whose inner products are K
    for i in range(len(Z)):
        lasso = Lasso(alpha=1 / (weight * len(Z)), fit_intercept=False, tol=1e-13, max_iter=200_000)
        expected = lasso.fit(np.delete(features, i, axis=0).T, features[i]).coef_
        np.testing.assert_allclose(np.delete(model.coefficients_.toarray()[i], i), expected, atol=5e-5)
    assert model.kkt_residual_ <= 1e-7


def test_median_width_is_the_median_squared_distance():
    X, _, _ = planted(2, noise=0.2)
    Z = unit_rows(X)
    distances = [np.sum((Z[i] - Z[j]) ** 2) for i in range(len(Z)) for j in range(i)]
    default = KSSC(3, kernel="rbf", random_state=0).fit(X)
    # torch's median is the lower of the two middle values
    explicit = KSSC(3, kernel="rbf", sigma=np.sort(distances)[(len(distances) - 1) // 2], random_state=0).fit(X)
    np.testing.assert_allclose(default.transform(X), explicit.transform(X), atol=1e-5)
    far = KSSC(3, kernel="rbf", sigma=10.0, random_state=0).fit(X)
    assert not np.allclose(default.transform(X), far.transform(X), atol=1e-2)


def test_predict_works_in_feature_space():
    # two cones around one axis: both span all of space, but their quadratic features span different subspaces
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 120)
    height = np.repeat([1.0, 2.0], 60)
    X = np.c_[np.cos(angle), np.sin(angle), height] * rng.choice([-1.0, 1.0], 120)[:, None]
    y = np.repeat([0, 1], 60)
    quadric, linear = (KSSC(2, kernel=kernel, coef0=0.0, random_state=0).fit(X) for kernel in ("poly", "linear"))
    assert ari(y, quadric.labels_) == ari(y, linear.labels_) == 1.0
    assert ari(y, quadric.predict(X)) == 1.0
    assert ari(y, linear.predict(X)) < 0.1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel", "tanh"),
        ("sigma", -1.0),
        ("sigma", "wide"),
        ("sigma", np.ones(2)),
        ("degree", 1.5),
        ("coef0", -1.0),
        ("coef0", "a"),
        ("solver", "x"),
        ("max_iter", 1.5),
        ("alpha_z", 1.0),
    ],
)
def test_wrong_options_are_named(name, value):
    with pytest.raises(InvalidInputError, match=name):
        KSSC(2, **{name: value}).fit(np.eye(4))


@pytest.mark.parametrize("solver", ["admm", "lasso"])
def test_kernels_that_overflow_are_named(solver):
    X = np.random.default_rng(0).normal(size=(30, 4))
    with (
        np.errstate(all="ignore"),
        pytest.raises(SelfExpressionError, match="kernel values are too large: lower degree"),
    ):
        KSSC(3, degree=600, normalize=False, solver=solver, random_state=0).fit(10 * X)


def test_a_kernel_in_which_all_samples_are_strangers_is_told():
    X = np.random.default_rng(0).normal(size=(30, 4))
    with pytest.warns(IsolationWarning, match="of 30 samples have no coefficient .* a larger sigma"):
        KSSC(3, kernel="rbf", sigma=1e-6, random_state=0).fit(X)


@pytest.mark.parametrize("solver", ["admm", "lasso"])
def test_a_sample_that_is_like_no_other_does_not_spoil_the_rest(solver):
    """Its kernel values are 1e-9 and less; the weight of the noise follows from those of the others."""
    rng = np.random.default_rng(0)
    blobs = np.concatenate([centre + 0.05 * rng.normal(size=(25, 3)) for centre in ([0, 0, 0], [0.6, 0, 0])])
    X, far = np.concatenate([blobs, [[2.0, 0, 0]]]), KSSC(2, kernel="rbf", normalize=False, sigma=0.1, solver=solver)
    assert far.fit(X).kkt_residual_ < 1e-2
    assert far.stop_reason_ == "converged"
