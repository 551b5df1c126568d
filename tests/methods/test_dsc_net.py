from __future__ import annotations

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
from subspan.errors import DivergenceError, InvalidInputError, ResourceError
from subspan.methods.dsc_net import DSCNet, SelfExpressionPhase, loss_terms
from subspan.metrics import ari
from subspan.postprocessing import coefficient_affinity, raise_to_power, truncate_rank
from subspan.pretraining import Reconstruction
from subspan.self_expression import LearnedSelfExpression, closed_form_coefficients
from subspan.sparse_codes import active_set_lasso

FEW = {"epochs": {"autoencoder": 2, "self_expression": 4}, "random_state": 0}


def digits(n=60):
    return load_digits().images[:n].astype(np.uint8) * 16


@parametrize_with_checks([DSCNet(epochs={"self_expression": 5})])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


# --- the loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_loss_is_that_of_the_paper(norm):
    """Against loops over samples and coefficients."""
    gen = generator(0)
    x, xhat, Z, C = (torch.rand(*shape, generator=gen) for shape in ((4, 3), (4, 3), (4, 2), (4, 4)))
    C = (C - 0.5).fill_diagonal_(0.0)
    found = loss_terms(x, xhat, Z, C, norm, 0.7, 3.0)
    size = sum(abs(float(c)) if norm == "l1" else float(c) ** 2 for c in C.flatten())
    residual = 0.0
    for i in range(4):
        expressed = sum(float(C[i, j]) * Z[j] for j in range(4))
        residual += float(((Z[i] - expressed) ** 2).sum())
    assert float(found["C_norm"]) == pytest.approx(0.7 * size, rel=1e-5)
    assert float(found["self_expression"]) == pytest.approx(1.5 * residual, rel=1e-5)
    assert float(found["reconstruction"]) == pytest.approx(float(((x - xhat) ** 2).sum()) / 2, rel=1e-5)


@pytest.mark.parametrize(("lambda_1", "lambda_2"), [(2.0, 1.0), (4.0, 0.5)])
def test_fixed_codes_lead_to_the_closed_form(lambda_1, lambda_2):
    """The reconstruction is then a second self-expression term: rho = 2 lambda_1 / (1 + lambda_2)."""
    X = np.random.default_rng(0).normal(size=(20, 6))
    options = {"lambda_coefficients": lambda_1, "lambda_expression": lambda_2, "epochs": {"self_expression": 3000}}
    model = DSCNet(2, random_state=0, **options).fit(X)
    Z = torch.from_numpy(model.transform(X)).double()
    expected = closed_form_coefficients(Z, 2 * lambda_1 / (1 + lambda_2)).numpy()
    np.testing.assert_allclose(model.coefficients_, expected, atol=4e-3)  # four steps of Adam
    assert abs(expected).max() > 0.1


def test_a_free_diagonal_leads_to_the_ridge_without_the_constraint():
    X = np.random.default_rng(0).normal(size=(20, 6))
    options = {"lambda_coefficients": 0.5, "lambda_expression": 2.0, "epochs": {"self_expression": 8000}}
    model = DSCNet(2, random_state=0, zero_diagonal=False, **options).fit(X)
    Z = model.transform(X).astype(float)
    expected = np.linalg.solve(Z @ Z.T + np.eye(20) / 3, Z @ Z.T)  # rho = 2 lambda_1 / (1 + lambda_2)
    np.testing.assert_allclose(model.coefficients_, expected, atol=4e-3)
    assert np.diag(model.coefficients_).min() > 0.0


def test_fixed_codes_lead_to_the_lasso_in_the_other_norm():
    """The objective is near the minimum that SSC's solver certifies; zeros of C are only steps of Adam small."""
    X = np.random.default_rng(1).normal(size=(20, 6))
    model = DSCNet(2, norm="l1", lambda_expression=3.0, epochs={"self_expression": 3000}, random_state=0).fit(X)
    Z = torch.from_numpy(model.transform(X)).double()
    best = active_set_lasso(Z, Z, 4.0, tol=1e-8).C.toarray()  # 1/2 + lambda_2 / 2 = 4 / 2

    def objective(C):
        return np.abs(C).sum() + 2.0 * ((Z.numpy() - C @ Z.numpy()) ** 2).sum()

    assert objective(best) <= objective(model.coefficients_) <= 1.03 * objective(best)


@pytest.mark.parametrize("unit", [False, True])
def test_everything_learns_and_the_decoder_sees_the_expressed_codes(unit):
    samples, encoder = check_samples(digits(6) / 255), make_encoder("conv", (1, 8, 8), 2, generator(0))
    layer = LearnedSelfExpression([6], gamma=0.0)
    rates = {"encoder": 1e-3, "self_expression": 1e-3}
    phase = SelfExpressionPhase(
        samples,
        np.arange(6),
        encoder,
        layer,
        norm="l2",
        weights=(1.0, 1.0),
        unit=unit,
        epochs=1,
        rates=rates,
        device=torch.device("cpu"),
    )
    phase.start()
    (terms,) = phase.losses(None, generator(1), 0.0)
    z = encoder.encode(phase.x)
    C = layer.coefficients(z)
    torch.testing.assert_close(terms["reconstruction"], (phase.x - encoder.decode(C @ z)).square().sum() / 2)
    sum(terms.values()).backward()
    parameters = [p for group in phase.parameter_groups() for p in group["params"]]
    assert len(parameters) == 1 + len(list(encoder.parameters()))
    assert all(p.grad is not None and bool(p.grad.any()) for p in parameters)
    assert not layer.weights[0].grad.diagonal().any()


