"""THE training loop (layer 2).

Every network of subspan is trained by :func:`train`: a list of :class:`Phase` objects, one after the other, each of
which names its loss terms. The loop knows no method. It keeps a history, writes checkpoints, restarts a phase that
collapsed, stops on non-finite terms with a named error, and continues a broken run to the same result.

Randomness is counter-based: an epoch's generator depends only on (seed, phase, restart, epoch), so that a resumed run
draws what the unbroken run would have drawn and no generator state has to be stored.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from subspan._random import generator
from subspan.checkpoint import Checkpoint, Position, Saved, load_module_tensors, module_tensors
from subspan.errors import CollapseWarning, DivergenceError

Record = dict[str, float | int | str]
_INIT = 2**20  # the epoch counter that seeds a phase's initialisation: no epoch reaches it
LARGEST = 1e4  # no weight of a useful network is near; losses of probabilities stay finite far beyond


@dataclass(frozen=True)
class Step:
    """An optimiser step of one player: only parameter groups whose ``"player"`` is this name get gradients and move.

    For adversarial training: the weights and the moments of the other players stay as they are.
    """

    player: str
    terms: dict[str, Tensor]


class Phase:
    """One stage of a training procedure; methods subclass it and override the holes.

    Parameters
    ----------
    name : str
        Name of the phase in the history.
    epochs : int
        Number of passes over the samples.
    batch_size : int
        Samples per step.
    min_steps, max_steps : int
        Batches per epoch at least and at most: a small data set is passed over several times in one epoch, and of a
        large one a part is seen.
    """

    def __init__(self, name: str, epochs: int, batch_size: int, min_steps: int = 1, max_steps: int | None = None):
        self.name, self.epochs, self.batch_size = name, epochs, batch_size
        self.min_steps, self.max_steps = min_steps, max_steps
        self.epoch = 0  # set by the loop

    @property
    def preparation(self) -> str:
        """What :meth:`start` does next, in a few words, if it takes long; "" otherwise."""
        return ""

    def start(self) -> None:
        """Build what the phase derives from the modules (caches); called when it starts and when it is resumed."""

    def reset(self, gen: torch.Generator, restart: int) -> None:
        """Draw what the phase initialises. Called before epoch 0, and again after a collapse (``restart`` >= 1)."""

    def parameter_groups(self) -> list[dict]:
        """Adam's parameter groups, at least one: ``[{"params": [...], "lr": ..., "betas": ...}, ...]``.

        A group may name its ``"player"``, see :class:`Step`.
        """
        raise NotImplementedError

    def optimizer(self, groups: list[dict]) -> torch.optim.Optimizer:
        """The optimiser of :meth:`parameter_groups`; its state must be tensors, so that it can be saved."""
        return torch.optim.Adam(groups, fused=True)

    def learning_rate_factor(self, progress: float) -> float:
        """Multiplier of every learning rate at ``progress`` in [0, 1) of the phase."""
        return 1.0

    def batches(self, n_samples: int, gen: torch.Generator) -> Sequence[Any]:
        """The batches of one epoch as index tensors: shuffled, of nearly equal sizes, all samples if steps allow."""
        count, passes = self._layout(n_samples)
        orders = [torch.randperm(n_samples, generator=gen) for _ in range(passes)]
        return [batch for order in orders for batch in order.tensor_split(count)][: self.max_steps]

    def steps(self, n_samples: int) -> int:
        """Number of :meth:`batches` of one epoch."""
        count, passes = self._layout(n_samples)
        return min(count * passes, self.max_steps or count * passes)

    def _layout(self, n_samples: int) -> tuple[int, int]:
        """Batches of one pass over the samples, and passes of one epoch."""
        count = max(1, round(n_samples / self.batch_size))
        return count, -(-self.min_steps // count)

    def losses(self, batch: Any, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor] | Step]:
        """Yield one dict of named loss terms (to be summed and minimised) per optimiser step on this batch.

        A :class:`Step` is such a dict for one player; each step is made before the next is asked for.
        """
        raise NotImplementedError

    def monitor(self) -> Record:
        """Label-free figures about the state after an epoch, for the history."""
        return {}

    def stop(self, records: list[Record]) -> str | None:
        """A reason to end the phase now, or None; ``records`` are this phase's epochs so far."""
        return None

    def collapsed(self, record: Record) -> bool:
        """Whether the phase has to be restarted from its beginning."""
        return False

    def finish(self) -> None:
        """Called once when the phase ends."""


def settled(record: Record, tolerance: float) -> str | None:
    """Reason to stop when a smaller share of the labels than ``tolerance`` "changed" in an epoch, or None."""
    if float(record["changed"]) < tolerance:
        return f"settled: fewer than {tolerance:.2%} of the labels changed"
    return None


