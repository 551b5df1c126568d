from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from self_expressive_laws import planted
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import parametrize_with_checks

from interrupted import assert_same_bits, cut_off
from subspan._random import generator
from subspan._validation import check_samples
from subspan.base import load
from subspan.encoders import make_encoder
from subspan.errors import DivergenceError, InvalidInputError, ResourceError, SizingWarning
from subspan.k_subspaces import assign, k_subspaces, residuals, svd_bases
from subspan.methods import k_scn
from subspan.methods.k_scn import KSCN, Start, SubspacePhase, Subspaces
from subspan.metrics import ari
from subspan.pretraining import Reconstruction

FEW = {"epochs": {"autoencoder": 2, "subspaces": 3}, "random_state": 0, "subspace_dim": 4}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(k_scn, "MIN_STEPS", 3)


def digits(n=80):
    return load_digits().images[:n].astype(np.uint8) * 16


def phase_on(X, update="svd", unit=False, k=3, r=2):
    samples = check_samples(X)
    encoder = make_encoder("conv", samples.shape, k, generator(0))
    subspaces = Subspaces(k, encoder.n_codes, r, unit)
    phase = SubspacePhase(
        samples,
        encoder,
        subspaces,
        Start("restarts", 100, 2),
        update=update,
        weight=0.5,
        epochs=1,
        batch_size=20,
        rates={"encoder": 1e-3, "bases": 0.5},
        tolerance=0.0,
        device=torch.device("cpu"),
    )
    phase.start()
    phase.reset(generator(1), 0)
    return phase


