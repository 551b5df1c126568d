"""Planted problems with known answers, and the laws that every network-free self-expressive method obeys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from subspan.base import load
from subspan.errors import InvalidInputError, ResourceError
from subspan.metrics import ari
from subspan.postprocessing import coefficient_affinity


def planted(seed, k=3, dim=2, p=60, m=15, noise=0.0):
    """Samples (k m, p) of k random subspaces, independent when k dim <= p, and a function that draws more of them."""
    rng = np.random.default_rng(seed)
    bases = [np.linalg.qr(rng.normal(size=(p, dim)))[0].T for _ in range(k)]

    def draw(m):
        X = np.vstack([rng.normal(size=(m, dim)) @ basis for basis in bases])
        return X + noise * rng.normal(size=X.shape), np.repeat(np.arange(k), m)

    return *draw(m), draw


class SelfExpressiveLaws:
    """Inherit and set ``estimator``; ``options`` are those under which a planted problem has an exact answer."""

    estimator: type
    options: dict = {}  # noqa: RUF012
    exact: dict = {}  # noqa: RUF012  # further options under which no coefficient crosses subspaces
    leak = 1e-12  # what may cross, relative to the largest coefficient

    def make(self, n_clusters=3, **options):
        return self.estimator(**{"n_clusters": n_clusters, "random_state": 0, **self.options, **options})

    @pytest.mark.parametrize(("seed", "k", "dim", "m"), [(0, 3, 3, 30), (1, 2, 4, 30), (2, 4, 4, 40), (3, 5, 3, 40)])
    def test_independent_subspaces_are_found_exactly(self, seed, k, dim, m):
        X, y, draw = planted(seed, k, dim, m=m)
        order = np.random.default_rng(seed).permutation(len(X))
        model = self.make(k, **self.exact).fit(X[order])
        assert ari(y[order], model.labels_) == 1.0
        C = model.coefficients_
        C = np.abs(C if isinstance(C, np.ndarray) else C.toarray())
        across = C[y[order][:, None] != y[order]]
        assert across.max() <= self.leak * C.max()  # no sample is expressed by another subspace
        # new samples of the same subspaces, and the training samples, go where their subspace went
        new, y_new = draw(10)
        assert ari(np.r_[y[order], y_new], np.r_[model.labels_, model.predict(new)]) == 1.0
        np.testing.assert_array_equal(model.predict(X[order]), model.labels_)

    def test_labels_are_not_what_k_means_would_say(self):
        # antipodal halves of each line of samples: distances mislead, subspaces do not
        X, y, _ = planted(4, k=3, dim=1, m=16)
        assert ari(y, self.make().fit(X).labels_) == 1.0

    def test_same_seed_same_labels_and_nothing_else_is_touched(self):
        X, y, _ = planted(5, noise=0.3)
        kept = X.copy()
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        first = self.make(random_state=7, **self.exact).fit(X)
        second = self.make(random_state=7, **self.exact).fit(X, np.random.default_rng(0).permutation(y))
        after = np.random.get_state()[1], torch.get_rng_state()  # noqa: NPY002
        np.testing.assert_array_equal(first.labels_, second.labels_)
        np.testing.assert_array_equal(first.transform(X), second.transform(X))
        np.testing.assert_array_equal(before[0], after[0])
        assert torch.equal(before[1], after[1])
        np.testing.assert_array_equal(X, kept)

    def test_a_loaded_model_predicts_the_same_bits(self, tmp_path):
        X, _, draw = planted(6, noise=0.1)
        model = self.make().fit(X)
        new, _ = draw(7)
        model.save(tmp_path)
        again = load(tmp_path)
        np.testing.assert_array_equal(again.predict(new), model.predict(new))
        np.testing.assert_array_equal(again.transform(new), model.transform(new))
        np.testing.assert_array_equal(again.labels_, model.labels_)
        assert again.get_params() == model.get_params()
        assert again.stop_reason_ == model.stop_reason_

    def test_transform_is_the_distance_to_each_cluster(self):
        X, _, _ = planted(7, dim=3, m=30)
        model = self.make().fit(X)
        distances = model.transform(X)
        own = distances[np.arange(len(X)), model.labels_]
        assert distances.shape == (len(X), 3)
        assert own.max() < 0.2
        assert np.sort(distances, axis=1)[:, 1].min() > 2 * own.max()

    def test_a_subset_is_fitted_and_the_rest_predicted(self):
        X, y, _ = planted(8, k=3, dim=3, m=40)
        model = self.make(max_samples=60).fit(X)
        assert len(np.unique(model.sample_indices_)) == 60
        assert model.coefficients_.shape == (60, 60)
        assert ari(y, model.labels_) == 1.0
        other = self.make(max_samples=60, random_state=1).fit(X)
        assert not np.array_equal(other.sample_indices_, model.sample_indices_)

    def test_too_little_memory_is_refused_with_the_size_that_fits(self):
        X, _, _ = planted(9, m=60)
        needed = self.make().estimate_resources(X)["parts"]["fit"]
        model = self.make(memory_limit=needed // 3)
        with pytest.raises(ResourceError, match="max_samples=") as caught:
            model.fit(X)
        assert not hasattr(model, "coefficients_")
        fitting = int(str(caught.value).split("max_samples=")[1].split(")")[0])
        model.set_params(max_samples=fitting).fit(X)
        with pytest.raises(ResourceError):
            model.set_params(max_samples=fitting + 1).fit(X)

    def test_images_are_flattened(self):
        X, _, _ = planted(10)
        flat, images = self.make().fit(X), self.make().fit(X.reshape(len(X), 6, 10))
        np.testing.assert_array_equal(flat.labels_, images.labels_)
        np.testing.assert_allclose(flat.transform(X), images.transform(X.reshape(len(X), 6, 10)), atol=2e-5)

    def test_length_of_samples_does_not_matter_when_they_are_normalised(self):
        X, _, _ = planted(11, dim=3, m=20)
        scale = np.random.default_rng(0).uniform(0.5, 2.0, (len(X), 1))
        assert ari(self.make().fit(X).labels_, self.make().fit(X * scale).labels_) == 1.0
        free = self.make(normalize=False).fit(X), self.make(normalize=False).fit(X * scale)
        assert not np.allclose(free[0].transform(X), free[1].transform(X))

    @pytest.mark.filterwarnings("ignore:Number of distinct clusters")
    @pytest.mark.parametrize(
        "X", [np.eye(9, 1) * np.ones(4), np.eye(9, 1) + np.ones(4), np.repeat(np.eye(3), 3, axis=0)]
    )
    @pytest.mark.filterwarnings("ignore::subspan.errors.IsolationWarning")
    def test_degenerate_data_give_labels_in_range(self, X):
        model = self.make(2).fit(X)
        assert model.labels_.dtype == np.int64
        assert set(model.labels_) <= {0, 1}
        assert np.isfinite(model.transform(X)).all()

    def test_post_processing_is_what_the_options_say(self):
        X, _, _ = planted(12, noise=0.1)
        model = self.make(keep=0.6, subspace_dim=2, power=2.0).fit(X)
        C = model.coefficients_
        steps = coefficient_affinity(C, keep=0.6, scale_rows=model.scale_rows, rank=2 * 3 + 1, power=2.0)
        np.testing.assert_array_equal(model.affinity(), steps)
        raw = self.make(scale_rows=False).fit(X)
        dense = np.abs(C if isinstance(C, np.ndarray) else C.toarray())
        A = raw.affinity()
        np.testing.assert_allclose(A if isinstance(A, np.ndarray) else A.toarray(), (dense + dense.T) / 2, atol=1e-7)

    @pytest.mark.parametrize(
        "bad",
        [
            {"keep": 0.0},
            {"power": -1.0},
            {"subspace_dim": 0},
            {"max_samples": 2},
            {"assign_labels": "discretize"},
            {"predict_ridge": 0.0},
            {"n_clusters": 100},
            {"n_clusters": "3", "max_samples": 30},
            {"n_init": 2.5},
            {"n_init": True},
            {"max_samples": 30.5},
            {"subspace_dim": 1.5},
            {"keep": "a"},
            {"power": "a"},
            {"memory_limit": "4GB"},
        ],
    )
    def test_wrong_parameters_are_named(self, bad):
        X, _, _ = planted(13)
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            self.make(**bad).fit(X)

    def test_a_fit_that_failed_left_no_labels(self, monkeypatch):
        def fails(*_, **__):
            raise MemoryError

        monkeypatch.setattr("subspan.methods._self_expressive.spectral_labels", fails)
        model = self.make()
        with pytest.raises(MemoryError):
            model.fit(planted(0)[0])
        with pytest.raises(NotFittedError):
            model.predict(planted(0)[0])
