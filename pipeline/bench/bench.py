"""Benchmarks: scenarios x learners x seeds, and a table of the results."""

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

from pipeline.bench.cell import Cell, build_cell, fingerprint, job_of, read_result, run_cell
from pipeline.bench.measure import Budget
from pipeline.bench.mlflow_runs import CellTracker
from pipeline.bench.processes import ProcessDiedError, in_processes
from pipeline.config.errors import JobError
from pipeline.storage.run_folder import RunFolder, write_atomic
from pipeline.training.callback import Say
from pipeline.training.errors import RunError

RESULTS = "results.json"
COLUMNS = (
    ("acc", "ACC"),
    ("forgetting", "forgetting"),
    ("fwt", "FWT"),
    ("aaa", "AAA"),
    ("wc_acc", "WC-ACC"),
)
"""Metrics of the table in percent, with their column titles; the results contain all metrics."""

Results = list[dict[str, Any]]


class Bench:
    """The cells of all scenarios, learners and seeds, in one folder.

    ``results.json`` in the folder has all finished cells; it is rewritten after each cell. A cell
    with a result of the same settings and versions is not run again.

    Args:
        scenarios, learners: names as in ``job_of``.
        seeds: number of seeds, counted from 0.
        out: the folder.
        overrides: ``key=value`` settings for the job of every cell.
        budget: how each cell is measured.
        workers: number of processes; with 1, cells run in this process.
        track: tracking URI of MLflow, where each cell is a run; None: no tracking.

    Raises ``JobError`` for an invalid job, and ``TrackError`` where tracking cannot work.
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
        # One seed after the other: every learner has a first result early.
        self.cells = [
            Cell(scenario, learner, seed)
            for scenario in scenarios
            for seed in range(seeds)
            for learner in learners
        ]
        self.overrides = overrides
        _check_folders(self.cells)
        self._jobs = {cell: job_of(cell, overrides) for cell in self.cells}
        self.track = None if track is None else CellTracker(track, out)

    def run(self, console: Console, say: Say) -> Results:
        """Run the unfinished cells; return the results of all cells, in order.

        Raises:
            JobError: a job cannot be built. No cell has started, unless data has since been lost.
            RunError: a cell failed; finished cells are kept.
        """
        self._check_buildable(self._finished())
        with _locked(self.out):
            try:
                return self._run(console, say)
            except ProcessDiedError as error:
                raise RunError(str(error)) from None
            except OSError as error:
                place = error.filename or self.out
                raise RunError(f"{error.strerror or error}: {place}") from None

    def _run(self, console: Console, say: Say) -> Results:
        results = self._finished()
        todo = [cell for cell in self.cells if cell not in results]
        self._write(results)
        if results:
            say(f"{len(results)} of {len(self.cells)} cells have a result already")
        with self._bars(console) as (show_total, show_cell):
            for cell in results:
                self._track(cell, say)
            show_total(len(results))
            with closing(self._run_cells(todo, show_cell)) as finished:
                for cell, result in finished:
                    results[cell] = result
                    self._write(results)
                    self._track(cell, say)
                    show_total(len(results))
        return self._write(results)

    def _finished(self) -> dict[Cell, dict[str, Any]]:
        """Return the results of the finished cells."""
        old = {
            cell: read_result(self.out / cell.folder, fingerprint(loaded, self.budget))
            for cell, loaded in self._jobs.items()
        }
        return {cell: result for cell, result in old.items() if result is not None}

    def _check_buildable(self, finished: Container[Cell]) -> None:
        """Raise ``JobError`` now for a cell that could not be built hours later."""
        checked = set()
        for cell, loaded in self._jobs.items():
            if cell not in finished and cell[:2] not in checked:
                checked.add(cell[:2])
                build_cell(loaded)

    def _run_cells(
        self, todo: Sequence[Cell], show_cell: Callable[[Cell, int, int], None]
    ) -> Generator[tuple[Cell, dict[str, Any]]]:
        """Yield each cell with its result, as cells finish."""
        if self.workers > 1 and todo:
            run = partial(_in_process, overrides=self.overrides, budget=self.budget, out=self.out)
            yield from in_processes(run, todo, self.workers)
            return
        for cell in todo:
            progress = partial(show_cell, cell)
            yield cell, run_cell(cell, self._jobs[cell], self.budget, self.out, progress)

    @contextmanager
    def _bars(
        self, console: Console
    ) -> Iterator[tuple[Callable[[int], None], Callable[[Cell, int, int], None]]]:
        """Show two bars, of all cells and of the current one; yield the functions that update them.

        The second bar appears only where cells run in this process.
        """
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

            def show_total(done: int) -> None:
                bars.update(cells, completed=done)

            def show_cell(cell: Cell, done: int, total: int) -> None:
                bars.update(one, description=f"{cell}", completed=done, total=total, visible=True)

            yield show_total, show_cell

    def _write(self, finished: dict[Cell, dict[str, Any]]) -> Results:
        """Write ``results.json``, and return its results."""
        results = [finished[cell] for cell in self.cells if cell in finished]
        write_atomic(self.out / RESULTS, json.dumps(results, indent=1) + "\n")
        return results

    def _track(self, cell: Cell, say: Say) -> None:
        if self.track is not None:
            self.track.log(cell, self._jobs[cell], say)


def _in_process(
    cell: Cell, overrides: Sequence[str], budget: Budget, out: Path
) -> tuple[Cell, dict[str, Any]]:
    return cell, run_cell(cell, job_of(cell, overrides), budget, out)


def _check_folders(cells: Sequence[Cell]) -> None:
    """Raise ``JobError`` where two cells would share a folder."""
    owners: dict[Path, Cell] = {}
    for cell in cells:
        other = owners.setdefault(cell.folder, cell)
        if other is not cell:
            raise JobError(
                f"bench: {cell} is listed twice"
                if other == cell
                else f"bench: {other} and {cell} would share the folder {cell.folder}: rename one"
            )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Create the folder and lock it against a second bench. Raises ``JobError``."""
    with ExitStack() as stack:
        try:
            stack.enter_context(RunFolder(out).lock())
        except JobError as error:
            raise JobError(str(error).replace("--run-dir", "--out")) from None
        yield


