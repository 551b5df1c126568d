"""The training loop, with phases small enough that the right answer is known."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from subspan._random import generator
from subspan.checkpoint import Checkpoint
from subspan.errors import CheckpointError, CollapseWarning, DivergenceError
from subspan.training import LARGEST, Callback, Phase, Step, train

N = 24


class Toy(Phase):
    """Pulls a weight vector to a target, with two named terms and randomness in every place that has some."""

    def __init__(self, module, name="toy", epochs=4, batch_size=8, lr=0.1, **holes):
        super().__init__(name, epochs, batch_size, holes.pop("min_steps", 1))
        self.module, self.lr, self.holes = module, lr, holes
        self.calls = []

    def start(self):
        self.calls.append("start")

    def reset(self, gen, restart):
        self.calls.append(f"reset {restart}")
        if self.holes.get("draws"):
            with torch.no_grad():
                self.module.head.copy_(torch.randn(3, generator=gen))

    def parameter_groups(self):
        return self.holes.get("groups", [{"params": list(self.module.parameters()), "lr": self.lr}])

    def learning_rate_factor(self, progress):
        return self.holes.get("factor", lambda _: 1.0)(progress)

    def losses(self, batch, gen, progress):
        if "during" in self.holes:
            self.holes["during"](self, batch, progress)
        target = 1.0 + 0.1 * torch.rand(3, generator=gen)
        pull = (self.module.weight - target).square().sum()
        yield {"pull": pull * self.holes.get("scale", 1.0), "size": 0.5 * self.module.head.square().sum()}

    def monitor(self):
        return self.holes.get("figures", dict)()

    def stop(self, records):
        return self.holes.get("stop", lambda _: None)(records)

    def collapsed(self, record):
        return self.holes.get("collapsed", lambda _: False)(record)

    def finish(self):
        self.calls.append("finish")


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.head = nn.Parameter(torch.full((3,), 2.0))
        self.register_buffer("seen", torch.zeros(1))


def run(*phases, modules=None, **options):
    modules = modules or {"two": phases[0].module}
    return train(phases, modules, n_samples=N, **({"seed": 0} | options))


def test_minimises_the_sum_of_the_named_terms_and_records_their_means():
    """Both minima are reached, and the history holds each term's mean over the steps of an epoch."""
    module = Two()
    seen = []
    toy = Toy(module, epochs=60, during=lambda phase, batch, progress: seen.append(phase.module.head.detach().clone()))
    history = run(toy).history
    assert [record["epoch"] for record in history] == list(range(60))
    assert {"phase", "epoch", "restart", "pull", "size", "seconds"} == set(history[0])
    torch.testing.assert_close(module.weight.detach(), torch.full((3,), 1.05), atol=0.05, rtol=0)  # mean target
    torch.testing.assert_close(module.head.detach(), torch.zeros(3), atol=0.02, rtol=0)
    sizes = [0.5 * float(head.square().sum()) for head in seen[:3]]  # three batches in the first epoch
    assert history[0]["size"] == pytest.approx(sum(sizes) / 3, rel=1e-5)


def test_steps_equal_a_plain_adam_loop():
    module, other = Two(), Two()
    run(Toy(module, epochs=2, factor=lambda progress: 1 - progress / 2))
    optimizer = torch.optim.Adam(other.parameters(), lr=0.1, fused=True)  # others round otherwise on some processors
    for epoch in range(2):
        gen = generator(0, 0, 0, epoch)
        torch.randperm(N, generator=gen)
        for b in range(3):
            optimizer.zero_grad()
            loss = (other.weight - (1.0 + 0.1 * torch.rand(3, generator=gen))).square().sum()
            (loss + 0.5 * other.head.square().sum()).backward()
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - (epoch + b / 3) / 4)
            optimizer.step()
    assert torch.equal(module.weight, other.weight)
    assert torch.equal(module.head, other.head)


@pytest.mark.parametrize(
    ("n", "size", "min_steps", "steps"), [(24, 8, 1, 3), (24, 8, 10, 12), (25, 8, 1, 3), (5, 9, 4, 4)]
)
def test_every_sample_is_seen_equally_often_in_batches_of_nearly_one_size(n, size, min_steps, steps):
    batches = Phase("p", 1, size, min_steps).batches(n, torch.Generator().manual_seed(0))
    assert len(batches) == steps
    counts = torch.bincount(torch.cat(list(batches)), minlength=n)
    assert counts.min() == counts.max()
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert batches[0].tolist() != sorted(batches[0].tolist())


