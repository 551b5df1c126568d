"""Laws that hold for every method of the registry, shown on planted problems."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from subspan import accuracy, load
from subspan.errors import CollapseWarning, InvalidInputError
from subspan.methods import METHODS, get_method

K, N, P = 3, 240, 24
STACKED = {"encoder_options": {"latent_dim": 4, "hidden": [16]}, "n_init": 3}
PRETRAINING = {"layers": 5, "autoencoder": 20}
# what makes a method quick on the planted data; methods not named here run with their defaults
SETTINGS = {
    "ncsc": {
        "epochs": {"starts": 3, "classifier": 5, "settling": 2, "collaboration": 1},
        "n_starts": 2,
        "head_width": 32,
    },
    "dac": {"width": 16, "eta": 0.1, "passes": 2, "batch_size": 50, "block_size": 200, "random_state": 1},
    "clustergan": {
        "epochs": 6,  # with half as many rounding decides whether one order of the samples is enough
        "batch_size": 32,
        "hidden": 32,
        "noise_dim": 2,
        "critic_steps": 2,
        "learning_rates": dict.fromkeys(("critic", "generator", "encoder"), 5e-3),
    },
    "infogan": {  # one start in four ends with two shapes in one cluster, and rounding decides which
        "random_state": 1,
        "width": 8,
        "epochs": 5,
        "batch_size": 32,
        "hidden": 32,
        "noise_dim": 4,
        "learning_rates": {"discriminator": 2e-3, "generator": 2e-3},
    },
    "dsc-net": {"epochs": {"self_expression": 150}},
    "k-scn": {"subspace_dim": 3},
    "sae-km": STACKED | {"epochs": PRETRAINING},
    "cae-km": {"encoder_options": {"hidden": [16]}, "epochs": {"autoencoder": 10}},
    "dec": STACKED | {"epochs": PRETRAINING | {"clustering": 3}, "update_interval": 10},
    "idec": STACKED | {"epochs": PRETRAINING | {"clustering": 3}, "update_interval": 10},
    "dcn": STACKED | {"epochs": PRETRAINING | {"clustering": 5}},
}
CLUSTERS = {"dac": 10}  # three are too few for its thresholds, see docs/methods/dac.md
# methods that look for clusters around centres: for them the subspaces are moved apart
CENTRED = ("kmeans", "sae-km", "cae-km", "dec", "idec", "dcn")
SHAPES = ("clustergan", "dac", "infogan")  # methods that cluster images by what they show, not by subspaces


def clusters(name):
    return CLUSTERS.get(name, K)


def planted(name, seed=0, n=None):
    """What the method is made for: a union of subspaces, or images of shapes (flat ones are learnt faster)."""
    n = n or (N if clusters(name) == K else 40 * clusters(name))
    if name not in SHAPES:
        return planted_subspaces(seed, n, apart=2.0 * (name in CENTRED))
    X, y = planted_shapes(bars_and_frame() if clusters(name) == K else blots(clusters(name)), seed, n)
    return (X if name == "infogan" else X.reshape(n, -1)), y


def planted_shapes(shapes, seed, n):
    """Noisy copies of the shapes (k, h, w)."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % len(shapes))
    return 200 * shapes[y] + rng.uniform(0, 40, (n, *shapes.shape[1:])), y


def bars_and_frame():
    shapes = np.zeros((3, 8, 8))
    shapes[0, :, 3:5] = shapes[1, 3:5] = shapes[2, 1:7, 1:7] = 1
    shapes[2, 3:5, 3:5] = 0
    return shapes


def blots(k):
    """Where random fields are above their medians."""
    waves = [gaussian_filter(np.random.default_rng(100 + j).normal(size=(8, 8)), 1.0) for j in range(k)]
    return np.stack([wave > np.median(wave) for wave in waves]).astype(float)


def planted_subspaces(seed, n, apart):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % K)
    bases = [np.linalg.qr(rng.normal(size=(P, 3)))[0] for _ in range(K)]
    X = np.stack([rng.normal(size=3) @ bases[label].T for label in y])
    return X + apart * rng.normal(size=(K, P))[y], y


def build(name, **options):
    with_seed = {"random_state": 0} if "random_state" in get_method(name)().get_params() else {}
    return get_method(name)(**({"n_clusters": clusters(name)} | with_seed | SETTINGS.get(name, {}) | options))


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


def test_planted_clusters_are_found(fitted):
    model, _, y = fitted
    assert accuracy(y, model.labels_) >= 0.95


def test_labels_are_integers_from_zero(fitted):
    labels = fitted[0].labels_
    assert labels.shape == fitted[2].shape
    assert labels.dtype.kind == "i"
    assert set(labels) <= set(range(fitted[0].n_clusters))


