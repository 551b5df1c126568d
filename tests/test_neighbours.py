"""Self-expression of all samples, against the dense formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from subspan import neighbours
from subspan.affinity import subspace_affinity
from subspan.errors import InvalidInputError, SelfExpressionError
from subspan.neighbours import POWER, GlobalSelfExpression, Neighbours, both_signs, torch_search
from subspan.self_expression import closed_form_coefficients, ridge_weight


def codes(n=60, d=8, seed=0, signed=True):
    gen = torch.Generator().manual_seed(seed)
    Z = torch.randn(n, d, generator=gen, dtype=torch.float64)
    return torch.nn.functional.normalize(Z if signed else Z.abs(), dim=1)


def dense_affinity(Z, gamma):
    C = closed_form_coefficients(Z, ridge_weight(Z, gamma)).abs()
    return (C + C.T) / 2


@pytest.mark.parametrize("gamma", [0.1, 10.0])
@pytest.mark.parametrize(("n", "d"), [(60, 8), (6, 20)])
def test_affinity_is_that_of_the_dense_closed_form(gamma, n, d):
    Z = codes(n, d)
    found = GlobalSelfExpression(gamma).fit(Z).affinity(Z, Z).fill_diagonal_(0.0)
    torch.testing.assert_close(found, dense_affinity(Z, gamma), rtol=1e-8, atol=1e-10)


def test_gram_matrix_is_the_same_in_batches():
    Z = codes()
    whole, parts = GlobalSelfExpression(1.0).fit(Z), GlobalSelfExpression(1.0).fit(iter(Z.split(7)))
    torch.testing.assert_close(whole.S, parts.S)
    assert whole.n_seen == parts.n_seen == 60
    assert whole.rho == pytest.approx(float(ridge_weight(Z, 1.0)))


@pytest.mark.parametrize("method", ["exact", "ivf", "auto"])
@pytest.mark.parametrize("signed", [True, False])
def test_neighbours_are_the_largest_affinities(method, signed, monkeypatch):
    """Negative products count like positive ones; an inverted file may miss a few, but what it finds is exact."""
    monkeypatch.setattr("subspan.neighbours.BLOCK", 17)
    Z = codes(signed=signed).float()
    dense, found = dense_affinity(Z.double(), 1.0), GlobalSelfExpression(1.0).fit(Z).neighbours(Z, 5, method)
    best = dense.topk(5, dim=1)
    if method != "ivf":
        torch.testing.assert_close(found.affinity.double(), best.values, rtol=1e-4, atol=1e-6)
    same = (found.index[:, :, None] == best.indices[:, None]).any(2).float().mean()
    assert same > (0.99 if method != "ivf" else 0.95)
    assert found.recall > 0.95
    torch.testing.assert_close(found.affinity.double(), dense.gather(1, found.index), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["exact", "ivf"])
def test_neighbours_among_landmarks_are_the_largest_affinities_to_them(method, monkeypatch):
    monkeypatch.setattr("subspan.neighbours.BLOCK", 17)
    Z, landmarks = codes().float(), torch.tensor([3, 4, 10, 17, 21, 30, 31, 44, 52])
    dense = dense_affinity(Z.double(), 1.0).fill_diagonal_(0.0)
    found = GlobalSelfExpression(1.0).fit(Z).neighbours(Z, 4, method, among=landmarks)
    best = dense[:, landmarks].topk(4, dim=1)
    assert found.index.shape == (60, 4)
    if method == "exact":
        assert torch.equal(found.index, landmarks[best.indices])
        torch.testing.assert_close(found.affinity.double(), best.values, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.affinity.double(), dense.gather(1, found.index), rtol=1e-4, atol=1e-6)
    same = (found.index[:, :, None] == landmarks[best.indices][:, None]).any(2).float().mean()
    assert same > 0.95
    assert found.recall > 0.95
    assert (found.index != torch.arange(60)[:, None]).all()
    everybody = GlobalSelfExpression(1.0).fit(Z).neighbours(Z, 100, among=landmarks)
    assert everybody.index.shape == (60, 8)


@pytest.mark.parametrize(("most", "inverted"), [(399, True), (400, False)])
def test_many_samples_are_searched_in_an_inverted_file(most, inverted, monkeypatch):
    monkeypatch.setattr(neighbours, "EXACT", most)
    made, make = [], neighbours._inverted_file
    monkeypatch.setattr(neighbours, "_inverted_file", lambda *arguments: made.append(1) or make(*arguments))
    Z = codes(400).float()
    GlobalSelfExpression(1.0).fit(Z).neighbours(Z, 3)
    assert bool(made) == inverted


def test_an_inverted_file_is_probed_until_it_finds_nearly_all():
    """Codes without any clusters: the first lists that are probed hold a part of the neighbours only."""
    Z = codes(3000, 20).float()
    assert GlobalSelfExpression(1.0).fit(Z).neighbours(Z, 5, "ivf").recall > 0.98


def test_negative_products_are_found():
    """Two opposite bundles of vectors: half of everybody's neighbours point the other way."""
    gen = torch.Generator().manual_seed(0)
    sign = torch.where(torch.arange(40) % 2 == 0, 1.0, -1.0)[:, None]
    Z = torch.nn.functional.normalize(sign * (torch.ones(40, 6) + 0.3 * torch.randn(40, 6, generator=gen)), dim=1)
    _, product = both_signs(Z, Z, 20)
    assert (product < 0).any(1).all()
    found = GlobalSelfExpression(10.0).fit(Z).neighbours(Z, 15)
    assert ((found.index % 2) != (torch.arange(40) % 2)[:, None]).float().mean() > 0.3
    dense = torch.sort((Z @ Z.T).abs(), dim=1, descending=True).values[:, :20]
    torch.testing.assert_close(product.abs(), dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["exact", "ivf"])
