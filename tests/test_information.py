from __future__ import annotations

import pytest
import torch

from flows import brute_information, chain, gen, random_flow
from subspan.information import (
    are_groups,
    cluster_flow,
    group_flow,
    joining_gains,
    label_flow,
    mutual_information,
    normalised_association,
)
from subspan.pairs import Pairs


def joined(flow, a, b):
    """The flow after clusters a and b became one, by an indicator matrix."""
    m = len(flow)
    groups = [c if c != b else a for c in range(m)]
    kept = sorted(set(groups))
    G = torch.zeros(m, m - 1, dtype=flow.dtype)
    for c in range(m):
        G[c, kept.index(groups[c])] = 1
    return G.T @ flow @ G


@pytest.mark.parametrize("compression", [0.0, 0.7])
@pytest.mark.parametrize(("m", "seed", "zeros"), [(4, 0, False), (7, 1, False), (6, 2, True), (2, 3, False)])
def test_information_is_the_double_sum(m, seed, zeros, compression):
    flow = random_flow(m, seed, zeros)
    expected = brute_information(flow, compression)
    assert float(mutual_information(flow, compression)) == pytest.approx(expected, abs=1e-12)


def test_information_of_extremes():
    assert float(mutual_information(torch.eye(5, dtype=torch.float64) / 5)) == pytest.approx(
        float(torch.tensor(5.0).log())
    )
    independent = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    assert float(mutual_information(torch.outer(independent, independent))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("compression", [0.0, 0.7])
@pytest.mark.parametrize(("m", "seed", "zeros"), [(4, 0, False), (7, 1, False), (6, 2, True), (2, 3, False)])
def test_gain_of_joining_a_group_is_the_information_after_minus_before(m, seed, zeros, compression):
    """The last cluster, a group of its own, joins each other one; several cases at once are each alone."""
    flows = torch.stack([random_flow(m, seed, zeros), random_flow(m, seed + 10, zeros)])
    flows[1, -1, -1] = inner = flows[0, -1, -1].clone()
    gains = joining_gains(flows[:, :-1, :-1], flows[:, -1, :-1], inner, compression)
    assert gains.shape == (2, m - 1)
    for flow, gain in zip(flows, gains, strict=True):
        before = brute_information(flow, compression)
        expected = [brute_information(joined(flow, b, m - 1), compression) - before for b in range(m - 1)]
        assert gain.tolist() == pytest.approx(expected, abs=1e-12)


def test_association_of_a_flow_by_hand():
    """Shares that stay: 6 of 8, 3 of 4, and nothing of an empty cluster, which does not count."""
    flow = torch.tensor([[6.0, 0.5, 0.0], [0.5, 3.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert normalised_association(flow / flow.sum()) == pytest.approx((6 / 6.5 + 3 / 3.5) / 2)


@pytest.mark.parametrize("seed", range(2))
def test_flow_between_groups_is_the_sum_over_their_members(seed):
    flow, group = random_flow(6, seed), torch.tensor([0, 2, 1, 0, 2, 2])
    expected = [
        [sum(flow[a, b] for a in range(6) for b in range(6) if group[a] == g and group[b] == h) for h in range(3)]
        for g in range(3)
    ]
    torch.testing.assert_close(group_flow(flow, group, 3), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(3))
def test_flow_is_the_dense_product(seed, monkeypatch):
    """P^T T P, symmetrised, sum 1; T is the walk's matrix, in which samples without partners lead nowhere."""
    monkeypatch.setattr("subspan.information.BLOCK", 7)
    n, m = 30, 5
    weights = torch.rand(n, n, generator=gen(seed)) * (torch.rand(n, n, generator=gen(seed + 1)) < 0.2)
    weights.fill_diagonal_(0.0)
    weights[4] = 0.0
    i, j = weights.nonzero(as_tuple=True)
    pairs = Pairs.from_entries(i, j, weights[i, j], n)
    p = torch.randn(n, m, generator=gen(seed + 2)).softmax(1)
    T = weights.double() / weights.double().sum(1, keepdim=True).clamp_min(1e-300)
    expected = p.double().T @ T @ p.double()
    expected = (expected + expected.T) / (2 * expected.sum())
    flow = cluster_flow(p, pairs)
    torch.testing.assert_close(flow, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(flow, flow.T)
    assert float(flow.sum()) == pytest.approx(1)


def test_flow_of_a_hard_clustering_counts_steps():
    i, j = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 0, 3, 0])
    pairs = Pairs.from_entries(i, j, torch.ones(4), 4)
    p = torch.eye(2)[torch.tensor([0, 0, 1, 1])]
    # steps: 0 > 1 and 1 > 0 within the first cluster, 2 > 3 and 2 > 0 with one half each
    torch.testing.assert_close(
        cluster_flow(p, pairs), torch.tensor([[2.0, 0.25], [0.25, 0.5]], dtype=torch.float64) / 3
    )


@pytest.mark.parametrize(
    ("sizes", "good"),
    [
        ([100] * 4, True),
        ([400, 200, 100, 50], True),
        ([391, 3, 3, 3], False),
        ([300, 60, 30, 10], False),
        ([200, 200, 0], False),
        ([100] * 9 + [5], False),
    ],
)
def test_what_counts_as_k_groups(sizes, good):
    """No group below a tenth of an equal share, and an effective number of groups of at least 0.7 k."""
    assert are_groups(torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), len(sizes)) == good


def test_flow_of_labels_is_that_of_certain_probabilities():
    y, pairs = chain([20, 10], 0.3, 0)
    expected = torch.zeros(2, 2, dtype=torch.float64)
    for i, j, w in zip(pairs.rows(), pairs.partners, pairs.normalised(), strict=True):
        expected[y[i], y[j]] += w.double()
    expected = expected + expected.T
    torch.testing.assert_close(label_flow(y, pairs, 2), expected / expected.sum(), rtol=1e-5, atol=1e-7)
