"""Benchmarks: scenarios x learners x seeds, and the table that a paper prints of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.cell import Budget, Cell, fingerprint, finished, job_of, run_cell
from pipeline.folder import write_whole
from pipeline.job import LoadedJob
from pipeline.run import Say
from pipeline.track import TrackConfig, Tracker, check, describe, tags

RESULTS = "results.json"
COLUMNS = (
    ("acc", "ACC"),
    ("forgetting", "forgetting"),
    ("bwt", "BWT"),
    ("fwt", "FWT"),
    ("aaa", "AAA"),
    ("wc_acc", "WC-ACC"),
    ("learning_accuracy", "learning"),
)
"""Metrics in the table, and what they are called there; all others are in the results."""

Results = list[dict[str, Any]]


class Bench:
    """All cells of scenarios, learners and seeds, in a folder.

    ``results.json`` in it is written anew after each cell, and holds all cells that are done. What
    was there already, with the same settings and versions, is not run again.

    Args:
        scenarios, learners: as ``job_of`` takes them.
        seeds: 0 to so many less one.
        out: the folder.
        overrides: ``key=value`` for the job of every cell.
        budget: how each is measured.
        workers: processes; with one, cells are run in this one.
        track: where each cell is tracked as a run; None: nowhere.

    Raises ``JobError`` where one of the jobs cannot be run, before anything is, and ``TrackError``
    where tracking cannot work.
    """

    def __init__(
        self,
        scenarios: Sequence[str],
        learners: Sequence[str],
        seeds: int,
        out: Path,
        overrides: Sequence[str] = (),
        budget: Budget | None = None,
        workers: int = 1,
        track: str | None = None,
    ) -> None:
        self.out = out
        self.budget = budget or Budget()
        self.workers = workers
        self.track = track
        # Seed by seed, so that every learner has a first result early.
        self.cells = [
            Cell(scenario, learner, seed)
            for scenario in scenarios
            for seed in range(seeds)
            for learner in learners
        ]
        self.overrides = overrides
        self._jobs = {cell: job_of(cell, overrides) for cell in self.cells}
        if track is not None:
            check(TrackConfig(uri=track))

    def run(self, console: Console, say: Say) -> Results:
        """Runs what is not done yet; results of all cells, in their order.

        Raises ``JobError`` and ``RunError`` as ``run_cell`` does.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        found: dict[Cell, dict[str, Any]] = {}
        for cell, loaded in self._jobs.items():
            old = finished(self.out / cell.folder, fingerprint(loaded, self.budget))
            if old is not None:
                found[cell] = old
        todo = [cell for cell in self.cells if cell not in found]
        if found:
            say(f"{len(found)} of {len(self.cells)} cells are there already")
        with self._bars(console) as (whole, told):
            whole(len(found))
            for cell, result in self._each(todo, told):
                found[cell] = result
                self._write(found)
                whole(len(found))
                if self.track is not None:
                    self._tell(cell, self._jobs[cell], self.track, say)
        return self._write(found)

    def _each(
        self, todo: Sequence[Cell], told: Callable[[Cell, int, int], None]
    ) -> Iterator[tuple[Cell, dict[str, Any]]]:
        if self.workers == 1:
            for cell in todo:
                job = self._jobs[cell]

                def progress(done: int, total: int, cell: Cell = cell) -> None:
                    told(cell, done, total)

                yield cell, run_cell(cell, job, self.budget, self.out, progress)
            return
        # Spawned: a fork of a process that has used torch's threads may hang.
        with ProcessPoolExecutor(self.workers, get_context("spawn")) as pool:
            running = {
                pool.submit(_in_process, cell, self.overrides, self.budget, self.out): cell
                for cell in todo
            }
            try:
                for done in as_completed(running):
                    yield running[done], done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def _bars(
        self, console: Console
    ) -> Iterator[tuple[Callable[[int], None], Callable[[Cell, int, int], None]]]:
        """Two bars: of all cells, and of the one at hand."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        with Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as bars:
            cells = bars.add_task("cells", total=len(self.cells))
            one = bars.add_task("", total=None, visible=False)

            def whole(done: int) -> None:
                bars.update(cells, completed=done)

            def told(cell: Cell, done: int, total: int) -> None:
                name = f"{cell.scenario} {cell.learner} seed {cell.seed}"
                bars.update(one, description=name, completed=done, total=total, visible=True)

            yield whole, told

    def _write(self, found: dict[Cell, dict[str, Any]]) -> Results:
        results = [found[cell] for cell in self.cells if cell in found]
        write_whole(self.out / RESULTS, json.dumps(results, indent=1) + "\n")
        return results

    def _tell(self, cell: Cell, loaded: LoadedJob, uri: str, say: Say) -> None:
        """Makes the cell an MLflow run, with its curves and its result."""
        folder = self.out / cell.folder
        config = TrackConfig(uri=uri, experiment=f"bench {cell.scenario}")
        about = describe(loaded.values())
        marked = {**tags(loaded.folder), "scenario": cell.scenario, "learner": cell.learner}
        tracker = Tracker(config, folder, loaded.job.name, about, marked, say, share=1.0)
        tracker.start()
        tracker.close("FINISHED", [folder / "result.json"])


def _in_process(cell: Cell, overrides: Sequence[str], budget: Budget, out: Path) -> dict[str, Any]:
    return run_cell(cell, job_of(cell, overrides), budget, out)


def tables(results: Results) -> list[Table]:
    """One for each scenario: a row for each learner, mean and standard deviation over seeds."""
    return [_table(scenario, theirs) for scenario, theirs in _by(results, "scenario").items()]


def _table(scenario: str, results: Results) -> Table:
    seeds = len({result["seed"] for result in results})
    title = f"{scenario}, in %, {seeds} seed{'s' if seeds > 1 else ''}"
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 0)
    )
    table.add_column("learner", overflow="fold", min_width=9)
    shown = [
        (key, title)
        for key, title in COLUMNS
        if any(math.isfinite(_value(result, key)) for result in results)
    ]
    for _, title in shown:
        table.add_column(title, justify="right", no_wrap=True)
    for learner, theirs in _by(results, "learner").items():
        numbers = [spread([_value(result, key) for result in theirs]) for key, _ in shown]
        table.add_row(learner, *numbers)
    return table


def budgets(results: Results) -> list[str]:
    """For each scenario how many gradient steps its learners took, and how many bytes of events
    they may remember: what a comparison hangs on."""
    lines = []
    for scenario, theirs in _by(results, "scenario").items():
        learners = _by(theirs, "learner")
        steps = {name: max(r["gradient_steps"] for r in found) for name, found in learners.items()}
        sizes = {name: max(r["buffer_bytes"] for r in found) for name, found in learners.items()}
        told = (
            _alike({name: f"{n:,}" for name, n in steps.items() if n}),
            _alike({name: _bytes(size) for name, size in sizes.items() if size}),
        )
        lines.append(f"{scenario}: gradient steps {told[0]}; buffer {told[1]}")
    return lines


def _alike(values: dict[str, str]) -> str:
    """What all have, once, or what each of them has."""
    if len(set(values.values())) == 1:
        return f"{next(iter(values.values()))} ({', '.join(values)})"
    return ", ".join(f"{value} ({name})" for name, value in values.items()) or "none"


def spread(values: Sequence[float]) -> str:
    """``mean ± standard deviation`` over seeds, in percent; of those that are finite."""
    finite = [100 * value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    if len(finite) == 1:
        return f"{finite[0]:.1f}"
    return f"{mean(finite):.1f}±{stdev(finite):.1f}"


def _value(result: dict[str, Any], key: str) -> float:
    return float(result["metrics"].get(key, math.nan))


def _by(results: Results, key: str) -> dict[str, Results]:
    """The results by one of their keys, in the order in which its values come."""
    found: dict[str, Results] = {}
    for result in results:
        found.setdefault(result[key], []).append(result)
    return found


def _bytes(size: float) -> str:
    return f"{size / 1e6:,.2f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
