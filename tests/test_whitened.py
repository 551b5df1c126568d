"""Whitened components as codes: what they are, what they know about subspaces, and when the default takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.exceptions import NotFittedError

from subspan import NCSC, accuracy, load
from subspan._validation import check_samples
from subspan.errors import InvalidInputError
from subspan.methods._ncsc_classifiers import ClassifierStage
from subspan.methods._ncsc_plan import fixed_encoders
from subspan.pretraining import encode, encode_each, restore_encoder
from subspan.whitened import WhitenedComponents, make_whitened

CPU = torch.device("cpu")
FAST = {"epochs": {"classifier": 2, "settling": 2}, "head_width": 32, "random_state": 0}


def subspaces(k=4, n=30, dimension=3, p=50, seed=0):
    """Samples of independent linear subspaces through the origin, of different lengths."""
    gen = torch.Generator().manual_seed(seed)
    bases = torch.randn(k, dimension, p, generator=gen)
    X = torch.randn(k, n, dimension, generator=gen) @ bases
    return X.flatten(0, 1), torch.arange(k).repeat_interleave(n)


def lit(k=6, n=40, side=16, seed=0):
    """Noisy images of k matt objects, each under n lights from the front to behind, so that much of it is in shadow."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(k):
        slopes = np.gradient(10 * gaussian_filter(rng.normal(size=(side, side)), 2.5))
        normals = np.stack([-slopes[1], -slopes[0], np.ones((side, side))], axis=-1)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        albedo = 0.5 + gaussian_filter(rng.normal(size=(side, side)), 1.2).clip(-0.4, 0.4)
        lights = rng.normal(size=(n, 3))
        lights[:, 2] = rng.uniform(-0.5, 0.5, size=n)
        lights /= np.linalg.norm(lights, axis=1, keepdims=True)
        images.append(np.maximum(0, normals @ lights.T).transpose(2, 0, 1) * albedo)
    order = rng.permutation(k * n)
    X = np.concatenate(images)[order]
    return (X + 0.08 * rng.normal(size=X.shape)).clip(0).astype(np.float32), np.repeat(np.arange(k), n)[order]


def test_codes_are_unit_rows_of_the_left_singular_vectors():
    X = subspaces()[0] + 2
    encoder = WhitenedComponents((1, 5, 10), 7)
    codes = encoder.fit_encode(X.split(32)).numpy()
    U = np.linalg.svd((X / X.norm(dim=1, keepdim=True)).double().numpy(), full_matrices=False)[0][:, :7]
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    np.testing.assert_allclose(codes @ codes.T, U @ U.T, atol=1e-4)
    torch.testing.assert_close(encoder.encode(X), torch.from_numpy(codes))


def test_samples_of_independent_subspaces_are_orthogonal():
    X, y = subspaces(k=4, dimension=3)
    codes = make_whitened((1, 5, 10), len(X), 4, 3, n_components=12).fit_encode([X])
    strange = y[:, None] != y
    assert float((codes @ codes.T)[strange].abs().max()) < 1e-4
    assert float((X @ X.T)[strange].abs().max()) > 1  # which the samples themselves are not


def test_length_of_a_sample_and_empty_ones_do_not_matter():
    X, _ = subspaces()
    encoder = make_whitened((1, 5, 10), len(X), 4, 3)
    encoder.fit_encode([X])
    torch.testing.assert_close(encoder.encode(X * 7), encoder.encode(X))
    assert float(encoder.encode(torch.zeros(2, 1, 5, 10)).abs().max()) == 0


def test_one_component_for_each_dimension_of_all_clusters_and_one_more():
    assert make_whitened((1, 16, 16), 500, 10, 6).n_codes == 61
    assert make_whitened((1, 16, 16), 40, 10, 6).n_codes == 39
    assert make_whitened((1, 4, 5), 500, 10, 6).n_codes == 20
    assert make_whitened((1, 4, 5), 500, 10, 6, n_components=5).n_codes == 5
    with pytest.raises(InvalidInputError, match="at most 20, the size of a sample"):
        make_whitened((1, 4, 5), 500, 10, 6, n_components=21)