class Callback:
    """What may watch the loop. Exceptions raised here end the training."""

    def on_start(self, phases: Sequence[Phase], position: Position) -> None: ...

    def on_phase(self, phase: Phase) -> None: ...

    def on_step(self, phase: Phase, fraction: float) -> None: ...

    def on_epoch(self, phase: Phase, record: Record) -> None: ...

    def on_end(self) -> None: ...


@dataclass
class Outcome:
    """Result of :func:`train`.

    Attributes
    ----------
    history : list of dict
        One record per epoch: phase, epoch, restart, seconds, the mean of every loss term over the steps that
        had it, the phase's figures.
    stop_reasons : dict
        Phase name to the reason it ended ("completed" or the phase's own).
    """

    history: list[Record] = field(default_factory=list)
    stop_reasons: dict[str, str] = field(default_factory=dict)


def train(
    phases: Sequence[Phase],
    modules: Mapping[str, nn.Module],
    *,
    n_samples: int,
    seed: int,
    checkpoint: Checkpoint | None = None,
    callbacks: Sequence[Callback] = (),
    max_restarts: int = 2,
) -> Outcome:
    """Run the phases in order and leave the trained weights in ``modules``.

    Parameters
    ----------
    phases : sequence of Phase
    modules : mapping of str to nn.Module
        Everything that is checkpointed.
    n_samples : int
    seed : int
    checkpoint : Checkpoint, optional
        Where to save after each epoch, and where to continue if it holds a saved state.
    callbacks : sequence of Callback
    max_restarts : int
        How often a collapsed phase is tried again.

    Returns
    -------
    Outcome

    Raises
    ------
    DivergenceError
        When a loss term, a weight or a monitored figure becomes NaN or infinite, a weight larger than ``LARGEST``, or
        linear algebra fails; the message names it, the phase and the epoch.
    """
    loop = _Loop(phases, modules, n_samples, seed, checkpoint, callbacks, max_restarts)
    loop.continue_or_begin()
    try:
        for callback in callbacks:
            callback.on_start(phases, loop.position)
        while loop.position.phase < len(phases):
            loop.run_phase()
    finally:
        for callback in callbacks:
            callback.on_end()
    return loop.outcome


