"""Progress bar of the training loop (layer 3)."""

from __future__ import annotations

from collections.abc import Sequence

from subspan.checkpoint import Position
from subspan.training import Callback, Phase, Record

SHOWN = ("L_pos", "reconstruction", "objective", "information", "live_clusters", "changed")


class Progress(Callback):
    """One bar per phase with the time left, on standard error; without a terminal, one line per epoch."""

    def __init__(self) -> None:
        # rich draws from Python's global generator when it is imported: only who asks for a bar pays for that
        from rich.console import Console

        self.console = Console(stderr=True)

    def on_start(self, phases: Sequence[Phase], position: Position) -> None:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.bars = Bars(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks = {}
        for i, phase in enumerate(phases):
            done = 1.0 if i < position.phase else position.epoch / max(phase.epochs, 1) if i == position.phase else 0.0
            self.tasks[phase.name] = self.bars.add_task(phase.name, total=1.0, start=False, note="")
            self.bars.update(self.tasks[phase.name], completed=done)
        self.bars.start()

    def on_phase(self, phase: Phase) -> None:
        if not phase.preparation:
            return
        task = self.tasks[phase.name]
        self.bars.start_task(task)
        self.bars.update(task, note=phase.preparation)
        if not self.console.is_terminal:
            self.console.print(f"{phase.name:<33} {phase.preparation}", highlight=False, soft_wrap=True)

    def on_step(self, phase: Phase, fraction: float) -> None:
        task = self.tasks[phase.name]
        self.bars.start_task(task)
        self.bars.update(task, completed=fraction)

    def on_epoch(self, phase: Phase, record: Record) -> None:
        note = "  ".join(f"{k} {record[k]:.4g}" for k in SHOWN if k in record)
        self.bars.update(self.tasks[phase.name], note=note)
        if not self.console.is_terminal:
            epoch = f"{phase.name} {int(record['epoch']) + 1}/{phase.epochs}"
            self.console.print(f"{epoch:<22} {record['seconds']:>7.1f} s  {note}", highlight=False, soft_wrap=True)

    def on_end(self) -> None:
        self.bars.stop()
