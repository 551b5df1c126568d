"""The expected duration of a fit."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ncsc_cases import digits, planted

from subspan import NCSC
from subspan._validation import check_samples
from subspan.methods import _ncsc_time
from subspan.methods._ncsc_classifiers import ClassifierStage
from subspan.methods._ncsc_time import expected_seconds, spoken
from subspan.multiscale import make_scattering


def expected(monkeypatch, model, X):
    """What the preflight line says, and the state of the modules before and after the timing."""
    found = {}

    def wrapped(setting, stages):
        heads = {stage.name: stage.heads for stage in stages if isinstance(stage, ClassifierStage)}
        modules = torch.nn.ModuleDict({"encoder": setting.encoder, **heads})
        before = {name: t.clone() for name, t in modules.state_dict().items()}
        found["seconds"] = expected_seconds(setting, stages)
        assert all(torch.equal(t, before[name]) for name, t in modules.state_dict().items())
        assert all(p.grad is None for p in modules.parameters())
        return found["seconds"]

    monkeypatch.setattr("subspan.methods.ncsc.expected_seconds", wrapped)
    began = time.perf_counter()
    model.set_params(verbose=1).fit(X)
    return found["seconds"], time.perf_counter() - began


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ({}, False),
        ({}, True),
        ({"recipe": "paper", "batch_size": 150}, False),
        ({"recipe": "paper", "encoder": "conv", "batch_size": 150}, True),
        ({"n_starts": 1, "augmentation": {"shift": 0.1}}, True),
    ],
)
def test_expectation_is_of_the_right_order_and_changes_nothing(monkeypatch, capsys, options, images):
    X = digits(300) if images else planted(k=4, n=300)[0]
    epochs = {"autoencoder": 2, "subspace": 1, "starts": 3, "classifier": 3, "settling": 3, "collaboration": 1}
    model = NCSC(4, random_state=0, epochs=epochs, **options)
    said, took = expected(monkeypatch, model, X)
    assert took / 10 < said < 10 * took
    assert f" GB and {spoken(said)}\n" in capsys.readouterr().err


def test_labels_do_not_depend_on_the_preflight_line():
    X = planted(k=4, n=200)[0]
    options = {
        "epochs": {"starts": 2, "classifier": 2, "settling": 1},
        "n_starts": 2,
        "head_width": 32,
        "random_state": 0,
    }
    loud, quiet = (NCSC(4, verbose=v, **options).fit(X).predict_proba(X) for v in (1, 0))
    assert np.array_equal(loud, quiet)


def test_each_part_is_multiplied_as_often_as_it_is_done(monkeypatch):
    """With every part timed as one second: what is expected is a count."""
    seen = {}

    def counted(setting, stages):
        names = ("_encoding", "_reconstruction", "_classifier", "_search", "_self_expression", "_proposals")
        for name in names:
            monkeypatch.setattr(_ncsc_time, name, lambda *_: 0.0)
        for name in names:
            with monkeypatch.context() as patch:
                patch.setattr(_ncsc_time, name, lambda *_: 1.0)
                seen[name] = expected_seconds(setting, stages)
        return 0.0

    monkeypatch.setattr("subspan.methods.ncsc.expected_seconds", counted)
    epochs = {"autoencoder": 2, "subspace": 0, "starts": 2, "classifier": 3, "settling": 4, "collaboration": 1}
    options = {"epochs": epochs, "batch_size": 50, "random_state": 0, "verbose": 1, "encoder": "conv", "n_starts": 2}
    X = digits(200)
    NCSC(4, recipe="paper", **options).fit(X)
    steps = 2 * 50 * 256  # samples of pre-training: at least 50 steps of 256 per epoch
    parts = {"_encoding": 400, "_reconstruction": steps, "_classifier": 9, "_search": 0, "_self_expression": 4 * 13}
    assert seen == parts | {"_proposals": 0}
    NCSC(4, **options).fit(X)
    assert seen == parts | {"_search": 1, "_self_expression": 0, "_proposals": 1}
    NCSC(4, **(options | {"n_starts": "auto"})).fit(X)
    assert seen == parts | {"_search": 1, "_self_expression": 0, "_proposals": 1, "_classifier": 7}


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.01, "1 s"), (42.3, "42 s"), (89, "89 s"), (150, "2 min"), (7200, "120 min")]
)
def test_durations_in_words(seconds, words):
    assert spoken(seconds) == words


def test_an_encoder_is_fitted_once_and_what_is_timed_is_encoding(monkeypatch):
    samples = check_samples(digits(60))
    encoder = make_scattering(samples.shape, samples.n)
    fits, fit = [], type(encoder).fit_encode
    monkeypatch.setattr(type(encoder), "fit_encode", lambda self, batches: fits.append(1) or fit(self, batches))
    setting = SimpleNamespace(samples=samples, encoder=encoder, device=torch.device("cpu"))
    assert _ncsc_time._encoding(setting) > 0
    assert len(fits) == 1
