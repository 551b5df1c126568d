"""Easy images, and the laws of methods that train networks in one phase and read labels from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from subspan._validation import check_samples, fit_scaling
from subspan.base import load
from subspan.errors import CheckpointError, InvalidInputError
from subspan.metrics import accuracy
from subspan.training import Callback


def planted_images(n=240, seed=0):
    """Noisy images of three shapes: an upright bar, a lying bar, a frame."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 3)
    shapes = np.zeros((3, 8, 8))
    shapes[0, :, 3:5] = shapes[1, 3:5] = 200
    shapes[2, 1:7, 1:7] = 200
    shapes[2, 3:5, 3:5] = 0
    return shapes[y] + rng.uniform(0, 40, (n, 8, 8)), y


def phase_of(model, X):
    """The phase that would train ``model`` on X, with drawn weights."""
    samples = check_samples(X)
    networks = model._build(samples.shape)
    for network in networks.values():
        model._draw(network, torch.Generator().manual_seed(0))
    model.device = "cpu"
    return model._phase(samples.with_scaling(fit_scaling(samples)), networks)


class Stop(Callback):
    """Breaks a run off within an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_step(self, phase, fraction):
        if phase.epoch == self.epoch:
            raise KeyboardInterrupt


class NetworkLaws:
    """Inherit and set ``estimator`` and options: ``easy`` solves the planted images, ``tiny`` is only quick."""

    estimator: type
    easy: dict = {}  # noqa: RUF012
    tiny: dict = {}  # noqa: RUF012
    still: set = set()  # noqa: RUF012  # weights (network, name) that cannot have a gradient

    def make(self, n_clusters=3, **options):
        return self.estimator(**{"n_clusters": n_clusters, "random_state": 0, **self.tiny, **options})

    def easy_images(self, seed):
        return planted_images(seed=seed)

    def test_easy_images_are_clustered(self):
        X, y = self.easy_images(0)
        model = self.make(len(set(y)), **self.easy).fit(X)
        assert accuracy(y, model.labels_) >= 0.95
        new, y_new = self.easy_images(1)
        assert accuracy(np.r_[y, y_new], np.r_[model.labels_, model.predict(new)]) >= 0.95

    @pytest.mark.parametrize("images", [True, False])
    def test_interrupted_fit_continues_to_the_unbroken_result(self, tmp_path, monkeypatch, images):
        X = planted_images(80)[0]
        X = X if images else X.reshape(80, -1).astype(float)
        expected = self.make(epochs=3).fit(X)
        with monkeypatch.context() as patch:
            patch.setattr("subspan.methods._networks.Progress", lambda: Stop(1))
            with pytest.raises(KeyboardInterrupt):
                self.make(epochs=3, verbose=1, checkpoint_dir=tmp_path).fit(X)
        resumed = self.make(epochs=3, checkpoint_dir=tmp_path, resume=True).fit(X)
        np.testing.assert_array_equal(resumed.labels_, expected.labels_)
        assert torch.equal(resumed.centres_, expected.centres_)
        for name, network in expected.networks_.items():
            for key, value in network.state_dict().items():
                assert torch.equal(resumed.networks_[name].state_dict()[key], value), (name, key)
        histories = [[{k: v for k, v in r.items() if k != "seconds"} for r in m.history_] for m in (resumed, expected)]
        assert histories[0] == histories[1]
        assert len(histories[0]) == 3
        with pytest.raises(CheckpointError, match="width"):
            self.make(epochs=3, width=5, checkpoint_dir=tmp_path, resume=True).fit(X)

    def test_every_weight_learns(self):
        X = planted_images(60)[0]
        model = self.make(epochs=1)
        model.fit(X)
        untrained = self.make(epochs=1, learning_rates=dict.fromkeys(model._rates, 0.0)).fit(X)
        for name, network in model.networks_.items():
            before = dict(untrained.networks_[name].named_parameters())
            for key, parameter in network.named_parameters():
                assert torch.equal(parameter, before[key]) == ((name, key) in self.still), (name, key)

    def test_a_loaded_model_predicts_the_same_bits(self, tmp_path):
        X = planted_images(60)[0]
        model = self.make(epochs=1).fit(X)
        model.save(tmp_path)
        again = load(tmp_path)
        np.testing.assert_array_equal(again.predict(X), model.predict(X))
        np.testing.assert_array_equal(again.transform(X), model.transform(X))
        np.testing.assert_array_equal(model.predict(X), model.labels_)

    def test_colour_images_and_odd_sides(self):
        X = np.random.default_rng(0).random((20, 7, 9, 3))
        assert self.make(epochs=1).fit(X).predict(X).shape == (20,)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"width": 0}, "width is 0"),
            ({"epochs": 0}, "epochs is 0"),
            ({"batch_size": 2}, "batch_size is 2; give an integer of at least 4"),
            ({"learning_rates": {"nobody": 1.0}}, "learning_rates is .* keys among"),
        ],
    )
    def test_wrong_options_are_named(self, options, words):
        with pytest.raises(InvalidInputError, match=words):
            self.make(**options).fit(planted_images(12)[0])

    def test_images_too_small_are_named(self):
        with pytest.raises(InvalidInputError, match="3 x 3"):
            self.make().fit(np.random.default_rng(0).random((12, 3, 3)))
