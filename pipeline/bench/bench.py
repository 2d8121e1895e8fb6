"""Benchmarks: scenarios x learners x seeds, and the table that a paper prints of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.bench.cell import Cell, built, fingerprint, finished, job_of, run_cell
from pipeline.bench.measure import Budget
from pipeline.bench.mlflow_runs import Tracking
from pipeline.bench.processes import ProcessDiedError, in_processes
from pipeline.config.errors import JobError
from pipeline.storage.run_folder import RunFolder, write_atomic
from pipeline.training.callback import Say
from pipeline.training.errors import RunError

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

    Raises ``JobError`` where one of the jobs is wrong, and ``TrackError`` where tracking cannot
    work.
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
        # Seed by seed, so that every learner has a first result early.
        self.cells = [
            Cell(scenario, learner, seed)
            for scenario in scenarios
            for seed in range(seeds)
            for learner in learners
        ]
        self.overrides = overrides
        _apart(self.cells)
        self._jobs = {cell: job_of(cell, overrides) for cell in self.cells}
        self.track = None if track is None else Tracking(track, out)

    def run(self, console: Console, say: Say) -> Results:
        """Runs what is not done yet; results of all cells, in their order.

        Raises:
            JobError: one of the jobs cannot be run; but for data that is lost on the way, nothing
                was started.
            RunError: a cell failed; what is done is kept.
        """
        self._buildable(self._found())
        with _held(self.out):
            try:
                return self._run(console, say)
            except ProcessDiedError as error:
                raise RunError(str(error)) from None
            except OSError as error:
                place = error.filename or self.out
                raise RunError(f"{error.strerror or error}: {place}") from None

    def _run(self, console: Console, say: Say) -> Results:
        found = self._found()
        todo = [cell for cell in self.cells if cell not in found]
        self._write(found)
        if found:
            say(f"{len(found)} of {len(self.cells)} cells are there already")
        with self._bars(console) as (whole, told):
            for cell in found:
                self._tell(cell, say)
            whole(len(found))
            with closing(self._each(todo, told)) as each:
                for cell, result in each:
                    found[cell] = result
                    self._write(found)
                    self._tell(cell, say)
                    whole(len(found))
        return self._write(found)

    def _found(self) -> dict[Cell, dict[str, Any]]:
        """What is done already."""
        old = {
            cell: finished(self.out / cell.folder, fingerprint(loaded, self.budget))
            for cell, loaded in self._jobs.items()
        }
        return {cell: result for cell, result in old.items() if result is not None}

    def _buildable(self, found: Container[Cell]) -> None:
        """Raises ``JobError`` where what is to be run cannot be built: hours before it is tried."""
        tried = set()
        for cell, loaded in self._jobs.items():
            if cell not in found and cell[:2] not in tried:
                tried.add(cell[:2])
                built(loaded)

    def _each(
        self, todo: Sequence[Cell], told: Callable[[Cell, int, int], None]
    ) -> Generator[tuple[Cell, dict[str, Any]]]:
        """Results as they come."""
        if self.workers > 1 and todo:
            run = partial(_in_process, overrides=self.overrides, budget=self.budget, out=self.out)
            yield from in_processes(run, todo, self.workers)
            return
        for cell in todo:
            progress = partial(told, cell)
            yield cell, run_cell(cell, self._jobs[cell], self.budget, self.out, progress)

    @contextmanager
    def _bars(
        self, console: Console
    ) -> Iterator[tuple[Callable[[int], None], Callable[[Cell, int, int], None]]]:
        """Two bars: of all cells, and of the one at hand, where they are run in this process."""
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
                bars.update(one, description=f"{cell}", completed=done, total=total, visible=True)

            yield whole, told

    def _write(self, found: dict[Cell, dict[str, Any]]) -> Results:
        results = [found[cell] for cell in self.cells if cell in found]
        write_atomic(self.out / RESULTS, json.dumps(results, indent=1) + "\n")
        return results

    def _tell(self, cell: Cell, say: Say) -> None:
        if self.track is not None:
            self.track.tell(cell, self._jobs[cell], say)


def _in_process(
    cell: Cell, overrides: Sequence[str], budget: Budget, out: Path
) -> tuple[Cell, dict[str, Any]]:
    return cell, run_cell(cell, job_of(cell, overrides), budget, out)


def _apart(cells: Sequence[Cell]) -> None:
    """Raises ``JobError`` where two cells would share a folder."""
    there: dict[Path, Cell] = {}
    for cell in cells:
        other = there.setdefault(cell.folder, cell)
        if other is not cell:
            raise JobError(
                f"bench: {cell} is there twice"
                if other == cell
                else f"bench: {other} and {cell} would share the folder {cell.folder}: rename one"
            )


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Makes the folder, and holds it against a second bench. Raises ``JobError``."""
    with ExitStack() as stack:
        try:
            stack.enter_context(RunFolder(out).lock())
        except JobError as error:
            raise JobError(str(error).replace("--run-dir", "--out")) from None
        yield


def tables(results: Results) -> list[Table]:
    """One for each scenario: a row for each learner, mean and standard deviation over seeds."""
    return [_table(scenario, theirs) for scenario, theirs in _by(results, "scenario").items()]


def _table(scenario: str, results: Results) -> Table:
    seeds = len({result["seed"] for result in results})
    title = f"{scenario}, in %, {seeds} seed{'s' if seeds > 1 else ''}"
    table = Table(
        title=title,
        title_justify="left",
        min_width=len(title),
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0),
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
    """``mean±standard deviation`` over seeds, in percent; of those that are finite. Of a deviation
    of 10 or more no decimal is told."""
    finite = [100 * value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    if len(finite) == 1:
        return f"{finite[0]:.1f}"
    wide = stdev(finite)
    return f"{mean(finite):.1f}±{wide:.{int(wide < 9.95)}f}"


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
