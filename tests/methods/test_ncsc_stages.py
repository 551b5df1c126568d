"""The stages of Algorithm 1: which losses they have and what learns from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ncsc_cases import EPOCHS, SMALL, STAGES, digits, planted

from subspan import NCSC
from subspan.information import EFFECTIVE, UNEVEN, label_flow, label_information
from subspan.losses import balance_loss
from subspan.merging import Consensus
from subspan.methods import ncsc as module
from subspan.methods._ncsc_classifiers import ClassifierStage, head_scores
from subspan.methods._ncsc_settling import holds
from subspan.methods._ncsc_stages import CollaborationStage, find_pairs
from subspan.pairs import MAX_POSITIVES
from subspan.proposals import FEWEST
from subspan.self_expression import closed_form_coefficients


class Captured(Exception):
    pass


def stages_of(monkeypatch, X, **options):
    """The stages of a fit before any training: {name: phase}, and the modules."""

    def capture(phases, modules, **_):
        raise Captured(phases, modules)

    monkeypatch.setattr(module, "train", capture)
    with pytest.raises(Captured) as caught:
        NCSC(3, **(SMALL | options)).fit(X)
    phases, modules = caught.value.args
    return {phase.name: phase for phase in phases}, modules


def first_terms(phase, n):
    """Loss terms of the first step after the phase's initialisation; classifiers then hand on the chosen one."""
    gen = torch.Generator().manual_seed(0)
    phase.start()
    phase.reset(gen, 0)
    terms = next(iter(phase.losses(phase.batches(n, gen)[0], gen, 0.0)))
    if isinstance(phase, ClassifierStage):
        phase.monitor()
        phase.finish()
    return terms


def classify(phases, n):
    """The stages that leave a classifier for the last one, each with its first step."""
    first_terms(phases["classifier"], n)
    first_terms(phases["settling"], n)


def gradients(modules, terms):
    """Names of the tensors that get a non-zero gradient from the sum of the terms."""
    for part in modules.values():
        part.zero_grad(set_to_none=True)
    sum(terms).backward(retain_graph=True)
    found = set()
    for name, part in modules.items():
        found |= {
            f"{name}.{key}" for key, p in part.named_parameters() if p.grad is not None and bool((p.grad != 0).any())
        }
    return found


def parameters(modules, *names):
    return {f"{name}.{key}" for name in names for key, _ in modules[name].named_parameters()}


@pytest.mark.parametrize("self_expression", ["closed-form", "parameter"])
def test_every_parameter_learns_in_its_stage_and_no_other(monkeypatch, self_expression):
    X = digits(120)
    # thresholds that select pairs before anything is trained
    options = {"self_expression": self_expression, "u": 0.3, "l": 1.0}
    phases, modules = stages_of(monkeypatch, X, **options)
    learned = parameters(modules, "layer")
    assert bool(learned) == (self_expression == "parameter")
    expected = {
        "autoencoder": parameters(modules, "encoder"),
        "subspace": parameters(modules, "encoder") | learned,
        "starts": parameters(modules, "starts"),
        "classifier": parameters(modules, "candidates"),
        "settling": parameters(modules, "settling"),
        "collaboration": parameters(modules, "encoder", "head") | learned,
    }
    assert list(phases) == list(STAGES)
    for name, phase in phases.items():
        terms = first_terms(phase, len(X))
        assert gradients(modules, terms.values()) == expected[name], name
        given = {id(p) for group in phase.parameter_groups() for p in group["params"]}
        trained = {f"{m}.{key}" for m in modules for key, p in modules[m].named_parameters() if id(p) in given}
        assert trained == expected[name], name


def test_pairs_selected_by_the_last_stage_are_counted_anew_in_each_epoch(monkeypatch):
    X = digits(120)
    phases, _ = stages_of(monkeypatch, X, u=0.0, l=1.0)  # thresholds that take every pair
    classify(phases, len(X))
    phase, gen = phases["collaboration"], torch.Generator().manual_seed(0)
    phase.start()
    for _ in range(2):
        batches = phase.batches(len(X), gen)
        for batch in batches:
            next(iter(phase.losses(batch, gen, 0.0)))
        record = phase.monitor()
        pairs = sum(len(index) * (len(index) - 1) for _, index in batches) / len(X)
        assert record["positives_per_sample"] == pytest.approx(min(pairs, MAX_POSITIVES), rel=0.01)
        assert record["negatives_per_sample"] == pytest.approx(pairs, rel=0.2)


