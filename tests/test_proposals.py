"""The search on the graph of pairs for labels that tell most about neighbours."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch

from subspan import accuracy, proposals
from subspan.information import (
    EFFECTIVE,
    UNEVEN,
    are_groups,
    effective_groups,
    information_share,
    label_flow,
    label_information,
)
from subspan.pairs import Pairs
from subspan.proposals import (
    FEWEST,
    MILD,
    count_divisions,
    different_first,
    memory_bytes,
    propose,
    shared_cells,
    spectral_cells,
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def planted(sizes, across, seed=0, m=8):
    """Classes of these sizes; m partners of every sample in its class, of which a share ``across`` is anybody."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    members = [np.flatnonzero(y == c) for c in range(len(sizes))]
    partners = np.stack([rng.choice(members[c], m) for c in y])
    partners = np.where(rng.random(partners.shape) < across, rng.integers(len(y), size=partners.shape), partners)
    i = torch.arange(len(y)).repeat_interleave(m)
    return torch.from_numpy(y), Pairs.from_entries(i, torch.from_numpy(partners).ravel(), torch.ones(len(i)), len(y))


@pytest.mark.parametrize(
    ("sizes", "across"), [([60] * 5, 0.3), ([200, 40, 40, 40, 40], 0.05), ([12] * 20, 0.1), ([300, 300], 0.4)]
)
def test_planted_clusters_are_found(sizes, across):
    y, pairs = planted(sizes, across)
    k = len(sizes)
    labels, compression = propose(pairs, k, gen(), compression=0.0)
    assert labels.shape == (1, len(y))
    assert labels.dtype == torch.int64
    assert accuracy(y, labels[0]) > 0.97
    assert label_information(labels[0], pairs, k) >= label_information(y, pairs, k) - 1e-3
    assert compression == 0.0


def test_nothing_tells_more_on_a_graph_where_all_ways_can_be_tried():
    _, pairs = planted([3, 3, 3], 0.3, m=2)
    best = max(label_information(torch.tensor(way), pairs, 3) for way in product(range(3), repeat=9))
    assert label_information(propose(pairs, 3, gen(), compression=0.0).labels[0], pairs, 3) == pytest.approx(best)


def test_recombination_finds_what_no_division_has(monkeypatch):
    """Two divisions, each of which has joined two classes and halved another."""
    y, pairs = planted([50] * 4, 0.1)
    half = torch.arange(len(y)) % 2
    one = torch.where(y == 1, 0, torch.where((y == 2) & (half == 1), 1, y))
    other = torch.where(y == 3, 2, torch.where((y == 0) & (half == 1), 3, y))
    monkeypatch.setattr(proposals, "spectral_cells", lambda *_: [one, other])
    assert max(accuracy(y, one), accuracy(y, other)) < 0.8
    assert accuracy(y, propose(pairs, 4, gen(), compression=0.0).labels[0]) == 1.0
    monkeypatch.setattr(proposals, "ROUNDS", 0)
    assert accuracy(y, propose(pairs, 4, gen(), compression=0.0).labels[0]) < 0.8


def test_known_labels_take_part(monkeypatch):
    y, pairs = planted([50] * 4, 0.1)
    monkeypatch.setattr(proposals, "spectral_cells", lambda *_: [torch.arange(200) % 4])
    monkeypatch.setattr(proposals, "ROUNDS", 0)
    assert accuracy(y, propose(pairs, 4, gen(), compression=0.0).labels[0]) < 0.5
    assert torch.equal(propose(pairs, 4, gen(), compression=0.0, known=[y]).labels[0], y)


def linked(y, pairs, links):
    """Of the steps from a planted class a share goes to another: links are (from, to, share)."""
    rng, rows, partners = np.random.default_rng(1), pairs.rows(), pairs.partners.clone()
    for a, b, share in links:
        leave = (y[rows] == a) & torch.from_numpy(rng.random(len(rows)) < share)
        partners[leave] = torch.from_numpy(rng.choice(np.flatnonzero(y == b), int(leave.sum())))
    return Pairs(pairs.offsets, partners, pairs.weights)


def chain_of_halves(share=0.04):
    """One class of 300 in two halves, joined by a share of its steps, and five of 60 with a few steps between."""
    y, pairs = planted([150, 150, 60, 60, 60, 60, 60], 0.0)
    links = [(0, 1, share), (1, 0, share), (2, 3, 0.02), (3, 4, 0.02), (4, 5, 0.02), (5, 6, 0.02)]
    return torch.where(y == 1, 0, y - (y > 1).long()), linked(y, pairs, links)


def two_large_classes(small):
    """Classes of 600 and 300 in pieces of 100, each joined to the next by 4 % of its steps, and small ones."""
    y, pairs = planted([100] * 9 + small, 0.003)
    links = [link for a in (0, 1, 2, 3, 4, 6, 7) for link in ((a, a + 1, 0.04), (a + 1, a, 0.04))]
    classes = torch.tensor([0] * 6 + [1] * 3 + list(range(2, 2 + len(small))))
    return classes[y], linked(y, pairs, links)


