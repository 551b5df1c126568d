from __future__ import annotations

import numpy as np
import pytest
import torch
from self_expressive_laws import SelfExpressiveLaws, planted
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan.errors import InvalidInputError
from subspan.methods.lsr import LSR
from subspan.self_expression import closed_form_coefficients


class TestLaws(SelfExpressiveLaws):
    estimator = LSR
    leak = 1e-3  # of the order of the ridge weight


class TestLawsWithDiagonal(SelfExpressiveLaws):
    estimator = LSR
    options = {"zero_diagonal": False}  # noqa: RUF012
    leak = 1e-3


@parametrize_with_checks([LSR()])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def unit_rows(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def naive_row(X, i, lam):
    """Ridge regression of sample i on the others."""
    others = np.delete(X, i, axis=0)
    c = np.linalg.solve(others @ others.T + lam * np.eye(len(others)), others @ X[i])
    return np.insert(c, i, 0.0)


@pytest.mark.parametrize(("p", "lam"), [(6, 0.05), (80, 0.05), (6, 2.0)])  # d x d and n x n systems
def test_coefficients_are_leave_one_out_ridge(p, lam):
    X, _, _ = planted(0, k=2, dim=3, p=p, m=10, noise=0.2)
    Z = unit_rows(X)
    C = LSR(2, lam=lam, random_state=0).fit(X).coefficients_
    np.testing.assert_allclose(C, [naive_row(Z, i, lam) for i in range(len(Z))], atol=2e-5)
    np.testing.assert_allclose(C, closed_form_coefficients(torch.from_numpy(Z), lam), atol=2e-5)
    assert (np.diag(C) == 0).all()


def test_lsr2_solves_its_normal_equations():
    X, _, _ = planted(1, noise=0.2)
    Z = unit_rows(X)
    C = LSR(3, lam=0.3, zero_diagonal=False, random_state=0).fit(X).coefficients_
    np.testing.assert_allclose(C @ (Z @ Z.T + 0.3 * np.eye(len(Z))), Z @ Z.T, atol=1e-5)
    assert (np.diag(C) > 0).all()


def test_ridge_weight_must_be_positive():
    with pytest.raises(InvalidInputError, match="lam"):
        LSR(2, lam=0.0).fit(np.eye(4))
