from __future__ import annotations

import numpy as np
import pytest
import torch
from network_laws import NetworkLaws, planted_images
from scipy.ndimage import gaussian_filter
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan.errors import InvalidInputError
from subspan.methods.dac import DAC, LabelNetwork, label_features, label_pairs, lambda_at, pair_loss, thresholds

TINY = {"width": 4, "passes": 1, "eta": 0.2, "batch_size": 32, "block_size": 64}


def ten_shapes(n=400, seed=0):
    """Noisy images of ten random blots."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 10)
    waves = [gaussian_filter(np.random.default_rng(100 + j).normal(size=(8, 8)), 1.0) for j in range(10)]
    blots = np.stack([200.0 * (wave > np.median(wave)) for wave in waves])
    return blots[y] + rng.uniform(0, 40, (n, 8, 8)), y


class TestLaws(NetworkLaws):
    estimator = DAC
    tiny = TINY
    easy = {  # noqa: RUF012
        "width": 16,
        "eta": 0.1,
        "passes": 2,
        "batch_size": 50,
        "block_size": 200,
        "augmentation": False,
        "random_state": 1,
    }

    def easy_images(self, seed):
        """Ten shapes: three clusters are too few for the paper's thresholds."""
        return ten_shapes(seed=seed)


def test_thresholds_begin_and_meet_where_the_paper_says():
    assert thresholds(0.0) == (0.95, 0.455)
    assert thresholds(0.45) == pytest.approx((0.5, 0.5))


def test_lambda_is_gradient_descent_on_the_gap():
    lam = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for epoch in range(5):
        assert float(lam.detach()) == pytest.approx(lambda_at(epoch, 0.009))
        upper, lower = thresholds(lam)
        (slope,) = torch.autograd.grad(upper - lower, lam)
        lam = (lam - 0.009 * slope).detach().requires_grad_()


@pytest.mark.parametrize(("eta", "epochs"), [(0.009, 46), (0.1, 5)])
def test_training_ends_when_the_thresholds_meet(eta, epochs):
    """46 epochs at the paper's step."""
    model = DAC(2, width=1, eta=eta, passes=1, batch_size=4, block_size=8, random_state=0)
    model.fit(np.random.default_rng(0).normal(size=(8, 3)))
    assert len(model.history_) == epochs
    assert model.stop_reason_ == "thresholds met: every pair has a label"
    upper, lower = thresholds(lambda_at(epochs, eta))
    assert upper < lower
    assert model.history_[-1]["u"] >= model.history_[-1]["l"]
    shorter = DAC(2, width=1, eta=eta, epochs=2, passes=1, batch_size=4, block_size=8, random_state=0)
    assert shorter.fit(np.random.default_rng(0).normal(size=(8, 3))).stop_reason_ == "completed"


def test_label_features_are_unit_softmax():
    scores = 30 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    p = scores.softmax(dim=1)
    L = label_features(scores)
    torch.testing.assert_close(L, p / p.norm(dim=1, keepdim=True))
    assert L.min() >= 0
    torch.testing.assert_close(label_features(scores + 1e4), L)  # no overflow


def slow_pairs(L, R_L, lam):
    """Mean over all pairs of the loss, pair by pair; labels from R_L."""
    total = 0.0
    upper, lower = 0.95 - lam, 0.455 + 0.1 * lam
    for i in range(len(L)):
        for j in range(len(L)):
            teacher, g = float(R_L[i] @ R_L[j]), L[i] @ L[j]
            if teacher > upper:
                total = total - torch.log(g)
            elif teacher <= lower:
                total = total - torch.log(1 - g)
    return total / len(L) ** 2


@pytest.mark.parametrize("lam", [0.0, 0.2, 0.44])
def test_pair_loss_equals_the_double_loop(lam):
    gen = torch.Generator().manual_seed(0)
    scores = (2 * torch.randn(12, 3, generator=gen)).double().requires_grad_()
    L, teacher = label_features(scores), label_features(3 * torch.randn(12, 3, generator=gen)).double()
    R, V = label_pairs(teacher @ teacher.T, lam)
    assert not V.all() or lam > 0.4
    losses = pair_loss(L @ L.T, R, V), slow_pairs(L, teacher, lam)
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    slopes = [torch.autograd.grad(loss, scores, retain_graph=True)[0] for loss in losses]
    torch.testing.assert_close(*slopes, atol=1e-5, rtol=1e-4)


def test_all_pairs_have_a_label_once_the_thresholds_met():
    G = torch.linspace(0, 1, 1001)
    R, V = label_pairs(G, 0.0)
    assert torch.equal(V, (G > 0.95) | (G <= 0.455))
    assert torch.equal(R, G > 0.95)
    assert label_pairs(G, 0.46)[1].all()


def test_network_is_the_papers_on_mnist():
    network = LabelNetwork((1, 28, 28), 10, 64)
    found = [tuple(layer.weight.shape) for layer in network.layers]
    third, sixth = [(64, 64, 3, 3)] * 2, [(128, 128, 3, 3)] * 2
    assert found == [(64, 1, 3, 3), *third, (128, 64, 3, 3), *sixth, (10, 128, 1, 1)]
    assert {layer.padding for layer in network.layers} == {(0, 0)}
    network.draw(torch.Generator().manual_seed(0))
    assert all(torch.equal(layer.weight, torch.eye(10)) for layer in network.last)
    assert float(network.layers[4].weight.detach().std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert (network(torch.rand(4, 1, 28, 28)) >= 0).all()


@pytest.mark.parametrize("side", [4, 21, 22, 23, 32])
def test_network_fits_any_image(side):
    network = LabelNetwork((1, side, side + 1), 3, 2)
    network.draw(torch.Generator().manual_seed(0))
    assert network(torch.rand(4, 1, side, side + 1)).shape == (4, 3)


def test_probabilities_belong_to_the_labels():
    X = planted_images(60)[0]
    model = DAC(3, random_state=0, **TINY).fit(X)
    p = model.predict_proba(X)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(p.argmax(1), model.labels_)
    np.testing.assert_allclose(np.linalg.norm(model.transform(X), axis=1), 1, rtol=1e-5)


def test_options_of_its_own_are_named():
    for bad in ({"eta": 0.0}, {"passes": 0}, {"block_size": 8}, {"augmentation": 1}):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            DAC(2, **bad).fit(planted_images(12)[0])


# {name of a check: why it cannot pass}; a check listed here that passes is an error
EXPECTED_FAILURES = {
    "check_clustering": "has three clusters, too few for the paper's thresholds: see docs/methods/dac.md"
}


@parametrize_with_checks(
    [DAC(2, width=8, eta=0.1, passes=2, batch_size=16, block_size=64)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
    xfail_strict=True,
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)