def test_teachers_learn_nothing_from_their_pupils(monkeypatch):
    """In Eq. 6 A_s teaches, in Eq. 7 A_c: seen with a learned C, whose only way to the loss is A_s."""
    X = digits(120)
    phases, modules = stages_of(monkeypatch, X, self_expression="parameter", u=0.3, l=1.0)
    with torch.no_grad():  # equal coefficients make A_s = 1 everywhere, where Eq. 7 is flat
        for weight in modules["layer"].parameters():
            weight.copy_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)))
    classify(phases, len(X))
    terms = first_terms(phases["collaboration"], len(X))
    codes = {name for name in parameters(modules, "encoder") if name.startswith("encoder.encoder")}
    assert gradients(modules, [terms["L_pos"]]) == codes | parameters(modules, "head")
    assert gradients(modules, [terms["L_neg"]]) == parameters(modules, "layer")
    assert gradients(modules, [terms["balance"]]) == parameters(modules, "head")


def test_eq7_reaches_the_encoder_through_the_closed_form(monkeypatch):
    X = digits(120)
    phases, modules = stages_of(monkeypatch, X, u=0.3, l=1.0)
    classify(phases, len(X))
    terms = first_terms(phases["collaboration"], len(X))
    found = gradients(modules, [terms["L_neg"]])
    assert found == {name for name in parameters(modules, "encoder") if name.startswith("encoder.encoder")}


def test_terms_of_eq9_are_its_three_parts_per_sample(monkeypatch):
    """lambda_1 / 2 = 1 / rho, with the closed form solved for the codes of the batch."""
    X = digits(100)
    phases, modules = stages_of(monkeypatch, X, gamma=2.0)
    phase = phases["subspace"]
    phase.start()
    index = torch.arange(100)
    terms = next(iter(phase.losses((0, index), torch.Generator(), 0.0)))
    x = torch.from_numpy(X[:, None] / np.float32(X.max()))
    z, xhat = modules["encoder"](x)
    Z = z - z.mean(0)
    Z = (Z / Z.norm(dim=1, keepdim=True)).double().detach()
    rho = 2.0 * float(Z.square().sum()) / Z.shape[1]
    assert abs(rho - 2.0) > 0.1  # not gamma by chance
    C = closed_form_coefficients(Z, rho)
    assert terms["reconstruction"].item() == pytest.approx((x - xhat).square().sum().item() / 200, rel=1e-4)
    assert terms["C_norm"].item() == pytest.approx(float(C.square().sum()) / 100, rel=1e-3)
    assert terms["self_expression"].item() == pytest.approx(float((Z - C @ Z).square().sum()) / rho / 100, rel=1e-3)


def test_pairs_of_a_batch_give_every_sample_one_vote():
    A_s = torch.tensor([[1.0, 0.9, 0.6], [0.95, 1.0, 0.1], [0.2, 0.3, 1.0]], requires_grad=True)
    i, j, weight = find_pairs(A_s, 0.5, 9)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 0)]
    torch.testing.assert_close(weight, torch.tensor([0.9 / 1.5, 0.6 / 1.5, 1.0]))
    assert not weight.requires_grad
    i, j, weight = find_pairs(A_s, 0.0, 1)  # however low the threshold, so many of a sample at most
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 1)]
    torch.testing.assert_close(weight, torch.ones(3))


def test_stages_follow_algorithm_1(monkeypatch):
    """Vectors skip the auto-encoder; one start skips the consensus; a learned C is trained before the classifier."""
    X, _ = planted(n=60)
    assert list(stages_of(monkeypatch, X)[0]) == ["starts", "classifier", "settling", "collaboration"]
    assert list(stages_of(monkeypatch, X, n_starts=1)[0]) == ["classifier", "settling", "collaboration"]
    unsettled = stages_of(monkeypatch, X, epochs=EPOCHS | {"settling": 0})
    assert list(unsettled[0]) == ["starts", "classifier", "collaboration"]
    assert set(unsettled[1]) == {"encoder", "layer", "starts", "candidates", "head"}
    learned, _ = stages_of(monkeypatch, X, self_expression="parameter")
    assert list(learned) == ["subspace", "starts", "classifier", "settling", "collaboration"]
    phases, _ = stages_of(monkeypatch, digits(60))
    assert list(phases) == list(STAGES)
    assert isinstance(phases["starts"], ClassifierStage)
    assert isinstance(phases["collaboration"], CollaborationStage)


