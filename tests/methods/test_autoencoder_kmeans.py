"""SAE-KM and CAE-KM, and what all methods on codes share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from autoencoder_cases import EPOCHS, SMALL, blobs, broken_run_goes_on, digits
from sklearn import cluster
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan.encoders import ConvAutoencoder, MLPAutoencoder
from subspan.errors import CheckpointError, DivergenceError, InvalidInputError
from subspan.methods.cae_kmeans import CAEKMeans
from subspan.methods.kmeans import KMeans
from subspan.methods.sae_kmeans import SAEKMeans
from subspan.metrics import ari

TINY = {"encoder_options": {"hidden": [4]}, "n_init": 1}


@parametrize_with_checks(
    [SAEKMeans(2, **TINY, epochs={"layers": 1, "autoencoder": 1}), CAEKMeans(2, **TINY, epochs={"autoencoder": 1})]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def sae(k=3, **options):
    return SAEKMeans(k, **(SMALL | {"epochs": EPOCHS} | options))


def test_planted_clusters_are_found():
    X, y = blobs()
    assert ari(y, sae().fit(X).labels_) == 1.0


def test_labels_are_those_of_k_means_on_the_codes():
    X, _ = blobs()
    model = sae().fit(X)
    assert ari(cluster.KMeans(3, n_init=10, random_state=5).fit(model.transform(X)).labels_, model.labels_) == 1.0


def test_stages_and_network_are_those_of_the_paper():
    model = SAEKMeans(3, epochs={"layers": 1, "autoencoder": 1}, n_init=1, random_state=0).fit(digits(60))
    assert list(model.stop_reasons_) == ["layer 1", "layer 2", "layer 3", "layer 4", "autoencoder"]
    widths = [layer.out_features for layer in model.encoder_.encoder if isinstance(layer, torch.nn.Linear)]
    assert widths == [500, 500, 2000, 10]


@pytest.mark.parametrize("X", [digits(50), digits(50) / 7.0, blobs()[0] + 5.0])
def test_entries_have_mean_square_one(X):
    model = sae(epochs={"layers": 0, "autoencoder": 0}).fit(X)
    scaled = model.scaling_.apply(np.asarray(X))
    assert np.square(scaled).mean() == pytest.approx(1.0, rel=1e-4)


def test_images_that_were_divided_after_the_fit_are_told():
    with pytest.warns(UserWarning, match="fitted on images of whole numbers"):
        sae(epochs={"layers": 0, "autoencoder": 0}).fit(digits(50)).predict(digits(50) / 16)


def test_without_epochs_the_network_is_the_drawn_one():
    X, _ = blobs()
    models = [sae(epochs={"layers": n, "autoencoder": 0}).fit(X) for n in (0, 0, 2)]
    weights = [model.encoder_.encoder[0].weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_convolutional_codes_for_images_dense_ones_for_vectors():
    images = CAEKMeans(4, epochs={"autoencoder": 2}, n_init=2, random_state=0).fit(digits(60))
    assert isinstance(images.encoder_, ConvAutoencoder)
    assert images.encoder_.n_codes > 9 * 4
    vectors = CAEKMeans(3, epochs={"autoencoder": 2}, n_init=2, random_state=0).fit(blobs()[0])
    assert isinstance(vectors.encoder_, MLPAutoencoder)


def test_an_image_encoder_has_no_layers_to_stack():
    model = SAEKMeans(3, encoder="conv", epochs={"autoencoder": 1}, n_init=1, random_state=0).fit(digits(60))
    assert list(model.stop_reasons_) == ["autoencoder"]


def test_broken_run_goes_on(tmp_path, monkeypatch):
    broken_run_goes_on(lambda **o: sae(**o), blobs()[0], tmp_path, monkeypatch, ("layer 1", "layer 3", "autoencoder"))


def test_absurd_learning_rates_are_named():
    with pytest.raises(DivergenceError, match="phase 'layer 1'"):
        sae(learning_rates={"layers": 1e30}).fit(blobs()[0])
    with pytest.raises(DivergenceError):
        sae(learning_rates={"autoencoder": 1e30}).fit(blobs()[0])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"encoder": "identity"}, "encoder is 'identity'"),
        ({"corruption": 1.0}, "corruption is 1.0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"epochs": {"clustering": 3}}, "layers, autoencoder"),
        ({"learning_rates": {"layers": -1}}, "learning_rates"),
    ],
)
def test_wrong_parameters_are_named(bad, words):
    with pytest.raises(InvalidInputError, match=words):
        sae(**bad).fit(blobs()[0])


def test_memory_is_estimated_without_training():
    X, _ = blobs()
    found = sae().estimate_resources(X)
    assert found["memory_bytes"] == sum(found["parts"].values())
    assert found["n_codes"] == 4


def test_a_saved_auto_encoder_is_taken_and_not_trained_again(tmp_path):
    X, _ = blobs()
    first = sae().fit(X)
    first.save(tmp_path)
    again = sae(pretrained=tmp_path).fit(X)
    assert again.history_ == []
    assert np.array_equal(again.transform(X), first.transform(X))
    assert np.array_equal(again.labels_, first.labels_)
    other = sae(pretrained=tmp_path).fit(3.0 * X)  # the scaling is that of the saved model
    assert np.array_equal(other.transform(X), first.transform(X))


def test_what_is_not_the_same_auto_encoder_is_refused(tmp_path):
    X, _ = blobs()
    sae(epochs={"layers": 0, "autoencoder": 0}).fit(X).save(tmp_path / "sae")
    wider = SMALL | {"encoder_options": {"latent_dim": 5, "hidden": [16, 12]}}
    with pytest.raises(InvalidInputError, match="encoder_options"):
        SAEKMeans(3, **wider, pretrained=tmp_path / "sae").fit(X)
    with pytest.raises(InvalidInputError, match=r"\(20,\).*\(19,\)"):
        sae(pretrained=tmp_path / "sae").fit(X[:, :19])
    KMeans(3).fit(X).save(tmp_path / "kmeans")
    with pytest.raises(InvalidInputError, match="no auto-encoder"):
        sae(pretrained=tmp_path / "kmeans").fit(X)
    with pytest.raises(CheckpointError, match="no model"):
        sae(pretrained=tmp_path / "nowhere").fit(X)
    with pytest.raises(CheckpointError, match="no model"):
        sae(pretrained=tmp_path / "nowhere").estimate_resources(X)
    with pytest.raises(InvalidInputError, match="folder of a saved model"):
        sae(pretrained=5).fit(X)
    CAEKMeans(3, encoder="mlp", epochs={"autoencoder": 1}, n_init=1).fit(X).save(tmp_path / "cae")
    with pytest.raises(InvalidInputError, match="SAEKMeans"):  # its samples have another scale
        sae(pretrained=tmp_path / "cae").fit(X)