def test_negative_coefficients_can_count_as_zero(method, monkeypatch):
    monkeypatch.setattr("subspan.neighbours.BLOCK", 17)
    Z = codes().float()
    C = closed_form_coefficients(Z.double(), ridge_weight(Z.double(), 1.0)).clamp_min(0.0)
    dense, one = (C + C.T) / 2, GlobalSelfExpression(1.0, positive=True).fit(Z)
    torch.testing.assert_close(one.affinity(Z, Z).fill_diagonal_(0.0).double(), dense, rtol=1e-4, atol=1e-6)
    found, best = one.neighbours(Z, 5, method), dense.topk(5, dim=1)
    same = (found.index[:, :, None] == best.indices[:, None]).any(2).float().mean()
    assert same > (0.99 if method == "exact" else 0.95)
    assert found.recall > 0.95
    assert found.negative == 0.0
    torch.testing.assert_close(found.affinity.double(), dense.gather(1, found.index), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one.at(10.0).affinity(Z, Z), GlobalSelfExpression(10.0).fit(Z).affinity(Z, Z))


def test_samples_without_positive_coefficients_have_no_pairs():
    Z = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]])
    found = GlobalSelfExpression(1.0, positive=True).fit(Z).neighbours(Z, 2)
    assert found.pairs().counts().tolist() == [1, 1, 0]


def test_the_share_of_negative_coefficients_is_that_of_the_dense_ones():
    Z = codes().float()
    C = closed_form_coefficients(Z.double(), ridge_weight(Z.double(), 1.0))
    signed = (C + C.T) / 2
    best = signed.abs().topk(5, dim=1).indices
    found = GlobalSelfExpression(1.0).fit(Z).neighbours(Z, 5)
    assert found.negative == pytest.approx(float((signed.gather(1, best) < 0).double().mean()))
    assert 0.2 < found.negative < 0.8


@pytest.mark.parametrize("positive", [False, True])
def test_blocks_of_products_of_either_sign_equal_the_neighbours(positive, monkeypatch):
    """The search of CUDA in the place of FAISS."""
    Z = codes().float()
    one = GlobalSelfExpression(1.0, positive).fit(Z)
    expected = one.neighbours(Z, 5)
    monkeypatch.setattr(neighbours, "_faiss_search", lambda base, *_: (torch_search(base, one._size), 1.0))
    monkeypatch.setattr(neighbours, "QUERIES", 13)
    found = one.neighbours(Z, 5)
    assert torch.equal(found.index, expected.index)
    torch.testing.assert_close(found.affinity, expected.affinity)


