"""DEC's equations against slow transcriptions and its closed-form gradients."""

from __future__ import annotations

import pytest
import torch

from subspan._random import generator
from subspan.soft_assignments import divergence, log_assignments, target_distribution


def draw(n=12, d=3, k=4, seed=0):
    gen = generator(seed)
    return (torch.randn(rows, d, generator=gen, dtype=torch.float64) for rows in (n, k))


@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_assignments_are_eq_1(alpha):
    Z, M = draw()
    Q = log_assignments(Z, M, alpha).exp()
    for i, z in enumerate(Z):
        kernel = [(1 + float(((z - m) ** 2).sum()) / alpha) ** (-(alpha + 1) / 2) for m in M]
        torch.testing.assert_close(Q[i], torch.tensor(kernel, dtype=torch.float64) / sum(kernel))


def test_target_is_eq_3():
    Z, M = draw(seed=1)
    Q = log_assignments(Z, M).exp()
    P = target_distribution(Q)
    n, k = Q.shape
    f = [sum(float(Q[i, j]) for i in range(n)) for j in range(k)]
    for i in range(n):
        row = [float(Q[i, j]) ** 2 / f[j] for j in range(k)]
        torch.testing.assert_close(P[i], torch.tensor(row, dtype=torch.float64) / sum(row))


def test_one_hot_assignments_are_their_own_target():
    """Nothing is left to learn; an empty cluster makes no NaN."""
    Q = torch.eye(5)[torch.tensor([0, 1, 1, 3, 3, 3, 0])]
    assert torch.equal(target_distribution(Q), Q)
    soft = (Q + 0.1) / 1.5
    assert not torch.allclose(target_distribution(soft), soft, atol=1e-2)


def test_target_is_more_confident_than_the_assignments_of_balanced_clusters():
    Q = log_assignments(*draw(200, seed=2)).exp()
    Q = torch.cat([Q.roll(shift, dims=1) for shift in range(4)])  # equal sizes f_j
    P = target_distribution(Q)
    assert (P.amax(1) >= Q.amax(1)).all()
    assert torch.equal(P.argmax(1), Q.argmax(1))


@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_gradients_are_eqs_4_and_5(alpha):
    Z, M = draw(seed=4)
    Z.requires_grad_()
    M.requires_grad_()
    P = target_distribution(log_assignments(Z, M, alpha).exp()).detach()
    log_Q = log_assignments(Z, M, alpha)
    (divergence(P, log_Q) * len(Z)).backward()  # Eq. 2 is a sum
    with torch.no_grad():
        difference = Z[:, None] - M[None]
        pull = (P - log_Q.exp()) / (1 + difference.square().sum(-1) / alpha)
        terms = (alpha + 1) / alpha * pull[..., None] * difference
    torch.testing.assert_close(Z.grad, terms.sum(1))
    torch.testing.assert_close(M.grad, -terms.sum(0))


def test_divergence_is_zero_at_the_target_and_takes_zeros():
    P = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
    assert float(divergence(P, P.clamp_min(1e-30).log())) == pytest.approx(0.0, abs=1e-7)
    Q = torch.tensor([[0.25, 0.25, 0.5], [0.25, 0.25, 0.5]])
    expected = torch.log(torch.tensor(2.0)) / 2  # one of two rows has KL = log 2
    torch.testing.assert_close(divergence(P, Q.log()), expected)


def test_far_codes_have_finite_assignments():
    Z = torch.tensor([[1e15, 0.0], [0.0, 0.0]])
    log_Q = log_assignments(Z, torch.tensor([[0.0, 0.0], [1e8, 0.0]]))
    assert log_Q.isfinite().all()
    torch.testing.assert_close(log_Q.exp().sum(1), torch.ones(2))
