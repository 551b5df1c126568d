from __future__ import annotations

import numpy as np
import pytest
import torch

from subspan.k_subspaces import (
    assign,
    canonical_bases,
    grassmann_step,
    k_subspaces,
    random_bases,
    residuals,
    spectral_bases,
    svd_bases,
)
from subspan.metrics import ari


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(k, d, r, seed=0):
    return torch.linalg.qr(normal(k, d, r, seed=seed)).Q


def planted(k=3, d=12, r=2, m=20, seed=0):
    planes = orthonormal(k, d, r, seed=seed)
    codes = torch.cat([normal(m, r, seed=seed + 1 + c) @ planes[c].T for c in range(k)])
    return codes, torch.arange(k).repeat_interleave(m)


def summed_residual(Z, labels, U):
    return float(residuals(Z, U)[torch.arange(len(Z)), labels].sum())


def assert_orthonormal(U):
    eye = torch.eye(U.shape[2], dtype=U.dtype).expand(len(U), -1, -1)
    torch.testing.assert_close(U.transpose(1, 2) @ U, eye, atol=1e-6, rtol=0)


def slow_k_subspaces(Z, U):
    """Loops over samples and clusters, explicit projections, NumPy's SVD."""
    Z, U = Z.numpy(), list(U.numpy())
    labels = None
    while True:
        before = labels
        labels = np.array([min(range(len(U)), key=lambda c: np.linalg.norm(z - U[c] @ (U[c].T @ z))) for z in Z])
        if before is not None and (labels == before).all():
            return labels, U
        for c in set(labels.tolist()):
            U[c] = np.linalg.svd(Z[labels == c])[2][: U[c].shape[1]].T


def test_residuals_are_those_of_projections():
    Z, U = normal(7, 5), orthonormal(3, 5, 2)
    found = residuals(Z, U)
    for i in range(7):
        for c in range(3):
            rest = Z[i] - U[c] @ (U[c].T @ Z[i])
            assert float(found[i, c]) == pytest.approx(float(rest @ rest), abs=1e-12)
    labels, values = assign(Z, U)
    torch.testing.assert_close(labels, found.argmin(dim=1))
    torch.testing.assert_close(values, found.amin(dim=1))


def test_svd_bases_are_optimal():
    Z = normal(60, 8) * torch.linspace(0.2, 2.0, 8, dtype=torch.float64)
    labels = torch.arange(60) % 3
    U = svd_bases(Z, labels, canonical_bases(Z, 3, 2))
    assert_orthonormal(U)
    best = summed_residual(Z, labels, U)
    assert best < min(summed_residual(Z, labels, orthonormal(3, 8, 2, seed=s)) for s in range(200))
    # the least residual is the sum of the other eigenvalues
    tail = sum(float(torch.linalg.svdvals(Z[labels == c])[2:].square().sum()) for c in range(3))
    assert best == pytest.approx(tail, rel=1e-9)


def test_svd_bases_of_few_samples_are_orthonormal_and_an_empty_cluster_keeps_its_basis():
    Z, start = normal(5, 6), orthonormal(3, 6, 3)
    U = svd_bases(Z, torch.tensor([0, 0, 0, 0, 1]), start)
    assert_orthonormal(U)
    assert float(residuals(Z[4:], U)[0, 1]) < 1e-12
    torch.testing.assert_close(U[2], start[2])


@pytest.mark.parametrize("rate", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_grassmann_step_stays_orthonormal_and_lowers_the_residual(rate, seed):
    Z = normal(40, 9, seed=seed) * torch.linspace(0.1, 3.0, 9, dtype=torch.float64)
    labels = torch.arange(40) % 2
    U = orthonormal(2, 9, 3, seed=seed)
    for _ in range(30):
        moved = grassmann_step(Z, labels, U, rate)
        assert_orthonormal(moved)
        before, after = summed_residual(Z, labels, U), summed_residual(Z, labels, moved)
        assert after <= before + 1e-9
        U = moved
    assert after < 0.9 * summed_residual(Z, labels, orthonormal(2, 9, 3, seed=seed))


def test_grassmann_step_follows_the_gradient_and_moves_only_the_subspace():
    """To first order it is a step against the gradient of the residual, without its part inside the subspace."""
    Z, labels = normal(30, 6), torch.zeros(30, dtype=torch.int64)
    U = orthonormal(1, 6, 2).requires_grad_()
    residuals(Z, U).sum().backward()
    B = U.detach()[0]
    gradient = U.grad[0] - B @ (B.T @ U.grad[0])
    rate = 1e-4
    moved = grassmann_step(Z, labels, U.detach(), rate)[0]
    shift = moved @ moved.T - B @ B.T
    theta = torch.linalg.eigvalsh(B.T @ Z.T @ Z @ B)[-1]
    V = -gradient / 2 * rate / theta
    torch.testing.assert_close(shift, V @ B.T + B @ V.T, atol=1e-6, rtol=1e-3)
    Q = torch.linalg.qr(B + V / rate).Q  # a whole step is a retraction of the projected gradient, exactly
    whole = grassmann_step(Z, labels, U.detach(), 1.0)[0]
    torch.testing.assert_close(whole @ whole.T, Q @ Q.T, atol=1e-9, rtol=0)


def test_grassmann_steps_end_at_the_singular_vectors():
    Z = normal(50, 7) * torch.tensor([5.0, 4.0, 1.0, 0.5, 0.4, 0.3, 0.2], dtype=torch.float64)
    labels = torch.zeros(50, dtype=torch.int64)
    U = orthonormal(1, 7, 2)
    for _ in range(200):
        U = grassmann_step(Z, labels, U, 1.0)
    best = svd_bases(Z, labels, U)
    torch.testing.assert_close(U[0] @ U[0].T, best[0] @ best[0].T, atol=1e-6, rtol=0)
    torch.testing.assert_close(grassmann_step(Z[:0], labels[:0], U, 1.0), U)


@pytest.mark.parametrize("seed", range(5))
def test_alternation_equals_the_slow_reference(seed):
    Z = normal(40, 6, seed=seed)
    start = orthonormal(3, 6, 2, seed=seed + 50)
    U, labels, objectives = k_subspaces(Z, start)
    expected, bases = slow_k_subspaces(Z, start)
    np.testing.assert_array_equal(labels.numpy(), expected)
    for u, basis in zip(U.numpy(), bases, strict=True):
        np.testing.assert_allclose(u @ u.T, basis @ basis.T, atol=1e-8)
    assert (np.diff(objectives) <= 1e-12).all()


def test_alternation_takes_the_other_update():
    Z, y = planted()
    start = svd_bases(Z + 0.3 * normal(60, 12, seed=9), y, canonical_bases(Z, 3, 2))
    _, labels, objectives = k_subspaces(Z, start, update=lambda *given: grassmann_step(*given, 1.0))
    assert ari(y.numpy(), labels.numpy()) == 1.0
    assert (np.diff(objectives) <= 1e-12).all()


def test_starts_are_orthonormal_and_spectral_ones_find_planted_subspaces():
    Z, y = planted()
    U = spectral_bases(Z, 3, 2, gamma=1.0, keep=0.5, seed=0)
    assert_orthonormal(U)
    assert ari(y.numpy(), assign(Z, U)[0].numpy()) == 1.0
    first, second = (random_bases(Z, 3, 2, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert_orthonormal(first)
    assert not torch.allclose(first, second)
    assert_orthonormal(random_bases(torch.zeros(4, 5), 3, 2, torch.Generator().manual_seed(0)))