@pytest.mark.parametrize("most", [None, 2, 50])
@pytest.mark.parametrize(("n", "size", "least"), [(24, 8, 1), (24, 8, 10), (25, 8, 1), (5, 9, 4), (1000, 7, 1)])
def test_steps_are_the_number_of_batches(n, size, least, most):
    phase = Phase("p", 1, size, least, most)
    assert phase.steps(n) == len(phase.batches(n, torch.Generator().manual_seed(0)))


def test_group_rates_are_left_as_given(monkeypatch):
    """The factor of the phase may not pile up: rates are the given ones again after every step."""
    module, made, used, left = Two(), [], [], []

    class Adam(torch.optim.Adam):
        def __init__(self, groups, **options):
            super().__init__(groups, **options)
            made.append(self)

        def step(self, closure=None):
            used.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    class Watch(Callback):
        def on_step(self, phase, fraction):
            left.append([group["lr"] for group in made[0].param_groups])

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    groups = [{"params": [module.weight], "lr": 0.1}, {"params": [module.head], "lr": 0.0}]
    run(Toy(module, epochs=3, groups=groups, factor=lambda progress: 0.5), callbacks=[Watch()])
    assert used == [[0.05, 0.0]] * 9
    assert left == [[0.1, 0.0]] * 9
    assert torch.equal(module.head, torch.full((3,), 2.0))  # its own rate, zero, was used
    assert not torch.equal(module.weight, torch.zeros(3))


class Duel(Phase):
    """Two players on one product: ``ascent`` wants it large, ``descent`` small; ``rest`` belongs to nobody."""

    def __init__(self, module, epochs=3, **holes):
        super().__init__("duel", epochs, 8)
        self.module, self.holes = module, holes

    def parameter_groups(self):
        return [
            {"params": [self.module.weight], "lr": 0.1, "betas": (0.5, 0.9), "player": "ascent"},
            {"params": [self.module.head], "lr": 0.02, "betas": (0.0, 0.99), "player": "descent"},
        ]

    def losses(self, batch, gen, progress):
        shift = torch.rand(3, generator=gen)
        for _ in range(2):
            product = ((self.module.weight + shift) * self.module.head).sum()
            yield Step("ascent", {"value": -product, "size": self.module.weight.square().sum()})
            self.holes.get("between", lambda: None)()
        yield Step("descent", {"value_of_other": ((self.module.weight + shift) * self.module.head).sum()})


def test_players_equal_two_optimisers():
    """Same weights as one Adam for each player, with its own rate and betas, stepping in turns."""
    module, other = Two(), Two()
    history = run(Duel(module)).history
    ascent = torch.optim.Adam([other.weight], lr=0.1, betas=(0.5, 0.9))
    descent = torch.optim.Adam([other.head], lr=0.02, betas=(0.0, 0.99))
    values = []
    for epoch in range(3):
        gen = generator(0, 0, 0, epoch)
        torch.randperm(N, generator=gen)
        for _ in range(3):
            shift = torch.rand(3, generator=gen)
            for optimizer in (ascent, ascent, descent):
                sign = 1.0 if optimizer is descent else -1.0
                optimizer.zero_grad()
                product = sign * ((other.weight + shift) * other.head).sum()
                values.append(float(product.detach()))
                (product if optimizer is descent else product + other.weight.square().sum()).backward()
                optimizer.step()
    assert torch.equal(module.weight, other.weight)
    assert torch.equal(module.head, other.head)
    # every term's mean is over the steps that had it
    assert history[0]["value_of_other"] == pytest.approx(sum(values[2:9:3]) / 3, rel=1e-5)
    assert history[0]["value"] == pytest.approx((sum(values[:9]) - sum(values[2:9:3])) / 6, rel=1e-5)


def test_other_players_get_no_gradient():
    module = Two()
    seen = []
    run(Duel(module, epochs=1, between=lambda: seen.append((module.weight.grad is None, module.head.grad is None))))
    assert seen == [(False, True)] * 6


def test_player_without_parameters_is_named():
    phase = Duel(Two())
    phase.parameter_groups = lambda: [{"params": [phase.module.weight], "lr": 0.1, "player": "descent"}]
    with pytest.raises(ValueError, match="phase 'duel' has no parameters of player 'ascent'"):
        run(phase)