@parametrize_with_checks([KSCN(subspace_dim=1)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


# --- the loss and its updates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [False, True])
def test_loss_is_reconstruction_and_residual_to_the_nearest_subspace(unit):
    phase = phase_on(digits(20) / 255, unit=unit)
    (terms,) = phase.losses(torch.arange(20), generator(0), 0.0)
    x = phase.samples.batch(slice(0, 20))
    z, xhat = phase.encoder(x)
    scale = 0.5 * float(x.square().sum() / 20) if unit else 0.5
    total = 0.0
    mean = z.mean(dim=0)
    for code in z:
        code = (code - mean) / (code - mean).norm() if unit else code
        total += min(float((code - u @ (u.T @ code)).detach().square().sum()) for u in phase.subspaces.bases)
    assert float(terms["residual"].detach()) == pytest.approx(scale / 2 * total / 20, rel=1e-3)
    assert float(terms["reconstruction"].detach()) == pytest.approx(
        float((x - xhat).detach().square().sum()) / 40, rel=1e-5
    )
    sum(terms.values()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in phase.encoder.parameters())


def residual_after(change, unit):
    """Residual after a change to the last layer of the encoder and new bases, relative to that before."""
    phase = phase_on(digits(40) / 255, unit=unit)
    found = []
    for step in (lambda layer: None, change):
        with torch.no_grad():
            step(phase.encoder.encoder[-1][0])
        phase.monitor()
        (terms,) = phase.losses(torch.arange(40), generator(0), 0.0)
        found.append(float(terms["residual"].detach()))
    return found[1] / found[0]


def test_codes_cannot_lower_the_default_residual_for_free():
    """Shorter codes lower the literal residual, a common vector added to all of them its share of the codes."""

    def shrink(layer):
        layer.weight *= 0.1
        layer.bias *= 0.1

    def lift(layer):
        layer.bias += 10.0  # well above zero before and after, where ReLU is linear

    assert residual_after(shrink, unit=False) < 0.02
    assert residual_after(shrink, unit=True) > 0.9
    phase = phase_on(digits(40) / 255, unit=True)
    with torch.no_grad():
        lift(phase.encoder.encoder[-1][0])
        phase.refresh()
        before = phase.codes.clone()
        lift(phase.encoder.encoder[-1][0])
        phase.refresh()
    torch.testing.assert_close(phase.codes, before, atol=1e-3, rtol=1e-3)


def test_svd_update_follows_an_epoch_and_the_grassmann_update_a_step():
    svd, grassmann = phase_on(digits() / 255, "svd"), phase_on(digits() / 255, "grassmann")
    for phase, moves in ((svd, False), (grassmann, True)):
        with torch.no_grad():
            next(phase.encoder.parameters()).mul_(0.5)  # a network step between
        before = phase.subspaces.bases.clone()
        for _ in phase.losses(torch.arange(20), generator(0), 0.0):
            torch.testing.assert_close(phase.subspaces.bases, before)  # the network steps first
        assert torch.equal(phase.subspaces.bases, before) is not moves
    z, labels = svd.encoder.encode(svd.samples.batch(slice(0, 80))).detach(), None
    labels = assign(z, svd.subspaces.bases)[0]
    expected = svd_bases(z, labels, svd.subspaces.bases)
    record = svd.monitor()
    torch.testing.assert_close(svd.subspaces.bases, expected)
    assert record["relative_residual"] == pytest.approx(
        float(residuals(z, expected).amin(1).sum() / z.square().sum()), rel=1e-3
    )


# --- the estimator -----------------------------------------------------------------------------------------------


def test_with_the_identity_it_is_k_subspaces():
    X, _, _ = planted(0, k=3, dim=2, p=12, m=20, noise=0.3)
    model = KSCN(3, subspace_dim=2, normalize=False, init="restarts", n_init=3, random_state=0).fit(X)
    Z = torch.from_numpy(model.transform(X))
    _, labels, objectives = k_subspaces(Z, model.bases_)
    np.testing.assert_array_equal(labels.numpy(), model.labels_)  # a fixed point
    assert objectives[-1] == pytest.approx(objectives[0], rel=1e-5)
    assert model.history_[0]["residual"] == pytest.approx(objectives[0], rel=1e-5)


def test_it_says_whether_k_subspaces_settled(monkeypatch):
    X, _, _ = planted(0, k=4, dim=2, p=6, m=50, noise=0.5)
    assert KSCN(4, subspace_dim=2, random_state=0).fit(X).stop_reason_ == "settled: no label changes"
    monkeypatch.setattr("subspan.methods.k_scn.MAX_ITER", 1)
    monkeypatch.setattr("subspan.methods.k_scn.k_subspaces", functools.partial(k_subspaces, max_iter=1))
    assert KSCN(4, subspace_dim=2, random_state=0).fit(X).stop_reason_ == "max_iter: 1 rounds"


def test_a_loaded_model_keeps_the_residual_that_it_was_fitted_with(tmp_path):
    X, _, _ = planted(0, k=3, dim=2, p=12, m=20, noise=0.3)
    model = KSCN(3, subspace_dim=2, random_state=0).fit(X + 1.0)
    expected = model.predict(X + 1.0)
    model.set_params(normalize=False).save(tmp_path)
    np.testing.assert_array_equal(load(tmp_path).predict(X + 1.0), expected)


def test_the_restart_of_lowest_residual_is_kept():
    X, _, _ = planted(1, k=5, dim=2, p=10, m=15, noise=0.2)
    options = {"subspace_dim": 2, "init": "restarts", "random_state": 0}
    found = [KSCN(5, n_init=n, **options).fit(X).history_[0]["residual"] for n in (1, 5, 20)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0]


@pytest.mark.parametrize("init", ["spectral", "restarts"])
def test_planted_subspaces_are_found(init):
    X, y, draw = planted(2, k=4, dim=3, p=40, m=30)
    model = KSCN(4, subspace_dim=3, init=init, n_init=30, init_samples=100, random_state=0).fit(X)
    assert ari(y, model.labels_) == 1.0
    new, y_new = draw(10)
    assert ari(np.r_[y, y_new], np.r_[model.labels_, model.predict(new)]) == 1.0


@pytest.mark.parametrize("update", ["svd", "grassmann"])
def test_training_brings_codes_nearer_to_their_subspaces(update, monkeypatch):
    """Which clusters these are is another question: the codes of a small ReLU network are not linear subspaces."""
    monkeypatch.setattr(k_scn, "MIN_STEPS", 20)
    X, _, _ = planted(0, k=3, dim=3, p=24, m=80)
    options = {"latent_dim": 12, "hidden": [40]}
    model = KSCN(
        3,
        subspace_dim=3,
        update=update,
        encoder="mlp",
        encoder_options=options,
        epochs={"autoencoder": 10, "subspaces": 6},
        learning_rates={"encoder": 1e-3},
        random_state=0,
    ).fit(X)
    records = [r["relative_residual"] for r in model.history_ if r["phase"] == "subspaces"]
    assert records[-1] < 0.8 * records[0]
    gram = model.bases_.transpose(1, 2) @ model.bases_
    torch.testing.assert_close(gram, torch.eye(3).expand(3, -1, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("update", ["svd", "grassmann"])
def test_training_labels_are_the_predictions_and_a_loaded_model_repeats_them(update, tmp_path):
    X = digits()
    model = KSCN(4, update=update, **FEW).fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    model.save(tmp_path)
    again = load(tmp_path)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))


@pytest.mark.parametrize(
    ("phase", "epoch", "update"), [(Reconstruction, 1, "svd"), (SubspacePhase, 0, "svd"),
                                   (SubspacePhase, 2, "svd"), (SubspacePhase, 2, "grassmann")],
)  # fmt: skip
def test_a_broken_fit_goes_on_to_the_same_bits(phase, epoch, update, tmp_path, monkeypatch):
    X = digits()
    whole = KSCN(4, update=update, **FEW).fit(X)
    broken = KSCN(4, update=update, checkpoint_dir=tmp_path, **FEW)
    cut_off(monkeypatch, phase, epoch, lambda: broken.fit(X))
    resumed = broken.set_params(resume=True).fit(X)
    assert_same_bits(resumed, whole)
    assert torch.equal(resumed.bases_, whole.bases_)


def test_memory_is_linear_in_the_samples():
    model = KSCN(10)
    assert model._bytes(140_000, 480) - model._bytes(70_000, 480) == 16 * 70_000 * 480
    assert model._bytes(70_000, 480) < 3e9


def test_too_little_memory_is_refused(monkeypatch):
    monkeypatch.setattr(k_scn, "available_bytes", lambda: 10**8)
    with pytest.raises(ResourceError, match="lower init_samples"):
        KSCN(4, **FEW).fit(digits())
    assert KSCN(4, **FEW).estimate_resources(digits())["memory_bytes"] > 10**8


def test_subspaces_as_large_as_the_codes_are_made_smaller():
    with pytest.warns(SizingWarning, match="lowered to 4: codes have 5 entries"):
        model = KSCN(2, random_state=0).fit(np.random.default_rng(0).normal(size=(30, 5)))
    assert model.bases_.shape == (2, 5, 4)


def test_training_stops_when_labels_settle():
    model = KSCN(4, tolerance=1.1, **FEW).fit(digits())
    assert model.stop_reason_.startswith("settled")
    assert sum(r["phase"] == "subspaces" for r in model.history_) == 1


def test_an_absurd_rate_is_named():
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        KSCN(4, learning_rates={"encoder": 1e15}, **FEW).fit(digits())


@pytest.mark.parametrize(
    "bad",
    [
        {"update": "qr"},
        {"init": "kmeans"},
        {"subspace_dim": 0},
        {"n_init": 1.5},
        {"init_samples": 2},
        {"lambda_residual": -1.0},
        {"tolerance": -0.1},
        {"epochs": {"starts": 1}},
        {"learning_rates": {"head": 0.1}},
    ],
)
def test_wrong_parameters_are_named(bad):
    with pytest.raises(InvalidInputError, match=next(iter(bad))):
        KSCN(3, **bad).fit(np.eye(9))
