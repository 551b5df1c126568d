"""Laws that hold for every method of the registry, shown on planted subspaces or clusters."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch

from subspan import accuracy, load
from subspan.errors import CollapseWarning, InvalidInputError
from subspan.methods import METHODS, get_method

K, N, P = 3, 240, 24
STACKED = {"encoder_options": {"latent_dim": 4, "hidden": [16]}, "n_init": 3}
PRETRAINING = {"layers": 5, "autoencoder": 20}
# what makes a method quick on the planted data; methods not named here run with their defaults
SETTINGS = {
    "ncsc": {"epochs": {"starts": 3, "classifier": 5, "collaboration": 1}, "n_starts": 2, "head_width": 32},
    "sae-km": STACKED | {"epochs": PRETRAINING},
    "cae-km": {"encoder_options": {"hidden": [16]}, "epochs": {"autoencoder": 10}},
    "dec": STACKED | {"epochs": PRETRAINING | {"clustering": 3}, "update_interval": 10},
    "idec": STACKED | {"epochs": PRETRAINING | {"clustering": 3}, "update_interval": 10},
    "dcn": STACKED | {"epochs": PRETRAINING | {"clustering": 5}},
}
# methods that look for clusters around centres: for them the subspaces are moved apart
CENTRED = {"kmeans", "sae-km", "cae-km", "dec", "idec", "dcn"}


def planted(name, seed=0, n=N):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % K)
    bases = [np.linalg.qr(rng.normal(size=(P, 3)))[0] for _ in range(K)]
    X = np.stack([rng.normal(size=3) @ bases[label].T for label in y])
    return X + (name in CENTRED) * 2 * rng.normal(size=(K, P))[y], y


def build(name, **options):
    with_seed = {"random_state": 0} if "random_state" in get_method(name)().get_params() else {}
    return get_method(name)(n_clusters=K, **(SETTINGS.get(name, {}) | with_seed | options))


def fit(model, X, y=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        return model.fit(X) if y is None else model.fit(X, y)


@pytest.fixture(scope="module", params=sorted(METHODS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(name):
    X, y = planted(name)
    return fit(build(name), X), X, y


def test_planted_problem_is_solved(fitted):
    model, _, y = fitted
    assert accuracy(y, model.labels_) >= 0.95


def test_labels_are_integers_from_zero(fitted):
    labels = fitted[0].labels_
    assert labels.shape == (N,)
    assert labels.dtype.kind == "i"
    assert set(labels) <= set(range(K))


def test_labels_given_to_fit_change_nothing(name, fitted):
    """They never pass the border: right ones, wrong ones and none give the same clustering."""
    model, X, y = fitted
    for given in (y, np.random.default_rng(0).permutation(y)):
        other = fit(build(name), X, given)
        assert np.array_equal(other.labels_, model.labels_)
        assert np.array_equal(other.predict(X), model.predict(X))


def test_fit_predict_is_fit_then_labels(name, fitted):
    model, X, _ = fitted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        assert np.array_equal(build(name).fit_predict(X), model.labels_)


def test_global_generators_data_and_parameters_are_untouched(name, fitted):
    X = fitted[1]
    before = X.copy()
    model = build(name)
    params = copy.deepcopy(model.get_params())
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (must stay as it is)
    threads = torch.get_num_threads()
    fit(model, X).predict(X)
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert torch.get_num_threads() == threads
    assert np.array_equal(X, before)
    assert model.get_params() == params


def test_order_of_the_samples_does_not_matter(name, fitted):
    """Permuted samples give permuted labels, up to the names of the clusters."""
    model, X, _ = fitted
    order = np.random.default_rng(1).permutation(N)
    other = fit(build(name), X[order])
    assert accuracy(model.labels_[order], other.labels_) >= 0.97


def test_new_samples_are_assigned(fitted):
    model, X, _ = fitted
    assert accuracy(model.labels_, model.predict(X)) >= 0.95
    single = np.concatenate([model.predict(X[i : i + 1]) for i in range(20)])
    assert np.array_equal(single, model.predict(X[:20]))


def test_saved_model_is_the_same_model(fitted, tmp_path):
    model, X, _ = fitted
    model.save(tmp_path)
    again = load(tmp_path)
    assert type(again) is type(model)
    assert np.array_equal(again.labels_, model.labels_)
    assert np.array_equal(again.predict(X), model.predict(X))
    assert again.history_ == model.history_
    assert again.stop_reasons_ == model.stop_reasons_
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_unusable_entries_are_named(name, bad):
    X, _ = planted(name, n=30)
    X[3, 4] = bad
    with pytest.raises(InvalidInputError, match=r"contains (NaN|infinity) in 1 of 30 rows"):
        build(name).fit(X)


def test_more_clusters_than_samples_are_refused(name):
    with pytest.raises(InvalidInputError, match="at most the number of samples"):
        build(name).fit(planted(name, n=30)[0][:2])
