"""The command line. Exit status: 0 done, 1 failed or stopped on the way (state kept), 2 a bad job
or command (nothing started)."""

from __future__ import annotations

import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console

from pipeline.cli.dead_letters import command as dead_letters
from pipeline.cli.doctor import report
from pipeline.cli.produce import command as produce
from pipeline.config import job as jobs
from pipeline.config.errors import JobError
from pipeline.storage.offset_journal import Journal
from pipeline.storage.run_folder import RunFolder
from streams.core.errors import one_line

if TYPE_CHECKING:
    from pipeline.runners.local import LocalRunner
    from pipeline.runners.ray.driver import RayRunner

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Predicts, scores and learns every event of a stream; exact across kill -9.",
)


class Runner(StrEnum):
    """Where a job runs."""

    local = "local"
    ray = "ray"


RunnerOption = Annotated[Runner, typer.Option(help="Where it runs.")]
RunDirOption = Annotated[
    Path | None, typer.Option(help="Folder of the run.", show_default="runs/NAME")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run.")
]
WarmFromOption = Annotated[
    Path | None, typer.Option(help="Start anew with what the learner of this checkpoint knows.")
]
MaxEventsOption = Annotated[
    int | None, typer.Option(min=1, help="Stop once so many events in all have come in.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        help="The Ray cluster to run on, HOST:PORT; without one, Ray is started here.",
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(min=0.001, help="Read at most so many events a second, as if live."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job.")
]


@app.command()
def run(
    job: Annotated[Path, typer.Argument(help="The job, a YAML file.", show_default=False)],
    runner: RunnerOption = Runner.local,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    warm_from: WarmFromOption = None,
    max_events: MaxEventsOption = None,
    address: AddressOption = None,
    rate: RateOption = None,
    set_: SetOption = None,
) -> None:
    """Runs a job: live progress, checkpoints, and summary.json at the end."""
    _lead(
        lambda: (jobs.load(job, set_ or []), max_events),
        run_dir,
        resume,
        warm_from,
        _Where(runner, address, rate),
    )


@app.command()
def record(
    job: Annotated[Path, typer.Argument(help="The job, a YAML file.", show_default=False)],
    to: Annotated[Path, typer.Option(help="Folder of the recording.", show_default=False)],
    runner: RunnerOption = Runner.local,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    warm_from: WarmFromOption = None,
    max_events: MaxEventsOption = None,
    address: AddressOption = None,
    rate: RateOption = None,
    set_: SetOption = None,
) -> None:
    """Runs a job, and writes its live stream into Parquet beside it."""
    _lead(
        lambda: (jobs.load(job, set_ or []), max_events),
        run_dir,
        resume,
        warm_from,
        _Where(runner, address, rate, to),
    )


@app.command()
def replay(
    recording: Annotated[Path, typer.Argument(help="Folder of the recording.", show_default=False)],
    speed: Annotated[
        str, typer.Option(help="max, or how many times as fast as it happened: 1, 10, 0.5.")
    ] = "max",
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Event time, ISO 8601 or seconds."),
    ] = None,
    runner: RunnerOption = Runner.local,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    warm_from: WarmFromOption = None,
    max_events: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop once so many events in all have come in.",
            show_default="where the recorded run was stopped",
        ),
    ] = None,
    address: AddressOption = None,
    set_: SetOption = None,
) -> None:
    """Runs the job of a recording again, on what was recorded."""

    def load() -> tuple[jobs.LoadedJob, int | None]:
        from pipeline.config.recorded_job import replayed

        begun = (max_events, warm_from is not None or resume)
        return replayed(recording, speed, from_, set_ or [], *begun), max_events

    _lead(load, run_dir, resume, warm_from, _Where(runner, address, None))


class _Where(NamedTuple):
    """Where, and how, a job is run."""

    runner: Runner
    address: str | None
    rate: float | None
    record: Path | None = None


def _lead(
    load: Callable[[], tuple[jobs.LoadedJob, int | None]],
    run_dir: Path | None,
    resume: bool,
    warm_from: Path | None,
    where: _Where,
) -> None:
    """Runs the job that is loaded, to so many events."""
    from pipeline.callbacks.progress import LiveProgress, table
    from pipeline.signals import stopping_on_signals
    from pipeline.training.errors import RunError

    console = Console(stderr=True)
    say = _saying(console)

    try:
        if resume and warm_from is not None:
            raise JobError("--resume and --warm-from exclude each other")
        loaded, max_events = load()
        folder = run_dir or Path("runs") / loaded.job.name
        if resume and not RunFolder(folder).begun:
            beginning = "reading again what the run had read, by its journal"
            if not Journal(folder).begun:
                beginning = "starting at the beginning"
            say(f"no checkpoint in {folder} yet: {beginning}")
        going = _runner(where, loaded, folder, say)
        with stopping_on_signals(going, say), LiveProgress(console) as progress:
            summary = going.run(resume, warm_from, max_events, progress)
    except JobError as error:
        for problem in str(error).splitlines():
            say(problem)
        sys.exit(2)
    except RunError as error:
        say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        say("left at once; go on with the same command and --resume")
        sys.exit(1)
    except Exception as error:  # a defect: never a bare stack trace
        say(f"{type(error).__name__}: {one_line(error)}. Nothing was started{_log()}")
        sys.exit(2)
    try:
        Console().print(table(summary))
    except OSError as error:
        say(f"the table cannot be printed: {error.strerror}")
    if not summary["metrics"].get("online/scored"):
        say("no event has met its label: nothing was learned. See stream.label and label_delay")
    if summary["fates"]["dead"]:
        told = f"{summary['fates']['dead']:,} events were set aside"
        say(f"{told}: see {folder / 'dead.jsonl'}, or everlearn dead-letters {folder}")
    say(f"written to {folder / 'summary.json'}")
    if going.stopping and not summary["finished"]:
        say("stopped before the end of the stream; go on with the same command and --resume")
        sys.exit(1)