@pytest.mark.parametrize("small", [[40] * 8, [30] * 10])
def test_a_few_classes_may_hold_most_samples(small, monkeypatch):
    y, pairs = two_large_classes(small)
    k = len(small) + 2
    assert FEWEST * k < effective_groups(y, k) < EFFECTIVE * k
    labels, used = propose(pairs, k, gen())
    assert used == UNEVEN
    assert accuracy(y, labels[0]) == 1
    monkeypatch.setattr(proposals, "FEWEST", EFFECTIVE)
    labels, used = propose(pairs, k, gen())
    assert used < UNEVEN
    assert accuracy(y, labels[0]) < 0.5


@pytest.mark.parametrize(("share", "fires"), [(0.05, False), (0.5, True), (0.9, True)])
def test_the_fewer_groups_hold_most_samples_the_clearer_they_must_be(share, fires, monkeypatch):
    pairs = two_large_classes([40] * 8)[1]
    monkeypatch.setattr(proposals, "effective_groups", lambda labels, k: share * k)
    assert (propose(pairs, 10, gen()).compression == UNEVEN) == fires


@pytest.mark.parametrize("compression", [0.0, UNEVEN, None])
def test_sizes_differ_where_that_leaves_far_less_open(compression):
    """Information alone halves the large class and joins two small ones."""
    y, pairs = chain_of_halves()
    labels, used = propose(pairs, 6, gen(), compression=compression)
    assert (accuracy(y, labels[0]) > 0.99) == (compression != 0.0)
    assert used == (0.0 if compression == 0.0 else UNEVEN)


@pytest.mark.parametrize("constant", ["CLEARER", "OPEN", "groups"])
def test_sizes_stay_equal_without_a_reason(constant, monkeypatch):
    pairs = chain_of_halves()[1]
    even = propose(pairs, 6, gen(), compression=0.0)
    mild = MILD * information_share(label_flow(even.labels[0], pairs, 6))
    expected = propose(pairs, 6, gen(), compression=mild)
    if constant == "groups":
        monkeypatch.setattr(proposals, "are_groups", lambda *_: False)
    elif constant == "OPEN":
        left = 1 - information_share(label_flow(expected.labels[0], pairs, 6))
        monkeypatch.setattr(proposals, "OPEN", left + 1e-6)
    else:
        monkeypatch.setattr(proposals, "CLEARER", 0.2)
    labels, used = propose(pairs, 6, gen())
    assert used == pytest.approx(mild)
    assert accuracy(expected.labels[0], labels[0]) == 1


def test_a_large_class_is_not_halved_where_its_halves_touch():
    """Without any compression it is: two groups of 150 have more entropy than one of 300."""
    y, pairs = chain_of_halves(0.1)
    assert accuracy(y, propose(pairs, 6, gen(), compression=0.0).labels[0]) < 0.95
    labels, used = propose(pairs, 6, gen())
    assert 0.3 < used < MILD
    assert accuracy(y, labels[0]) > 0.99


@pytest.mark.parametrize("across", [0.0, 0.1])
def test_a_class_of_a_tenth_is_found(across):
    y, pairs = planted([360, 40], across)
    assert accuracy(y, propose(pairs, 2, gen()).labels[0]) > 0.99


def test_pairs_that_tell_little_compress_little():
    """With a weight above I / H one group of everything would be worth most."""
    pairs = planted([60] * 4, 0.55)[1]
    labels, used = propose(pairs, 4, gen())
    assert 0.02 < used < 0.2
    assert are_groups(labels[0], 4)
    assert not are_groups(propose(pairs, 4, gen(), compression=0.4).labels[0], 4)


def test_labels_with_outliers_are_left_out_where_sizes_may_differ():
    """Three samples that only know each other would be the cheapest group of all."""
    y, pairs = planted([100, 100, 100, 3], 0.05)
    alone = y == 3
    partners = torch.where(alone[pairs.rows()], pairs.rows(), pairs.partners)
    labels = propose(Pairs(pairs.offsets, partners, pairs.weights), 3, gen(), limit=6, compression=UNEVEN).labels
    assert all(are_groups(one, 3) for one in labels)
    assert accuracy(y[~alone], labels[0, ~alone]) > 0.97


def test_labels_are_compared_by_what_they_leave_open_where_sizes_may_differ(monkeypatch):
    """Information prefers groups of equal size; as a share of the entropy it does not."""
    y, pairs = chain_of_halves()
    even = propose(pairs, 6, gen(), compression=0.0).labels[0]
    assert label_information(even, pairs, 6) > label_information(y, pairs, 6)
    assert label_information(even, pairs, 6, UNEVEN) < label_information(y, pairs, 6, UNEVEN)
    monkeypatch.setattr(proposals, "_search", lambda *_: [even, y])  # in the order of another number
    assert torch.equal(propose(pairs, 6, gen(), compression=UNEVEN).labels[0], y)
    assert torch.equal(propose(pairs, 6, gen(), compression=0.0).labels[0], even)


def test_information_less_a_part_of_the_entropy():
    y, pairs = planted([40, 40], 0.0)
    assert label_information(y, pairs, 2) == pytest.approx(np.log(2), abs=1e-12)
    assert label_information(y, pairs, 2, 0.4) == pytest.approx(0.6 * np.log(2), abs=1e-12)