# --- the estimator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"norm": "l1"}, {"normalize": True}, {"keep": 0.8, "subspace_dim": 2}])
def test_planted_subspaces_are_found(options):
    X, y, draw = planted(0, k=3, dim=2, m=25)
    model = DSCNet(3, epochs={"self_expression": 300}, random_state=0, **options).fit(X)
    assert ari(y, model.labels_) == 1.0
    new, y_new = draw(10)
    assert ari(np.r_[y, y_new], np.r_[model.labels_, model.predict(new)]) == 1.0
    assert (np.diag(model.coefficients_) == 0).all()


def test_planted_subspaces_are_found_through_a_network():
    X, y, _ = planted(1, k=2, dim=2, m=40)
    epochs = {"autoencoder": 8, "self_expression": 250}
    model = DSCNet(
        2,
        encoder="mlp",
        encoder_options={"latent_dim": 12, "hidden": [40]},
        lambda_expression=1.0,
        epochs=epochs,
        random_state=0,
    ).fit(X)
    assert ari(y, model.labels_) == 1.0


def test_default_weight_is_the_formula_of_the_paper():
    samples = check_samples(np.eye(4))
    for k, expected in ((10, 0.01), (38, 10**0.8)):
        model = DSCNet(k)
        phase = model._phases(samples, np.arange(4), model._network((4,), generator(0)), None)[-1]
        assert phase.weights == (1.0, pytest.approx(expected))


def test_published_post_processing_is_an_option_of_its_own():
    X, _, _ = planted(2, noise=0.1)
    model = DSCNet(3, **FEW).fit(X)
    C = model.coefficients_
    np.testing.assert_array_equal(model.affinity(), (np.abs(C) + np.abs(C).T) * np.float32(0.5))
    model.set_params(subspace_dim=2, power=3.0)
    np.testing.assert_array_equal(model.affinity(), raise_to_power(truncate_rank(C, 2 * 3 + 1), 3.0))
    model.set_params(keep=0.2)
    np.testing.assert_array_equal(model.affinity(), coefficient_affinity(C, keep=0.2, rank=7, power=3.0))


def test_too_little_memory_is_refused_before_anything_is_trained():
    X, _, _ = planted(3, m=60)
    needed = DSCNet(3, **FEW).estimate_resources(X)["parts"]["fit"]
    assert needed >= 4 * 4 * len(X) ** 2  # C, its gradient and two moments
    model = DSCNet(3, **FEW, memory_limit=needed // 3)
    with pytest.raises(ResourceError, match="max_samples=") as caught:
        model.fit(X)
    assert not hasattr(model, "encoder_")
    fitting = int(str(caught.value).split("max_samples=")[1].split(")")[0])
    model.set_params(max_samples=fitting).fit(X)
    assert model.coefficients_.shape == (fitting, fitting)
    with pytest.raises(ResourceError):
        model.set_params(max_samples=fitting + 1).fit(X)


def test_a_subset_of_images_is_fitted_and_all_are_labelled():
    X = digits(80)
    model = DSCNet(4, max_samples=50, **FEW).fit(X)
    assert len(model.sample_indices_) == 50
    assert model.labels_.shape == (80,)
    rest = np.setdiff1d(np.arange(80), model.sample_indices_)
    np.testing.assert_array_equal(model.predict(X[rest]), model.labels_[rest])


def test_sizes_of_the_published_networks_are_taken():
    faces = {"channels": [3, 3, 5], "kernels": [3, 3, 3], "strides": [2, 2, 2]}
    model = DSCNet(20, encoder_options=faces, **FEW).fit(digits())
    assert model.transform(digits(2)).shape == (2, 5)  # fewer than 9 k


def test_a_loaded_model_is_the_same(tmp_path):
    X = digits()
    model = DSCNet(4, **FEW).fit(X)
    model.save(tmp_path)
    again = load(tmp_path)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    assert again.stop_reason_ == model.stop_reason_


@pytest.mark.parametrize(("phase", "epoch"), [(Reconstruction, 1), (SelfExpressionPhase, 0), (SelfExpressionPhase, 2)])
def test_a_broken_fit_goes_on_to_the_same_bits(phase, epoch, tmp_path, monkeypatch):
    X = digits()
    whole = DSCNet(4, max_samples=50, **FEW).fit(X)
    broken = DSCNet(4, max_samples=50, checkpoint_dir=tmp_path, **FEW)
    cut_off(monkeypatch, phase, epoch, lambda: broken.fit(X))
    resumed = broken.set_params(resume=True).fit(X)
    assert_same_bits(resumed, whole)
    np.testing.assert_array_equal(resumed.coefficients_, whole.coefficients_)


def test_an_absurd_rate_is_named():
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        DSCNet(4, learning_rates={"encoder": 1e12}, **FEW).fit(digits())


@pytest.mark.parametrize(
    "bad",
    [
        {"norm": "l3"},
        {"lambda_coefficients": -1.0},
        {"lambda_expression": np.nan},
        {"batch_size": 0},
        {"epochs": {"joint": 3}},
        {"learning_rates": {"head": 0.1}},
        {"max_samples": 2},
    ],
)
def test_wrong_parameters_are_named(bad):
    with pytest.raises(InvalidInputError, match=next(iter(bad))):
        DSCNet(3, **bad).fit(np.eye(9))
