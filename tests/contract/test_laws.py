"""Laws that hold for every method of the registry, shown on planted problems."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from interrupted import histories
from subspan import accuracy, load
from subspan.checkpoint import Checkpoint
from subspan.errors import CollapseWarning, DivergenceError, InvalidInputError
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
    "infogan": {  # one start in four ends with two shapes in one cluster; rounding decides which, 0 or 1 so far
        "random_state": 2,
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


def quick(name, **options):
    """The method where results need not be good; k-SCN with a network, which it leaves out for vectors."""
    short = {"k-scn": {"encoder": "mlp", "epochs": {"autoencoder": 1, "subspaces": 1}}, "infogan": {"epochs": 1}}
    return build(name, **(short.get(name, {}) | options))


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


def test_planted_subspaces_are_no_groups_around_centres(name):
    """What the method adds is needed: K-Means on the samples does not find them."""
    if name in (*CENTRED, *SHAPES):
        pytest.skip("looks for groups around centres, or for shapes")
    X, y = planted(name)
    assert accuracy(y, fit(build("kmeans"), X).labels_) < 0.7


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
    options = {"random_state": None, "checkpoint_dir": tmp_path}
    first = fit(quick(name, **options), X)
    again = fit(quick(name, **options, resume=True), X)
    assert again.seed_ == first.seed_
    assert np.array_equal(again.labels_, first.labels_)


def test_a_fit_that_was_killed_goes_on_to_the_unbroken_result(name, tmp_path, monkeypatch):
    """Broken off when half of the states were written."""
    if "resume" not in build(name).get_params():
        pytest.skip("is not trained")
    X, _ = planted(name, n=60)
    written, last = 0, None
    write = Checkpoint.write

    def counted(*args):
        nonlocal written
        written += 1
        write(*args)
        if written == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", counted)
    whole = fit(quick(name, checkpoint_dir=tmp_path / "whole"), X)
    assert written >= 2
    needed, written, last = written, 0, written // 2
    with pytest.raises(KeyboardInterrupt):
        fit(quick(name, checkpoint_dir=tmp_path / "broken"), X)
    written, last = 0, None
    model = fit(quick(name, checkpoint_dir=tmp_path / "broken", resume=True), X)
    assert written < needed  # what was done is not done again
    assert np.array_equal(model.labels_, whole.labels_)
    assert np.array_equal(model.transform(X), whole.transform(X))
    assert histories(model) == histories(whole)


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
    starts = [{"random_state": seed} for seed in (2, 3, 0, 1)] if name == "infogan" else [{}]
    others = (fit(build(name, **start), X[order]) for start in starts)
    assert any(accuracy(model.labels_[order], other.labels_) >= 0.97 for other in others)


def test_new_samples_are_assigned(fitted):
    model, X, _ = fitted
    assert accuracy(model.labels_, model.predict(X)) >= 0.95
    single = np.concatenate([model.predict(X[i : i + 1]) for i in range(20)])
    assert np.array_equal(single, model.predict(X[:20]))


def test_columns_of_codes_have_names(fitted):
    model, X, _ = fitted
    names = model.get_feature_names_out()
    assert len(set(names)) == len(names) == model.transform(X[:3]).shape[1]


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


def test_what_a_fit_will_need_is_told_before_it(name):
    """More samples need more; nothing is trained, and there are no labels."""
    X = planted(name)[0]
    model = quick(name)
    needed = [model.estimate_resources(some)["memory_bytes"] for some in (X, np.concatenate([X] * 20))]
    assert X.nbytes < needed[0] < needed[1] < 10e9
    assert not hasattr(model, "labels_")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_unusable_entries_are_named(name, bad):
    X, _ = planted(name, n=30)
    X.reshape(30, -1)[3, 4] = bad
    with pytest.raises(InvalidInputError, match=r"contains (NaN|infinity) in 1 of 30 rows"):
        build(name).fit(X)


def test_more_clusters_than_samples_are_refused(name):
    with pytest.raises(InvalidInputError, match="at most the number of samples"):
        build(name).fit(planted(name, n=30)[0][:2])


@pytest.mark.parametrize("k", [None, 0, 2.5, "3", True])
def test_what_is_no_number_of_clusters_is_named(name, k):
    with pytest.raises(InvalidInputError, match=r"n_clusters.*an integer of at least 1"):
        build(name, n_clusters=k).fit(planted(name, n=30)[0])


# rates that the planted data leave unused, because vectors need no network or the labels no refinement
UNUSED = {"ncsc": {"autoencoder", "encoder", "self_expression", "collaboration"}, "k-scn": {"bases"}}
UNUSED["dsc-net"] = {"autoencoder", "encoder"}


def test_an_absurd_learning_rate_is_a_named_error(name):
    """Of all phases together and of each one alone; labels of a network that exploded are never returned."""
    if "learning_rates" not in build(name).get_params():
        pytest.skip("is not trained")
    X, _ = planted(name, n=60)
    rates, unused = set(quick(name).resolved_parameters(X)["learning_rates"]), UNUSED.get(name, set())
    for keys in (rates, *({key} for key in rates - unused)):
        with pytest.raises(DivergenceError, match="lower the learning rate"):
            fit(quick(name, learning_rates=dict.fromkeys(keys, 1e8)), X)
    assert unused < rates
    if unused:
        model = fit(quick(name, learning_rates=dict.fromkeys(unused, 1e8)), X)
        assert np.array_equal(model.labels_, fit(quick(name), X).labels_)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_data_are_refused(name, value):
    X, _ = planted(name, n=60)
    with pytest.raises(InvalidInputError, match="All 60 samples of X are the same"):
        fit(quick(name), np.full_like(X, value))


def test_fewer_different_samples_than_clusters_are_told(name):
    X, _ = planted(name, n=60)
    some = np.arange(60) % 2
    with pytest.warns(UserWarning, match=f"only 2 different samples for {clusters(name)} clusters"):
        model = quick(name).fit(X[some])
    assert set(model.labels_) <= set(range(clusters(name)))
    assert len(set(model.predict(X[some])[some == 0])) == 1


def test_copies_of_a_sample_are_in_one_cluster(name):
    X, _ = planted(name, n=60)
    labels = fit(quick(name), np.repeat(X[:15], 4, axis=0)).labels_.reshape(15, 4)
    assert (labels == labels[:, :1]).all()


@pytest.mark.parametrize("extra", [-1, 3])
def test_other_numbers_of_clusters_than_the_planted_one(name, extra):
    """One less joins some, more split some: none may fail, and most samples stay with their own."""
    k = clusters(name) + extra
    X, y = planted(name, n=120)
    labels = fit(build(name, n_clusters=k), X).labels_
    assert set(labels) <= set(range(k))
    table = np.zeros((clusters(name), k))
    np.add.at(table, (y, labels), 1)
    mixed = table.max(0).sum() if extra > 0 else table.max(1).sum()
    assert mixed / len(y) > 0.7, table


@pytest.mark.parametrize("shape", [(60,), (10, 2, 2, 2, 2), (0, 5), (10, 0)])
def test_wrong_axes_are_named(name, shape):
    with pytest.raises(ValueError, match=r"Reshape your data|has 5 axes|0 (sample|feature)\(s\)"):
        quick(name).fit(np.zeros(shape))


def test_new_samples_of_another_shape_are_refused(fitted):
    model, X, _ = fitted
    with pytest.raises(InvalidInputError, match=r"expecting|was fitted on"):
        model.predict(np.zeros((4, *(side + 1 for side in X.shape[1:]))))
