from __future__ import annotations

import pytest
import torch
from autoencoder_cases import ENOUGH, EPOCHS, SMALL, blobs, broken_run_goes_on
from sklearn.utils.estimator_checks import parametrize_with_checks

from subspan._random import generator
from subspan._validation import check_samples
from subspan.centroids import nearest
from subspan.errors import DivergenceError, InvalidInputError
from subspan.methods.dcn import DCN, FIRST_COUNT, CountedCenters, running_means
from subspan.metrics import ari

TINY = {"encoder_options": {"hidden": [4]}, "n_init": 1}


@parametrize_with_checks([DCN(2, **TINY, epochs={"layers": 1, "autoencoder": 1, "clustering": 1})])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def dcn(k=3, clustering=4, **options):
    return DCN(k, **(SMALL | {"epochs": EPOCHS | {"clustering": clustering}} | options))


@pytest.mark.parametrize(("k", "seed"), [(3, 0), (5, 1)])
def test_planted_clusters_are_found(k, seed):
    X, y = blobs(k, seed=seed)
    assert ari(y, dcn(k, random_state=seed, **ENOUGH).fit(X).labels_) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_centres_move_as_if_codes_came_one_after_the_other(seed):
    gen = generator(seed)
    k, d, b = 5, 3, 40
    M, Z = torch.randn(k, d, generator=gen).double(), torch.randn(b, d, generator=gen).double()
    counts = torch.randint(0, 9, (k,), generator=gen).double() + 1
    labels = torch.randint(0, k - 1, (b,), generator=gen)  # the last cluster receives nothing
    slow, c = M.clone(), counts.clone()
    for z, j in zip(Z, labels, strict=True):
        c[j] += 1
        slow[j] = slow[j] - (slow[j] - z) / c[j]
    fast, received = running_means(M, counts, Z, labels)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(received, c)
    assert torch.equal(fast[-1], M[-1])


def test_received_codes_go_to_the_nearest_centre():
    gen = generator(1)
    centers = CountedCenters(4, 2)
    with torch.no_grad():
        centers.weight.copy_(torch.randn(4, 2, generator=gen))
    Z = torch.randn(30, 2, generator=gen)
    labels = nearest(Z, centers.weight)
    expected, counts = running_means(centers.weight, centers.counts, Z, labels)
    centers.receive(Z)
    assert torch.equal(centers.weight, expected)
    assert torch.equal(centers.counts, counts)
    assert float(centers.counts.sum()) == 4 * FIRST_COUNT + 30


def test_with_a_resting_network_centres_are_means_weighted_by_counts():
    """Every sample is received once per epoch, in any order."""
    X, _ = blobs()
    model = dcn(clustering=0).fit(X)
    samples = check_samples(X).with_scaling(model.scaling_)
    centers = model._make_centers(4)
    phase = model._clustering(samples, model.encoder_, centers)[0]
    M = model.centers_ + 0.1  # not the means that k-means found
    centers.weight.copy_(M)
    phase.start()
    for batch in phase.batches(len(X), generator(0)):
        assert len(list(phase.losses(batch, generator(0), 0.0))) == 1
    Z = torch.from_numpy(model.transform(X)).double()
    for j in range(3):
        mine = Z[phase.labels == j]
        expected = (FIRST_COUNT * M[j].double() + mine.sum(0)) / (FIRST_COUNT + len(mine))
        torch.testing.assert_close(centers.weight[j].double(), expected, rtol=1e-4, atol=1e-5)


def test_changed_labels_are_counted():
    X, _ = blobs(noise=2.0)
    options = {"learning_rates": {"clustering": 1e-2}, "lam": 20.0}
    start, end = dcn(clustering=0, **options).fit(X), dcn(clustering=1, **options).fit(X)
    changed = (start.labels_ != end.labels_).mean()
    assert changed > 0
    assert end.history_[-1]["changed"] == pytest.approx(changed)


def test_without_the_k_means_term_it_is_the_auto_encoder():
    X, _ = blobs(noise=1.5)
    start, end = dcn(clustering=0, lam=0.0).fit(X), dcn(clustering=3, lam=0.0).fit(X)
    encoder = start.encoder_
    x = torch.from_numpy(start.scaling_.apply(X))
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-4)
    for epoch in range(3):
        gen = generator(start.seed_, 4, 0, epoch)  # after three layers and the auto-encoder
        for batch in torch.randperm(180, generator=gen).tensor_split(4):
            optimizer.zero_grad()
            ((encoder(x[batch])[1] - x[batch]).square().sum() / len(batch)).backward()
            optimizer.step()
    for key, value in end.encoder_.state_dict().items():
        torch.testing.assert_close(encoder.state_dict()[key], value, rtol=1e-3, atol=1e-5)


def test_codes_gather_around_their_centres():
    X, _ = blobs(noise=1.5)

    def spread(lam):
        model = dcn(lam=lam, clustering=30, learning_rates={"clustering": 1e-2}).fit(X)
        Z = torch.from_numpy(model.transform(X))
        within = (Z - model.centers_[torch.from_numpy(model.labels_)]).square().sum()
        return float(within / (Z - Z.mean(0)).square().sum())

    assert spread(20.0) < 0.7 * spread(0.0)


def test_it_stops_when_labels_settle_if_asked():
    X, _ = blobs()
    assert dcn().fit(X).stop_reason_ == "completed"
    assert dcn(tolerance=0.01).fit(X).stop_reason_.startswith("settled")


def test_broken_run_goes_on(tmp_path, monkeypatch):
    """Counts are part of the state."""
    broken_run_goes_on(lambda **o: dcn(**o), blobs(noise=1.5)[0], tmp_path, monkeypatch, ("autoencoder", "clustering"))


def test_bad_settings_are_named():
    X, _ = blobs()
    with pytest.raises(DivergenceError):
        dcn(learning_rates={"clustering": 1e30}).fit(X)
    with pytest.raises(InvalidInputError, match="lam is -1"):
        dcn(lam=-1).fit(X)
