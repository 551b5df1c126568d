from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from network_laws import NetworkLaws, phase_of, planted_images
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan.errors import InvalidInputError
from subspan.methods import clustergan
from subspan.methods.clustergan import ClusterGAN, draw_latent, recovery

TINY = {"width": 4, "hidden": 16, "noise_dim": 4, "batch_size": 16}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch, request):
    """Small data are seen often in an epoch, which only the planted problem needs."""
    if "easy" not in request.node.name and "check_clustering" not in request.node.name:
        monkeypatch.setattr(clustergan, "MIN_STEPS", 1)


class TestLaws(NetworkLaws):
    estimator = ClusterGAN
    still = {("critic", "out.bias")}  # noqa: RUF012  # it cancels in D(G(z)) - D(x)
    tiny = TINY
    easy = {  # noqa: RUF012
        "width": 8,
        "hidden": 64,
        "epochs": 12,
        "batch_size": 32,
        "critic_steps": 1,
        "learning_rates": dict.fromkeys(("critic", "generator", "encoder"), 2e-3),
    }


def test_latent_statistics():
    """One-hot part uniform, noise N(0, 0.1^2), the two independent."""
    z, c = draw_latent(30_000, 5, 6, 0.1, torch.Generator().manual_seed(0))
    noise, hot = z[:, :6], z[:, 6:]
    assert torch.equal(hot.argmax(1), c)
    assert torch.equal(hot.sum(1), torch.ones(30_000))
    torch.testing.assert_close(noise.mean(0), torch.zeros(6), atol=3e-3, rtol=0)
    torch.testing.assert_close(noise.std(0), torch.full((6,), 0.1), atol=2e-3, rtol=0)
    assert float((noise / 0.1).pow(4).mean()) == pytest.approx(3.0, abs=0.1)  # Gaussian
    means = torch.stack([noise[c == value].mean(0) for value in range(5)])
    assert means.abs().max() < 6e-3
    # sigma 0.1 keeps the places of the clusters apart: their distance is sqrt 2
    assert noise.norm(dim=1).max() < math.sqrt(2) / 2


def test_recovery_is_zero_for_an_exact_inverse():
    z, c = draw_latent(50, 4, 3, 0.1, torch.Generator().manual_seed(0))
    exact = torch.cat([z[:, :3], 1e4 * z[:, 3:]], dim=1)
    assert [float(term) for term in recovery(exact, z, c, 3)] == [0.0, 0.0]
    nothing = recovery(torch.zeros(50, 7), z, c, 3)
    assert float(nothing[0]) == pytest.approx(float(z[:, :3].square().mean()))
    assert float(nothing[1]) == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize(("n", "critic_steps", "expected"), [(160, 5, [5, 5]), (160, 3, [3, 3, 3, 1]), (16, 5, [1])])
def test_batches_are_dealt_to_the_critic(n, critic_steps, expected):
    """Every sample once in an epoch, ``critic_steps`` batches for one step of the generator."""
    phase = phase_of(ClusterGAN(3, critic_steps=critic_steps, **TINY), planted_images(n)[0])
    groups = phase.batches(n, torch.Generator().manual_seed(0))
    assert [len(group) for group in groups] == expected
    assert torch.cat([batch for group in groups for batch in group]).sort().values.tolist() == list(range(n))


def test_steps_of_the_critic_and_of_the_generator():
    """Five of the critic, one of generator and encoder; terms as in the papers; Adam as in the paper."""
    model = ClusterGAN(3, beta_n=3.0, beta_c=2.0, **TINY)
    phase = phase_of(model, planted_images(64)[0])
    steps = []
    for step in phase.losses([torch.arange(16)] * 5, torch.Generator().manual_seed(0), 0.0):
        steps.append(step)
        for terms in step.terms.values():
            assert terms.requires_grad
    assert [step.player for step in steps] == ["critic"] * 5 + ["generator"]
    assert all(set(step.terms) == {"D", "penalty"} for step in steps[:5])
    gen = torch.Generator().manual_seed(0)
    for _ in range(5):
        draw_latent(16, 3, 4, 0.1, gen)
        torch.rand(16, 1, 1, 1, generator=gen)
    z, c = draw_latent(16, 3, 4, 0.1, gen)
    fake = phase.networks["generator"](z)
    noise, clusters = recovery(phase.networks["encoder"](fake), z, c, 4)
    expected = {"G": -phase.networks["critic"](fake).mean(), "noise": 3 * noise, "clusters": 2 * clusters}
    assert set(steps[5].terms) == set(expected)
    for name, term in expected.items():
        torch.testing.assert_close(steps[5].terms[name], term)
    groups = {group["player"]: [] for group in phase.parameter_groups()}
    for group in phase.parameter_groups():
        groups[group["player"]] += group["params"]
        assert (group["lr"], group["betas"]) == (1e-4, (0.5, 0.9))
    assert len(groups["critic"]) == len(list(phase.networks["critic"].parameters()))
    assert len(groups["generator"]) == sum(len(list(phase.networks[n].parameters())) for n in ("generator", "encoder"))


def test_argmax_of_the_encoder_is_an_option():
    X = planted_images(90)[0]
    model = ClusterGAN(3, epochs=2, labels="argmax", random_state=0, **TINY).fit(X)
    p = model.transform(X)[:, TINY["noise_dim"] :]
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(p[range(90), model.labels_], p.max(1), rtol=1e-6)  # which may be a tie after rounding
    by_distance = ClusterGAN(3, epochs=2, random_state=0, **TINY).fit(X)
    distances = np.linalg.norm(by_distance.transform(X)[:, None] - by_distance.centres_.numpy(), axis=2)
    np.testing.assert_array_equal(distances.argmin(1), by_distance.labels_)


def test_options_of_its_own_are_named():
    for bad in ({"noise_dim": 0}, {"critic_steps": 0}, {"sigma": -1.0}, {"hidden": 0}, {"labels": "posterior"}):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            ClusterGAN(2, **bad).fit(planted_images(12)[0])


CHECKED = ClusterGAN(
    2,
    hidden=32,
    noise_dim=2,
    epochs=10,
    batch_size=16,
    critic_steps=2,
    learning_rates=dict.fromkeys(("critic", "generator", "encoder"), 5e-3),
)


@parametrize_with_checks([CHECKED])
def test_scikit_learn_contract(estimator, check):
    check(estimator)
