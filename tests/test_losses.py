from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch

from reference.ncsc_equations import (
    eq5_collaboration,
    eq6_positive,
    eq7_negative,
    eq8_total,
    eq9_subspace,
)
from subspan.affinity import classifier_affinity, normalise_scores, subspace_affinity
from subspan.errors import InvalidInputError
from subspan.losses import (
    L,
    L_neg,
    L_pos,
    L_sub,
    L_sub_from_terms,
    Omega,
    balance_loss,
    omega_terms,
    pair_confidence_loss,
)

U, LOW = 0.6, 0.7  # thresholds that select some pairs of every problem below
CASES = [(5, 2, 0), (8, 3, 1), (11, 4, 2)]


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def affinities(n, k, seed):
    """A_s below 1 off the diagonal (the maximum of a row is clamped in Eq. 7, the transcription knows no clamp)."""
    A_s = subspace_affinity(draw(n, n, seed=seed)) * 0.97
    A_c = classifier_affinity(normalise_scores(draw(n, k, seed=seed + 50).softmax(dim=1)))
    return A_s, A_c


@pytest.mark.parametrize(("n", "k", "seed"), CASES)
def test_collaboration_equals_the_transcription(n, k, seed):
    A_s, A_c = affinities(n, k, seed)
    pos, n_pos = eq6_positive(A_s.numpy(), A_c.numpy(), U)
    neg, n_neg = eq7_negative(A_c.numpy(), A_s.numpy(), LOW)
    assert min(n_pos, n_neg) > 0
    terms = omega_terms(A_s, A_c, U, LOW)
    assert (terms.n_pos, terms.n_neg) == (n_pos, n_neg)
    pairs = [
        (terms.L_pos, pos),
        (terms.L_neg, neg),
        (L_pos(A_s, A_c, U, reduction="sum"), pos),
        (L_neg(A_c, A_s, LOW, reduction="sum"), neg),
        (L_pos(A_s, A_c, U), pos / n_pos),
        (L_neg(A_c, A_s, LOW), neg / n_neg),
        (Omega(A_s, A_c, U, LOW, reduction="sum"), eq5_collaboration(A_s.numpy(), A_c.numpy(), U, LOW)),
        (Omega(A_s, A_c, U, LOW), eq5_collaboration(A_s.numpy(), A_c.numpy(), U, LOW) / n_pos),
        (Omega(A_s, A_c, U, LOW, alpha=2.5, reduction="sum"), pos + 2.5 * neg),
        (Omega(A_s, A_c, U, LOW, alpha=2.5), pos / n_pos + 2.5 * neg / n_neg),
    ]
    for fast, expected in pairs:
        assert fast.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "k", "seed"), CASES)
def test_subspace_and_total_loss_equal_the_transcription(n, k, seed):
    A_s, A_c = affinities(n, k, seed)
    C, Z = draw(n, n, seed=seed), draw(n, 3, seed=seed + 1)
    X, Xhat = draw(n, 1, 2, 3, seed=seed + 2), draw(n, 1, 2, 3, seed=seed + 3)
    arrays = [t.numpy() for t in (C, Z, X, Xhat)]
    sub = L_sub(C, Z, X, Xhat, 10.0)
    assert sub.item() == pytest.approx(eq9_subspace(*arrays, 10.0), rel=1e-10)
    split = L_sub_from_terms(C.square().sum(), (Z - C @ Z).square().sum(), X, Xhat, torch.tensor(10.0))
    assert split.item() == pytest.approx(sub.item(), rel=1e-12)
    total = L(sub, Omega(A_s, A_c, U, LOW, reduction="sum"), 0.3)
    expected = eq8_total(*arrays, 10.0, A_s.numpy(), A_c.numpy(), U, LOW, 0.3)
    assert total.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("n", "k", "seed"), CASES)
def test_gradcheck_of_the_students(n, k, seed, reduction):
    A_s, A_c = affinities(n, k, seed)
    student_c, student_s = A_c.clone().requires_grad_(), A_s.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: L_pos(A_s, a, U, reduction=reduction), student_c)
    # Eq. 7 has a pole at A_s = 1: the diagonal stays out of the check since it is never selected
    assert torch.autograd.gradcheck(lambda a: L_neg(A_c, a, LOW, reduction=reduction), student_s)


