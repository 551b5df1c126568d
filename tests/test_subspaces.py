from __future__ import annotations

import pytest
import torch

from subspan.subspaces import kernel_ridge_bases, ridge_bases, squared_residuals


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_residuals(X, Z, labels, k, rho_of):
    """Ridge regression of every sample on the samples of every cluster, one system each."""
    out = torch.zeros(len(X), k, dtype=torch.float64)
    for c in range(k):
        D = Z[labels == c]
        system = D @ D.T + rho_of(D) * torch.eye(len(D), dtype=torch.float64)
        out[:, c] = (X - torch.linalg.solve(system, D @ X.T).T @ D).square().sum(1)
    return out


@pytest.mark.parametrize("gamma", [0.01, 0.5, 10.0])
@pytest.mark.parametrize("d", [3, 40])  # fewer and more entries than samples in a cluster
def test_residuals_are_those_of_ridge_regression(d, gamma):
    Z, X = normal(30, d), normal(7, d, seed=1)
    labels = torch.arange(30) % 3
    bases = ridge_bases(Z, labels, 3, gamma)
    found = squared_residuals(X.square().sum(1), X, bases)
    expected = naive_residuals(X, Z, labels, 3, lambda D: gamma * D.square().sum() / d)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_linear_kernel_equals_plain_subspaces():
    Z, X = normal(24, 5), normal(6, 5, seed=1)
    labels = (torch.arange(24) >= 10).long()  # sorted, so that blocks of the Gram matrix are clusters
    bases = kernel_ridge_bases(Z @ Z.T, labels, 2, 0.3)
    blocks = (X @ Z.T).split([10, 14], dim=1)
    found = squared_residuals(X.square().sum(1), blocks, bases)
    expected = naive_residuals(X, Z, labels, 2, lambda D: 0.3 * D.square().sum() / len(D))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_samples_go_to_their_subspace():
    planes = [normal(2, 9, seed=s) for s in range(3)]
    Z = torch.cat([normal(12, 2, seed=10 + s) @ plane for s, plane in enumerate(planes)])
    new = torch.cat([normal(5, 2, seed=20 + s) @ plane for s, plane in enumerate(planes)])
    bases = ridge_bases(Z, torch.arange(3).repeat_interleave(12), 3, 1e-3)
    assert [b.shape[1] for b in bases] == [2, 2, 2]
    residuals = squared_residuals(new.square().sum(1), new, bases)
    torch.testing.assert_close(residuals.argmin(1), torch.arange(3).repeat_interleave(5))


def test_an_empty_cluster_explains_nothing():
    Z = normal(8, 4)
    labels = torch.zeros(8, dtype=torch.int64)
    norms = Z.square().sum(1)
    for bases, features in (
        (ridge_bases(Z, labels, 2, 0.1), Z),
        (kernel_ridge_bases(Z @ Z.T, labels, 2, 0.1), [Z @ Z.T, Z.new_zeros(8, 0)]),
    ):
        residuals = squared_residuals(norms, features, bases)
        torch.testing.assert_close(residuals[:, 1], norms)
        assert (residuals[:, 0] < norms).all()


def test_zero_samples_have_no_residual():
    bases = ridge_bases(torch.zeros(4, 3, dtype=torch.float64), torch.tensor([0, 0, 1, 1]), 2, 0.1)
    X = torch.zeros(2, 3, dtype=torch.float64)
    assert (squared_residuals(X.square().sum(1), X, bases) == 0).all()
