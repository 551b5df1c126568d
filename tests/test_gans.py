"""Networks and terms of the adversarial methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from subspan.errors import InvalidInputError
from subspan.gans import Generator, Trunk, draw_clusters, draw_normal, gradient_penalty
from subspan.layers import refresh_statistics


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(module, seed=0, std=0.02):
    draw_normal(module, gen(seed), std)
    return module


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 14), (1, 4, 4), (20,)])
def test_networks_fit_any_data(shape, norm):
    trunk = drawn(Trunk(shape, 4, 16, slope=0.2, norm=norm))
    generator = drawn(Generator(shape, 7, 4, 16))
    x = generator(torch.randn(5, 7, generator=gen()))
    assert x.shape == (5, *shape)
    assert trunk(x).shape == (5, 16)
    if len(shape) == 3:
        assert x.min() >= 0
        assert x.max() <= 1
    (trunk(x).sum() + x.sum()).backward()
    for network in (trunk, generator):
        assert all(parameter.grad is not None for parameter in network.parameters())
    assert any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in trunk.modules()) == norm


def test_networks_are_those_of_the_papers_on_mnist():
    """Weights layer by layer: 64 and 128 channels of 4 x 4, 1024 hidden, mirrored."""
    trunk, generator = Trunk((1, 28, 28), 64, None, slope=0.1, norm=True), Generator((1, 28, 28), 74, 64, None)
    found = [tuple(layer.weight.shape) for layer in trunk.layers]
    assert found == [(64, 1, 4, 4), (128, 64, 4, 4), (1024, 128 * 7 * 7)]
    found = [tuple(layer.weight.shape) for layer in [*generator.layers, generator.out]]
    assert found == [(1024, 74), (128 * 7 * 7, 1024), (128, 64, 4, 4), (64, 1, 4, 4)]


def test_images_too_small_are_named():
    with pytest.raises(InvalidInputError, match="3 x 8 pixels, and at least 4 x 4"):
        Trunk((1, 3, 8), 4, None, slope=0.2, norm=False)


def test_weights_come_from_the_generator_alone():
    state = torch.random.get_rng_state()
    first, second, other = (drawn(Trunk((1, 28, 28), 32, None, slope=0.1, norm=True), seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    weights = [torch.cat([layer.weight.flatten() for layer in trunk.layers]) for trunk in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert float(weights[0].detach().std()) == pytest.approx(0.02, rel=0.01)
    assert all((layer.bias == 0).all() for layer in first.layers)


@pytest.mark.parametrize("length", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("shape", [(6,), (2, 3, 4)])
def test_penalty_of_a_linear_critic_is_exact(shape, length):
    w = torch.randn(shape, generator=gen()).double()
    w = (w * length / w.norm()).requires_grad_()
    real, fake = (torch.randn(5, *shape, generator=gen(seed)).double() for seed in (1, 2))
    penalty = gradient_penalty(lambda x: (x * w).flatten(1).sum(1), real, fake, gen())
    assert float(penalty.detach()) == pytest.approx((length - 1) ** 2, abs=1e-12)
    (slope,) = torch.autograd.grad(penalty, w)  # of (||w|| - 1)^2
    torch.testing.assert_close(slope, 2 * (length - 1) / length * w.detach())


def test_penalty_looks_between_real_and_generated_samples():
    """The critic ||x||^2 / 2 has gradient x, so its penalty tells where it was looked at."""
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().flatten(1).sum(1) / 2

    real, fake = torch.zeros(200, 1, 2, 2), torch.full((200, 1, 2, 2), 2.0)
    penalty = gradient_penalty(critic, real, fake, gen())
    t = seen[0].flatten(1) / 2
    assert torch.equal(t.amin(1), t.amax(1))  # one point on the line for each sample
    assert t.min() >= 0
    assert t.max() <= 1
    assert t.std() > 0.2
    assert float(penalty.detach()) == pytest.approx(float((seen[0].flatten(1).norm(dim=1) - 1).square().mean()))


def test_clusters_are_uniform_and_one_hot():
    c, hot = draw_clusters(60_000, 6, gen())
    counts = np.bincount(c.numpy(), minlength=6)
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(10_000)
    assert torch.equal(hot.argmax(1), c)
    assert torch.equal(hot.sum(1), torch.ones(60_000))
    assert set(hot.unique().tolist()) == {0.0, 1.0}


def test_statistics_are_means_over_the_batches():
    module = nn.Sequential(nn.BatchNorm1d(3, momentum=0.3)).eval()
    x = torch.randn(40, 3, generator=gen()) * 2 + 1
    refresh_statistics(module, (3 * x + 5).split(10))  # is forgotten
    refresh_statistics(module, x.split(10))
    torch.testing.assert_close(module[0].running_mean, x.mean(0))
    torch.testing.assert_close(module[0].running_var, torch.stack([part.var(0) for part in x.split(10)]).mean(0))
    assert not module.training
    assert module[0].momentum == 0.3