def test_share_of_the_entropy_that_is_known():
    y, pairs = planted([40, 40], 0.0)
    assert (
        label_information(y, pairs, 2, UNEVEN)
        == information_share(label_flow(y, pairs, 2))
        == pytest.approx(1.0, abs=1e-12)
    )
    assert label_information(torch.arange(80) % 2, pairs, 2, UNEVEN) < 0.1
    assert label_information(torch.zeros(80, dtype=torch.int64), pairs, 2, UNEVEN) == 0.0


def test_cells_are_combinations_and_rare_ones_join_the_nearest():
    labels = torch.tensor([[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 0]])
    assert shared_cells(labels, 9).tolist() == [0, 0, 0, 1, 1, 3, 2]  # equally frequent ones in their order
    assert shared_cells(labels, 2).tolist() == [0, 0, 0, 1, 1, 1, 0]


def test_almost_equal_labels_come_last():
    y = torch.arange(300) % 3
    renamed, near, other = (y + 1) % 3, y.clone(), torch.arange(300) // 100
    near[:5] = (near[:5] + 1) % 3
    found = different_first([y, near, renamed, other], 3)
    assert all(labels is one for labels, one in zip(found, (y, other, near, renamed), strict=True))


def test_a_group_that_is_only_divided_is_a_difference():
    even = torch.arange(300) % 3
    coarse = torch.where(torch.arange(300) < 2, torch.tensor([0, 2]).repeat(150), 1)
    for pair in ((even, coarse), (coarse, even)):
        found = different_first([*pair, pair[0]], 3)
        assert all(labels is one for labels, one in zip(found, (*pair, pair[0]), strict=True))


def test_proposals_are_different_first_and_as_many_as_there_are():
    _, pairs = planted([40] * 5, 0.8)
    labels = propose(pairs, 5, gen(), limit=4, compression=0.0).labels
    assert len(labels) == 4
    values = [label_information(one, pairs, 5) for one in labels]
    assert values == sorted(values, reverse=True)
    assert all(accuracy(a, b) < 0.98 for a, b in combinations(labels, 2))


def test_the_generator_decides():
    _, pairs = planted([40] * 5, 0.6)
    first = propose(pairs, 5, gen(3), limit=3).labels
    assert torch.equal(first, propose(pairs, 5, gen(3), limit=3).labels)
    cells = [next(iter(spectral_cells(pairs, 5, gen(seed)))) for seed in (3, 4)]
    assert not torch.equal(*cells)


@pytest.mark.parametrize(("n", "k"), [(3, 2), (4, 4), (5, 1), (40, 30), (6, 6)])
def test_few_samples_and_many_clusters(n, k):
    i = torch.arange(n).repeat_interleave(2)
    j = torch.stack([(torch.arange(n) + 1) % n, (torch.arange(n) - 1) % n], 1).ravel()
    labels = propose(Pairs.from_entries(i, j, torch.ones(2 * n), n), k, gen(), limit=3).labels
    assert labels.shape[1] == n
    assert 0 <= int(labels.min()) <= int(labels.max()) < k


def test_samples_without_pairs():
    y, pairs = planted([30, 30], 0.0)
    alone = Pairs(torch.cat([pairs.offsets, pairs.offsets[-1:].expand(5)]), pairs.partners, pairs.weights)
    labels = propose(alone, 2, gen()).labels[0]
    assert labels.shape == (65,)
    assert accuracy(y, labels[:60]) == 1.0


def test_many_samples_are_embedded_in_k_dimensions(monkeypatch):
    _, pairs = planted([40] * 5, 0.2)
    asked = []
    plain = proposals.spectral_embedding
    monkeypatch.setattr(
        proposals, "spectral_embedding", lambda A, d, **options: (asked.append(d), plain(A, d, **options))[1]
    )
    assert len(list(spectral_cells(pairs, 5, gen()))) == 3 * 3 * proposals.SEEDS
    for name, most in (("WIDE", 199), ("BROAD", 999)):
        with monkeypatch.context() as patch:
            patch.setattr(proposals, name, most)
            assert len(list(spectral_cells(pairs, 5, gen()))) == 3 * proposals.SEEDS == count_divisions(200, 5)
            few = memory_bytes(200, 5)
    assert asked == [15, 5, 5]
    assert few < memory_bytes(200, 5)


@pytest.mark.parametrize("across", [0.0, 0.3])
def test_eigenvectors_by_arpack_serve_too(monkeypatch, across):
    """Also where the largest eigenvalue is that of every cluster."""
    y, pairs = planted([40] * 8, across)
    monkeypatch.setattr("subspan.spectral._DENSE_LIMIT", 50)
    assert accuracy(y, propose(pairs, 8, gen()).labels[0]) > 0.99


def test_combinations_are_looked_at_in_blocks(monkeypatch):
    labels = torch.randint(4, (5, 300), generator=gen(0))
    whole = shared_cells(labels, 20)
    monkeypatch.setattr(proposals, "BLOCK", 7)
    assert torch.equal(shared_cells(labels, 20), whole)
