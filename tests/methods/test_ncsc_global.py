"""The recipe "global" of NCSC."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ncsc_cases import digits, planted

from coincidences import coincidences
from subspan import NCSC, evaluate, load
from subspan._validation import check_samples
from subspan.augment import augment
from subspan.encoders import make_encoder
from subspan.errors import InvalidInputError
from subspan.information import UNEVEN, are_groups
from subspan.merging import Consensus
from subspan.methods import _ncsc_stages as stages
from subspan.methods._ncsc_classifiers import ClassifierStage, Worth, head_scores
from subspan.methods._ncsc_global import GlobalSetting, count_neighbours
from subspan.methods._ncsc_plan import SCATTERING, WHITENED
from subspan.methods._ncsc_setting import Setting
from subspan.methods._ncsc_settling import SettlingStage
from subspan.methods._ncsc_stages import CollaborationStage
from subspan.multiscale import MultiScaleScattering
from subspan.neighbours import GlobalSelfExpression
from subspan.proposals import propose
from subspan.self_expression import ClosedFormSelfExpression

KINDS = {"identity": "identity"} | dict.fromkeys(WHITENED, "whitened")
FAST = {"epochs": {"starts": 2, "classifier": 2, "settling": 2}, "head_width": 32, "random_state": 0}
UNSETTLED = FAST | {"epochs": FAST["epochs"] | {"settling": 0}}


def test_solves_planted_subspaces_that_k_means_cannot():
    X, y = planted(k=4, n=400, dim=3)
    model = NCSC(4, **FAST).fit(X)
    assert evaluate(y, model.labels_)["acc"] > 0.97
    assert np.array_equal(model.predict(X), model.labels_)
    assert model.gamma_ in (0.1, 1.0, 10.0, 100.0)


def test_a_sample_is_clustered_and_the_rest_predicted(tmp_path):
    """The way to data larger than memory, here with a memory map on disk."""
    X, y = planted(k=4, n=1200, dim=3)
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = NCSC(4, **FAST).fit(mapped[::3])
    assert evaluate(y, model.predict(mapped))["acc"] > 0.97


def test_images_get_the_codes_with_the_clearest_clusters():
    X = digits(300)
    images = NCSC(10, **FAST).fit(X)
    assert list(images.encoder_scores_) == [*SCATTERING, "identity", *WHITENED]
    best = max(images.encoder_scores_, key=lambda name: images.encoder_scores_[name])
    assert images.encoder_.name == KINDS.get(best, "multiscale-scattering")
    for name in ("scattering", "plain-scattering"):
        named = NCSC(10, **FAST, encoder=name).fit(X)
        assert isinstance(named.encoder_, MultiScaleScattering)
        assert named.encoder_.contrast == (name == "scattering")
        assert named.encoder_scores_ == {}


@pytest.mark.parametrize("name", [*SCATTERING, "identity", *WHITENED])
def test_the_encoder_that_was_chosen_is_used(monkeypatch, name):
    monkeypatch.setattr(
        "subspan.methods.ncsc.choose_encoder", lambda samples, found, *_: (name, dict.fromkeys(found, 0.0))
    )
    encoder = NCSC(10, **FAST).fit(digits(300)).encoder_
    assert encoder.name == KINDS.get(name, "multiscale-scattering")
    assert getattr(encoder, "contrast", None) == SCATTERING.get(name, {}).get("contrast")
    assert name not in WHITENED or encoder.n_codes == min(10 * WHITENED[name] + 1, 64)


def test_vectors_and_tiny_images_stay_as_they_are():
    X = digits(300)
    vectors = NCSC(10, **FAST).fit(X.reshape(300, -1))
    assert vectors.encoder_.name == "identity"
    assert vectors.encoder_scores_ == {}
    tiny = NCSC(2, **FAST).fit(np.random.default_rng(0).integers(0, 9, (30, 4, 4), dtype=np.uint8))
    assert tiny.encoder_.name == "identity"


def test_fixed_codes_serve_the_paper_recipe_too():
    X = digits(120)
    model = NCSC(10, recipe="paper", encoder="scattering", **FAST).fit(X)
    assert isinstance(model.encoder_, MultiScaleScattering)
    assert [record["phase"] for record in model.history_][-1] == "collaboration"
    assert np.array_equal(model.predict(X), model.labels_)


def test_saved_model_predicts_the_same(tmp_path):
    X = digits(120)
    model = NCSC(10, **FAST).fit(X)
    model.save(tmp_path)
    again = load(tmp_path)
    assert np.array_equal(again.predict(X), model.predict(X))
    assert np.array_equal(again.transform(X), model.transform(X))
    assert again.gamma_ == model.gamma_
    for one, other in zip(again.affinities(X, range(20)), model.affinities(X, range(20)), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("encoder", "stage"),
    [("scattering", "classifier"), ("scattering", "settling")]
    + [("conv", stage) for stage in ("classifier", "settling", "collaboration")],
)
def test_resumed_run_ends_as_the_unbroken_one(tmp_path, encoder, stage, monkeypatch):
    """The process dies at the beginning of the last epoch of a stage."""
    X, options = (
        digits(150),
        FAST
        | {"encoder": encoder, "epochs": FAST["epochs"] | {"autoencoder": 1, "collaboration": 2}, "tolerance": 0.0},
    )
    whole = NCSC(10, **options).fit(X)
    kind = CollaborationStage if stage == "collaboration" else ClassifierStage
    plain = kind.batches

    def dying(self, *args):
        if self.name == stage and self.epoch == 1:
            raise RuntimeError("killed")
        return plain(self, *args)

    monkeypatch.setattr(kind, "batches", dying)
    with pytest.raises(RuntimeError, match="killed"):
        NCSC(10, **options, checkpoint_dir=tmp_path).fit(X)
    monkeypatch.undo()
    resumed = NCSC(10, **options, checkpoint_dir=tmp_path, resume=True).fit(X)
    assert np.array_equal(resumed.labels_, whole.labels_)
    assert (resumed.gamma_, resumed.n_neighbors_) == (whole.gamma_, whole.n_neighbors_)
    for (name, a), b in zip(whole.head_.state_dict().items(), resumed.head_.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_trained_codes_are_refined_and_fixed_ones_are_not():
    X = digits(120)
    epochs = FAST["epochs"] | {"autoencoder": 1, "collaboration": 1}
    phases = [record["phase"] for record in NCSC(10, **(FAST | {"epochs": epochs}), encoder="conv").fit(X).history_]
    assert set(phases) == {"autoencoder", "classifier", "settling", "collaboration"}
    phases = [record["phase"] for record in NCSC(10, **(FAST | {"epochs": epochs})).fit(X).history_]
    assert set(phases) == {"classifier", "settling"}


def test_neighbours_are_searched_once_for_resting_codes(monkeypatch):
    calls = []
    plain = GlobalSetting.search
    monkeypatch.setattr(GlobalSetting, "search", lambda self: (calls.append(1), plain(self)))
    NCSC(4, **FAST).fit(planted(k=4, n=200)[0])
    assert len(calls) == 1


def test_gamma_that_is_given_is_kept():
    X, _ = planted(k=3, n=120)
    assert NCSC(3, gamma=3.0, **FAST).fit(X).gamma_ == 3.0


def test_a_finished_run_that_is_resumed_knows_what_it_chose(tmp_path):
    X, _ = coincidences()
    whole = NCSC(6, **FAST, checkpoint_dir=tmp_path).fit(X)
    again = NCSC(6, **FAST, checkpoint_dir=tmp_path, resume=True).fit(X)
    assert np.array_equal(again.labels_, whole.labels_)
    assert (again.gamma_, again.n_neighbors_) == (whole.gamma_, whole.n_neighbors_) == (100.0, 100)


def test_what_was_chosen_is_kept_by_a_stage_that_is_tried_again():
    X, _ = coincidences()
    setting = a_setting(X, 6)
    pairs = setting.positives(0.0, torch.Generator())
    chosen = setting.chosen.values.clone()
    assert chosen.tolist() == [100.0, 100.0, 0.0, 1200.0]
    setting.chosen.values.zero_()  # the state in which the stage began
    assert setting.positives(0.0, torch.Generator()) is pairs
    assert torch.equal(setting.chosen.values, chosen)
    other = a_setting(X, 6, setting.chosen)  # another process
    assert other.layer.gamma == 100.0
    assert torch.equal(other.positives(0.0, torch.Generator()).partners, pairs.partners)


def opposites(n=200, p=12, seed=0):
    """Two wide clusters, one on either side of the mean of all samples."""
    rng, y = np.random.default_rng(seed), np.arange(n) % 2
    return (rng.standard_normal((n, p)) + np.where(y, 2.0, -2.0)[:, None]).astype(np.float32), y


@pytest.mark.parametrize("gamma", ["auto", 10.0])
def test_clusters_on_opposite_sides_of_the_mean_are_not_joined(tmp_path, gamma):
    """Their samples express each other, negatively, which Eq. 4 takes for closeness."""
    X, y = opposites()
    model = NCSC(2, gamma=gamma, **FAST).fit(X)
    assert model.positive_ is True
    assert evaluate(y, model.labels_)["acc"] > 0.97
    sized = NCSC(2, gamma=gamma, positive=False, **FAST).fit(X)
    assert sized.positive_ is False
    assert evaluate(y, sized.labels_)["acc"] < 0.7
    other = y[:40, None] != y[:40]
    assert model.affinities(X, range(40))[0][other].max() < 0.1 < 0.9 < sized.affinities(X, range(40))[0][other].max()
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.positive_ is True
    assert np.array_equal(again.affinities(X, range(40))[0], model.affinities(X, range(40))[0])


def test_subspaces_hold_the_opposites_of_their_samples():
    X, y = planted(k=3, n=240, dim=1, p=20)
    X = X + 0.02 * np.random.default_rng(0).standard_normal(X.shape)
    model = NCSC(3, **FAST).fit(X)
    assert model.positive_ is False
    assert evaluate(y, model.labels_)["acc"] > 0.97


def test_what_negative_coefficients_count_is_kept_by_a_run_that_goes_on(tmp_path):
    X, _ = opposites()
    whole = NCSC(2, **FAST, checkpoint_dir=tmp_path).fit(X)
    again = NCSC(2, **FAST, checkpoint_dir=tmp_path, resume=True).fit(X)
    assert (again.positive_, again.gamma_) == (whole.positive_, whole.gamma_) == (True, whole.gamma_)
    assert np.array_equal(again.affinities(X)[0], whole.affinities(X)[0])


@pytest.mark.parametrize("positive", [True, False])
def test_joint_training_and_batches_count_negative_coefficients_alike(monkeypatch, positive):
    X, y = opposites(n=80)
    seen = []
    plain = stages.subspace_affinity
    monkeypatch.setattr(
        stages, "subspace_affinity", lambda C, **options: seen.append(options["positive"]) or plain(C, **options)
    )
    epochs = FAST["epochs"] | {"collaboration": 1, "autoencoder": 1}
    model = NCSC(2, recipe="paper", encoder="identity", positive=positive, **(FAST | {"epochs": epochs})).fit(X)
    assert (set(seen), model.positive_) == ({positive}, positive)
    setting = replace(a_setting(X, 2), positive=positive, batch_size=80)
    setting.encode_all()
    pairs = Setting.positives(setting, 0.3, torch.Generator())
    wrong = float((y[pairs.rows()] != y[pairs.partners]).mean())
    assert wrong < 0.1 if positive else wrong > 0.3


@pytest.mark.parametrize(("positive", "compared"), [("auto", False), (False, False), (True, True)])
def test_encoders_are_compared_without_a_choice_of_signs(monkeypatch, positive, compared):
    """Left to choose, pixels would be taken for their bright and dark images."""
    seen = []
    monkeypatch.setattr(
        "subspan.methods.ncsc.choose_encoder", lambda samples, found, *rest: seen.append(rest[-1]) or ("identity", {})
    )
    NCSC(10, positive=positive, **UNSETTLED).fit(digits(100))
    assert seen == [compared]


def test_positive_is_a_word_or_a_truth():
    with pytest.raises(InvalidInputError, match="positive is 'some'"):
        NCSC(3, positive="some").fit(np.random.default_rng(0).normal(size=(30, 4)))
    assert NCSC(2, positive=np.True_, **FAST).fit(opposites()[0]).positive_ is True


def a_setting(X, k, *chosen):
    samples = check_samples(X)
    layer, encoder = ClosedFormSelfExpression(2.0), make_encoder("identity", samples.shape, k, torch.Generator())
    setting = GlobalSetting(
        samples, encoder, layer, torch.device("cpu"), k, 10, True, (0.0, 0.0), 0.1, 1, False,
        (1.0, 1.0), None, 0.0, 1.0, n_neighbors=10, open_neighbors=True,
    )  # fmt: skip
    if chosen:
        (setting.chosen,) = chosen
    setting.encode_all()
    return setting


def test_clusters_are_found_where_near_neighbours_are_coincidences(tmp_path):
    """Neighbours are sought further away then, unless their number or gamma is given."""
    X, y = coincidences()
    model = NCSC(6, **FAST).fit(X)
    assert evaluate(y, model.labels_)["acc"] > 0.95
    assert (model.gamma_, model.n_neighbors_) == (100.0, 100)
    model.save(tmp_path / "model")
    assert load(tmp_path / "model").pair_rule() == model.pair_rule()
    near = NCSC(6, n_neighbors=10, **FAST).fit(X)
    assert (near.gamma_, near.n_neighbors_) == (0.1, 10)
    assert evaluate(y, near.labels_)["acc"] < 0.5
    assert NCSC(6, gamma=0.1, **FAST).fit(X).n_neighbors_ == 10


def test_integers_of_numpy_serve_where_clusters_are_small():
    """Then the number of neighbours is computed from n_clusters, and FAISS takes no integers of NumPy."""
    X, _ = planted(k=4, n=60)
    model = NCSC(np.int64(4), **FAST).fit(X)
    assert np.array_equal(model.labels_, NCSC(4, **FAST).fit(X).labels_)
    assert GlobalSelfExpression(1.0).fit(torch.eye(6)).neighbours(torch.eye(6), np.int64(2)).index.shape == (6, 2)


def test_neighbours_follow_the_size_of_clusters():
    assert [count_neighbours(n, k) for n, k in ((70_000, 10), (400, 40), (1440, 20), (640, 40), (2, 2))] == [
        10,
        5,
        10,
        8,
        3,
    ]


def test_learned_coefficients_need_the_paper_recipe():
    with pytest.raises(InvalidInputError, match="recipe='paper'"):
        NCSC(3, self_expression="parameter").fit(np.ones((30, 4)))


@pytest.mark.parametrize("name", ["gamma", "n_neighbors", "u", "balance"])
def test_automatic_values_are_a_word_or_numbers(name):
    with pytest.raises(InvalidInputError, match=name):
        NCSC(3, **{name: "much"}).fit(np.random.default_rng(0).normal(size=(30, 4)))


def test_positives_come_from_all_samples():
    """With as many neighbours as samples the pairs are the dense A_s of the codes."""
    from subspan._validation import check_samples
    from subspan.affinity import subspace_affinity

    X, _ = planted(k=3, n=30, p=12)
    samples = check_samples(X)
    encoder = make_encoder("identity", samples.shape, 3, torch.Generator())
    setting = GlobalSetting(
        samples, encoder, ClosedFormSelfExpression(2.0), torch.device("cpu"), 3, 10, True, (0.0, 0.0), 0.1, 1, False,
        (1.0, 1.0), None, 0.0, 1.0, n_neighbors=29, gamma=2.0,
    )  # fmt: skip
    setting.encode_all()
    assert setting.most_pairs() == 29
    pairs = setting.positives(0.3, torch.Generator())
    Z = setting.normalise(setting.codes).double()
    dense = subspace_affinity(ClosedFormSelfExpression(2.0).coefficients(Z)).fill_diagonal_(0.0)
    found = torch.zeros(30, 30, dtype=torch.float64)
    found[pairs.rows(), pairs.partners] = pairs.weights.double()
    torch.testing.assert_close(found, torch.where(dense > 0.3, dense, 0.0), rtol=1e-3, atol=1e-4)


def worth_of(number):
    return Worth(True, number, number)


@pytest.mark.parametrize("loses", [True, False])
def test_training_that_loses_information_is_not_taken(monkeypatch, loses):
    """Of the classifiers that have just learned, the second is made to know most; then all know less, or all more."""
    kept, plain = {}, ClassifierStage.monitor
    asked = []

    def worth(self, log_p):
        asked.append(log_p)
        if self.epoch == 0:
            return worth_of(1.0 if len(asked) == 2 else 0.5)
        before = torch.equal(log_p, head_scores(self.chosen, self.setting.codes)[0])
        return worth_of(1.0 if before else 2.0 - 1.5 * loses)

    def monitor(self):
        asked.clear()
        record = plain(self)
        if self.name == "classifier":
            kept[self.epoch] = (self.heads.out.detach().clone(), self.best)
        return record

    monkeypatch.setattr(ClassifierStage, "worth", worth)
    monkeypatch.setattr(ClassifierStage, "monitor", monitor)
    model = NCSC(4, **UNSETTLED).fit(planted(k=4, n=200)[0])
    out, best = (kept[0][0], 1) if loses else kept[1]
    assert torch.equal(model.head_.out, out[best : best + 1])


def worth_of_training(loses):
    """Stands for ``ClassifierStage.worth``: candidates tell less after training, or more."""

    def worth(self, log_p):
        if self.name == "settling":
            return worth_of(4.0)
        first = self.epoch == 0 or torch.equal(log_p, head_scores(self.chosen, self.setting.codes)[0])
        return worth_of(1.0 if first else 2.0 - 1.5 * loses)

    return worth


@pytest.mark.parametrize("loses", [True, False])
def test_where_training_loses_information_the_best_labels_are_learned_to_the_end(monkeypatch, loses):
    """Else the chosen classifier settles."""
    stages, plain = [], SettlingStage.start

    def start(self):
        plain(self)
        stages.append(self)

    monkeypatch.setattr(ClassifierStage, "worth", worth_of_training(loses))
    monkeypatch.setattr(SettlingStage, "start", start)
    epochs = FAST["epochs"] | {"settling": 6}
    model = NCSC(4, **(FAST | {"epochs": epochs})).fit(planted(k=4, n=200)[0])
    learned, targets = stages[-1].learned, stages[-1].candidates.targets
    terms = {name for record in model.history_ if record["phase"] == "settling" for name in record}
    assert ("distillation" in terms) == loses
    assert ("L_pos" in terms) != loses
    if loses:
        assert torch.equal(learned, targets[0])
        assert evaluate(learned.numpy(), model.labels_)["acc"] > 0.99
        sizes = torch.bincount(learned, minlength=4) / 200
        torch.testing.assert_close(model.head_.prior[0], sizes)
    else:
        assert learned is None


def test_a_resumed_run_learns_the_best_labels_to_the_end_too(tmp_path, monkeypatch):
    """That training lost information is read from the saved classifiers."""
    X, plain = planted(k=4, n=200)[0], ClassifierStage.batches
    monkeypatch.setattr(ClassifierStage, "worth", worth_of_training(True))
    whole = NCSC(4, **FAST).fit(X)

    def dying(self, *args):
        if self.name == "settling" and self.epoch == 1:
            raise RuntimeError("killed")
        return plain(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierStage, "batches", dying)
        with pytest.raises(RuntimeError, match="killed"):
            NCSC(4, **FAST, checkpoint_dir=tmp_path).fit(X)
    resumed = NCSC(4, **FAST, checkpoint_dir=tmp_path, resume=True).fit(X)
    assert [("distillation" in record) for record in resumed.history_ if record["phase"] == "settling"] == [True, True]
    assert np.array_equal(resumed.predict_proba(X), whole.predict_proba(X))


@pytest.mark.parametrize("limit", [0, 10**6])
def test_spectral_labels_are_one_of_the_proposals_of_small_sets_in_the_recipe_of_the_paper(monkeypatch, limit):
    """What the starts agree on is made useless, so that only the spectral proposal can be right."""
    X, y = planted(k=4, n=200)
    monkeypatch.setattr("subspan.methods._ncsc_classifiers.SPECTRAL", limit)
    monkeypatch.setattr(
        "subspan.methods._ncsc_classifiers.consensus", lambda log_p, *_: Consensus(log_p.new_zeros(5, 200).long(), 0.0)
    )
    seen = []
    start = ClassifierStage.start
    monkeypatch.setattr(ClassifierStage, "start", lambda self: (start(self), seen.append(self.targets)))
    NCSC(4, recipe="paper", u=0.5, n_starts=2, **UNSETTLED).fit(X)
    targets = next(one for one in seen if one is not None)
    assert targets.shape == (6, 200)
    assert (evaluate(y, targets[-1].numpy())["acc"] > 0.97) == (limit > 0)


@pytest.mark.parametrize(
    ("n_starts", "known", "classifiers"), [("auto", False, 6), (0, False, 6), (1, None, 1), (2, True, 6)]
)
def test_proposals_are_searched_for_and_what_starts_agree_on_takes_part(monkeypatch, n_starts, known, classifiers):
    X, y = planted(k=4, n=200)
    asked, learned = [], []

    def seen(pairs, k, gen, limit, compression, found):
        asked.append(len(found))
        return propose(pairs, k, gen, limit, compression, found)

    def monitor(self):
        learned.append((self.name, self.heads.n_starts))
        return plain(self)

    plain = ClassifierStage.monitor
    monkeypatch.setattr("subspan.methods._ncsc_classifiers.propose", seen)
    monkeypatch.setattr(ClassifierStage, "monitor", monitor)
    model = NCSC(4, n_starts=n_starts, **UNSETTLED).fit(X)
    assert [count > 0 for count in asked] == ([] if known is None else [known])
    assert learned[-1] == ("classifier", classifiers)
    assert (learned[0] == ("starts", 2)) == (n_starts == 2)
    if known is not None:
        assert evaluate(y, model.labels_)["acc"] > 0.97


def test_labels_that_are_no_groups_are_not_chosen_where_sizes_may_differ(monkeypatch):
    """Outliers are the cheapest groups, so labels with some leave least open."""
    X, _ = planted(k=4, n=200)
    even = torch.arange(200) % 4
    outlier = torch.where(torch.arange(200) < 3, torch.arange(200), 3)
    monkeypatch.setattr(
        "subspan.methods._ncsc_classifiers.propose", lambda *_: Consensus(torch.stack([outlier, even] * 3), UNEVEN)
    )

    def worth(self, one):
        labels = one.argmax(dim=1)
        return worth_of(-len(labels.unique()) + float(one[0, 3]))._replace(groups=are_groups(labels, 4))

    monkeypatch.setattr(ClassifierStage, "worth", worth)
    chosen, plain = [], ClassifierStage.monitor

    def monitor(self):
        record = plain(self)
        good = [are_groups(one.argmax(dim=1), 4) for one in self.scores()]
        chosen.append((good[record["start"]], any(good), all(good)))
        return record

    monkeypatch.setattr(ClassifierStage, "monitor", monitor)
    NCSC(4, **UNSETTLED).fit(X)
    assert any(some and not every for _, some, every in chosen)
    assert all(good for good, some, _ in chosen if some)


@pytest.mark.parametrize("searched", [True, False])
def test_what_was_searched_for_by_information_is_chosen_by_it(monkeypatch, searched):
    """That of the labels learned first and of those after it, where the objective prefers the least information."""
    seen, plain = [], ClassifierStage.monitor

    def monitor(self):
        if self.targets is not None:
            self.told = [worth_of(float(labels.float().var())) for labels in self.targets]
        record = plain(self)
        if self.targets is not None:
            now = torch.tensor([self.worth(one).value for one in self.scores()])
            both = now + torch.tensor([one.value for one in self.told])
            seen.append((record["start"], int(both.argmax()), int(now.argmin())))
        return record

    monkeypatch.setattr(
        ClassifierStage, "objective", lambda self, log_p: torch.tensor([self.worth(one).value for one in log_p])
    )
    monkeypatch.setattr(ClassifierStage, "monitor", monitor)
    monkeypatch.setattr(ClassifierStage, "worth", lambda self, one: worth_of(float(one[0, 0])))
    starts = {"n_starts": 0 if searched else 2, "prior": "uniform"}
    NCSC(4, recipe="global" if searched else "paper", **(UNSETTLED | starts)).fit(planted(k=4, n=120)[0])
    assert seen
    assert all(best == (most if searched else least) and most != least for best, most, least in seen)


EVEN, GIVEN = [0.25] * 4, [0.125] * 3 + [0.625]
UNEVEN_SIZES = [0.7, 0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("prior", "compression", "first", "last"),
    [
        ("auto", 0.0, EVEN, UNEVEN_SIZES),
        ("auto", 0.4, EVEN, UNEVEN_SIZES),
        ("auto", 0.85, UNEVEN_SIZES, UNEVEN_SIZES),
        ("uniform", 0.0, EVEN, EVEN),
        ([1.0, 1.0, 1.0, 1.0], 0.0, EVEN, EVEN),
        ([1.0, 1.0, 1.0, 5.0], 0.0, GIVEN, GIVEN),
        ([1.0, 1.0, 1.0, 5.0], 0.85, GIVEN, GIVEN),
    ],
)
def test_sizes_that_the_candidates_expect(monkeypatch, prior, compression, first, last):
    """Equal ones, and for two of them those of their labels, unless sizes are known or plainly uneven."""
    labels = torch.tensor([0] * 140 + [1] * 20 + [2] * 20 + [3] * 20)
    others = torch.stack([labels.roll(20 * shift) for shift in range(6)])
    asked, seen = [], []

    def found(pairs, k, gen, limit, compression_asked, known):
        asked.append(compression_asked)
        return Consensus(others, compression)

    def monitor(self):
        seen.append((self.heads.prior.clone(), self.targets))
        return plain(self)

    plain = ClassifierStage.monitor
    monkeypatch.setattr("subspan.methods._ncsc_classifiers.propose", found)
    monkeypatch.setattr(ClassifierStage, "monitor", monitor)
    model = NCSC(4, prior=prior, **UNSETTLED).fit(planted(k=4, n=200)[0])
    expected, targets = seen[-1]
    torch.testing.assert_close(expected, torch.tensor([first] * 4 + [last] * 2))
    twice = prior == "auto" and compression < UNEVEN
    if prior == [1.0, 1.0, 1.0, 5.0]:  # the group that holds most has the number of the largest size
        assert [torch.bincount(one).argmax() for one in targets] == [3] * 6
        same = (one[:, None] == one for one in targets)
        assert all(torch.equal(mine, one[:, None] == one) for mine, one in zip(same, others, strict=True))
    else:
        assert torch.equal(targets, others[[0, 1, 2, 3, 0, 1]] if twice else others)
    assert any(torch.allclose(model.head_.prior[0], one) for one in expected)  # the chosen one keeps its own
    assert set(asked) == {0.0 if prior in ("uniform", [1.0] * 4) else None}


@pytest.mark.parametrize(
    ("told", "now", "sized", "groups", "best"),
    [
        ([2.0, 2.1, 2.0], [1.0, 1.05, 1.1], 0, [True] * 3, 1),  # both count
        ([2.0, 2.1, 2.0], [1.0, 1.05, 1.1], 0, [True, False, True], 2),  # outliers do not
        ([2.0, 2.0, 2.0], [1.001, 1.0, 1.002], 1, [True] * 3, 0),  # sizes of their own must tell clearly more
        ([2.0, 2.0, 2.0], [1.0, 1.001, 1.02], 1, [True] * 3, 2),
        ([2.0, 2.0, 2.0], [1.001, 1.0, 1.002], 3, [True] * 3, 2),  # unless all have them
        ([2.0, 2.5, 2.0, 2.5], [1.0, 1.1, 1.3, 1.1], 2, [True] * 4, 1),  # which the other with their labels decides
        ([2.0, 2.5, 2.0, 2.5], [1.0, 1.1, 1.7, 1.1], 2, [True] * 4, 2),
        ([2.0, 2.5, 2.0, 2.5], [1.0, 1.1, 1.0, 1.101], 2, [True] * 4, 1),
        ([2.0, 2.0, 2.0], [1.0, 1.1, 1.1005], 1, [True] * 3, 2),
    ],
)
def test_choice_among_candidates(told, now, sized, groups, best):
    stage = choosing([worth_of(one) for one in told], sized)
    labels = apart(range(len(told) - sized), range(sized))  # twins are equal, all others other divisions
    assert stage.choice([Worth(*one) for one in zip(groups, now, now, strict=True)], labels) == best


def choosing(told, sized):
    """A stage of four clusters that is about to choose."""
    stage = object.__new__(ClassifierStage)
    stage.told, stage.sized, stage.heads = told, sized, SimpleNamespace(n_clusters=4)
    return stage


def apart(*positions):
    """Labels (R, 1000) at positions on a line: two differ in 20 samples for each step between them."""
    return torch.stack([labels_at(20 * position) for part in positions for position in part])


def labels_at(moved):
    labels = torch.arange(1000) % 4
    labels[:moved] = (labels[:moved] + 1) % 4
    return labels


def test_objective_does_not_depend_on_how_many_pairs_are_looked_at_together(monkeypatch):
    gen = torch.Generator().manual_seed(0)
    stage = choosing([], 0)
    Z = torch.nn.functional.normalize(torch.randn(60, 8, generator=gen), dim=1)
    stage.pairs = GlobalSelfExpression(1.0).fit(Z).neighbours(Z, 5, gen=gen).pairs()
    stage.setting, stage.heads.prior = SimpleNamespace(balance=(4.0, 0.5)), torch.full((3, 4), 0.25)
    log_p = torch.randn(3, 60, 4, generator=gen).log_softmax(dim=2)
    whole = stage.objective(log_p)
    monkeypatch.setattr("subspan.methods._ncsc_classifiers.ENTRIES", 100)  # eight pairs
    torch.testing.assert_close(stage.objective(log_p), whole)
    assert len(whole.unique()) == 3


def test_sizes_of_their_own_must_tell_more_without_compression():
    """Less entropy alone is no reason to expect it."""
    stage, labels = choosing([Worth(True, 1.0, 2.0)] * 2, 1), apart([0, 1])
    assert stage.choice([Worth(True, 1.0, 2.0), Worth(True, 1.1, 2.001)], labels) == 0
    assert stage.choice([Worth(True, 1.0, 2.0), Worth(True, 1.1, 2.01)], labels) == 1


@pytest.mark.parametrize(
    ("other", "own", "best"),
    [
        (2, 3, 1),  # the other has found the twin's division, too, and is a better training of it
        (3, 3, 1),
        (4, 3, 2),  # the other is another division, which says nothing about sizes
    ],
)
def test_sizes_of_their_own_must_tell_more_than_all_of_the_same_division(other, own, best):
    """Twin, another with equal sizes that tells most, and the twin's labels with their sizes, worth most."""
    stage = choosing([worth_of(2.0)] * 3, 1)
    worth = [Worth(True, 1.0, 1.0), Worth(True, 1.02, 1.02), Worth(True, 1.05, 1.01)]
    assert stage.choice(worth, apart([0, other, own])) == best


