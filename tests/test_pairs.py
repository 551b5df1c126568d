from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import normalize

from subspan.affinity import positive_pairs, subspace_affinity
from subspan.pairs import Pairs, find_positives, local_batches
from subspan.self_expression import ClosedFormSelfExpression, LearnedSelfExpression


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def random_pairs(n, seed, density=0.5):
    """Pairs of a dense matrix with an empty row (2) and zero diagonal, entries in random order."""
    weights = torch.rand(n, n, generator=gen(seed), dtype=torch.float64)
    weights *= torch.rand(n, n, generator=gen(seed + 1)) < density
    weights.fill_diagonal_(0.0)
    weights[2] = 0.0
    i, j = weights.nonzero(as_tuple=True)
    order = torch.randperm(len(i), generator=gen(seed + 2))
    return Pairs.from_entries(i[order], j[order], weights[i, j][order], n), weights


def dense(pairs, values=None):
    matrix = torch.zeros(pairs.n, pairs.n, dtype=torch.float64)
    matrix[pairs.rows(), pairs.partners] = (pairs.weights if values is None else values).double()
    return matrix


def transition(weights):
    """Row-normalised weights; a sample without partners stays where it is."""
    total = weights.sum(1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp_min(1e-300), torch.eye(len(weights), dtype=weights.dtype))


@pytest.mark.parametrize("seed", range(3))
def test_rows_hold_the_entries_they_were_made_of(seed):
    pairs, weights = random_pairs(9, seed)
    assert torch.equal(dense(pairs), weights)
    assert torch.equal(pairs.counts(), (weights > 0).sum(1))
    assert pairs.n == 9
    torch.testing.assert_close(
        dense(pairs, pairs.normalised())[weights.sum(1) > 0], transition(weights)[weights.sum(1) > 0]
    )


@pytest.mark.parametrize("seed", range(3))
def test_samples_that_do_not_count_alike_count_by_their_weights(seed):
    """As a mean over samples with partners, like rows that sum to one; the walk is the same."""
    pairs, weights = random_pairs(9, seed)
    unlike = replace(pairs, alike=False)
    active = int((weights.sum(1) > 0).sum())
    torch.testing.assert_close(dense(unlike, unlike.normalised()), active * weights / weights.sum())
    start = torch.arange(9).repeat(20)
    assert torch.equal(unlike.walk(start, 2, gen(0)), pairs.walk(start, 2, gen(0)))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_walk_has_the_distribution_of_a_power_of_the_transition_matrix(steps):
    """Chi-square of 20,000 walks from every sample against T^steps; fixed generator, so it passes or fails for good."""
    n, m = 7, 20_000
    pairs, weights = random_pairs(n, 0)
    expected = torch.linalg.matrix_power(transition(weights), steps)
    ends = pairs.walk(torch.arange(n).repeat_interleave(m), steps, gen(11)).reshape(n, m)
    for i in range(n):
        counts = torch.bincount(ends[i], minlength=n).numpy()
        possible = expected[i].numpy() > 0
        assert counts[~possible].sum() == 0
        if possible.sum() > 1:
            assert chisquare(counts[possible], m * expected[i].numpy()[possible]).pvalue > 1e-3


def test_samples_without_partners_stay():
    pairs, _ = random_pairs(7, 0)
    assert (pairs.walk(torch.full((50,), 2), 4, gen()) == 2).all()
    none = Pairs.from_entries(*(torch.empty(0, dtype=t) for t in (torch.int64, torch.int64, torch.float32)), 5)
    assert torch.equal(none.walk(torch.arange(5), 3, gen()), torch.arange(5))
    assert none.counts().tolist() == [0] * 5


def test_walk_never_leaves_its_row_for_tiny_weights():
    """Weights of very different size: the search over all rows at once may not round into a neighbouring row."""
    n = 400
    i = torch.arange(n).repeat_interleave(2)
    j = (i + torch.tensor([1, 2]).repeat(n)) % n
    weight = torch.where(i % 2 == 0, 1e6, 1e-6)
    pairs = Pairs.from_entries(i, j, weight, n)
    start = torch.arange(n).repeat(200)
    step = (pairs.walk(start, 1, gen()) - start) % n
    assert set(step.tolist()) == {1, 2}
    assert 0.4 < (step[start % 2 == 0] == 1).float().mean() < 0.6


def test_walk_is_decided_by_the_generator():
    pairs, _ = random_pairs(9, 1)
    state = torch.random.get_rng_state()
    start = torch.arange(9).repeat(20)
    assert torch.equal(pairs.walk(start, 2, gen(4)), pairs.walk(start, 2, gen(4)))
    assert not torch.equal(pairs.walk(start, 2, gen(4)), pairs.walk(start, 2, gen(5)))
    assert torch.equal(state, torch.random.get_rng_state())