def _runner(
    where: _Where, loaded: jobs.LoadedJob, folder: Path, say: Callable[[str], None]
) -> LocalRunner | RayRunner:
    runner, address, rate, record = where
    if runner is Runner.local:
        from pipeline.runners.local import LocalRunner

        return LocalRunner(loaded, folder, say, rate, record)
    if find_spec("ray") is None:
        raise JobError(
            "--runner ray: Ray is not installed: pip install 'everlearn[ray]', or leave out "
            "--runner for a run in this process"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts of Ray warn of other parts as they are imported
        from pipeline.runners.ray.driver import RayRunner

    return RayRunner(loaded, folder, say, address, rate, record)


@app.command()
def serve(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")
    ] = 8000,
    poll: Annotated[
        float, typer.Option(min=0.01, help="Seconds between two looks for a newer model.")
    ] = 1.0,
) -> None:
    """Serves the newest model of a run, of one that goes on too, until Ctrl-C."""
    from pipeline.config.sections import ServeConfig
    from pipeline.serving.checkpoint_server import ServeError
    from pipeline.serving.checkpoint_server import serve as serving

    console = Console(stderr=True)
    say = _saying(console)

    try:
        serving(run_dir, ServeConfig(host=host, port=port), poll, say)
    except ServeError as error:
        say(str(error))
        sys.exit(2)
    except Exception as error:  # a defect: never a bare stack trace
        say(f"{type(error).__name__}: {one_line(error)}{_log()}")
        sys.exit(1)


@app.command("report")
def report_page(
    path: Annotated[
        Path, typer.Argument(help="Folder of a run or of a bench.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="PATH/report.html")
    ] = None,
) -> None:
    """Writes one HTML page of a run or a bench: curves, forgetting, segments; opens offline."""
    from pipeline.report.build import ReportError, write_report

    console = Console(stderr=True)
    say = _saying(console)

    try:
        say(f"written to {write_report(path, out)}")
    except ReportError as error:
        say(str(error))
        sys.exit(2)
    except Exception as error:  # a defect: never a bare stack trace
        say(f"{type(error).__name__}: {one_line(error)}{_log()}")
        sys.exit(1)


@app.command()
def bench(
    scenarios: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENARIO...",
            help="Names of scenarios, or YAML files with what stands under stream: in a job.",
            show_default=False,
        ),
    ],
    learner: Annotated[
        list[str],
        typer.Option(help="A kind, or kind:key=value,... with settings.", show_default=False),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with seeds from 0.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/bench"),
    every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Events between evaluations.", show_default="a tenth of the first phase"
        ),
    ] = None,
    tests: Annotated[
        int, typer.Option(min=0, help="Test events of each task at most; 0: all.")
    ] = 2000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    track: Annotated[
        str | None, typer.Option(help="MLflow, each cell a run, as in sqlite:///mlflow.db.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of every job."),
    ] = None,
) -> None:
    """Runs scenarios x learners x seeds: results.json, a table, and a page of pictures."""
    from pipeline.bench.bench import RESULTS, Bench, budgets, tables
    from pipeline.bench.measure import Budget
    from pipeline.report.build import ReportError, write_report
    from pipeline.tracking.mlflow_delivery import TrackError
    from pipeline.training.errors import RunError

    console = Console(stderr=True)
    say = _saying(console)

    try:
        budget = Budget(every, tests or None)
        benching = Bench(scenarios, learner, seeds, out, set_ or [], budget, workers, track)
        results = benching.run(console, say)
    except (JobError, TrackError) as error:
        for problem in str(error).splitlines():
            say(problem)
        sys.exit(2)
    except RunError as error:
        say(f"{error}. What is done stays in {out}; the same command goes on")
        sys.exit(1)
    except KeyboardInterrupt:
        say(f"stopped. What is done stays in {out}; the same command goes on")
        sys.exit(1)
    except Exception as error:  # a defect: never a bare stack trace
        say(f"{type(error).__name__}: {one_line(error)}{_log()}")
        sys.exit(1)
    try:
        for table in tables(results):
            Console().print(table, "")
    except OSError as error:
        say(f"the table cannot be printed: {error.strerror}")
    for told in budgets(results):
        say(told)
    try:
        say(f"written to {out / RESULTS} and {write_report(out)}")
    except ReportError as error:
        say(f"written to {out / RESULTS}; {error}")


app.command("dead-letters")(dead_letters)


app.command("produce")(produce)


@app.command()
def doctor() -> None:
    """What is installed, what is missing, and how to get it."""
    sys.exit(report(Console()))


def _saying(console: Console) -> Callable[[str], None]:
    """What tells a person a line."""

    def say(what: str) -> None:
        console.print(f"everlearn: {what}", highlight=False, markup=False, soft_wrap=True)

    return say


def _log() -> str:
    """Writes the stack trace at hand to a file of its own; says where it is."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="everlearn-", suffix=".log", delete=False
        ) as f:
            f.write(traceback.format_exc())
    except OSError:
        return ""
    return f". Details: {f.name}"