def test_gradcheck_of_the_subspace_loss():
    inputs = (draw(4, 4, seed=0), draw(4, 3, seed=1), draw(4, 2, seed=2), draw(4, 2, seed=3))
    lambda_1 = torch.tensor(2.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(L_sub, tuple(t.requires_grad_() for t in (*inputs, lambda_1)))


def test_gradcheck_through_coefficients_and_scores():
    # chained to C and to the logits; detaching the teachers is part of the loss, so each side is checked alone
    C, logits = draw(6, 6, seed=4), draw(6, 3, seed=5)
    A_s, A_c = subspace_affinity(C), classifier_affinity(normalise_scores(logits.softmax(dim=1)))

    def negative(c):
        return L_neg(A_c, 0.97 * subspace_affinity(c), LOW)

    def positive(scores):
        return L_pos(A_s, classifier_affinity(normalise_scores(scores.softmax(dim=1))), U)

    assert torch.autograd.gradcheck(negative, C.requires_grad_())
    assert torch.autograd.gradcheck(positive, logits.requires_grad_())


@pytest.mark.parametrize(("n", "k", "seed"), CASES)
def test_teachers_receive_no_gradient_and_students_do(n, k, seed):
    A_s, A_c = (a.requires_grad_() for a in affinities(n, k, seed))
    for loss, teacher, student in ((L_pos(A_s, A_c, U), A_s, A_c), (L_neg(A_c, A_s, LOW), A_c, A_s)):
        to_teacher, to_student = torch.autograd.grad(loss, (teacher, student), allow_unused=True)
        assert to_teacher is None or not to_teacher.any()
        assert to_student.any()
        assert not to_student.diagonal().any()


def test_omega_sends_each_term_to_its_student():
    A_s, A_c = (a.requires_grad_() for a in affinities(8, 3, 1))
    to_s, to_c = torch.autograd.grad(Omega(A_s, A_c, U, LOW, alpha=2.0), (A_s, A_c))
    (alone_s,) = torch.autograd.grad(2.0 * L_neg(A_c, A_s, LOW), A_s)
    (alone_c,) = torch.autograd.grad(L_pos(A_s, A_c, U), A_c)
    torch.testing.assert_close(to_s, alone_s)
    torch.testing.assert_close(to_c, alone_c)


def test_empty_selections_give_zero_in_the_graph():
    A_s, A_c = (a.requires_grad_() for a in affinities(5, 2, 0))
    loss = Omega(A_s, A_c, u=1.0, l=0.0)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, (A_s, A_c)):
        assert not gradient.any()
    assert Omega(A_s, A_c, u=1.0, l=0.0, reduction="sum").item() == 0


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_logarithms_are_bounded(dtype, eps):
    A_s = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=dtype, requires_grad=True)
    A_c = torch.zeros(2, 2, dtype=dtype, requires_grad=True)
    for loss in (L_pos(A_s, A_c, 0.5), L_neg(A_c, A_s, 0.5)):
        assert loss.item() == pytest.approx(-log(eps), rel=1e-6)
        for gradient in torch.autograd.grad(loss, (A_s, A_c), allow_unused=True):
            assert gradient is None or not gradient.any()  # finite and, below eps, zero


@pytest.mark.parametrize(("m", "k", "seed"), [(6, 3, 0), (9, 2, 1), (1, 5, 2)])
def test_pair_confidence_is_the_weighted_mean_of_minus_log_inner_products(m, k, seed):
    p_i, p_j = draw(m, k, seed=seed).softmax(dim=1), draw(m, k, seed=seed + 9).softmax(dim=1)
    weight = draw(m, seed=seed + 20).abs()
    expected = -sum(weight[r] * log(sum(p_i[r, c] * p_j[r, c] for c in range(k))) for r in range(m)) / weight.sum()
    torch.testing.assert_close(pair_confidence_loss(p_i.log(), p_j.log(), weight), expected, rtol=1e-10, atol=0)
    plain = pair_confidence_loss(p_i.log(), p_j.log())
    torch.testing.assert_close(plain, -(p_i * p_j).sum(dim=1).log().mean(), rtol=1e-10, atol=0)


def test_pair_confidence_asks_for_confidence_where_eq6_does_not():
    uniform = torch.full((4, 3), 1 / 3)
    A_c = classifier_affinity(normalise_scores(uniform))
    assert L_pos(torch.ones(4, 4), A_c, 0.5).item() == pytest.approx(0.0, abs=1e-6)
    assert pair_confidence_loss(uniform.log(), uniform.log()).item() == pytest.approx(log(3))
    sure = torch.log_softmax(100.0 * torch.eye(3), dim=1)
    assert pair_confidence_loss(sure, sure).item() == pytest.approx(0.0, abs=1e-6)


def test_pair_confidence_survives_confident_disagreement():
    # p_i . p_j underflows float32; the sum in the log domain does not
    a = torch.log_softmax(torch.tensor([[200.0, 0.0]]), dim=1)
    b = torch.log_softmax(torch.tensor([[0.0, 200.0]]), dim=1)
    assert pair_confidence_loss(a, b).item() == pytest.approx(200.0 - log(2))


