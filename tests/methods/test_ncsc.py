"""Neural Collaborative Subspace Clustering: what each stage trains, what it finds, and what it survives."""

from __future__ import annotations

import math
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from ncsc_cases import EPOCHS, SMALL, STAGES, digits, planted, solver

from subspan import NCSC, accuracy, load
from subspan.errors import CollapseWarning, DivergenceError, InvalidInputError, SelfExpressionError


@pytest.fixture(scope="module")
def solved():
    X, y = planted()
    return solver().fit(X), X, y


@pytest.mark.parametrize(("k", "dim", "seed"), [(3, 4, 0), (4, 3, 1), (5, 3, 2)])
def test_union_of_independent_subspaces_is_solved(k, dim, seed):
    X, y = planted(k, dim=dim, seed=seed)
    model = solver(k, random_state=seed).fit(X)
    assert accuracy(y, model.labels_) >= 0.99


def test_the_literal_loss_stalls_where_the_default_does_not():
    """Deviation 5: with Eq. 1's norm and no balance term the classifier ends where A_c is 1 for *all* pairs.

    Eq. 6 is then near its minimum, zero, and nothing is clustered. Whether all samples share one cluster or have nearly
    uniform scores differs from start to start; neither is opposed by Eqs. 5-9.
    """
    for seed in range(2):
        X, y = planted(4, seed=seed)
        with pytest.warns(CollapseWarning):
            literal = solver(4, affinity="cosine", balance=(0, 0), n_starts=1, random_state=seed).fit(X)
        default = solver(4, random_state=seed).fit(X)
        assert accuracy(y, literal.labels_) < 0.45  # one cluster gives 0.25
        assert accuracy(y, default.labels_) > 0.98
        last = [r for r in literal.history_ if r["phase"] == "classifier"][-1]
        assert last["L_pos"] < 0.01
        assert last["live_clusters"] <= 2
        index = np.arange(0, 600, 5)
        assert literal.affinities(X, index)[1].mean() > 0.95
        assert default.affinities(X, index)[1].mean() < 0.5


@pytest.mark.filterwarnings("ignore::subspan.errors.CollapseWarning")
def test_a_collapse_costs_restarts_and_is_told():
    X, _ = planted(4)
    with pytest.warns(CollapseWarning, match="phase 'classifier' collapsed .* live clusters"):
        model = solver(4, affinity="cosine", balance=(0, 0), n_starts=1).fit(X)
    assert {r["restart"] for r in model.history_ if r["phase"] == "classifier"} == {0, 1, 2}


def test_training_labels_are_the_predictions(solved):
    model, X, _ = solved
    assert np.array_equal(model.predict(X), model.labels_)
    assert model.labels_.dtype == np.int64
    assert set(model.labels_) == {0, 1, 2}
    proba = model.predict_proba(X)
    assert proba.shape == (600, 3)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)
    assert np.array_equal(proba.argmax(1), model.labels_)
    assert model.transform(X).shape == (600, 30)
    np.testing.assert_allclose(np.ptp(model.transform(X) - X / np.sqrt(X.var(0).mean()), axis=0), 0, atol=1e-4)


def test_new_samples_of_the_subspaces_are_recognised():
    X, y = planted(n=900)
    model = solver().fit(X[:600])
    assert accuracy(y[600:], model.predict(X[600:])) > 0.95


def test_affinities_show_the_clusters(solved):
    """A_s and A_c are larger within the planted subspaces than between them; both lie in [0, 1], unit diagonal."""
    model, X, y = solved
    index = np.arange(150)
    same = y[index][:, None] == y[index]
    off = ~np.eye(150, dtype=bool)
    for A in model.affinities(X, index):
        assert A.shape == (150, 150)
        assert A.min() >= 0
        assert A.max() <= 1 + 1e-6
        np.testing.assert_allclose(A.diagonal(), 1, rtol=1e-5)
        assert A[same & off].mean() > 2 * A[~same].mean()


def test_history_has_every_stage_and_term():
    model = NCSC(10, **SMALL).fit(digits())
    terms = {stage: set() for stage in STAGES}
    for record in model.history_:
        terms[record["phase"]] |= set(record)
    assert terms["autoencoder"] >= {"reconstruction"}
    assert terms["subspace"] >= {"reconstruction", "C_norm", "self_expression", "effective_rank"}
    assert terms["starts"] >= {"L_pos", "balance", "objective", "live_clusters", "positives_per_sample"}
    assert terms["classifier"] >= {"distillation", "L_pos", "balance", "objective", "live_clusters"}
    assert terms["collaboration"] >= {
        "reconstruction",
        "C_norm",
        "self_expression",
        "L_pos",
        "L_neg",
        "balance",
        "changed",
    }
    assert set(model.stop_reasons_) == set(STAGES)


