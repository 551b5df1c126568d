from __future__ import annotations

import numpy as np
import pytest
import torch
from autoencoder_cases import ENOUGH, EPOCHS, SMALL, blobs, broken_run_goes_on
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan._random import generator
from subspan.errors import DivergenceError, InvalidInputError
from subspan.methods._autoencoded import Centers
from subspan.methods.dcn import DCNPhase
from subspan.methods.dec import DEC
from subspan.methods.idec import IDEC, IDECPhase
from subspan.metrics import ari

TINY = {"encoder_options": {"hidden": [4]}, "n_init": 1, "update_interval": 2}


@parametrize_with_checks([IDEC(2, **TINY, epochs={"layers": 1, "autoencoder": 1, "clustering": 1})])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def idec(k=3, clustering=4, cls=IDEC, **options):
    epochs = EPOCHS | {"clustering": clustering}
    return cls(k, **(SMALL | {"epochs": epochs, "update_interval": 10, "tolerance": 0.0} | options))


@pytest.mark.parametrize(("k", "seed"), [(3, 0), (5, 1)])
def test_planted_clusters_are_found(k, seed):
    X, y = blobs(k, seed=seed)
    assert ari(y, idec(k, random_state=seed, **ENOUGH).fit(X).labels_) == 1.0


def test_without_the_clustering_loss_it_is_the_auto_encoder():
    """gamma = 0: the network goes on as a plain auto-encoder would, and the centres stay where k-means put them."""
    X, _ = blobs(noise=1.5)
    start, end = idec(clustering=0, gamma=0.0).fit(X), idec(clustering=3, gamma=0.0).fit(X)
    assert torch.equal(start.centers_, end.centers_)
    encoder = start.encoder_
    x = torch.from_numpy(start.scaling_.apply(X))
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-3)
    for epoch in range(3):
        gen = generator(start.seed_, 4, 0, epoch)  # after three layers and the auto-encoder
        orders = [torch.randperm(180, generator=gen) for _ in range(3)]
        for batch in [b for order in orders for b in order.tensor_split(4)][:10]:
            optimizer.zero_grad()
            (encoder(x[batch])[1] - x[batch]).square().mean().backward()
            optimizer.step()
    for key, value in end.encoder_.state_dict().items():
        torch.testing.assert_close(encoder.state_dict()[key], value, rtol=1e-3, atol=1e-5)


def test_the_decoder_goes_on_decoding():
    """Against DEC at the same rate: the reconstruction survives the clustering."""
    X, _ = blobs(noise=1.5)
    options = {"clustering": 30, "learning_rates": {"clustering": 1e-2}}
    errors = []
    for cls in (IDEC, DEC):
        model = idec(cls=cls, **options).fit(X)
        x = torch.from_numpy(model.scaling_.apply(X))
        errors.append(float((model.encoder_(x)[1].detach() - x).square().mean()))
    assert errors[0] < 0.8 * errors[1]


def test_a_larger_gamma_makes_sharper_clusters():
    X, _ = blobs(noise=1.5)
    sharp = [idec(gamma=g, clustering=10).fit(X).predict_proba(X).max(1).mean() for g in (0.0, 0.1, 10.0)]
    assert sharp[2] > sharp[0] + 0.05
    assert sharp[2] > sharp[1]


def test_terms_are_logged():
    record = idec().fit(blobs()[0]).history_[-1]
    assert {"reconstruction", "kl", "changed", "live_clusters"} <= set(record)


def test_broken_run_goes_on(tmp_path, monkeypatch):
    broken_run_goes_on(lambda **o: idec(**o), blobs(noise=1.5)[0], tmp_path, monkeypatch, ("clustering",))


def test_bad_settings_are_named():
    X, _ = blobs()
    with pytest.raises(DivergenceError):
        idec(learning_rates={"clustering": 1e30}).fit(X)
    with pytest.raises(InvalidInputError, match="gamma is -1"):
        idec(gamma=-1).fit(X)
    assert np.isfinite(idec(gamma=1e6).fit(X).transform(X)).all()


@pytest.mark.parametrize("phase", [IDECPhase, DCNPhase])
def test_a_cluster_of_hardly_any_samples_is_not_live(phase):
    """As in every other method: below a hundredth of an equal share."""
    one = object.__new__(phase)
    one.labels, one.centers = torch.tensor([0] * 599 + [1] * 400 + [2]), Centers(3, 2)
    one.refresh = one.start = lambda: None
    assert one.monitor() == {"changed": 0.0, "live_clusters": 2}
