"""Choice of codes and gamma without labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import normalize

from coincidences import coincidences
from subspan._validation import check_samples
from subspan.encoders import IdentityEncoder
from subspan.methods._ncsc_plan import fixed_encoders
from subspan.neighbours import GlobalSelfExpression
from subspan.pairs import Pairs
from subspan.pretraining import encode, encode_each
from subspan.scattering import Scattering2D
from subspan.selection import (
    FACTOR,
    GAMMAS,
    LANDMARKS,
    Coefficients,
    Graph,
    _halves,
    association,
    choose_encoder,
    choose_expression,
    choose_graph,
)

NAMES = ["scattering", "plain-scattering", "identity", "whitened-3", "whitened-6", "whitened-9"]


def graph(weights):
    i, j = weights.nonzero(as_tuple=True)
    return Pairs.from_entries(i, j, weights[i, j], len(weights))


def test_separate_clusters_have_association_one():
    weights = torch.block_diag(*[torch.ones(5, 5)] * 3)
    assert association(graph(weights), 3) == pytest.approx(1)
    assert association(graph(weights), 4) < 0.8  # a fourth cluster must cut one of them


def test_association_is_the_mean_of_the_largest_eigenvalues():
    weights = torch.rand(30, 30, generator=torch.Generator().manual_seed(0)) ** 4
    A = (weights + weights.T) / 2
    values = torch.linalg.eigvalsh(A / (A.sum(0).sqrt()[:, None] * A.sum(0).sqrt()))
    assert association(graph(weights), 4) == pytest.approx(float(values[-4:].mean()), abs=1e-5)


def test_association_bounds_every_partition():
    """Ky Fan: no labels keep a larger share of their edges."""
    gen = torch.Generator().manual_seed(1)
    weights = torch.rand(20, 20, generator=gen) ** 3
    A, bound = (weights + weights.T) / 2, association(graph(weights), 3)
    for _ in range(50):
        H = torch.nn.functional.one_hot(torch.randperm(20, generator=gen) % 3, 3).float()
        assert float(((H.T @ A @ H).diagonal() / (A.sum(1) @ H)).mean()) <= bound + 1e-6


def test_gamma_is_one_with_right_neighbours():
    """On handwritten digits precision goes from .87 to .96 with gamma; the choice is made without the labels."""
    X, y = load_digits(return_X_y=True)
    Z, y = normalize(torch.from_numpy(X - X.mean(0)).float(), dim=1), torch.from_numpy(y)
    found = {g: GlobalSelfExpression(g).fit(Z).neighbours(Z, 10).index for g in GAMMAS}
    precision = {g: float((y[index] == y[:, None]).float().mean()) for g, index in found.items()}
    gamma, positive, value = choose_expression(Z, 10, 10)
    assert not positive
    assert value == max(choose_expression(Z, 10, 10, gamma=g).association for g in GAMMAS)
    assert precision[gamma] > max(precision.values()) - 0.01
    assert precision[gamma] > min(precision.values()) + 0.05


def opposites(n=300, apart=2.0):
    """Two wide clusters, one on either side of their mean."""
    y = torch.arange(n) % 2
    X = torch.randn(n, 10, generator=torch.Generator().manual_seed(0)) + apart * torch.where(y == 1, 1.0, -1.0)[:, None]
    return normalize(X - X.mean(0), dim=1), y


def test_opposite_clusters_are_told_apart_by_the_sign_of_coefficients():
    Z, y = opposites()
    found = choose_expression(Z, 2, 10)
    assert found.positive
    index = GlobalSelfExpression(found.gamma, positive=True).fit(Z).neighbours(Z, 10).index
    assert float((y[index] == y[:, None]).float().mean()) > 0.99
    assert choose_graph(Z, 2, 10).positive
    given = choose_expression(Z, 2, 10, positive=False)
    assert not given.positive
    assert given.association < found.association


def test_a_given_gamma_is_kept_and_the_sign_is_chosen_for_it():
    Z, _ = opposites()
    assert choose_expression(Z, 2, 10, gamma=3.0)[:2] == (3.0, True)
    assert choose_expression(Z, 2, 10, gamma=3.0, positive=False)[:2] == (3.0, False)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("k", [2, 4])
def test_lines_through_the_mean_are_not_halved(k, noise):
    """Their halves are clear clusters, even joined by a few edges, but 2 k of them."""
    gen = torch.Generator().manual_seed(0)
    lines = torch.linalg.qr(torch.randn(20, k, generator=gen))[0].T
    X = torch.randn(100 * k, 1, generator=gen) * lines[torch.arange(100 * k) % k]
    X = X + noise * torch.randn(100 * k, 20, generator=gen)
    Z = normalize(X - X.mean(0), dim=1)
    assert not choose_expression(Z, k, 10).positive
    assert choose_expression(Z, k, 10, positive=True).association > 0.97


@pytest.mark.parametrize(
    ("within", "across", "halved"),
    [(0.02, 0.01, True), (0.2, 0.01, False), (0.2, 0.2, True), (1.0, 0.01, False)],
)
def test_halves_are_twice_as_many_clusters(within, across, halved):
    """Four tight groups of 20 in two pairs; weights of the edges between the groups of a pair, and between pairs."""
    weights = torch.full((80, 80), across)
    for pair in (slice(0, 40), slice(40, 80)):
        weights[pair, pair] = within
    for first in range(0, 80, 20):
        weights[first : first + 20, first : first + 20] = 1.0
    assert _halves(graph(weights), 2) == halved


@pytest.mark.parametrize(("share", "tried"), [(0.0005, False), (0.002, True)])
def test_signs_are_compared_where_some_neighbours_are_negative(monkeypatch, share, tried):
    Z, _ = opposites()
    seen, plain = [], GlobalSelfExpression.neighbours

    def neighbours(self, *arguments, **options):
        seen.append(self.positive)
        return replace(plain(self, *arguments, **options), negative=share)

    monkeypatch.setattr(GlobalSelfExpression, "neighbours", neighbours)
    assert choose_expression(Z, 2, 10).positive == tried
    assert seen == [False] * 4 + [True] * (4 if tried else 0)


@pytest.mark.parametrize(("association_of_positive", "chosen"), [(0.96, False), (0.98, True)])
def test_signs_count_only_where_clusters_are_far_clearer(monkeypatch, association_of_positive, chosen):
    """With all coefficients 0.05 is left open."""
    Z, _ = opposites()
    signs, plain = [], GlobalSelfExpression.neighbours
    monkeypatch.setattr(
        GlobalSelfExpression, "neighbours", lambda self, *a, **o: signs.append(self.positive) or plain(self, *a, **o)
    )
    monkeypatch.setattr(
        "subspan.selection.association", lambda pairs, k: association_of_positive if signs[-1] else 0.95
    )
    assert choose_expression(Z, 2, 10).positive == chosen


def test_near_neighbours_that_share_a_coincidence_are_not_believed(monkeypatch):
    X, y = coincidences()
    Z, y = normalize(torch.from_numpy(X - X.mean(0)), dim=1), torch.from_numpy(y)
    assert choose_expression(Z, 6, 10).gamma == 0.1
    found = choose_graph(Z, 6, 10)
    assert (found.gamma, found.m) == (100.0, 100)
    assert len(found.among) == min(1200, LANDMARKS)

    def precision(gamma, m, positive=False, among=None):
        index = GlobalSelfExpression(gamma, positive).fit(Z).neighbours(Z, m, among=among).index
        return float((y[index] == y[:, None]).float().mean())

    assert precision(0.1, 10) < 0.5 < 0.9 < precision(*found)
    monkeypatch.setattr("subspan.selection.PAIRS", 1200 * 25)  # of many samples memory allows fewer
    assert choose_graph(Z, 6, 10).m == 25


def test_near_neighbours_are_believed_where_the_scales_agree():
    X, _ = load_digits(return_X_y=True)
    Z = normalize(torch.from_numpy(X - X.mean(0)).float(), dim=1)
    near, far = choose_expression(Z, 10, 10).gamma, choose_expression(Z, 10, 89).gamma
    assert max(near, far) < FACTOR * min(near, far)
    assert choose_graph(Z, 10, 10) == Graph(near, 10)


@pytest.mark.parametrize(("far", "believed"), [(9.0, True), (100.0, False)])
def test_near_neighbours_are_doubted_only_where_gamma_differs_much(monkeypatch, far, believed):
    """The samples are those whose near neighbours mislead."""
    X, _ = coincidences()
    Z = normalize(torch.from_numpy(X - X.mean(0)), dim=1)
    choices = {10: Coefficients(0.1, False, 1.0), 100: Coefficients(far, False, 1.0)}
    monkeypatch.setattr("subspan.selection.choose_expression", lambda Z, k, m, positive: choices[m])
    assert (choose_graph(Z, 6, 10).among is None) == believed


def test_near_neighbours_are_believed_where_their_clusters_are_some_at_the_other_scale(monkeypatch):
    """gamma is said to differ by a factor of a hundred, but the clusters are the same."""
    X = np.random.default_rng(0).standard_normal((300, 10)) + 8 * np.eye(10)[np.arange(300) % 3]
    Z = normalize(torch.from_numpy(X - X.mean(0)).float(), dim=1)
    choices = {10: Coefficients(1.0, False, 1.0), 50: Coefficients(100.0, False, 1.0)}
    monkeypatch.setattr("subspan.selection.choose_expression", lambda Z, k, m, positive: choices[m])
    assert choose_graph(Z, 3, 10) == Graph(1.0, 10)


def test_few_samples_of_a_cluster_have_no_other_scale():
    X, _ = coincidences(n=90)
    Z = normalize(torch.from_numpy(X - X.mean(0)), dim=1)
    found = choose_expression(Z, 6, 7)
    assert choose_graph(Z, 6, 7) == Graph(found.gamma, 7, found.positive)


def test_scattering_is_chosen_for_digits():
    samples = check_samples(load_digits().images)
    name, scores = choose_encoder(samples, fixed_encoders(samples.shape, samples.n, 10), 10, 10, torch.device("cpu"))
    assert list(scores) == NAMES
    assert name == "scattering"


def test_encoders_are_compared_by_the_coefficients_that_will_count(monkeypatch):
    samples, seen = check_samples(load_digits().images[:100]), []
    monkeypatch.setattr(
        "subspan.selection.choose_expression",
        lambda Z, k, m, gamma, positive: seen.append((gamma, positive)) or Coefficients(1.0, bool(positive), 0.5),
    )
    for positive in (True, False):
        encoders = fixed_encoders(samples.shape, samples.n, 10)
        choose_encoder(samples, encoders, 10, 5, torch.device("cpu"), positive)
    assert seen == [(gamma, positive) for positive in (True, False) for gamma in [None] * 3 + [100.0] * 3]


def test_scattering_is_computed_once_for_all_encoders(monkeypatch):
    samples = check_samples(load_digits().images[:200])
    encoders, seen = fixed_encoders(samples.shape, samples.n, 10), []
    others = fixed_encoders(samples.shape, samples.n, 10)
    alone = {name: encode(samples, encoder, torch.device("cpu")) for name, encoder in others.items()}
    plain = Scattering2D.scales
    monkeypatch.setattr(Scattering2D, "scales", lambda self, x: seen.append(len(x)) or plain(self, x))
    together = dict(encode_each(samples, encoders, torch.device("cpu")))
    assert sum(seen) == 200
    assert list(together) == list(encoders) == NAMES
    for name in NAMES[:3]:
        assert torch.equal(together[name], alone[name])
    assert not torch.allclose(together["scattering"], together["plain-scattering"], atol=1e-2)


def test_pixels_are_chosen_for_subspaces_of_images():
    """Mixtures of noise patterns: linear in the pixels, and of one texture."""
    rng = np.random.default_rng(0)
    bases, y = rng.normal(size=(8, 6, 16, 16)), np.repeat(np.arange(8), 40)
    samples = check_samples(np.einsum("nd,ndhw->nhw", rng.normal(size=(320, 6)), bases[y]))
    encoders = fixed_encoders(samples.shape, samples.n, 8)
    name, scores = choose_encoder(samples, encoders, 8, 5, torch.device("cpu"))
    assert name in ("identity", "whitened-6")
    assert min(scores["identity"], scores["whitened-6"]) > 0.999
    assert max(scores["scattering"], scores["plain-scattering"]) < 0.999
    assert scores["whitened-3"] < 0.999  # too few


def test_large_images_are_not_compared_by_pixels():
    assert list(fixed_encoders((3, 64, 64), 100, 5)) == NAMES[:2]
    assert isinstance(fixed_encoders((3, 32, 32), 100, 5)["identity"], IdentityEncoder)
