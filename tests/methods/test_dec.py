from __future__ import annotations

import numpy as np
import pytest
import torch
from autoencoder_cases import ENOUGH, EPOCHS, SMALL, blobs, broken_run_goes_on, digits
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan._random import generator
from subspan._validation import check_samples
from subspan.errors import DivergenceError, InvalidInputError
from subspan.methods.dec import DEC
from subspan.methods.sae_kmeans import SAEKMeans
from subspan.metrics import ari
from subspan.soft_assignments import log_assignments

TINY = {"encoder_options": {"hidden": [4]}, "n_init": 1, "update_interval": 2}


@parametrize_with_checks([DEC(2, **TINY, epochs={"layers": 1, "autoencoder": 1, "clustering": 1})])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def dec(k=3, clustering=4, **options):
    epochs = EPOCHS | {"clustering": clustering}
    return DEC(k, **(SMALL | {"epochs": epochs, "update_interval": 10, "tolerance": 0.0} | options))


@pytest.mark.parametrize(("k", "seed"), [(3, 0), (5, 1)])
def test_planted_clusters_are_found(k, seed):
    X, y = blobs(k, seed=seed)
    assert ari(y, dec(k, random_state=seed, **ENOUGH).fit(X).labels_) == 1.0


def test_it_starts_at_k_means_on_the_codes():
    """Same draws, same pre-training: without updates DEC is SAE-KM."""
    X, _ = blobs(noise=1.0)
    start = dec(clustering=0, n_init=20).fit(X)
    same = SAEKMeans(3, **(SMALL | {"n_init": 20}), epochs=EPOCHS).fit(X)
    assert ari(start.labels_, same.labels_) == 1.0
    np.testing.assert_array_equal(start.transform(X), same.transform(X))


def test_clusters_are_sharpened():
    """The target asks for confidence, and gets it."""
    X, _ = blobs(noise=1.5)
    start, end = dec(clustering=0).fit(X), dec(clustering=10).fit(X)
    assert end.predict_proba(X).max(1).mean() > start.predict_proba(X).max(1).mean() + 0.05
    assert not torch.equal(start.centers_, end.centers_)


def test_one_step_is_sgd_on_the_gradient_of_the_centres():
    """Eq. 5 by hand, from the k-means start, on one batch of all samples."""
    X, _ = blobs(n=40, noise=1.5)
    options = {"batch_size": 40, "update_interval": 1, "learning_rates": {"clustering": 0.5}}
    start, end = dec(clustering=0, **options).fit(X), dec(clustering=1, **options).fit(X)
    Z, M = torch.from_numpy(start.transform(X)).double(), start.centers_.double()
    Q = log_assignments(Z, M).exp()
    P = Q**2 / Q.sum(0)
    P /= P.sum(1, keepdim=True)
    gradient = torch.zeros_like(M)
    for i, z in enumerate(Z):
        for j, m in enumerate(M):
            gradient[j] -= 2 / (1 + (z - m).square().sum()) * (P[i, j] - Q[i, j]) * (z - m) / len(Z)
    torch.testing.assert_close(end.centers_.double() - M, -0.5 * gradient, rtol=1e-3, atol=1e-6)


def test_target_stays_for_an_interval_and_covers_all_samples():
    X, _ = blobs()
    model = dec(update_interval=7)
    phase = model._clustering(*_prepared(model, X))[0]
    phase.reset(generator(0), 0)
    assert len(phase.batches(180, generator(0))) == 7
    assert phase.P.shape == (180, 3)
    P = phase.P
    next(iter(phase.losses(torch.arange(40), generator(0), 0.0)))
    assert phase.P is P
    phase.monitor()
    assert phase.P is not P


def _prepared(model, X):
    samples = check_samples(X)
    encoder = model._make_encoder(samples.shape, generator(0))
    return samples, encoder, model._make_centers(encoder.n_codes)


def test_it_stops_when_labels_settle():
    X, _ = blobs()
    model = dec(clustering=50, tolerance=0.001).fit(X)
    assert model.stop_reason_ == "settled: fewer than 0.10% of the labels changed"
    rounds = [r for r in model.history_ if r["phase"] == "clustering"]
    assert rounds[-1]["changed"] == 0.0
    assert len(rounds) < 50
    assert dec(tolerance=0.0).fit(X).stop_reason_ == "completed"


def test_changed_labels_are_counted():
    X, _ = blobs(noise=2.0)
    start, end = (dec(clustering=n, learning_rates={"clustering": 0.5}).fit(X) for n in (0, 1))
    changed = (start.labels_ != end.labels_).mean()
    assert changed > 0
    assert end.history_[-1]["changed"] == pytest.approx(changed)


def test_probabilities_are_the_soft_assignments():
    X, _ = blobs()
    model = dec().fit(X)
    Q = model.predict_proba(X)
    assert np.array_equal(Q.argmax(1), model.labels_)
    np.testing.assert_allclose(Q.sum(1), 1, rtol=1e-5)
    kernel = 1 / (1 + ((model.transform(X)[:, None] - model.centers_.numpy()) ** 2).sum(-1))
    np.testing.assert_allclose(Q, kernel / kernel.sum(1, keepdims=True), rtol=1e-3)


def test_broken_run_goes_on(tmp_path, monkeypatch):
    broken_run_goes_on(lambda **o: dec(**o), blobs(noise=1.5)[0], tmp_path, monkeypatch, ("layer 2", "clustering"))


def test_convolutional_encoder():
    model = dec(10, encoder="conv", encoder_options=None).fit(digits())
    assert list(model.stop_reasons_) == ["autoencoder", "clustering"]
    assert np.array_equal(model.predict(digits()), model.labels_)


def test_bad_settings_are_named():
    X, _ = blobs()
    with pytest.raises(DivergenceError):
        dec(learning_rates={"clustering": 1e30}).fit(X)
    for bad in ({"alpha": 0}, {"update_interval": 0}, {"tolerance": 2.0}):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            dec(**bad).fit(X)
