from __future__ import annotations

import numpy as np
import pytest
from autoencoder_cases import blobs, digits
from sklearn import cluster
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan.errors import InvalidInputError, ResourceError
from subspan.methods import kmeans
from subspan.methods.kmeans import KMeans
from subspan.metrics import ari


@parametrize_with_checks([KMeans(3, n_init=2)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def test_it_is_scikit_learns_k_means():
    X, y = blobs(5)
    model = KMeans(5, random_state=0).fit(X)
    reference = cluster.KMeans(5, n_init=20, random_state=0).fit(X)
    assert ari(reference.labels_, model.labels_) == 1.0
    assert ari(y, model.labels_) == 1.0
    scale = model.scaling_.scale
    np.testing.assert_allclose(model.history_[0]["objective"] * scale**2 * len(X), reference.inertia_, rtol=1e-4)
    distances = np.sort(reference.transform(X), axis=1)
    np.testing.assert_allclose(np.sort(model.transform(X), axis=1) * scale, distances, rtol=1e-3)


def test_images_are_their_pixels():
    X = digits(200)
    model = KMeans(10, random_state=1).fit(X)
    assert ari(KMeans(10, random_state=1).fit(X.reshape(200, 64)).labels_, model.labels_) == 1.0
    assert np.array_equal(model.predict(X), model.labels_)


def test_too_large_data_are_refused_before_a_copy(monkeypatch):
    X, _ = blobs()
    monkeypatch.setattr(kmeans, "available_bytes", lambda: 1000)
    with pytest.raises(ResourceError, match="KMeans on 180 samples of 20 entries takes about"):
        KMeans(3).fit(X)
    assert KMeans(3).estimate_resources(X)["memory_bytes"] > 4 * X.size


def test_an_unfinished_run_says_so():
    X = digits(300)
    model = KMeans(10, max_iter=1, n_init=1, random_state=0).fit(X)
    assert model.stop_reason_ == "max_iter"
    assert model.n_iter_ == 1
    with pytest.raises(InvalidInputError, match="n_init"):
        KMeans(3, n_init=0).fit(X)
