"""The same results on CUDA as on the CPU, within tolerance. Skipped where torch sees no CUDA device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from test_laws import SETTINGS, build, clusters, fit, planted

import subspan.base
from interrupted import cut_off
from subspan import NCSC, accuracy, load
from subspan._random import generator
from subspan.convex import lasso_admm, low_rank_admm, orthogonal_factor
from subspan.errors import InvalidInputError
from subspan.methods import METHODS
from subspan.methods._ncsc_classifiers import ClassifierStage
from subspan.methods._ncsc_stages import CollaborationStage
from subspan.neighbours import GlobalSelfExpression
from subspan.principal import leading_eigenpairs
from subspan.scattering import Scattering2D
from subspan.self_expression import closed_form_coefficients, ridge_weight, self_expression_terms

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def codes(n=300, d=12):
    Z = torch.randn(n, d, generator=generator(1), dtype=torch.float64).float()
    return torch.nn.functional.normalize(Z, dim=1)


def digits(n=1000):
    X, y = load_digits(return_X_y=True)
    return (16 * X[:n]).clip(0, 255).astype(np.uint8).reshape(-1, 8, 8), y[:n]


def on_both(function, *tensors):
    return function(*tensors), function(*(tensor.to(DEVICE) for tensor in tensors))


def assert_near(ours, theirs, share=1e-4):
    """Relative to the norm: single entries may cancel."""
    theirs = theirs.cpu()
    assert float((ours - theirs).norm() / ours.norm()) < share


def without_device(monkeypatch):
    """As on a machine that has no CUDA device."""

    def resolve(device):
        if device in ("auto", "cpu"):
            return torch.device("cpu")
        raise InvalidInputError("no such device")

    monkeypatch.setattr(subspan.base, "resolve_device", resolve)


@pytest.mark.parametrize("shape", [(200, 12), (12, 40)], ids=["woodbury", "direct"])
def test_closed_form(shape):
    for ours, theirs in zip(
        *on_both(
            lambda Z: [closed_form_coefficients(Z, ridge_weight(Z, 3.0)), *self_expression_terms(Z, 3.0)], codes(*shape)
        ),
        strict=True,
    ):
        assert_near(ours, theirs)


def test_neighbours_of_faiss_and_of_torch():
    Z = codes(2000, 16)
    ours, theirs = on_both(lambda Z: GlobalSelfExpression(10.0).fit(Z).neighbours(Z, 20, gen=generator(0)), Z)
    assert_near(ours.affinity, theirs.affinity)
    assert float((ours.index == theirs.index.cpu()).float().mean()) > 0.999  # ties may be ordered otherwise
    assert_near(ours.pairs(0.5).counts().float(), theirs.pairs(0.5).counts().float(), 0.01)


def test_scattering():
    images = torch.randn(20, 28, 28, generator=generator(2))
    transform = Scattering2D((28, 28))
    ours = transform(images)
    assert_near(ours, transform.to(DEVICE)(images.to(DEVICE)), 1e-3)


def test_principal_components():
    X = codes(60, 20).double()
    matrix = (X.T @ X).tril().numpy()  # the lower triangle is enough
    (values, vectors), (theirs, others) = (leading_eigenpairs(matrix, 5, torch.device(d)) for d in ("cpu", DEVICE))
    np.testing.assert_allclose(theirs, values)
    np.testing.assert_allclose(np.abs(others), np.abs(vectors), atol=1e-8)


def test_convex_solvers():
    X = codes(80, 12).double()

    def lasso(X):
        own = torch.arange(len(X), device=X.device)
        return lasso_admm(X @ X.T, orthogonal_factor(atoms=X), 20.0, own=own, tol=1e-6).codes

    assert_near(*on_both(lasso, X), 1e-3)
    assert_near(*on_both(lambda X: low_rank_admm(X, 0.2)[0].codes.norm(dim=1), X), 1e-3)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_solves_its_planted_problem_and_is_saved_for_the_cpu(name, tmp_path, monkeypatch):
    X, y = planted(name)
    options = {"device": DEVICE} if "device" in METHODS[name]().get_params() else {}
    model = fit(build(name, **options), X)
    assert accuracy(y, model.labels_) >= 0.95
    assert set(model.labels_) <= set(range(clusters(name)))
    labels = model.predict(X)
    model.save(tmp_path)
    again = load(tmp_path)
    assert np.array_equal(again.predict(X), labels)
    without_device(monkeypatch)
    if options:
        with pytest.warns(UserWarning, match="does not have"):
            elsewhere = load(tmp_path)
        assert float((elsewhere.predict(X) == labels).mean()) >= 0.99


@pytest.mark.parametrize("recipe", ["global", "paper"])
def test_recipes_on_digits_are_as_good_as_on_the_cpu(recipe):
    X, y = digits()
    options = {"encoder": "identity", "epochs": {"collaboration": 2}} if recipe == "paper" else {}
    found = [
        accuracy(y, NCSC(10, recipe=recipe, random_state=0, device=device, **options).fit(X).labels_)
        for device in ("cpu", DEVICE)
    ]
    assert min(found) > 0.75
    assert abs(found[0] - found[1]) < 0.03


@pytest.mark.parametrize("stage", [ClassifierStage, CollaborationStage])
def test_a_fit_that_was_cut_off_goes_on(stage, tmp_path, monkeypatch):
    X, _ = planted("ncsc")
    options = {"recipe": "paper", "encoder": "mlp", "device": DEVICE, "tolerance": 0.0}
    options["checkpoint_dir"] = tmp_path
    options["epochs"] = SETTINGS["ncsc"]["epochs"] | {"autoencoder": 2, "subspace": 2, "collaboration": 3}
    cut_off(monkeypatch, stage, 1, lambda: fit(build("ncsc", **options), X))
    model = fit(build("ncsc", **options, resume=True), X)
    whole = fit(build("ncsc", **(options | {"checkpoint_dir": None})), X)
    assert model.stop_reasons_.keys() == whole.stop_reasons_.keys()
    assert accuracy(whole.labels_, model.labels_) > 0.97