@pytest.mark.parametrize("colours", [1, 3])
def test_every_layout_of_the_same_images_gives_the_same_labels(colours):
    rng = np.random.default_rng(0)
    images = np.stack([digits(80) // (c + 1) for c in range(colours)], axis=1)
    images = (images + rng.integers(0, 9, images.shape)).astype(np.uint8)
    last = np.ascontiguousarray(np.moveaxis(images, 1, -1))
    same = [images, last, torch.from_numpy(images), torch.from_numpy(last)]
    if colours == 1:
        same += [images[:, 0], torch.from_numpy(images[:, 0])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        models = [NCSC(4, **SMALL).fit(X) for X in same]
    for model, X in zip(models, same, strict=True):
        assert np.array_equal(model.labels_, models[0].labels_)
        assert np.array_equal(model.predict(X), models[0].labels_)
    assert len(set(models[0].labels_)) > 1


@pytest.mark.filterwarnings("ignore::subspan.errors.CollapseWarning")
def test_memory_map_is_never_copied_whole(tmp_path, monkeypatch):
    """Fit and predict of 15.7 MB of images while no more than half of that is held at a time."""
    n = 20_000
    X = np.memmap(tmp_path / "images", dtype=np.uint8, mode="w+", shape=(n, 28, 28))
    X[:] = np.random.default_rng(0).integers(0, 255, X.shape, dtype=np.uint8)
    X.flush()
    X = np.memmap(tmp_path / "images", dtype=np.uint8, mode="r", shape=(n, 28, 28))
    monkeypatch.setattr("subspan.pretraining.ENCODE_BATCH", 1000)  # 3 MB of float32
    monkeypatch.setattr("subspan.base.PREDICT_BATCH", 1000)
    options = {"channels": [2, 2], "strides": [4, 2], "kernels": [3, 3]}
    epochs = dict.fromkeys(STAGES, 1)
    model = NCSC(
        2,
        recipe="paper",
        encoder_options=options,
        epochs=epochs,
        n_starts=1,
        batch_size=500,
        head_width=8,
        random_state=0,
    )
    model.set_params(batches="random")
    tracemalloc.start()
    try:
        model.fit(X).predict(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < X.nbytes / 2
    assert model.labels_.shape == (n,)


def absurd(stage, rate):
    X, _ = planted(n=200)
    options = {} if stage in ("starts", "classifier", "settling", "collaboration") else {"encoder": "mlp"}
    return NCSC(3, **(SMALL | options), learning_rates={stage: rate}).fit(X)


@pytest.mark.parametrize("stage", ["autoencoder", "encoder", "starts", "classifier", "settling"])
@pytest.mark.filterwarnings("ignore::subspan.errors.CollapseWarning")
def test_absurd_learning_rates_raise_a_named_error(stage):
    with pytest.raises((DivergenceError, SelfExpressionError)):
        absurd(stage, 1e30)


@pytest.mark.parametrize(
    ("rate", "epochs"),
    [(1e4, 1), (1e30, 2), (1e20, 1), (1e30, 1)],
)
@pytest.mark.filterwarnings("ignore::subspan.errors.CollapseWarning")
def test_absurd_rate_of_the_last_stage_leaves_no_nan(rate, epochs):
    """Scores are finite, or the fit says that they are not."""
    X, _ = planted(n=200)
    model = NCSC(3, **(SMALL | {"epochs": EPOCHS | {"collaboration": epochs}}), learning_rates={"collaboration": rate})
    try:
        model.fit(X)
    except DivergenceError:
        return
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("k", [2, 6])
@pytest.mark.filterwarnings("ignore::subspan.errors.CollapseWarning")
def test_other_numbers_of_clusters_than_the_true_one(k):
    """Two clusters join planted ones, six split them: clusters nest in the truth or the truth in the clusters."""
    X, y = planted(3)
    labels = solver(k).fit(X).labels_
    table = np.zeros((3, k))
    np.add.at(table, (y, labels), 1)
    purity = table.max(0).sum() if k > 3 else table.max(1).sum()
    assert purity / 600 > 0.9
    assert labels.max() < k
    assert len(set(labels)) >= min(k, 3)


@pytest.mark.filterwarnings("ignore::subspan.errors.CollapseWarning")
def test_duplicated_rows_keep_together():
    X, _ = planted(n=60)
    labels = solver().fit(np.repeat(X, 5, axis=0)).labels_.reshape(60, 5)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels.ravel())) > 1


@pytest.mark.parametrize("batch_size", [1, 7, 40])
@pytest.mark.filterwarnings("ignore::subspan.errors.CollapseWarning")
def test_batches_may_be_small(batch_size):
    X, _ = planted(n=60)
    for batches in ("local", "random"):
        assert NCSC(3, **SMALL, batch_size=batch_size, batches=batches).fit(X).labels_.shape == (60,)


def with_entry(value):
    X, _ = planted(n=60)
    X[7, 3] = value
    return X


@pytest.mark.parametrize(
    ("X", "options", "words"),
    [
        (np.ones((2, 4)), {}, "n_clusters=3 must be at most the number of samples n_samples=2"),
        (with_entry(np.nan), {}, "contains NaN in 1 of 60 rows"),
        (with_entry(np.inf), {}, "contains infinity in 1 of 60 rows"),
        (np.ones(5), {}, "Expected 2D array"),
        (np.ones((9, 2, 2, 2, 2)), {}, "5 axes"),
        (np.eye(9, 16).reshape(9, 4, 4), {}, "at least 8 x 8"),
        (np.eye(9, 4), {"encoder": "conv"}, "needs images"),
        (np.eye(9, 4), {"head": "conv"}, "head 'conv' needs codes with a spatial layout"),
        (np.eye(9, 4), {"n_clusters": 0}, "n_clusters=0 must be an integer of at least 1"),
        (np.eye(9, 4), {"recipe": "secret"}, "recipe is 'secret'; choose one of"),
        (np.eye(9, 4), {"self_expression": "magic"}, "choose one of 'closed-form', 'parameter'"),
        (np.eye(9, 4), {"batches": "sorted"}, "batches is 'sorted'; choose one of 'local', 'random'"),
        (np.eye(9, 4), {"affinity": "dot"}, "affinity is 'dot'; choose one of"),
        (np.eye(9, 4), {"gamma": -1.0}, "gamma is -1.0; give a number"),
        (np.eye(9, 4), {"gamma": np.array([1.0, 2.0])}, r"gamma is array\(\[1., 2.\]\); give one number, or 'auto'"),
        (np.eye(9, 4), {"n_neighbors": np.array([3, 4])}, r"n_neighbors is array\(\[3, 4\]\); give one number"),
        (np.eye(9, 4), {"gamma": True}, "gamma is True; give"),
        (np.eye(9, 4), {"recipe": np.array(["paper", "global"])}, "recipe is array.*; choose one of"),
        (np.eye(9, 4), {"u": np.array([0.1, 0.2, 0.3])}, "u must be a number or a pair"),
        (np.eye(9, 4), {"u": [[1], [2, 3]]}, "u must be a number or a pair"),
        (np.eye(9, 4), {"l": 1.5}, "l is 1.5; give a number between 0 and 1"),
        (np.eye(9, 4), {"u": (0.1, 0.2, 0.3)}, "u must be a number or a pair"),
        (np.eye(9, 4), {"u": (0.7, 1.2)}, "u is 1.2; give a number between 0 and 1"),
        (np.eye(9, 4), {"u": (0.7, 1.0)}, "u is 1, but no affinity is larger"),
        (np.eye(9, 4), {"balance": -1}, "balance is -1"),
        (np.eye(9, 4), {"batch_size": 0}, "batch_size is 0; give an integer of at least 1"),
        (np.eye(9, 4), {"n_starts": 1.5}, "n_starts is 1.5; give an integer"),
        (np.eye(9, 4), {"lambda_cl": math.nan}, "lambda_cl is nan; give a number"),
        (np.eye(9, 4), {"epochs": {"dreaming": 3}}, "epochs is .*; give a dict with keys among autoencoder"),
        (np.eye(9, 4), {"epochs": {"subspace": -1}}, "give an integer of at least 0"),
        (np.eye(9, 4), {"learning_rates": {"starts": -1.0}}, "give a number of at least 0"),
        (np.eye(9, 4), {"prior": [1.0, 1.0]}, "prior must hold 3 positive numbers"),
        (np.eye(9, 4), {"prior": None}, "prior must hold 3 positive numbers.*, or be one of auto"),
        (np.eye(9, 4), {"head": "arms"}, "head is 'arms'; choose one of"),
        (np.eye(9, 4), {"head_width": 0}, "head_width is 0; give an integer of at least 1"),
        (np.eye(9, 4), {"encoder_options": 3}, "encoder_options is 3; give a dict"),
        (np.eye(9, 4), {"prior": "large"}, "prior is 'large'; choose"),
        (np.eye(9, 4), {"device": "abacus"}, "device 'abacus' cannot be used here"),
    ],
)
def test_what_cannot_be_used_is_named(X, options, words):
    with pytest.raises((InvalidInputError, ValueError), match=words):
        NCSC(**({"n_clusters": 3} | SMALL | options)).fit(X)


def test_numbers_of_numpy_are_those_of_python_also_when_saved(tmp_path):
    X, _ = planted(n=60)
    own = {"gamma": 10, "tolerance": 0.5, "u": [0.25, 0.5], "balance": [4, 1], "epochs": EPOCHS}
    theirs = {
        "gamma": np.int64(10),
        "tolerance": np.float32(0.5),
        "u": np.array([0.25, 0.5]),
        "balance": (np.int64(4), np.float16(1)),
        "epochs": {stage: np.int16(epochs) for stage, epochs in EPOCHS.items()},
    }
    model = NCSC(3, **(SMALL | theirs)).fit(X)
    assert np.array_equal(model.labels_, NCSC(3, **(SMALL | own)).fit(X).labels_)
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.get_params() == NCSC(3, **(SMALL | own)).get_params()
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))


