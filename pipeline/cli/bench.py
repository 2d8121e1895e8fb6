"""``everlearn bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import print_result, reports_errors, say, stderr_console
from pipeline.config.errors import JobError

if TYPE_CHECKING:
    from pipeline.bench.bench import Results

Scenarios = Annotated[
    list[str],
    typer.Argument(
        metavar="SCENARIO...",
        help="Names of scenarios, or YAML files with the contents of stream: in a job.",
        show_default=False,
    ),
]
Learners = Annotated[
    list[str],
    typer.Option(help="A kind, or kind:key=value,... with settings.", show_default=False),
]
Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds, from 0.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]
Every = Annotated[
    int | None,
    typer.Option(
        min=1, help="Events between evaluations.", show_default="a tenth of the first phase"
    ),
]
Tests = Annotated[int, typer.Option(min=0, help="Largest number of test events of a task; 0: all.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
Track = Annotated[
    str | None, typer.Option(help="MLflow, where each cell is a run, as in sqlite:///mlflow.db.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of every job."),
]


def bench(
    scenarios: Scenarios,
    learner: Learners,
    seeds: Seeds = 3,
    out: Out = Path("runs/bench"),
    every: Every = None,
    tests: Tests = 2000,
    workers: Workers = 1,
    track: Track = None,
    set_: Overrides = None,
) -> None:
    """Run scenarios x learners x seeds: results.json, a table, and a page of figures."""
    from pipeline.bench.bench import Bench
    from pipeline.bench.measure import Budget
    from pipeline.tracking.mlflow_delivery import TrackError
    from pipeline.training.errors import RunError

    kept = f"Finished cells stay in {out}; the same command continues"
    with reports_errors(
        refused=(JobError, TrackError),
        failed=(RunError,),
        advice=f". {kept}",
        interrupted=f"stopped. {kept}",
    ):
        budget = Budget(every, tests or None)
        cells = Bench(scenarios, learner, seeds, out, set_ or [], budget, workers, track)
        results = cells.run(stderr_console(), say)
    _report_results(results, out)


def _report_results(results: Results, out: Path) -> None:
    """Print the tables of a bench and write its page."""
    from pipeline.bench.bench import RESULTS, budgets, tables
    from pipeline.report.build import ReportError, write_report

    print_result(*(part for table in tables(results) for part in (table, "")))
    for budget in budgets(results):
        say(budget)
    try:
        say(f"written to {out / RESULTS} and {write_report(out)}")
    except ReportError as error:
        say(f"written to {out / RESULTS}; {error}")