class _Loop:
    """State of one call of :func:`train`."""

    def __init__(self, phases, modules, n_samples, seed, checkpoint, callbacks, max_restarts):
        self.phases, self.modules, self.n_samples, self.seed = phases, modules, n_samples, seed
        self.checkpoint, self.callbacks, self.max_restarts = checkpoint, callbacks, max_restarts
        self.position = Position()
        self.outcome = Outcome()
        self.optimizer: torch.optim.Optimizer | None = None
        self.entry: dict[str, Tensor] = {}
        self.saved: Saved | None = None  # a state within a phase, from which that goes on
        self.gave_up: set[str] = set()  # phases whose last collapse was reported

    def continue_or_begin(self) -> None:
        saved = self.checkpoint.read() if self.checkpoint is not None else None
        if saved is None:
            self.save()
            return
        saved.load_modules(self.modules)
        self.position = saved.position
        self.outcome = Outcome(saved.history, saved.stop_reasons)
        self.entry = saved.entry
        if saved.position.epoch > 0:
            self.saved = saved

    def save(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.write(self.position, self.modules, self.optimizer, self.outcome)

    def generator(self, epoch: int) -> torch.Generator:
        return generator(self.seed, self.position.phase, self.position.restart, epoch)

    def run_phase(self) -> None:
        phase = self.phases[self.position.phase]
        for callback in self.callbacks:
            callback.on_phase(phase)
        phase.start()
        if self.saved is not None:
            self.optimizer = _optimizer(phase)
            self.saved.load_optimizer(self.optimizer)
            self.saved = None  # and the memory of its tensors
        else:
            self.begin(phase)
        reason = "completed"
        while self.position.epoch < phase.epochs:
            try:
                record = self.run_epoch(phase)
            except torch.linalg.LinAlgError as error:
                raise DivergenceError(
                    f"a linear system broke down in phase '{phase.name}', epoch {self.position.epoch} ({error}): lower "
                    "the learning rate of this phase, or scale the data"
                ) from error
            if phase.collapsed(record):
                if self.position.restart < self.max_restarts:
                    self.restart(phase, record)
                    continue
                self.give_up(phase)
            found = phase.stop([r for r in self.records(phase) if r["restart"] == self.position.restart])
            if found is not None:
                reason = found
                break
            if self.position.epoch < phase.epochs:
                self.save()
        self.end(phase, reason)

    def records(self, phase: Phase) -> list[Record]:
        return [r for r in self.outcome.history if r["phase"] == phase.name]

    def begin(self, phase: Phase) -> None:
        """Remember the state in which the phase begins, if it may be restarted, initialise it, and save."""
        restartable = type(phase).collapsed is not Phase.collapsed
        if self.position.restart == 0:
            tensors = module_tensors(self.modules) if restartable else {}
            self.entry = {k: v.detach().clone() for k, v in tensors.items()}
        phase.reset(self.generator(_INIT), self.position.restart)
        self.optimizer = _optimizer(phase)
        if self.checkpoint is not None and restartable:
            self.checkpoint.write_entry(self.position.phase, self.entry)
        self.save()

    def give_up(self, phase: Phase) -> None:
        if phase.name in self.gave_up:
            return
        self.gave_up.add(phase.name)
        warnings.warn(
            f"phase '{phase.name}' collapsed again after {self.max_restarts} restarts; it goes on as it is: "
            "try another random_state, a larger balance weight or a lower learning rate",
            CollapseWarning,
            stacklevel=2,
        )

    def restart(self, phase: Phase, record: Record) -> None:
        warnings.warn(
            f"phase '{phase.name}' collapsed in epoch {record['epoch']}"
            + (f" ({record['live_clusters']} live clusters)" if "live_clusters" in record else "")
            + "; it is restarted from its beginning with a new initialisation",
            CollapseWarning,
            stacklevel=2,
        )
        load_module_tensors(self.modules, self.entry)
        self.position = Position(self.position.phase, 0, self.position.restart + 1)
        phase.start()
        self.begin(phase)

    def end(self, phase: Phase, reason: str) -> None:
        phase.finish()
        self.outcome.stop_reasons[phase.name] = reason
        self.position = Position(self.position.phase + 1, 0, 0)
        self.optimizer = None
        self.save()

    def run_epoch(self, phase: Phase) -> Record:
        began, epoch = time.perf_counter(), self.position.epoch
        phase.epoch = epoch
        gen = self.generator(epoch)
        batches = phase.batches(self.n_samples, gen)
        values: dict[str, list[float]] = {}
        for b, batch in enumerate(batches):
            progress = (epoch + b / len(batches)) / phase.epochs
            for step in phase.losses(batch, gen, progress):
                self.step(phase, step, progress, values)
            for callback in self.callbacks:
                callback.on_step(phase, (epoch + (b + 1) / len(batches)) / phase.epochs)
        record: Record = {"phase": phase.name, "epoch": epoch, "restart": self.position.restart}
        record |= {name: sum(seen) / len(seen) for name, seen in values.items()}
        self.check_weights(phase)  # the step may have ruined them after the last loss was seen
        figures = phase.monitor()
        for name, value in figures.items():
            if isinstance(value, float):
                self.check_finite(f"figure '{name}'", value, phase)
        record |= figures
        record["seconds"] = round(time.perf_counter() - began, 3)
        self.outcome.history.append(record)
        self.position = Position(self.position.phase, epoch + 1, self.position.restart)
        for callback in self.callbacks:
            callback.on_epoch(phase, record)
        return record

    def step(
        self, phase: Phase, step: dict[str, Tensor] | Step, progress: float, values: dict[str, list[float]]
    ) -> None:
        assert self.optimizer is not None
        terms = step.terms if isinstance(step, Step) else step
        stacked = torch.stack([term.reshape(()) for term in terms.values()])
        for name, value in zip(terms, stacked.tolist(), strict=True):  # one wait for the device, not one per term
            self.check_finite(f"loss term '{name}'", value, phase)
            values.setdefault(name, []).append(value)
        self.optimizer.zero_grad(set_to_none=True)
        moved = self.parameters_of(phase, step.player) if isinstance(step, Step) else None
        # Adam passes over parameters without a gradient: neither they nor their moments change
        stacked.sum().backward(inputs=moved)
        factor = phase.learning_rate_factor(progress)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def parameters_of(self, phase: Phase, player: str) -> list[Tensor]:
        assert self.optimizer is not None
        groups = [group["params"] for group in self.optimizer.param_groups if group.get("player") == player]
        if not any(groups):
            raise ValueError(f"phase '{phase.name}' has no parameters of player '{player}': name it in its groups")
        return [parameter for group in groups for parameter in group]

    def check_finite(self, what: str, value: float, phase: Phase, largest: float = math.inf) -> None:
        if not math.isfinite(value) or value > largest:
            raise DivergenceError(
                f"{what} became {value:g} in phase '{phase.name}', epoch {self.position.epoch}: lower the learning "
                "rate of this phase, or scale the data"
            )

    def check_weights(self, phase: Phase) -> None:
        for name, module in self.modules.items():
            for key, weight in module.named_parameters():
                if weight.numel():
                    self.check_finite(f"a weight of {name}.{key}", float(weight.detach().abs().max()), phase, LARGEST)


def _optimizer(phase: Phase) -> torch.optim.Optimizer:
    groups = phase.parameter_groups()
    if not any(group["params"] for group in groups):
        raise ValueError(f"phase '{phase.name}' has no parameters to train: leave it out")
    return phase.optimizer(groups)