@pytest.mark.parametrize(("queries", "rows"), [(13, 10**6), (2048, 5)])
def test_blocks_of_products_equal_the_search_and_are_small(monkeypatch, queries, rows):
    """What CUDA uses, run on the CPU."""
    W, held = codes().float(), []
    monkeypatch.setattr(neighbours, "QUERIES", queries)
    monkeypatch.setattr(neighbours, "PRODUCTS", rows * len(W))
    index, product = torch_search(W, lambda P: held.append(len(P)) or P.abs())(W, 7)
    assert max(held) == min(queries, rows)
    expected = both_signs(W, W, 7)
    assert torch.equal(index, expected[0])
    torch.testing.assert_close(product, expected[1])


def test_pairs_are_the_entries_of_A_s_above_u():
    Z = codes(30).float()
    dense = subspace_affinity(closed_form_coefficients(Z.double(), ridge_weight(Z.double(), 1.0))).fill_diagonal_(0.0)
    pairs = GlobalSelfExpression(1.0).fit(Z).neighbours(Z, 29).pairs(0.5)
    found = torch.zeros(30, 30, dtype=torch.float64)
    found[pairs.rows(), pairs.partners] = pairs.weights.double()
    torch.testing.assert_close(found, torch.where(dense > 0.5, dense, 0.0), rtol=1e-4, atol=1e-5)


def test_comparable_affinities_keep_their_size():
    """The weak row of the second sample stays weak; with rows divided by their maximum it would not."""
    found = Neighbours(torch.tensor([[1, 2], [2, 0], [0, 1]]), torch.tensor([[4.0, 2.0], [0.4, 0.2], [2.0, 0.0]]))
    pairs = found.pairs(comparable=True)
    assert not pairs.alike
    assert pairs.counts().tolist() == [2, 2, 1]
    torch.testing.assert_close(pairs.weights, torch.tensor([1.0, 0.5, 0.1, 0.05, 0.5]) ** POWER)
    assert found.pairs(0.5, comparable=True).counts().tolist() == [1, 0, 0]  # u is compared before the power
    faint = replace(found, affinity=found.affinity * torch.tensor([[1.0], [0.04], [1.0]]))
    assert faint.pairs(comparable=True).counts().tolist() == [2, 0, 1]  # .004 of the largest is none
    divided = found.pairs()
    assert divided.alike
    torch.testing.assert_close(divided.weights, torch.tensor([1.0, 0.5, 1.0, 0.5, 1.0]))


def test_few_samples_and_duplicates():
    Z = torch.eye(3).repeat(2, 1)  # every sample has one twin and nothing else in common
    found = GlobalSelfExpression(1.0).fit(Z).neighbours(Z, 10)
    assert found.index.shape == (6, 5)
    assert found.index[:, 0].tolist() == [3, 4, 5, 0, 1, 2]
    assert (found.index != torch.arange(6)[:, None]).all()
    assert found.pairs().counts().tolist() == [1] * 6  # zero affinities are no pairs


def fitted():
    return GlobalSelfExpression(1.0).fit(torch.ones(3, 2))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: GlobalSelfExpression(0.0), InvalidInputError, "above 0"),
        (lambda: GlobalSelfExpression(float("nan")), InvalidInputError, "above 0"),
        (lambda: GlobalSelfExpression(1.0).fit([]), InvalidInputError, "at least one batch"),
        (lambda: GlobalSelfExpression(1.0).fit([torch.ones(2, 3), torch.ones(2, 4)]), InvalidInputError, "one d"),
        (lambda: GlobalSelfExpression(1.0).fit(torch.zeros(3, 2)), SelfExpressionError, "not all zero"),
        (lambda: GlobalSelfExpression(1.0).fit(torch.full((3, 2), float("nan"))), SelfExpressionError, "finite"),
        (
            lambda: GlobalSelfExpression(1.0).fit(torch.ones(3, 2)).neighbours(torch.ones(3, 2), 0),
            InvalidInputError,
            "m >= 1",
        ),
        (
            lambda: GlobalSelfExpression(1.0).fit(torch.ones(3, 2)).neighbours(torch.ones(3, 2), 1, "guess"),
            InvalidInputError,
            "guess",
        ),
    ],
)
def test_errors_say_what_to_do(call, error, match):
    with pytest.raises(error, match=match):
        call()