def test_new_samples_must_look_like_those_of_fit(solved):
    with pytest.raises(InvalidInputError, match="X has 29 features, but NCSC is expecting 30 features"):
        solved[0].predict(np.ones((4, 29)))


def test_prior_moves_the_sizes():
    """A prior of unequal sizes is honoured by the balance term: the same data, other sizes."""
    X = np.random.default_rng(0).normal(size=(300, 10))
    epochs = {"starts": 2, "classifier": 6, "collaboration": 0}
    sizes = {}
    for name, prior in {"uniform": "uniform", "unequal": [8.0, 1.0, 1.0]}.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)
            model = solver(n_starts=1, prior=prior, balance=4.0, epochs=epochs).fit(X)
        sizes[name] = np.sort(model.predict_proba(X).mean(0))
    assert sizes["unequal"].max() > sizes["uniform"].max() + 0.2


def test_resolved_parameters_name_what_a_recipe_takes():
    images = digits(200)
    paper = NCSC(10, recipe="paper", epochs={"starts": 3}).resolved_parameters(images)
    assert (paper["gamma"], paper["u"], paper["balance"]) == (30.0, (0.9, 0.9), (4.0, 1.0))
    assert (paper["encoder"], paper["head"], paper["n_starts"]) == ("conv", "conv", 5)
    assert paper["epochs"] == {
        "autoencoder": 30,
        "subspace": 1,
        "starts": 3,
        "classifier": 6,
        "settling": 0,
        "collaboration": 3,
    }
    assert paper["learning_rates"]["encoder"] == 1e-5
    assert paper["overcluster"] == 1.0  # ten samples for each of twenty clusters would be too few
    chosen = NCSC(10, gamma=2.0).resolved_parameters(np.repeat(images, 3, axis=0))
    assert (chosen["encoder"], chosen["gamma"], chosen["overcluster"]) == ("by the data", 2.0, 2.0)
    assert (chosen["n_neighbors"], chosen["n_starts"]) == (10, 0)
    assert chosen["epochs"]["settling"] == 8
    assert chosen["epochs"]["collaboration"] == 0
    unknown = NCSC(10).resolved_parameters(images)
    assert (unknown["gamma"], unknown["n_neighbors"]) == ("by the data", "10, or more by the data")
    assert NCSC(10, n_neighbors=7).resolved_parameters(images)["n_neighbors"] == 7


