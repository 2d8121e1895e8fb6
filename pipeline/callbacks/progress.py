"""Show a run on the terminal: a progress bar, and a table at the end."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipeline.callbacks.job_table import job_table
from pipeline.evaluation.online.class_metrics import are_unequal
from pipeline.training.callback import Callback, RunContext, Say
from pipeline.training.description import JobDescription
from pipeline.training.loop import Loop, StepResult

_HEADLINES = (
    ("online/accuracy", "accuracy"),
    ("online/no_change_accuracy", "no-change baseline"),
    ("online/balanced_accuracy", "balanced accuracy"),
    ("online/kappa", "kappa"),
    ("online/auc", "AUC"),
    ("online/f1", "F1"),
    ("online/average_precision", "average precision"),
    ("online/macro_f1", "macro-F1"),
    ("online/log_loss", "log-loss"),
    ("online/nll_time", "NLL of times"),
    ("online/nll_type", "NLL of types"),
    ("online/time_mae", "MAE of times"),
    ("online/mae", "MAE"),
    ("online/rmse", "RMSE"),
    ("online/no_change_mae", "no-change MAE"),
    ("stability/acc", "accuracy on probes"),
    ("stability/mae", "MAE on probes"),
    ("stability/nll", "NLL on probes"),
    ("stability/forgetting", "forgetting"),
)
_OF_UNEQUAL = ("online/f1", "online/average_precision", "online/macro_f1")


COLUMNS_SHOWN = 20
"""Columns in the table of a run."""


class LiveProgress(Callback):
    """Show a bar with events per second and the accuracy; print lines where there is no terminal.

    Before the first event it shows what the job reads. It reads the clock after each micro-batch,
    and the metrics twice a second at most.

    Args:
        console: shows the bar, the lines and the table.
        say: takes warnings; None: the console.
    """

    def __init__(self, console: Console, say: Say | None = None) -> None:
        self._console = console
        self._say = say or console.print
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

    def on_start(self, context: RunContext, loop: Loop) -> None:
        self.expect(context.total)
        self._bar.update(self._task, completed=loop.events)
        description = context.describe() if context.resumed_from is None else None
        if description is not None:
            self.announce(description)

    def announce(self, description: JobDescription) -> None:
        """Show what a job reads, and what looks wrong in it."""
        self._console.print(job_table(description, COLUMNS_SHOWN))
        for warning in description.warnings:
            self._say(f"warning: {warning}")

    def expect(self, total: int | None) -> None:
        """Set the number of events in all; None where it is not known."""
        self._bar.update(self._task, total=total)

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        if time.monotonic() >= self._next:
            self.show(loop.events, loop.results())

    def show(self, events: int, results: dict[str, float]) -> None:
        """Show where the run stands, if that is due."""
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
    """Return the summary of a run as a table."""
    shown = Table(show_header=False, title=f"{summary['job']}, seed {summary['seed']}")
    shown.add_column()
    shown.add_column(justify="right")
    shown.add_row("events", f"{summary['events']:,}")
    shown.add_row("events/s", f"{summary['events_per_s']:,.0f}")
    left_out = _left_out(summary)
    for name, title in _HEADLINES:
        if name in summary["metrics"] and name not in left_out:
            shown.add_row(title, _shown(summary["metrics"][name]))
    fates = {fate: n for fate, n in summary["fates"].items() if n}
    if summary["awaiting"]:
        fates["awaiting their label"] = summary["awaiting"]
    for fate, n in fates.items():
        shown.add_row(fate, f"{n:,}")
    shown.add_row("state digest", summary["state_digest"][:16])
    return shown


def _left_out(summary: dict[str, Any]) -> tuple[str, ...]:
    """Return the metrics that the table has no room for: the F1 of equal classes, and of two
    classes macro-F1."""
    confusion = summary.get("confusion")
    if confusion is None or not are_unequal(np.array(confusion["matrix"]).sum(1)):
        return _OF_UNEQUAL
    return _OF_UNEQUAL[2:] if len(confusion["classes"]) <= 2 else ()


def _shown(value: float | None) -> str:
    """Return a metric as the table shows it: a dash where it is None or NaN."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