def test_labels_given_to_fit_change_nothing(name, fitted):
    """They never pass the border: right ones, wrong ones and none give the same clustering."""
    model, X, y = fitted
    for given in (y, np.random.default_rng(0).permutation(y)):
        other = fit(build(name), X, given)
        assert np.array_equal(other.labels_, model.labels_)
        assert np.array_equal(other.predict(X), model.predict(X))


def test_resolved_parameters_are_the_given_ones_and_the_defaults(name):
    X, _ = planted(name)
    model = build(name)
    found = model.resolved_parameters(X)
    assert set(found) <= set(model.get_params())
    for table in ("epochs", "learning_rates"):
        given = model.get_params().get(table)
        if isinstance(given, dict):
            assert found[table].items() >= given.items()
    if "learning_rates" in model.get_params():
        wrong = build(name, learning_rates={"nonsense": 1.0})
        with pytest.raises(InvalidInputError, match="nonsense"):
            wrong.resolved_parameters(X)


def test_fit_predict_is_fit_then_labels_also_with_integers_of_numpy(name, fitted, tmp_path):
    model, X, _ = fitted
    integers = {key: np.int64(value) for key, value in model.get_params().items() if type(value) is int}
    assert "n_clusters" in integers
    again = build(name, **integers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        assert np.array_equal(again.fit_predict(X), model.labels_)
    again.save(tmp_path)
    assert np.array_equal(load(tmp_path).labels_, model.labels_)


def test_numbers_of_numpy_are_those_of_python(name, tmp_path):
    """As float32 they are other numbers, but the same ones as these floats."""
    X, _ = planted(name, n=60)
    given = build(name).get_params()
    narrow = {key: np.float32(value) for key, value in given.items() if type(value) is float}
    wide = {key: float(value) for key, value in narrow.items()}
    if "learning_rates" in given:
        rates = build(name).resolved_parameters(X)["learning_rates"]
        narrow["learning_rates"] = {key: np.float32(rate) for key, rate in rates.items()}
        wide["learning_rates"] = {key: float(np.float32(rate)) for key, rate in rates.items()}
    if not narrow:
        pytest.skip("has no floats")
    kept = {"checkpoint_dir": str(tmp_path / "checkpoint")} if "checkpoint_dir" in given else {}
    expected = fit(build(name, **wide), X)
    model = fit(build(name, **narrow, **kept), X)
    assert np.array_equal(model.labels_, expected.labels_)
    model.save(tmp_path)
    assert load(tmp_path).get_params() == model.get_params() == expected.get_params() | kept


def test_a_run_without_random_state_goes_on_with_its_seed(name, tmp_path):
    if "resume" not in build(name).get_params():
        pytest.skip("is not trained")
    X, _ = planted(name, n=60)
    trained = {"encoder": "mlp", "epochs": {"autoencoder": 1, "subspaces": 1}} if name == "k-scn" else {}
    options = trained | {"random_state": None, "checkpoint_dir": tmp_path}
    first = fit(build(name, **options), X)
    again = fit(build(name, **options, resume=True), X)
    assert again.seed_ == first.seed_
    assert np.array_equal(again.labels_, first.labels_)


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
    """Permuted samples give permuted labels, up to the names of the clusters.

    For InfoGAN they are other batches, and so another start: one of several has to end as the first one did.
    """
    model, X, _ = fitted
    order = np.random.default_rng(1).permutation(len(X))
    starts = [{"random_state": seed} for seed in (1, 0, 2, 3)] if name == "infogan" else [{}]
    others = (fit(build(name, **start), X[order]) for start in starts)
    assert any(accuracy(model.labels_[order], other.labels_) >= 0.97 for other in others)


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


def test_clusters_that_are_set_after_the_fit_do_not_change_the_saved_model(fitted, tmp_path):
    model, X, _ = fitted
    copy.copy(model).set_params(n_clusters=model.n_clusters + 2).save(tmp_path)
    again = load(tmp_path)
    assert again.n_clusters == model.n_clusters + 2
    assert np.array_equal(again.predict(X), model.predict(X))
    again.save(tmp_path)
    assert np.array_equal(load(tmp_path).transform(X), model.transform(X))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_unusable_entries_are_named(name, bad):
    X, _ = planted(name, n=30)
    X.reshape(30, -1)[3, 4] = bad
    with pytest.raises(InvalidInputError, match=r"contains (NaN|infinity) in 1 of 30 rows"):
        build(name).fit(X)


def test_more_clusters_than_samples_are_refused(name):
    with pytest.raises(InvalidInputError, match="at most the number of samples"):
        build(name).fit(planted(name, n=30)[0][:2])