def tables(results: Results) -> list[Table]:
    """Return a table for each scenario: a row per learner, mean and deviation over seeds."""
    return [_table(scenario, part) for scenario, part in _group(results, "scenario").items()]


def _table(scenario: str, results: Results) -> Table:
    seeds = len({result["seed"] for result in results})
    nats = any("online_nll_time" in result["metrics"] for result in results)
    unit = "log-likelihood (LL) in nats" if nats else "in %"
    title = f"{scenario}, {unit}, {seeds} seed{'s' if seeds > 1 else ''}"
    table = Table(
        title=title,
        title_justify="left",
        min_width=len(title),
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0),
    )
    table.add_column("learner", overflow="fold", min_width=9)
    columns = [
        (key, title.replace("ACC", "LL") if nats else title)
        for key, title in COLUMNS
        if any(math.isfinite(_value(result, key)) for result in results)
    ]
    for title in [*(title for _, title in columns), "log-loss", "state", "CPU s"]:
        table.add_column(title, justify="right", no_wrap=True)
    for learner, runs in _group(results, "learner").items():
        values = [[_value(result, key) for result in runs] for key, _ in columns]
        numbers = [_spread_of_nats(each) if nats else spread(each) for each in values]
        table.add_row(learner, *numbers, *_costs(runs))
    return table


def _costs(runs: Results) -> tuple[str, str, str]:
    """Return the mean log-loss, the largest state and the mean CPU seconds of a learner."""
    losses = [_value(result, "test_log_loss") for result in runs]
    return (
        f"{mean(losses):.3f}" if all(map(math.isfinite, losses)) else "",
        _bytes(max(result["state_bytes"] for result in runs)),
        f"{mean(result['cpu_seconds'] for result in runs):.1f}",
    )


def budgets(results: Results) -> list[str]:
    """Return a line for each scenario with the gradient steps and buffer sizes of its learners.

    A comparison of learners is fair only where these are equal.
    """
    lines = []
    for scenario, part in _group(results, "scenario").items():
        learners = _group(part, "learner")
        steps = {name: max(r["gradient_steps"] for r in runs) for name, runs in learners.items()}
        sizes = {name: max(r["buffer_bytes"] for r in runs) for name, runs in learners.items()}
        steps_text = _by_learner({name: f"{n:,}" for name, n in steps.items() if n})
        sizes_text = _by_learner({name: _bytes(size) for name, size in sizes.items() if size})
        lines.append(f"{scenario}: gradient steps {steps_text}; buffer {sizes_text}")
    return lines


def _by_learner(values: dict[str, str]) -> str:
    """Return the value of each learner, written once where all have the same."""
    if len(set(values.values())) == 1:
        return f"{next(iter(values.values()))} ({', '.join(values)})"
    return ", ".join(f"{value} ({name})" for name, value in values.items()) or "none"


def spread(values: Sequence[float]) -> str:
    """Return ``mean±standard deviation`` of the finite values, in percent.

    A deviation of 10 or more has no decimals.
    """
    finite = [100 * value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    if len(finite) == 1:
        return f"{finite[0]:.1f}"
    wide = stdev(finite)
    return f"{mean(finite):.1f}±{wide:.{int(wide < 9.95)}f}"


def _spread_of_nats(values: Sequence[float]) -> str:
    """Return ``mean±standard deviation`` of the finite values."""
    finite = [value for value in values if math.isfinite(value)]
    deviation = f"±{stdev(finite):.3f}" if len(finite) > 1 else ""
    return f"{mean(finite):.3f}{deviation}" if finite else ""


def _value(result: dict[str, Any], key: str) -> float:
    return float(result["metrics"].get(key, math.nan))


def _group(results: Results, key: str) -> dict[str, Results]:
    """Group the results by one of their keys, in order of first appearance."""
    groups: dict[str, Results] = {}
    for result in results:
        groups.setdefault(result[key], []).append(result)
    return groups


def _bytes(size: float) -> str:
    return f"{size / 1e6:,.2f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