def test_resources_are_estimated_without_training():
    model = NCSC(3, recipe="paper", self_expression="parameter", batch_size=50)
    estimate = model.estimate_resources(planted(n=60)[0])
    assert estimate["memory_bytes"] == sum(estimate["parts"].values())
    assert estimate["n_codes"] == 30
    assert not hasattr(model, "labels_")
    larger = NCSC(3, recipe="paper", batch_size=5000).estimate_resources(np.ones((6000, 30)))
    assert larger["parts"]["affinities"] > 100 * estimate["parts"]["affinities"]
    assert "proposals" not in larger["parts"]
    assert "self_expression" not in larger["parts"]
    wide = NCSC(3, encoder="identity").estimate_resources(np.ones((60, 3000)))["parts"]
    assert wide["self_expression"] > 4 * 8 * 3000**2  # matrices of the length of a code
    searched = {n: NCSC(3).estimate_resources(np.ones((n, 30)))["parts"]["proposals"] for n in (60, 6000)}
    X = np.ones((6000, 30))
    near, far, chosen, given = (
        model.estimate_resources(X)["parts"]["neighbours"]
        for model in (NCSC(3, n_neighbors=10), NCSC(3, n_neighbors=150), NCSC(3), NCSC(3, gamma=1.0))
    )
    assert near == given < far == chosen  # more neighbours may be chosen
    assert searched[6000] == 100 * searched[60] > 6000 * 9 * 8  # the embedding in nine dimensions
