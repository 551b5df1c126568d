from __future__ import annotations

import numpy as np
import pytest
import torch

from reference.ncsc_equations import eq1_classifier_affinity, eq4_subspace_affinity
from subspan.affinity import (
    classifier_affinity,
    negative_mask,
    negative_pairs,
    normalise_scores,
    positive_mask,
    positive_pairs,
    subspace_affinity,
)
from subspan.errors import InvalidInputError

CASES = [(4, 0), (7, 1), (13, 2)]


def coefficients(n, seed, dtype=torch.float64):
    return torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scores(n, k, seed):
    logits = torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.softmax(dim=1)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("n", "seed"), CASES)
def test_subspace_affinity_equals_the_transcription(n, seed, requires_grad):
    C = coefficients(n, seed).requires_grad_(requires_grad)
    before = C.detach().clone()
    A_s = subspace_affinity(C)
    np.testing.assert_allclose(A_s.detach().numpy(), eq4_subspace_affinity(before.numpy()), rtol=0, atol=1e-10)
    assert A_s.requires_grad == requires_grad
    assert torch.equal(C, before)  # in-place steps must not reach the caller


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "seed"), CASES)
def test_subspace_affinity_laws(n, seed, dtype):
    C = coefficients(n, seed, dtype)
    A_s = subspace_affinity(C)
    off = A_s - torch.eye(n, dtype=dtype)
    assert A_s.dtype == dtype
    assert torch.equal(A_s.diagonal(), torch.ones(n, dtype=dtype))
    assert A_s.min() >= 0
    assert A_s.max() <= 1
    assert torch.equal(off.amax(dim=1), torch.ones(n, dtype=dtype))  # the best partner of every sample has affinity 1
    assert torch.equal(A_s, subspace_affinity(-C))
    signs = coefficients(n, seed + 100, dtype).sign()
    assert torch.equal(A_s, subspace_affinity(C * signs))
    torch.testing.assert_close(A_s, subspace_affinity(3.7 * C))
    assert torch.equal(A_s, subspace_affinity(C + torch.diag(C[0])))  # the diagonal is ignored


@pytest.mark.parametrize(("n", "seed"), CASES)
def test_symmetric_affinity_is_the_average(n, seed):
    C = coefficients(n, seed)
    A_s, symmetric = subspace_affinity(C), subspace_affinity(C, symmetric=True)
    assert not torch.equal(A_s, A_s.T)
    assert torch.equal(symmetric, symmetric.T)
    torch.testing.assert_close(symmetric, (A_s + A_s.T) / 2)
    assert torch.equal(symmetric.diagonal(), torch.ones(n, dtype=C.dtype))


def test_zero_row_stays_zero_and_its_gradient_finite():
    C = coefficients(5, 0)
    C[2, :] = 0
    C[:, 2] = 0
    C.requires_grad_()
    A_s = subspace_affinity(C)
    expected = torch.zeros(5, dtype=C.dtype)
    expected[2] = 1
    assert torch.equal(A_s[2], expected)
    assert torch.equal(A_s[:, 2], expected)
    (gradient,) = torch.autograd.grad(A_s.square().sum(), C)
    assert torch.isfinite(gradient).all()
    assert torch.equal(subspace_affinity(torch.zeros(3, 3)), torch.eye(3))
    assert torch.equal(subspace_affinity(torch.ones(1, 1)), torch.eye(1))


@pytest.mark.parametrize("symmetric", [False, True])
def test_subspace_affinity_is_differentiable(symmetric):
    C = coefficients(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: subspace_affinity(c, symmetric=symmetric), C)


@pytest.mark.parametrize(("n", "seed"), CASES)
def test_classifier_affinity_equals_the_transcription(n, seed):
    p = scores(n, 3, seed)
    nu = normalise_scores(p)
    A_c = classifier_affinity(nu)
    np.testing.assert_allclose(A_c.numpy(), eq1_classifier_affinity(p.numpy()), rtol=0, atol=1e-10)
    torch.testing.assert_close(nu.norm(dim=1), torch.ones(n, dtype=p.dtype))
    torch.testing.assert_close(A_c.diagonal(), torch.ones(n, dtype=p.dtype))
    assert A_c.min() >= 0


def test_classifier_affinity_of_one_hot_scores_is_same_cluster():
    labels = torch.tensor([0, 2, 1, 2, 0])
    A_c = classifier_affinity(normalise_scores(torch.nn.functional.one_hot(labels).float()))
    assert torch.equal(A_c, (labels[:, None] == labels[None, :]).float())


@pytest.mark.parametrize(("n", "seed"), CASES)
def test_pairs_are_what_a_double_loop_selects(n, seed):
    A_s = subspace_affinity(coefficients(n, seed))
    A_c = classifier_affinity(normalise_scores(scores(n, 3, seed)))
    off = [(i, j) for i in range(n) for j in range(n) if i != j]
    positive = {(i, j): A_s[i, j].item() for i, j in off if A_s[i, j] > 0.6}
    negative = {(i, j): 1 - A_c[i, j].item() for i, j in off if A_c[i, j] < 0.7}
    assert positive
    assert negative
    for (i, j, weight), expected in ((positive_pairs(A_s, 0.6), positive), (negative_pairs(A_c, 0.7), negative)):
        found = dict(zip(zip(i.tolist(), j.tolist(), strict=True), weight.tolist(), strict=True))
        assert found == expected
    assert positive_mask(A_s, 0.6).sum() == len(positive)
    assert negative_mask(A_c, 0.7).sum() == len(negative)


def test_thresholds_are_strict_and_the_diagonal_never_selected():
    A = torch.tensor([[0.0, 0.5], [0.5, 0.9]])
    assert len(positive_pairs(A, 0.5)[0]) == 0
    assert len(negative_pairs(A, 0.5)[0]) == 0
    assert len(positive_pairs(torch.ones(3, 3), 0.0)[0]) == 6
    assert len(negative_pairs(torch.zeros(3, 3), 1.0)[0]) == 6


def test_pair_weights_carry_no_gradient():
    A = torch.rand(4, 4, requires_grad=True)
    assert not positive_pairs(A, 0.1)[2].requires_grad
    assert not negative_pairs(A, 0.9)[2].requires_grad


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("pairs", [positive_pairs, negative_pairs])
def test_thresholds_outside_the_unit_interval_are_named(pairs, threshold):
    with pytest.raises(InvalidInputError, match="from 0 to 1"):
        pairs(torch.eye(3), threshold)


@pytest.mark.parametrize(
    "call",
    [
        lambda: subspace_affinity(torch.ones(2, 3)),
        lambda: positive_pairs(torch.ones(2, 3), 0.5),
        lambda: negative_mask(torch.ones(2), 0.5),
        lambda: classifier_affinity(torch.ones(3)),
    ],
)
def test_wrong_shapes_are_named(call):
    with pytest.raises(InvalidInputError):
        call()
