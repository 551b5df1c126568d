from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from network_laws import NetworkLaws, phase_of, planted_images
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan._validation import check_samples
from subspan.errors import InvalidInputError
from subspan.methods import infogan
from subspan.methods.infogan import InfoGAN, continuous_information, draw_latent, information

TINY = {"width": 4, "hidden": 16, "noise_dim": 4, "code_dim": 8, "batch_size": 32}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch, request):
    """Small data are seen often in an epoch, which only the planted problem needs."""
    if "easy" not in request.node.name and "check_clustering" not in request.node.name:
        monkeypatch.setattr(infogan, "MIN_STEPS", 1)


class TestLaws(NetworkLaws):
    estimator = InfoGAN
    tiny = TINY
    easy = {"width": 8, "hidden": 32, "epochs": 3, "learning_rates": {"discriminator": 2e-3, "generator": 2e-3}}  # noqa: RUF012


def test_information_of_a_perfect_reader_is_the_entropy():
    c = torch.arange(12) % 4
    perfect = torch.full((12, 4), -1e4).double()
    perfect[range(12), c] = 0.0
    assert float(information(perfect, c)) == pytest.approx(math.log(4))
    assert float(information(torch.zeros(12, 4), c)) == pytest.approx(0.0, abs=1e-6)  # a reader that knows nothing


def test_bound_is_reached_by_the_true_posterior_and_by_no_other():
    """Eq. 4: L_I is the information for Q = P(c | x), less for another Q. x is c through a noisy channel."""
    channel = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], dtype=torch.float64)  # P(x | c)
    joint = channel / 3
    marginal = joint.sum(0)
    truth = float((joint * (channel / marginal).log()).sum())
    posterior = joint / marginal  # P(c | x), columns x
    counts = (joint * 300).round().long()
    c, x = torch.arange(3).repeat_interleave(3), torch.arange(3).repeat(3)
    c, x = c.repeat_interleave(counts.flatten()), x.repeat_interleave(counts.flatten())
    found = float(information(posterior.log().T[x], c))
    assert found == pytest.approx(truth, abs=1e-9)
    other = (posterior + 0.2) / (posterior + 0.2).sum(0)
    assert float(information(other.log().T[x], c)) < truth - 1e-3


def test_continuous_bound_is_that_of_a_gaussian():
    gen = torch.Generator().manual_seed(0)
    means, codes = torch.randn(9, 2, generator=gen), 2 * torch.rand(9, 2, generator=gen) - 1
    log_q = torch.distributions.Normal(means, 1.0).log_prob(codes)
    prior = torch.distributions.Uniform(-1.0, 1.0).log_prob(codes)
    assert float(continuous_information(means, codes)) == pytest.approx(float((log_q - prior).sum(1).mean()), rel=1e-5)


def test_latent_statistics():
    z, c, continuous = draw_latent(30_000, 5, 6, 2, torch.Generator().manual_seed(0))
    assert z.shape == (30_000, 13)
    assert torch.equal(z[:, 6:11].argmax(1), c)
    assert torch.equal(z[:, 11:], continuous)
    uniform = torch.cat([z[:, :6], continuous], dim=1)
    assert uniform.abs().max() <= 1
    torch.testing.assert_close(uniform.mean(0), torch.zeros(8), atol=0.02, rtol=0)
    torch.testing.assert_close(uniform.var(0), torch.full((8,), 1 / 3), atol=0.01, rtol=0)
    assert torch.corrcoef(uniform.T).fill_diagonal_(0).abs().max() < 0.03


def test_steps_of_the_discriminator_and_of_the_generator():
    """D and Q, then G, against Eq. 6 with the probabilities written out."""
    model = InfoGAN(3, info_weight=0.7, **TINY)
    phase = phase_of(model, planted_images(20)[0])
    rows = torch.arange(20)
    steps = list(phase.losses(rows, torch.Generator().manual_seed(0), 0.0))
    assert [step.player for step in steps] == ["discriminator", "generator"]
    z, c, continuous = draw_latent(20, 3, 4, 2, torch.Generator().manual_seed(0))
    D = phase.networks["discriminator"]
    fake = phase.networks["generator"](z)
    real_p, (fake_p, _, scores, means) = D(phase.samples.batch(rows))[0].sigmoid(), D(fake)
    fake_p = fake_p.sigmoid()
    bound = {
        "information": -0.7 * information(scores, c),
        "continuous": -0.7 * continuous_information(means, continuous),
    }
    expected = [
        {"D": -real_p.log().mean() - (1 - fake_p).log().mean()} | bound,
        {"G": -fake_p.log().mean()} | bound,
    ]
    for step, terms in zip(steps, expected, strict=True):
        assert set(step.terms) == set(terms)
        for name, term in terms.items():
            torch.testing.assert_close(step.terms[name], term)
    rates = {group["player"]: (group["lr"], group["betas"]) for group in phase.parameter_groups()}
    assert rates == {"discriminator": (2e-4, (0.5, 0.999)), "generator": (1e-3, (0.5, 0.999))}
    without = phase_of(InfoGAN(3, n_continuous=0, **TINY), planted_images(20)[0])
    assert set(next(without.losses(rows, torch.Generator(), 0.0)).terms) == {"D", "information"}


def test_statistics_are_those_of_real_samples_alone():
    """Batch normalisation uses means and variances over the samples after training, none of them generated."""
    X = planted_images(60)[0]
    model = InfoGAN(3, epochs=2, random_state=0, **TINY).fit(X)
    fitted = model.networks_["discriminator"]
    again = copy.deepcopy(fitted).train()
    norms = [layer for layer in again.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    for layer in norms:
        layer.momentum = 1.0  # the statistics of the last batch
    samples = check_samples(X).with_scaling(model.scaling_)
    again(samples.batch(slice(None)))
    assert len(norms) == 3
    for name, value in again.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(fitted.state_dict()[name], value)


def test_kmeans_on_the_codes_is_an_option():
    X = planted_images(90)[0]
    model = InfoGAN(3, epochs=2, labels="kmeans", random_state=0, **TINY).fit(X)
    distances = np.linalg.norm(model.transform(X)[:, None] - model.centres_.numpy(), axis=2)
    np.testing.assert_array_equal(distances.argmin(1), model.predict(X))
    np.testing.assert_array_equal(model.labels_, model.predict(X))


def test_options_of_its_own_are_named():
    for bad in ({"noise_dim": 0}, {"n_continuous": -1}, {"hidden": 0}, {"info_weight": -1.0}, {"labels": "argmax"}):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            InfoGAN(2, **bad).fit(planted_images(12)[0])


CHECKED = InfoGAN(
    2,
    hidden=16,
    noise_dim=4,
    code_dim=8,
    epochs=3,
    batch_size=16,
    labels="kmeans",
    learning_rates={"discriminator": 2e-3, "generator": 2e-3},
)


@parametrize_with_checks([CHECKED])
def test_scikit_learn_contract(estimator, check):
    check(estimator)