def test_interrupted_players_continue_to_the_unbroken_result(tmp_path):
    unbroken, broken, resumed = Two(), Two(), Two()
    expected = run(Duel(unbroken))
    calls = []

    def interrupt():
        calls.append(1)
        if len(calls) == 10:  # in the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Duel(broken, between=interrupt), checkpoint=Checkpoint(tmp_path, {}, resume=False))
    compare(resumed, unbroken, run(Duel(resumed), checkpoint=Checkpoint(tmp_path, {}, resume=True)), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_term_is_named_with_phase_and_epoch(value):
    phase = Toy(Two(), name="second stage", epochs=3)
    phase.holes["during"] = lambda phase, batch, progress: phase.holes.update(scale=value if phase.epoch == 1 else 1.0)
    with pytest.raises(DivergenceError, match=r"loss term 'pull' became -?(nan|inf) in phase 'second stage', epoch 1"):
        run(phase)


def test_weights_ruined_by_the_last_step_are_named():
    """No loss sees the weights after the last step, so they are looked at themselves."""
    phase = Toy(Two(), epochs=1, batch_size=N, groups=None)
    phase.holes["groups"] = [{"params": list(phase.module.parameters()), "lr": float("inf")}]
    with pytest.raises(DivergenceError, match=r"a weight of two\.weight became inf in phase 'toy', epoch 0"):
        run(phase)


def test_weights_far_too_large_are_named():
    """A loss that is bounded, such as one of probabilities, says nothing of them."""
    phase = Toy(Two(), epochs=1, batch_size=N, groups=None)
    phase.holes["groups"] = [{"params": list(phase.module.parameters()), "lr": 2 * LARGEST}]
    with pytest.raises(DivergenceError, match=r"a weight of two\.weight became \d+ in phase 'toy', epoch 0"):
        run(phase)


def test_non_finite_figure_is_named():
    phase = Toy(Two(), figures=lambda: {"objective": float("nan")})
    with pytest.raises(DivergenceError, match="figure 'objective' became nan in phase 'toy', epoch 0"):
        run(phase)


def test_failing_linear_algebra_is_named():
    def figures():
        return {"rank": float(torch.linalg.eigvalsh(torch.full((3, 3), float("nan"))).sum())}

    with pytest.raises(DivergenceError, match="a linear system broke down in phase 'toy', epoch 0"):
        run(Toy(Two(), figures=figures))


def test_phase_without_parameters_is_named():
    with pytest.raises(ValueError, match="phase 'toy' has no parameters to train"):
        run(Toy(Two(), groups=[{"params": [], "lr": 0.1}]))


def test_stop_reasons():
    first = Toy(Two(), name="first", epochs=9, stop=lambda records: "enough" if len(records) == 2 else None)
    second = Toy(first.module, name="second", epochs=1)
    outcome = run(first, second)
    assert outcome.stop_reasons == {"first": "enough", "second": "completed"}
    assert [record["phase"] for record in outcome.history] == ["first", "first", "second"]
    assert first.calls == ["start", "reset 0", "finish"]


def test_callbacks_are_told_everything_and_the_end_even_after_an_error():
    told = []

    class Watch(Callback):
        def on_start(self, phases, position):
            told.append(("start", len(phases), position.phase))

        def on_step(self, phase, fraction):
            told.append(("step", round(fraction, 6)))

        def on_epoch(self, phase, record):
            told.append(("epoch", record["epoch"]))

        def on_end(self):
            told.append("end")

    run(Toy(Two(), epochs=2, batch_size=12), callbacks=[Watch()])
    steps = [("step", 0.25), ("step", 0.5), ("epoch", 0), ("step", 0.75), ("step", 1.0), ("epoch", 1)]
    assert told == [("start", 1, 0), *steps, "end"]
    told.clear()
    with pytest.raises(DivergenceError):
        run(Toy(Two(), scale=float("nan")), callbacks=[Watch()])
    assert told == [("start", 1, 0), "end"]


def collapse_until(restart):
    """Collapse in epoch 1 of every try before number ``restart``."""
    return lambda record: record["restart"] < restart and record["epoch"] == 1


def test_restart_returns_to_the_state_in_which_the_phase_began():
    """The collapsed second phase begins again with the weights and buffers that the first left, and another draw."""
    module, began = Two(), []

    def during(phase, batch, progress):
        if progress == 0:
            began.append((phase.module.weight.detach().clone(), phase.module.head.detach().clone(), float(module.seen)))
        module.seen += 1

    second = Toy(module, name="second", draws=True, during=during, collapsed=collapse_until(1))
    first = Toy(module, name="first", epochs=2)
    with pytest.warns(CollapseWarning, match="phase 'second' collapsed in epoch 1; it is restarted"):
        outcome = run(first, second)
    (weight_0, head_0, seen_0), (weight_1, head_1, seen_1) = began
    assert not torch.equal(weight_0, torch.zeros(3))
    assert torch.equal(weight_0, weight_1)
    assert seen_0 == seen_1
    assert not torch.equal(head_0, head_1)
    assert second.calls == ["start", "reset 0", "start", "reset 1", "finish"]
    assert [(r["restart"], r["epoch"]) for r in outcome.history[2:]] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)]