@pytest.mark.parametrize("per_start", [False, True])
def test_starts_are_independent(per_start):
    log_p_i, log_p_j = draw(3, 7, 4, seed=0).log_softmax(-1), draw(3, 7, 4, seed=1).log_softmax(-1)
    weight = draw(3, 7, seed=2).abs() if per_start else draw(7, seed=2).abs()
    pair, balance = pair_confidence_loss(log_p_i, log_p_j, weight), balance_loss(log_p_i)
    assert pair.shape == balance.shape == (3,)
    for r in range(3):
        alone = pair_confidence_loss(log_p_i[r], log_p_j[r], weight[r] if per_start else weight)
        torch.testing.assert_close(pair[r], alone)
        torch.testing.assert_close(balance[r], balance_loss(log_p_i[r]))


def test_pair_confidence_without_weight_is_zero_in_the_graph():
    log_p = draw(4, 3, seed=0).log_softmax(-1).requires_grad_()
    for loss in (pair_confidence_loss(log_p, log_p, torch.zeros(4)), pair_confidence_loss(log_p[:0], log_p[:0])):
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, log_p)[0].any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_balance_is_log_k_minus_entropy_of_the_mean(seed):
    p = (3 * draw(10, 4, seed=seed)).softmax(dim=1)
    mean = p.mean(dim=0).numpy()
    assert balance_loss(p.log()).item() == pytest.approx(log(4) + np.sum(mean * np.log(mean)), rel=1e-10)
    prior = draw(4, seed=seed + 1).abs() + 0.1
    q = (prior / prior.sum()).numpy()
    assert balance_loss(p.log(), prior).item() == pytest.approx(np.sum(mean * np.log(mean / q)), rel=1e-10)
    assert balance_loss(p.log(), p.mean(dim=0)).item() == pytest.approx(0.0, abs=1e-12)
    both = balance_loss(torch.stack([p, p]).log(), torch.stack([prior, prior.flip(0)]))  # a prior for each start
    torch.testing.assert_close(both, torch.stack([balance_loss(p.log(), q) for q in (prior, prior.flip(0))]))


def test_balance_of_extremes():
    one = torch.log_softmax(100.0 * torch.eye(3)[[0, 0, 0, 0]], dim=1)
    even = torch.log_softmax(100.0 * torch.eye(3), dim=1)
    assert balance_loss(one).item() == pytest.approx(log(3), rel=1e-6)
    assert balance_loss(even).item() == pytest.approx(0.0, abs=1e-6)


def test_gradcheck_of_the_losses_on_scores():
    a, b = draw(2, 5, 3, seed=0).requires_grad_(), draw(2, 5, 3, seed=1).requires_grad_()
    weight, prior = draw(5, seed=2).abs(), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def pair(x, y):
        return pair_confidence_loss(x.log_softmax(-1), y.log_softmax(-1), weight)

    assert torch.autograd.gradcheck(pair, (a, b))
    assert torch.autograd.gradcheck(lambda x: balance_loss(x.log_softmax(-1)), a)
    assert torch.autograd.gradcheck(lambda x: balance_loss(x.log_softmax(-1), prior), a)


def test_pair_weights_carry_no_gradient():
    weight = torch.rand(4, requires_grad=True)
    log_p = torch.randn(4, 3, requires_grad=True, generator=torch.Generator().manual_seed(0))
    pair_confidence_loss(log_p.log_softmax(-1), log_p.log_softmax(-1), weight).backward()
    assert weight.grad is None
    assert log_p.grad.any()


@pytest.mark.parametrize(
    "call",
    [
        lambda: L_pos(torch.eye(3), torch.eye(2), 0.5),
        lambda: L_neg(torch.eye(3), torch.eye(2), 0.5),
        lambda: Omega(torch.eye(3), torch.eye(3), 1.5, 0.1),
        lambda: Omega(torch.eye(3), torch.eye(3), 0.5, -0.1),
        lambda: L_pos(torch.eye(3), torch.eye(3), 0.5, reduction="none"),
        lambda: L_sub(torch.eye(3), torch.ones(3, 2), torch.ones(3, 4), torch.ones(3, 5), 1.0),
        lambda: balance_loss(torch.zeros(4, 3), torch.ones(2)),
        lambda: balance_loss(torch.zeros(4, 3), torch.tensor([1.0, 0.0, 1.0])),
    ],
)
def test_wrong_arguments_are_named(call):
    with pytest.raises(InvalidInputError):
        call()
