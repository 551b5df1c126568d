from __future__ import annotations

from itertools import permutations
from math import log

import numpy as np
import pytest
import torch

from subspan.errors import InvalidInputError
from subspan.metrics import accuracy, ari, evaluate, nmi


@pytest.mark.parametrize(
    ("true", "pred", "expected"),
    [
        ([0, 0, 1, 1], [1, 1, 0, 0], 1.0),  # names of clusters do not matter
        ([0, 0, 1, 1], [0, 1, 0, 1], 0.5),
        ([0, 0, 0, 1, 1, 2], [2, 2, 1, 1, 1, 0], 5 / 6),
        ([0, 0, 0, 0], [0, 1, 2, 2], 0.5),  # more clusters than labels: the largest cluster alone counts
        ([0, 0, 1, 1, 1], [0, 1, 2, 2, 3], 3 / 5),
        ([0, 1, 2, 3], [0, 0, 0, 0], 0.25),  # fewer clusters than labels
        ([0, 0, 1, 1, 2, 2], [5, 5, 5, 5, 9, 9], 4 / 6),
        # greedy takes the 3 first and then 0 (3/7); the best map takes 2 + 2
        ([0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1], 4 / 7),
        ([7], [-3], 1.0),
    ],
)
def test_accuracy_of_hand_computed_cases(true, pred, expected):
    assert accuracy(true, pred) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(("k", "m", "seed"), [(3, 3, 0), (4, 2, 1), (2, 5, 2), (5, 5, 3)])
def test_accuracy_is_the_best_over_all_maps(k, m, seed):
    rng = np.random.default_rng(seed)
    true, pred = rng.integers(k, size=40), rng.integers(m, size=40)
    size = max(k, m)
    best = max(np.mean(np.array(mapping)[pred] == true) for mapping in permutations(range(size)))
    assert accuracy(true, pred) == pytest.approx(best, abs=1e-15)


def test_labels_may_be_any_values():
    true = np.array(["cat", "cat", "dog", "emu"])
    assert accuracy(true, [10, 10, -1, 10**12]) == 1.0
    assert accuracy(true, torch.tensor([1.5, 1.5, 2.5, 2.5])) == 0.75
    assert nmi(true, ["x", "x", "y", "z"]) == pytest.approx(1.0)
    assert ari(true, ["x", "x", "y", "z"]) == 1.0


def test_nmi_and_ari_of_hand_computed_cases():
    # halves against quarters: mutual information log 2, entropies log 2 and log 4
    true, pred = [0, 0, 1, 1], [0, 1, 2, 3]
    assert nmi(true, pred) == pytest.approx(log(2) / ((log(2) + log(4)) / 2))
    assert ari(true, pred) == pytest.approx(0.0)
    # independent halves: no information; agreeing pairs 0, expected 2 * 2 / 6, largest 2
    assert nmi(true, [0, 1, 0, 1]) == pytest.approx(0.0, abs=1e-12)
    assert ari(true, [0, 1, 0, 1]) == pytest.approx((0 - 2 / 3) / (2 - 2 / 3))


def test_evaluate_gathers_all_measures():
    true, pred = [0, 0, 0, 1, 1, 2], [2, 2, 1, 1, 1, 0]
    result = evaluate(true, pred)
    assert result == {"n": 6, "acc": accuracy(true, pred), "nmi": nmi(true, pred), "ari": ari(true, pred)}
    assert result["acc"] == pytest.approx(5 / 6)
    assert [type(value) for value in result.values()] == [int, float, float, float]


@pytest.mark.parametrize("measure", [accuracy, nmi, ari, evaluate])
@pytest.mark.parametrize(
    ("true", "pred"),
    [([0, 1], [0, 1, 1]), ([], []), ([[0, 1]], [[0, 1]]), ([0.0, float("nan")], [0, 1])],
)
def test_unusable_labels_are_named(measure, true, pred):
    with pytest.raises(InvalidInputError):
        measure(true, pred)