def unit_codes(n, d, seed):
    return normalize(torch.randn(n, d, generator=gen(seed), dtype=torch.float64), dim=1)


@pytest.mark.parametrize("u", [0.0, 0.5, 0.9])
def test_positives_of_one_batch_are_the_dense_threshold(u):
    Z, layer = unit_codes(40, 6, 0), ClosedFormSelfExpression(1.0)
    order = torch.randperm(40, generator=gen(1))
    pairs = find_positives(Z, [order], layer, u, limit=100)
    i, j, weight = positive_pairs(subspace_affinity(layer.coefficients(Z[order])), u)
    expected = torch.zeros(40, 40, dtype=torch.float64)
    expected[order[i], order[j]] = weight
    torch.testing.assert_close(dense(pairs), expected)
    assert int((expected > 0).sum()) == len(pairs.partners)


def test_positives_of_several_batches_use_each_ones_own_coefficients():
    """A learned C knows its batches by number; pairs never cross batches."""
    Z = unit_codes(12, 4, 0)
    layer = LearnedSelfExpression([5, 7], 1.0)
    with torch.no_grad():
        for b, weight in enumerate(layer.weights):
            weight.copy_(torch.rand(weight.shape, generator=gen(b)))
    batches = torch.randperm(12, generator=gen(3)).split([5, 7])
    pairs = find_positives(Z, batches, layer, 0.6)
    expected = torch.zeros(12, 12, dtype=torch.float64)
    for b, batch in enumerate(batches):
        i, j, weight = positive_pairs(subspace_affinity(layer.coefficients(Z[batch], b)), 0.6)
        expected[batch[i], batch[j]] = weight.double()
    torch.testing.assert_close(dense(pairs), expected)
    assert not pairs.weights.requires_grad


def test_only_the_strongest_partners_are_kept():
    Z, layer = unit_codes(40, 6, 0), ClosedFormSelfExpression(1.0)
    kept = dense(find_positives(Z, [torch.arange(40)], layer, 0.1, limit=3))
    everything = dense(find_positives(Z, [torch.arange(40)], layer, 0.1, limit=39))
    top = everything.topk(3, dim=1)
    torch.testing.assert_close(kept, torch.zeros_like(kept).scatter_(1, top.indices, top.values))


def test_a_batch_of_one_sample_has_no_pairs():
    assert (
        find_positives(unit_codes(3, 4, 0), torch.arange(3).split(1), ClosedFormSelfExpression(1.0), 0.5).counts().sum()
        == 0
    )


def planted(n, k, d, seed):
    centres = torch.randn(k, d, generator=gen(seed))
    y = torch.randint(k, (n,), generator=gen(seed + 1))
    return normalize(centres[y] + 0.4 * torch.randn(n, d, generator=gen(seed + 2)), dim=1)


@pytest.mark.parametrize(("n", "size"), [(600, 100), (601, 100), (600, 599), (50, 100), (60, 1), (97, 5), (2, 1)])
def test_batches_hold_every_sample_once_and_have_one_size(n, size):
    batches = local_batches(planted(n, 6, 8, 0), size, gen())
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(n))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == math.ceil(n / size)


def share_kept(Z, batches, m=5):
    """Share of the m nearest neighbours that are in the batch of their sample."""
    batch_of = torch.empty(len(Z), dtype=torch.int64)
    for b, batch in enumerate(batches):
        batch_of[batch] = b
    near = (Z @ Z.T).fill_diagonal_(-1).topk(m, dim=1).indices
    return float((batch_of[near] == batch_of[:, None]).float().mean())


@pytest.mark.parametrize("seed", range(3))
def test_batches_keep_neighbours_together(seed):
    """Eight batches: chance keeps 1/8 of the nearest neighbours, cells must keep most."""
    Z = planted(1600, 40, 10, seed)
    local = share_kept(Z, local_batches(Z, 200, gen(seed)))
    chance = share_kept(Z, torch.randperm(1600, generator=gen(seed)).split(200))
    assert chance < 0.2
    assert local > 0.7


def test_batches_are_decided_by_the_generator_and_redrawn_by_it():
    Z = planted(600, 12, 8, 0)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (must stay as it is)
    first, second, third = (local_batches(Z, 100, gen(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, third, strict=True))
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    "Z", [torch.zeros(300, 4), torch.full((300, 4), 0.5), torch.eye(4)[:3].repeat(100, 1)], ids=["zero", "one", "three"]
)
def test_equal_codes_still_give_batches(Z, capfd):
    batches = local_batches(Z, 50, gen())
    assert sorted(torch.cat(batches).tolist()) == list(range(300))
    assert capfd.readouterr().err == ""  # faiss warns about few points otherwise
