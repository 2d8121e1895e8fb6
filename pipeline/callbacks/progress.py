"""What a person sees while a job runs, and when it has ended."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipeline.training.builder import Parts
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop
from pipeline.training.run import Run

_HEADLINES = (
    ("online/accuracy", "accuracy"),
    ("online/no_change_accuracy", "no-change baseline"),
    ("online/balanced_accuracy", "balanced accuracy"),
    ("online/kappa", "kappa"),
    ("online/auc", "AUC"),
    ("online/log_loss", "log-loss"),
    ("online/mae", "MAE"),
    ("online/rmse", "RMSE"),
    ("online/no_change_mae", "no-change MAE"),
    ("stability/acc", "accuracy on probes"),
    ("stability/mae", "MAE on probes"),
    ("stability/forgetting", "forgetting"),
)


class LiveProgress(Callback):
    """A bar with events per second and the accuracy so far; lines where there is no terminal.

    Looks at the clock after each micro-batch, and at the metrics a few times a second at most.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._every = 0.5 if console.is_terminal else 10.0
        self._next = 0.0
        self._last: tuple[float, int] | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("learning", total=None, note="")

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        self.expect(total)
        self._bar.update(self._task, completed=parts.loop.events)

    def expect(self, total: int | None) -> None:
        """So many events are to come in all, where that is known."""
        self._bar.update(self._task, total=total)

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, loop: Loop) -> None:
        if time.monotonic() >= self._next:
            self.show(loop.events, loop.results())

    def show(self, events: int, results: dict[str, float]) -> None:
        """Where the run stands now; shown if it is time for it."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        note = f"{events:,} events"
        if self._last is not None and now > self._last[0]:
            then, before = self._last
            note += f"  {(events - before) / (now - then):,.0f}/s"
        for name, title in (("online/accuracy", "accuracy"), ("online/mae", "MAE")):
            if name in results:
                note += f"  {title} {results[name]:.4f}"
        if "online/no_change_accuracy" in results:
            note += f"  (no-change {results['online/no_change_accuracy']:.4f})"
        first = self._last is None
        self._last = (now, events)
        self._bar.update(self._task, completed=events, note=note)
        if not self._console.is_terminal and not first:
            self._console.print(note, highlight=False)


def table(summary: dict[str, Any]) -> Table:
    """The end of a run in a few rows."""
    shown = Table(show_header=False, title=f"{summary['job']}, seed {summary['seed']}")
    shown.add_column()
    shown.add_column(justify="right")
    shown.add_row("events", f"{summary['events']:,}")
    shown.add_row("events/s", f"{summary['events_per_s']:,.0f}")
    for name, title in _HEADLINES:
        if name in summary["metrics"]:
            shown.add_row(title, f"{summary['metrics'][name]:.4f}")
    fates = {fate: n for fate, n in summary["fates"].items() if n}
    if summary["awaiting"]:
        fates["awaiting their label"] = summary["awaiting"]
    for fate, n in fates.items():
        shown.add_row(fate, f"{n:,}")
    shown.add_row("state digest", summary["state_digest"][:16])
    return shown