def test_information_is_compressed_as_the_labels_were(monkeypatch):
    X, _ = planted(n=60)
    stage = stages_of(monkeypatch, X)[0]["starts"]
    first_terms(stage, len(X))
    log_p = stage.scores()[0]
    labels, k = log_p.argmax(dim=1), stage.heads.n_clusters
    plain = label_information(labels, stage.pairs, k)
    entropy = float(torch.special.entr(label_flow(labels, stage.pairs, k).sum(dim=1)).sum())
    for compression, value in ((0.0, plain), (0.5, plain - 0.5 * entropy), (UNEVEN, plain / entropy)):
        stage.compression = compression
        assert stage.worth(log_p)[1:] == pytest.approx((value, plain))


@pytest.mark.parametrize(
    ("compression", "sizes", "fewest", "groups"),
    [
        (0.4, [57, 2, 1], EFFECTIVE, True),
        (0.4, [60, 0, 0], EFFECTIVE, False),
        (UNEVEN, [57, 2, 1], FEWEST, False),
        (UNEVEN, [44, 12, 4], EFFECTIVE, False),
        (UNEVEN, [44, 12, 4], FEWEST, True),
        (UNEVEN, [30, 20, 10], EFFECTIVE, True),
    ],
)
def test_collapsed_labels_and_outliers_are_no_groups(monkeypatch, compression, sizes, fewest, groups):
    """A small class is one, unless sizes are taken to differ so much that outliers would do."""
    X, _ = planted(n=60)
    stage = stages_of(monkeypatch, X)[0]["starts"]
    first_terms(stage, len(X))
    stage.compression, stage.fewest = compression, fewest
    log_p = torch.eye(3)[torch.arange(3).repeat_interleave(torch.tensor(sizes))]
    assert stage.worth(log_p).groups == groups


def test_the_last_stage_expects_the_sizes_of_its_classifier(monkeypatch):
    X, _ = planted(n=60)
    phases, _ = stages_of(monkeypatch, X)
    classify(phases, len(X))
    phase = phases["collaboration"]
    even = first_terms(phase, len(X))["balance"]
    phase.head.prior.copy_(torch.tensor([[0.98, 0.01, 0.01]]))
    uneven = first_terms(phase, len(X))["balance"]
    assert not torch.allclose(even, uneven, rtol=0.01)


def settling(monkeypatch, **options):
    """The settling stage of planted data before its first step, its modules and a generator."""
    X, _ = planted(n=60)
    phases, modules = stages_of(monkeypatch, X, **options)
    phase, gen = phases["settling"], torch.Generator().manual_seed(0)
    modules["head"].reset_parameters(gen)
    return phase, modules, gen


def test_a_classifier_settles_with_the_sizes_that_it_has_found(monkeypatch):
    """Copies of the chosen one, each with its weight from the first step to the last, and direct neighbours."""
    phase, modules, gen = settling(monkeypatch, balance=(4.0, 1.0), u=(0.1, 0.9))
    chosen, copies = modules["head"], modules["settling"]
    phase.start()
    phase.reset(gen, 0)
    assert torch.equal(chosen.out.expand(3, -1, -1), copies.out)
    found = head_scores(chosen, phase.setting.codes)[0].exp().mean(dim=0)
    assert (found - 1 / 3).abs().max() > 0.01
    torch.testing.assert_close(copies.prior, found.expand(3, -1))
    index = phase.batches(60, gen)[0]
    assert float(phase.pairs.weights.min()) > 0.9  # the last threshold
    partner = phase.pairs.walk(index, 1, torch.Generator().manual_seed(1))
    copies.eval()
    copies.prior.fill_(1 / 3)  # else the term is nearly zero for all
    log_p = copies(phase.setting.codes[torch.cat([index, partner])]).log_softmax(dim=-1)
    expected = (torch.tensor([1.0, 2.0, 4.0]) * balance_loss(log_p, copies.prior)).sum().item()
    assert expected > 0.1
    for progress in (0.0, 0.99):
        terms = next(iter(phase.losses(index, torch.Generator().manual_seed(1), progress)))
        assert terms["balance"].item() == pytest.approx(expected, rel=1e-5)