@pytest.mark.parametrize("max_restarts", [0, 1, 3])
def test_restarts_are_limited_and_the_last_try_goes_on(max_restarts):
    phase = Toy(Two(), epochs=3, figures=lambda: {"live_clusters": 1}, collapsed=lambda record: record["epoch"] > 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = run(phase, max_restarts=max_restarts)
    restarts = [str(w.message) for w in caught if "is restarted" in str(w.message)]
    assert len(restarts) == max_restarts
    assert all("1 live clusters" in message for message in restarts)
    # once, although two epochs of the last try are collapsed
    assert len([w for w in caught if f"again after {max_restarts} restarts" in str(w.message)]) == 1
    assert all(w.category is CollapseWarning for w in caught)
    assert [r["epoch"] for r in outcome.history if r["restart"] == max_restarts] == [0, 1, 2]
    assert outcome.stop_reasons == {"toy": "completed"}


def test_stop_is_asked_about_the_present_try_only():
    asked = []
    phase = Toy(Two(), epochs=3, collapsed=collapse_until(1), stop=lambda records: asked.append(len(records)))
    with pytest.warns(CollapseWarning):
        run(phase)
    assert asked == [1, 1, 2, 3]


class Interrupt:
    """Raises once, at a chosen point of the run."""

    def __init__(self, phase, restart, epoch):
        self.where = (phase, restart, epoch)

    def __call__(self, phase, batch, progress):
        restart = int(phase.calls[-1].split()[1]) if phase.calls[-1].startswith("reset") else -1
        if (phase.name, restart, phase.epoch) == self.where and progress * phase.epochs % 1 > 0.5:
            raise KeyboardInterrupt


def two_phases(module, during=lambda *_: None):
    def count(phase, batch, progress):
        during(phase, batch, progress)
        module.seen += 1

    return (
        Toy(module, name="first", epochs=3, during=count),
        Toy(module, name="second", epochs=4, draws=True, during=count, collapsed=collapse_until(2)),
    )


def compare(resumed, unbroken, outcome, expected):
    for (key, a), b in zip(resumed.state_dict().items(), unbroken.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    strip = [[{k: v for k, v in r.items() if k != "seconds"} for r in o.history] for o in (outcome, expected)]
    assert strip[0] == strip[1]
    assert outcome.stop_reasons == expected.stop_reasons


@pytest.mark.parametrize(
    "where",
    [
        ("first", 0, 0),
        ("first", 0, 2),
        ("second", 0, 0),
        ("second", 0, 1),
        ("second", 1, 0),
        ("second", 1, 1),
        ("second", 2, 0),
        ("second", 2, 3),
    ],
)
@pytest.mark.filterwarnings("ignore::subspan.errors.CollapseWarning")
def test_interrupted_run_continues_to_the_unbroken_result(tmp_path, where):
    """Bit by bit, from within any epoch of any phase and any restart, with weights of a fresh process."""
    unbroken = Two()
    expected = run(*two_phases(unbroken))
    broken = Two()
    with pytest.raises(KeyboardInterrupt):
        run(*two_phases(broken, Interrupt(*where)), checkpoint=Checkpoint(tmp_path, {"a": 1}, resume=False))
    assert not list(tmp_path.glob("*.partial"))
    resumed = Two()
    outcome = run(*two_phases(resumed), checkpoint=Checkpoint(tmp_path, {"a": 1}, resume=True))
    compare(resumed, unbroken, outcome, expected)


def test_finished_run_is_not_trained_again(tmp_path):
    module = Two()
    expected = run(Toy(module), checkpoint=Checkpoint(tmp_path, {}, resume=True))
    again = Two()
    phase = Toy(again)
    outcome = run(phase, checkpoint=Checkpoint(tmp_path, {}, resume=True))
    assert phase.calls == []
    compare(again, module, outcome, expected)


def test_checkpoint_of_other_modules_is_named(tmp_path):
    run(Toy(Two()), checkpoint=Checkpoint(tmp_path, {}, resume=False))
    other = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="does not fit module 'two'"):
        run(Toy(Two()), modules={"two": other}, checkpoint=Checkpoint(tmp_path, {}, resume=True))


def test_same_seed_same_weights_and_no_global_state():
    state = torch.random.get_rng_state()
    results = []
    for seed in (1, 1, 2):
        module = Two()
        run(Toy(module, draws=True), seed=seed)
        results.append(module.weight.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(state, torch.random.get_rng_state())