def test_there_are_no_codes_before_fitting_and_no_way_back():
    encoder = WhitenedComponents((1, 5, 10), 7)
    with pytest.raises(NotFittedError, match="fit_encode"):
        encoder.encode(torch.zeros(1, 1, 5, 10))
    with pytest.raises(NotImplementedError, match="'pca'"):
        encoder.decode(torch.zeros(1, 7))


def test_a_copy_from_its_configuration_gives_equal_bits():
    X, _ = subspaces()
    encoder = make_whitened((1, 5, 10), len(X), 4, 3)
    encoder.fit_encode([X])
    copy = restore_encoder(**encoder.config())
    copy.load_state_dict(encoder.state_dict())
    assert isinstance(copy, WhitenedComponents)
    assert torch.equal(copy.encode(X), encoder.encode(X))


def test_shorter_codes_are_cut_from_the_longest():
    samples = check_samples(lit()[0])
    together = dict(encode_each(samples, fixed_encoders(samples.shape, samples.n, 6), CPU))
    for name in ("whitened-3", "whitened-6", "whitened-9"):
        alone = encode(samples, fixed_encoders(samples.shape, samples.n, 6)[name], CPU)
        assert together[name].shape == (240, int(name[-1]) * 6 + 1)
        torch.testing.assert_close(together[name] @ together[name].T, alone @ alone.T, atol=1e-3, rtol=1e-3)


def test_objects_under_changing_light_are_told_apart(tmp_path):
    X, y = lit()
    model = NCSC(6, **FAST).fit(X)
    assert model.encoder_.name == "whitened"
    assert max(model.encoder_scores_, key=model.encoder_scores_.get) == "whitened-3"
    for other in ("identity", "scattering"):
        assert accuracy(y, model.labels_) > accuracy(y, NCSC(6, **FAST, encoder=other).fit(X).labels_) + 0.08
    assert model.gamma_ == 100.0
    assert float(model.center_.abs().max()) == 0
    assert np.array_equal(model.predict(X), model.labels_)
    model.save(tmp_path / "model")
    assert np.array_equal(load(tmp_path / "model").predict(X), model.labels_)


@pytest.mark.parametrize(("options", "n_codes"), [(None, 37), ({"n_components": 12}, 12)])
def test_it_can_be_named_for_images_and_not_for_vectors(options, n_codes):
    X, _ = lit()
    model = NCSC(6, **FAST, encoder="whitened-6", encoder_options=options).fit(X)
    assert model.encoder_.n_codes == n_codes
    assert model.encoder_scores_ == {}
    with pytest.raises(InvalidInputError, match=r"shape \(n, h, w\)"):
        NCSC(6, encoder="whitened-6", encoder_options=options).fit(X.reshape(len(X), -1))


def test_given_parameters_are_kept_and_others_told():
    X, _ = lit()
    model = NCSC(6, **FAST, encoder="whitened-3", gamma=3.0, positive=True).fit(X)
    assert (model.gamma_, model.positive_) == (3.0, True)
    told = NCSC(6, encoder="whitened-3").resolved_parameters(X)
    model = NCSC(6, **FAST, encoder="whitened-3").fit(X)
    assert (told["gamma"], told["n_neighbors"]) == (model.gamma_, model.n_neighbors_) == (100.0, 10)
    assert NCSC(6, encoder="identity").resolved_parameters(X)["gamma"] == "by the data"


def test_black_images_and_copies_are_clustered():
    X, _ = lit()
    X[:9], X[9:20] = 0, X[20]
    model = NCSC(6, **FAST, encoder="whitened-3").fit(X)
    for same in (model.labels_[:9], model.labels_[9:21]):
        assert len(set(same)) == 1
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("recipe", ["global", "paper"])
def test_samples_that_nobody_expresses_well_hardly_count(recipe, monkeypatch):
    """In the global recipe; the paper divides every row by its maximum (Sec. 4)."""
    seen = []
    plain = ClassifierStage.objective
    monkeypatch.setattr(ClassifierStage, "objective", lambda self, p: seen.append(self.pairs.alike) or plain(self, p))
    NCSC(6, **FAST, encoder="whitened-3", recipe=recipe, n_starts=1).fit(lit()[0])
    assert set(seen) == {recipe == "paper"}