def test_given_sizes_may_be_told_in_any_order():
    """Label c has the size that is given for it."""
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.normal(size=(30, 4)))[0] for _ in range(3)]
    y = np.repeat([0, 1, 2], [120, 60, 20])
    X = np.stack([rng.normal(size=4) @ bases[label].T for label in y])
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        prior = np.array([120.0, 60.0, 20.0])[order]
        labels = NCSC(3, prior=prior, **FAST).fit(X).labels_
        assert np.bincount(labels, minlength=3).tolist() == prior.tolist()
        assert evaluate(y, labels)["acc"] == 1.0


@pytest.mark.parametrize(("prior", "compression"), [("uniform", 0.0), ("uneven", UNEVEN)])
def test_prior_says_whether_sizes_may_differ(monkeypatch, prior, compression):
    asked = []

    def seen(pairs, k, gen, limit, compression, known):
        asked.append(compression)
        return propose(pairs, k, gen, limit, compression, known)

    monkeypatch.setattr("subspan.methods._ncsc_classifiers.propose", seen)
    NCSC(3, prior=prior, **FAST).fit(planted(k=3, n=120)[0])
    assert set(asked) == {compression}


def test_classifiers_learn_from_changed_images(monkeypatch):
    """Each step encodes images that were moved anew; nothing but the given change is made, and bits repeat."""
    X, seen = digits(200), []

    def moved(x, gen, **options):
        seen.append((len(x), options))
        return augment(x, gen, **options)

    monkeypatch.setattr("subspan.methods._ncsc_setting.augment", moved)
    options = FAST | {"encoder": "scattering", "augmentation": {"shift": 0.1, "flip": True}}
    first = NCSC(10, **options).fit(X)
    still = {"rotation": 0.0, "zoom": 0.0, "brightness": 0.0, "crop": 0.0}
    assert all(given == still | {"shift": 0.1, "flip": True} for _, given in seen)
    assert {size for size, _ in seen} == {200}
    assert len(seen) == sum(100 for _ in range(2))  # two stages of two epochs of 50 steps
    assert np.array_equal(first.predict_proba(X), NCSC(10, **options).fit(X).predict_proba(X))
    plain = NCSC(10, **(options | {"augmentation": None})).fit(X)
    assert not np.array_equal(first.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize(
    ("X", "augmentation", "words"),
    [
        (np.eye(20, 9), {"shift": 0.1}, "augmentation changes images, but X holds vectors"),
        (np.ones((20, 8, 8)), {"blur": 1}, "augmentation is .*; give a dict with keys among rotation, shift"),
        (np.ones((20, 8, 8)), True, "augmentation is True; give a dict"),
        (np.ones((20, 8, 8)), {"flip": 1}, r"augmentation\['flip'\] is 1; give True or False"),
        (np.ones((20, 8, 8)), {"crop": 2.0}, r"augmentation\['crop'\] is 2.0; give a number between 0 and 0.99"),
    ],
)
def test_augmentation_that_cannot_be_is_named(X, augmentation, words):
    with pytest.raises(InvalidInputError, match=words):
        NCSC(2, augmentation=augmentation, **FAST).fit(X)


def test_trained_codes_are_not_refined_unless_asked():
    options = FAST | {"encoder": "mlp"}
    X = planted(k=3, n=120)[0]
    model = NCSC(3, **(options | {"epochs": FAST["epochs"] | {"autoencoder": 1}})).fit(X)
    assert {record["phase"] for record in model.history_} == {"autoencoder", "classifier", "settling"}
    epochs = FAST["epochs"] | {"autoencoder": 1, "collaboration": 1}
    model = NCSC(3, **(options | {"epochs": epochs})).fit(X)
    assert model.history_[-1]["phase"] == "collaboration"


@pytest.mark.parametrize("n_starts", [0, 2])
def test_who_waits_is_told_for_what(capsys, n_starts):
    """Once, before the first epoch of the first classifiers, and again where labels are found from starts."""
    NCSC(4, n_starts=n_starts, verbose=1, **UNSETTLED).fit(planted(k=4, n=120)[0])
    said = [line.split() for line in capsys.readouterr().err.splitlines()]
    first = "starts" if n_starts else "classifier"
    found = [" ".join(words) for words in said if words and words[0] in ("starts", "classifier")]
    labels = "labels to learn first"
    if n_starts:
        assert found[0] == "starts codes, neighbours"
        assert found[3] == f"classifier {labels}"
    else:
        assert found[0] == f"{first} codes, neighbours, {labels}"
    assert found[1].startswith(f"{first} 1/2")
