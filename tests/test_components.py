"""Principal components as codes: what they keep, and when the default takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

from subspan import NCSC, accuracy, components, load, pretraining, principal
from subspan._validation import check_samples
from subspan.components import PrincipalComponents, make_components
from subspan.errors import InvalidInputError
from subspan.pretraining import restore_encoder
from subspan.self_expression import closed_form_coefficients, ridge_weight


def rows(n=60, p=200, rank=None, seed=0):
    gen = torch.Generator().manual_seed(seed)
    X = torch.randn(n, rank or p, generator=gen) @ torch.randn(rank or p, p, generator=gen) / 10
    return X + 3


def test_codes_are_those_of_scikit_learn():
    x = rows(300, 30)
    encoder = PrincipalComponents((30,), 7)
    codes = encoder.fit_encode(x.split(64))
    expected = PCA(7, svd_solver="full").fit_transform(x.double().numpy())
    np.testing.assert_allclose(np.abs(codes.numpy()), np.abs(expected), atol=1e-4)
    torch.testing.assert_close(encoder.encode(x), codes)


@pytest.mark.parametrize("route", ["rows", "sketch"])
def test_few_samples_lose_nothing(route, monkeypatch):
    """Codes of n - 1 numbers hold all inner products, and so the same self-expression."""
    if route == "sketch":  # the rows do not fit, but their directions do
        monkeypatch.setattr(principal, "MAX_ROWS", 80)
        monkeypatch.setattr(principal, "MAX_EXACT", 100)
        monkeypatch.setattr(components, "MOST", 20)
    x = rows(120 if route == "sketch" else 60, rank=15 if route == "sketch" else None)
    encoder = make_components((200,), len(x))
    codes = encoder.fit_encode(x.split(50))
    centred = x - x.mean(0)
    assert encoder.n_codes == (20 if route == "sketch" else 59)
    torch.testing.assert_close(codes @ codes.T, centred @ centred.T, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(encoder.decode(codes), x, rtol=1e-3, atol=1e-3)
    rho = ridge_weight(codes, 1.0)
    ours, theirs = (closed_form_coefficients(Z, rho) for Z in (codes, centred))
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)


def test_a_copy_from_its_configuration_gives_equal_bits():
    x = rows()
    encoder = make_components((200,), 60, n_components=4)
    encoder.fit_encode([x])
    copy = restore_encoder(**encoder.config())
    copy.load_state_dict(encoder.state_dict())
    assert torch.equal(copy.encode(x), encoder.encode(x))


def test_more_samples_than_the_encoder_is_fitted_to_all_have_codes(monkeypatch):
    monkeypatch.setattr(pretraining, "FITTED", 30)
    encoder = make_components((200,), 60)
    codes = pretraining.encode(check_samples(rows().numpy()), encoder, torch.device("cpu"))
    assert int(encoder.n_seen) == 30
    torch.testing.assert_close(codes, encoder.encode(rows()), rtol=1e-4, atol=1e-4)


def long_vectors(k=3, each=30, p=1100):
    """Subspaces of dimension 3 with some noise, and one offset for all."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(k), each)
    bases = rng.normal(size=(k, 3, p)) / np.sqrt(p)
    X = np.einsum("nd,ndp->np", rng.normal(size=(len(y), 3)), bases[y])
    return X + 0.1 / np.sqrt(p) * rng.normal(size=X.shape) + 2, y


def test_long_vectors_are_rotated_by_default_and_the_model_is_saved(tmp_path):
    X, y = long_vectors()
    model = NCSC(3, random_state=0, epochs={"settling": 2}).fit(X)
    assert model.encoder_.name == "pca"
    assert model.transform(X).shape == (90, 89)
    assert accuracy(y, model.labels_) > 0.95
    model.save(tmp_path)
    assert np.array_equal(load(tmp_path).predict(X), model.predict(X))
    assert NCSC(3).resolved_parameters(X)["encoder"] == "pca"
    assert NCSC(3).resolved_parameters(X[:, :1024])["encoder"] == "identity"


def test_expected_memory_of_long_vectors():
    """Of few samples next to nothing; where the rows cannot be held, what is followed of them."""
    few, many = (np.broadcast_to(np.float32(1), (n, 20_000)) for n in (100, 50_000))
    expected = [sum(NCSC(2).estimate_resources(X)["parts"].values()) for X in (few, many)]
    assert expected[0] < 6e8
    assert 2e9 < expected[1] < 5e9
    assert NCSC(2).estimate_resources(few)["n_codes"] == 99


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_components": 0}, "give an integer of at least 1"),
        ({"n_components": "a"}, "give an integer of at least 1"),
        ({"n_components": 1101}, "at most 1100"),
        ({"width": 3}, "has no option 'width'"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(InvalidInputError, match=words):
        NCSC(3, encoder_options=options).fit(long_vectors()[0])


@pytest.mark.parametrize("options", [{"angles": 4}, {"J": "x"}, {"n_components": 0.5}])
def test_wrong_options_of_scattering_are_named(options):
    with pytest.raises(InvalidInputError, match=r"has no option|give an integer"):
        NCSC(2, encoder="scattering", encoder_options=options).fit(np.random.default_rng(0).random((20, 8, 8)))


def test_errors():
    with pytest.raises(NotFittedError):
        PrincipalComponents((5,), 2).encode(torch.zeros(1, 5))
    with pytest.raises(InvalidInputError, match="at least 2 samples"):
        PrincipalComponents((5,), 2).fit_encode([torch.zeros(1, 5)])
