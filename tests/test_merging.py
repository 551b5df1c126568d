from __future__ import annotations

from itertools import combinations

import pytest
import torch

from flows import brute_information, chain, gen, neighbours, random_flow
from subspan.information import (
    UNEVEN,
    cluster_flow,
    group_flow,
    label_information,
)
from subspan.merging import (
    TRIED,
    _join,
    _merge_by_association,
    _merge_greedily,
    _redraw,
    agreement_cells,
    consensus,
    merge_clusters,
    merge_each,
)
from subspan.pairs import Pairs


def row_information(rows, compression):
    """I(row; column) - compression H(row) of a joint distribution that need not be square."""
    margin = rows.sum(1, keepdim=True)
    product = margin * rows.sum(0, keepdim=True)
    information = torch.where(rows > 0, rows * (rows / product).log(), 0.0).sum()
    return float(information + compression * (margin * margin.log()).sum())


@pytest.mark.parametrize("compression", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_merges_are_the_greedy_ones(seed, compression):
    """Step by step the pair of rows that a search over all pairs finds, down to two groups."""
    flow = random_flow(7, seed)
    groups, rows = [{c} for c in range(7)], flow

    def after(a, b):
        return torch.cat([(rows[a] + rows[b])[None], rows[[c for c in range(len(rows)) if c not in (a, b)]]])

    for k in range(6, 1, -1):
        a, b = max(combinations(range(len(groups)), 2), key=lambda pair: row_information(after(*pair), compression))
        rows = after(a, b)
        groups = [groups[a] | groups[b], *(g for c, g in enumerate(groups) if c not in (a, b))]
        found = _merge_greedily(flow, k, compression)
        assert sorted(found.unique().tolist()) == list(range(k))
        assert {frozenset((found == g).nonzero().ravel().tolist()) for g in range(k)} == {frozenset(g) for g in groups}


@pytest.mark.parametrize("seed", range(4))
def test_merges_by_association_are_the_greedy_ones(seed):
    """Step by step the pair that a search over all pairs finds, on flows by an indicator matrix, down to two groups."""
    flow = random_flow(7, seed)
    groups = [{c} for c in range(7)]

    def flow_of(groups):
        G = torch.stack([torch.tensor([float(c in g) for c in range(7)], dtype=flow.dtype) for g in groups])
        return G @ flow @ G.T

    def after(a, b):
        return [groups[a] | groups[b], *(g for c, g in enumerate(groups) if c not in (a, b))]

    def kept(groups):
        F = flow_of(groups)
        return float((F.diagonal() / F.sum(1)).sum())

    for k in range(6, 1, -1):
        groups = max((after(a, b) for a, b in combinations(range(len(groups)), 2)), key=kept)
        found = _merge_by_association(flow, k)
        assert sorted(found.unique().tolist()) == list(range(k))
        assert {frozenset((found == g).nonzero().ravel().tolist()) for g in range(k)} == {frozenset(g) for g in groups}


def test_association_merges_cells_that_nobody_visits():
    flow = torch.zeros(6, 6, dtype=torch.float64)
    flow[:3, :3] = random_flow(3, 0)
    found = _merge_by_association(flow, 2)
    assert sorted(found.unique().tolist()) == [0, 1]


def test_consensus_gives_several_candidates_in_order():
    """Starts that agree on nothing: several labels come back, each different, with falling information."""
    y, log_p = torch.randint(6, (300,), generator=gen(0)), torch.randn(3, 300, 8, generator=gen(1)).log_softmax(2)
    pairs = neighbours(y, 5, 0)
    found, compression = consensus(log_p, pairs, 4, gen(2), limit=5)
    assert compression == 0.0
    values = [label_information(labels, pairs, 4) for labels in found]
    assert 1 < len(found) <= 5
    assert values == sorted(values, reverse=True)
    assert len({tuple(labels.tolist()) for labels in found}) == len(found)


@pytest.mark.parametrize("compression", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [2, 3, 5])
def test_no_single_move_gains_information_after_a_merge(seed, k, compression):
    """The result is a fixed point of single moves, at least as good as the greedy one, with k groups in use."""
    flow = random_flow(8, seed)
    group = merge_clusters(flow, k, gen(seed), compression)[0]
    assert sorted(group.unique().tolist()) == list(range(k))
    value = brute_information(group_flow(flow, group, k), compression)
    assert value >= brute_information(group_flow(flow, _merge_greedily(flow, k, compression), k), compression) - 1e-12
    for a in range(8):
        for other in range(k):
            moved = group.clone()
            moved[a] = other
            if len(moved.unique()) == k:
                assert brute_information(group_flow(flow, moved, k), compression) <= value + 1e-9


def test_moves_mend_what_greed_did():
    """From a bad grouping of a planted flow the moves lead to the planted one; the given grouping is not changed."""
    truth = torch.tensor([0, 0, 0, 1, 1, 1])
    flow = torch.where(truth[:, None] == truth, 1.0, 0.05).double()
    given = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1]])
    groups = _redraw((flow / flow.sum())[None], given[None], 2)[0]
    assert all(torch.equal(group[:, None] == group, truth[:, None] == truth) for group in groups)
    assert given.tolist() == [[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("compression", [0.0, 0.2])
def test_beginnings_side_by_side_end_as_each_alone(compression):
    flows, given = torch.stack([random_flow(12, 0), random_flow(12, 2)]), torch.randint(4, (2, 6, 12), generator=gen(1))
    given[:, :, :4] = torch.arange(4)
    together = _redraw(flows, given, 4, compression)
    for flow, own, found in zip(flows, given, together, strict=True):
        alone = torch.cat([_redraw(flow[None], one[None, None], 4, compression)[0] for one in own])
        assert torch.equal(found, alone)
        assert not torch.equal(alone, own)
    assert not torch.equal(_redraw(flows[:1], given[1:], 4, compression), together[1:]), "its own flow matters"


@pytest.mark.parametrize("held", [1, 10**9])
def test_flows_are_merged_as_each_alone(monkeypatch, held):
    """Of one size and of others, also too few to merge; and where memory holds only one flow at a time."""
    monkeypatch.setattr("subspan.merging.SIDE_BY_SIDE", held)
    flows = [random_flow(m, seed) for seed, m in enumerate((9, 7, 3, 9, 9, 7))]
    apart = gen(5)
    expected = [merge_clusters(flow, 3, apart, 0.3) for flow in flows]
    found = merge_each(flows, 3, gen(5), 0.3)
    assert [[group.tolist() for group in groups] for groups in found] == [
        [group.tolist() for group in groups] for groups in expected
    ]


def test_cells_are_the_combinations_the_starts_agree_on(monkeypatch):
    """Two starts of two clusters whose labels are swapped for all samples but one."""
    monkeypatch.setattr("subspan.merging.BLOCK", 4)
    labels = torch.tensor([[0, 0, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    log_p = torch.where(torch.nn.functional.one_hot(labels, 2) == 1, 0.9, 0.1).log()
    cells = agreement_cells(log_p, 10)
    assert cells.shape == (6, 3)
    assert cells.argmax(1).tolist() == [0, 0, 0, 1, 1, 2]  # most frequent first
    torch.testing.assert_close(cells.sum(1), torch.ones(6))
    # products 0.81, 0.01 and 0.09 of the first sample's probabilities, normalised
    torch.testing.assert_close(cells[0], torch.tensor([0.81, 0.01, 0.09]) / 0.91)
    few = agreement_cells(log_p, 2)
    assert few.shape == (6, 2)
    assert few.argmax(1).tolist()[:5] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("seed", range(3))
def test_planted_parts_come_together(seed):
    """Twelve parts of four clusters, of random sizes, in random order, with some leakage between the clusters."""
    truth = torch.arange(4).repeat_interleave(3)[torch.randperm(12, generator=gen(seed))]
    size = 0.5 + torch.rand(12, generator=gen(seed + 1), dtype=torch.float64)
    flow = torch.outer(size, size) * torch.where(truth[:, None] == truth, 1.0, 0.05).double()
    group = merge_clusters(flow / flow.sum(), 4, gen(0))[0]
    assert torch.equal(group[:, None] == group, truth[:, None] == truth)


def test_nothing_to_merge():
    flow = random_flow(4, 0)
    before = flow.clone()
    for k in (4, 7):
        assert [group.tolist() for group in merge_clusters(flow, k, gen(0))] == [[0, 1, 2, 3]]
    assert merge_clusters(flow, 1, gen(0))[0].tolist() == [0, 0, 0, 0]
    assert torch.equal(flow, before)


def test_without_any_pair_the_groups_are_still_k():
    empty = torch.empty(0, dtype=torch.int64)
    flow = cluster_flow(
        torch.rand(6, 4, generator=gen(0)).softmax(1), Pairs.from_entries(empty, empty, torch.empty(0), 6)
    )
    assert flow.isfinite().all()
    assert sorted(merge_clusters(flow, 2, gen(0))[0].unique().tolist()) == [0, 1]


def confident(labels, k):
    return torch.where(torch.nn.functional.one_hot(labels, k) == 1, 0.98, 0.02 / (k - 1)).log()


def test_consensus_mends_what_no_start_has_right():
    """Three starts, each of which has joined two of the four classes and split a third one."""
    y = torch.randint(4, (200,), generator=gen(0))
    half = torch.rand(200, generator=gen(1)) < 0.5
    starts = []
    for joined_pair, split in (((0, 1), 2), ((1, 2), 3), ((3, 0), 1)):
        labels = torch.where(y == joined_pair[1], joined_pair[0], y)
        starts.append(torch.where((y == split) & half, joined_pair[1], labels))
    log_p = torch.stack([confident(labels, 4) for labels in starts])
    (found,) = consensus(log_p, neighbours(y, 5, 0), 4, gen(0)).labels
    assert all(not torch.equal(labels[:, None] == labels, y[:, None] == y) for labels in starts)
    assert torch.equal(found[:, None] == found, y[:, None] == y)


def test_consensus_of_one_view_is_that_view():
    y = torch.randint(3, (60,), generator=gen(0))
    (found,) = consensus(confident(y, 3).expand(2, -1, -1), neighbours(y, 4, 0), 3, gen(0), limit=4).labels
    assert torch.equal(found[:, None] == found, y[:, None] == y)
    assert found.max() < 3


def test_merging_is_decided_by_its_generator():
    state = torch.random.get_rng_state()
    flow = random_flow(12, 0)
    first, second = (merge_clusters(flow, 4, gen(3)) for _ in range(2))
    assert len(first) > 1
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(state, torch.random.get_rng_state())


def halved(y, pairs, share):
    """Class 0 as two halves between which a share of its steps leads, so that halving it looks like two classes."""
    half = torch.arange(len(y)) % 2
    rows, big = pairs.rows(), (y == 0).nonzero().ravel()
    same = torch.rand(len(rows), generator=gen(9)) > share
    within = (y[rows] == 0) & (y[pairs.partners] == 0) & same & (half[rows] != half[pairs.partners])
    # the neighbour in the list of class 0 is of the other half
    partner = big[(torch.searchsorted(big, pairs.partners.clamp_max(int(big[-1]))) + 1) % len(big)]
    return half, Pairs(pairs.offsets, torch.where(within, partner, pairs.partners), pairs.weights)


@pytest.mark.parametrize("compression", [0.0, None])
def test_sizes_are_unequal_where_that_cuts_far_less(compression):
    """One class of 300, five of 60. Information alone halves the large class and joins two small ones."""
    y, pairs = chain([300, 60, 60, 60, 60, 60], 0.02, 0)
    half, pairs = halved(y, pairs, 0.2)
    cells = torch.where(y == 0, half * 6, y)
    log_p = confident(cells, 7)[None].expand(2, -1, -1)
    found, used = consensus(log_p, pairs, 6, gen(0), compression=compression)
    right = torch.equal(found[0][:, None] == found[0], y[:, None] == y)
    assert right == (compression is None)
    assert used == (UNEVEN if compression is None else 0.0)


def test_sizes_stay_equal_where_unequal_ones_cut_as_much():
    """Six classes of 100, one of them in two halves, one of which nobody leaves: no reason to cut it off."""
    y, pairs = chain([100] * 6, 0.05, 0)
    half, pairs = halved(y, pairs, 0.3)
    log_p = confident(torch.where(y == 0, half * 6, y), 7)[None].expand(2, -1, -1)
    found, used = consensus(log_p, pairs, 6, gen(0), compression=None)
    assert used == 0.0
    assert torch.equal(found[0][:, None] == found[0], y[:, None] == y)


def test_labels_with_a_group_of_outliers_are_left_out():
    """Two samples that nobody leaves would be the cheapest group of all."""
    y, pairs = chain([200, 200, 200, 2], 0.05, 0)
    alone = y == 3
    alone_pairs = Pairs(pairs.offsets, torch.where(alone[pairs.rows()], pairs.rows(), pairs.partners), pairs.weights)
    log_p = confident(y, 4)[None].expand(2, -1, -1)
    found, _ = consensus(log_p, alone_pairs, 3, gen(0), limit=9, compression=UNEVEN)
    assert all(int(torch.bincount(labels, minlength=3).min()) >= 20 for labels in found)


def test_sizes_stay_equal_where_unequal_ones_are_no_groups(monkeypatch):
    y, pairs = chain([300, 60, 60, 60, 60, 60], 0.02, 0)
    half, pairs = halved(y, pairs, 0.2)
    log_p = confident(torch.where(y == 0, half * 6, y), 7)[None].expand(2, -1, -1)
    plain = consensus(log_p, pairs, 6, gen(0))
    monkeypatch.setattr("subspan.information.EFFECTIVE", 0.9)
    found, used = consensus(log_p, pairs, 6, gen(0), compression=None)
    assert used == 0.0
    assert torch.equal(found, plain.labels)


def test_uneven_labels_that_are_no_groups_are_not_used_though_those_that_were_tried_are(monkeypatch):
    y, pairs = chain([300, 60, 60, 60, 60, 60], 0.02, 0)
    even, bad = torch.arange(len(y)) % 6, (torch.arange(len(y)) == 0).long()
    labels = {0.0: even, TRIED: y, UNEVEN: bad}
    monkeypatch.setattr("subspan.merging._join", lambda *arguments: labels[arguments[-1]][None])
    found, used = consensus(confident(y, 6)[None], pairs, 6, gen(0), compression=None)
    assert used == 0.0
    assert torch.equal(found[0], even)
    labels[UNEVEN] = y
    found, used = consensus(confident(y, 6)[None], pairs, 6, gen(0), compression=None)
    assert used == UNEVEN
    assert torch.equal(found[0], y)


def test_labels_that_are_no_groups_are_left_out_unless_there_are_no_others(monkeypatch):
    y, pairs = chain([30, 30], 0.1, 0)
    outlier = (torch.arange(60) == 0).long()
    ways = [outlier, y]
    monkeypatch.setattr("subspan.merging.merge_clusters", lambda *_: ways)
    cells = [(torch.arange(60), torch.zeros(60, 60))]
    for compression, expected in ((UNEVEN, [y]), (0.0, [y, outlier])):
        found = _join(cells, pairs, 2, gen(0), compression)
        assert sorted(found.tolist()) == sorted(labels.tolist() for labels in expected)
    ways.pop()  # outlier alone is left
    assert _join(cells, pairs, 2, gen(0), UNEVEN).tolist() == [outlier.tolist()]


@pytest.mark.parametrize("compression", [0.0, 0.7])
def test_groups_by_association_are_a_beginning_where_sizes_may_differ(monkeypatch, compression):
    flow, begun = random_flow(9, 0), []
    monkeypatch.setattr("subspan.merging._redraw", lambda flows, groups, *_: begun.extend(groups[0]) or groups)
    merge_clusters(flow, 3, gen(0), compression, random=0)
    expected = [_merge_greedily(flow, 3, compression)] + [_merge_by_association(flow, 3)] * (compression > 0)
    assert [group.tolist() for group in begun] == [group.tolist() for group in expected]