def test_sizes_are_held_with_the_weights_of_both_ends_and_one_between():
    assert holds((4.0, 0.25)) == [0.25, 1.0, 4.0]
    assert holds((1.0, 4.0)) == [1.0, 2.0, 4.0]
    assert holds((2.0, 2.0)) == [2.0]
    assert holds((4.0, 0.0)) == [0.0, 4.0]


@pytest.mark.parametrize(
    ("prior", "expected"), [([6.0, 3.0, 1.0], [0.6, 0.3, 0.1]), ("uniform", [1 / 3] * 3), ("auto", None)]
)
def test_sizes_that_are_given_or_said_to_be_equal_are_expected_to_the_end(monkeypatch, prior, expected):
    phase, modules, gen = settling(monkeypatch, prior=prior)
    if not isinstance(prior, str):
        modules["head"].prior.copy_(torch.tensor([expected]))  # as the candidates leave it
    phase.start()
    phase.reset(gen, 0)
    if expected is None:
        assert (modules["settling"].prior - 1 / 3).abs().max() > 0.01
    else:
        torch.testing.assert_close(modules["settling"].prior, torch.tensor([expected] * 3))


@pytest.mark.parametrize("compression", [0.0, UNEVEN])
@pytest.mark.parametrize("resumed", [False, True])
def test_settling_compresses_information_as_the_choice_did(monkeypatch, compression, resumed):
    """Also where the candidates are of an earlier process, that was killed."""
    phase, _, _ = settling(monkeypatch)
    plain = ClassifierStage.proposals
    monkeypatch.setattr(
        ClassifierStage, "proposals", lambda self, *args: Consensus(plain(self, *args).labels, compression)
    )
    if not resumed:
        phase.candidates.setting.encode_all()
        phase.candidates.propose_once()
        monkeypatch.setattr(ClassifierStage, "proposals", None)  # not a second time
    phase.start()
    assert phase.compression == compression


@pytest.mark.parametrize(("sizes", "fewest"), [([44, 12, 4], FEWEST), ([30, 20, 10], EFFECTIVE)])
def test_settling_counts_groups_as_the_choice_did(monkeypatch, sizes, fewest):
    phase, _, _ = settling(monkeypatch)
    labels = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    monkeypatch.setattr(ClassifierStage, "proposals", lambda *_: Consensus(labels[None], UNEVEN))
    phase.start()
    assert phase.fewest == phase.candidates.fewest == fewest


def test_a_cluster_that_nobody_is_in_is_expected_to_be_tiny(monkeypatch):
    phase, modules, gen = settling(monkeypatch)
    with torch.no_grad():
        modules["head"].out_bias[..., 0] = -1e4
    phase.start()
    phase.reset(gen, 0)
    terms = next(iter(phase.losses(phase.batches(60, gen)[0], gen, 0.0)))
    assert all(bool(term.isfinite()) for term in terms.values())


@pytest.mark.parametrize("best", ["before", 0, 2])
def test_settling_takes_what_knows_most_about_neighbours(monkeypatch, best):
    phase, modules, gen = settling(monkeypatch)
    phase.start()
    phase.reset(gen, 0)
    phase.batches(60, gen)
    copies, head = modules["settling"], modules["head"]
    with torch.no_grad():
        kept = head.out.clone()
        head.out.zero_()  # everything in one cluster: nothing is known about neighbours
        copies.out.zero_()
        if best == "before":
            head.out.copy_(kept)
        else:
            copies.out[best] = kept[0]
        for number, one in enumerate([head.out_bias, *copies.out_bias]):  # marks
            one.fill_(float(number))
        copies.prior.copy_(torch.tensor([0.5, 0.3, 0.2]).expand(3, -1))
    record = phase.monitor()
    if best != "before":
        assert record["start"] == best
        assert record["live_clusters"] > 1
    assert not phase.collapsed({"live_clusters": 1})  # it is never restarted
    phase.finish()
    assert torch.equal(head.out, kept)
    assert head.out_bias.unique().tolist() == [0.0 if best == "before" else best + 1.0]
    assert torch.allclose(head.prior, head.prior.mean()) == (best == "before")
