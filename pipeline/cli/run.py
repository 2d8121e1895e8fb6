"""``everlearn run``, ``record`` and ``replay``."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pipeline.cli.console import print_result, reports_errors, say, stderr_console
from pipeline.cli.inspect import Overrides, inspect
from pipeline.config import job as jobs
from pipeline.config.errors import JobError
from pipeline.storage.offset_journal import Journal
from pipeline.storage.run_folder import DEAD_LETTERS, RunFolder

if TYPE_CHECKING:
    from pipeline.runners.local import LocalRunner
    from pipeline.runners.ray.driver import RayRunner

_GO_ON = "continue with the same command and --resume"


class RunnerKind(StrEnum):
    """Where a job runs."""

    local = "local"
    ray = "ray"


JobFile = Annotated[Path, typer.Argument(help="The job, a YAML file.", show_default=False)]
RunnerOption = Annotated[RunnerKind, typer.Option(help="Where it runs.")]
RunDir = Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/NAME")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue from the newest checkpoint of the run.")
]
ResumeIfBegun = Annotated[
    bool,
    typer.Option(
        "--resume-if-begun",
        help="Continue the run if there is one in its folder, else begin it: for restarts.",
    ),
]
WarmFrom = Annotated[
    Path | None, typer.Option(help="Start a new run with the learner of this checkpoint.")
]
_MAX_EVENTS = "Stop when this many events have been read in all."
MaxEvents = Annotated[int | None, typer.Option(min=1, help=_MAX_EVENTS)]
Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        help="The Ray cluster to run on, HOST:PORT; without one, Ray is started here.",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(min=0.001, help="Read at most this many events a second, as if live."),
]


class RunOptions(NamedTuple):
    """How and where a job runs; the fields are the options of the commands."""

    runner: RunnerKind
    run_dir: Path | None
    resume: bool
    resume_if_begun: bool
    warm_from: Path | None
    max_events: int | None
    address: str | None
    rate: float | None = None
    record: Path | None = None


def run(
    job: JobFile,
    runner: RunnerOption = RunnerKind.local,
    run_dir: RunDir = None,
    resume: Resume = False,
    resume_if_begun: ResumeIfBegun = False,
    warm_from: WarmFrom = None,
    max_events: MaxEvents = None,
    address: Address = None,
    rate: Rate = None,
    set_: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what it reads, as everlearn inspect.")
    ] = False,
) -> None:
    """Run a job, with live progress, checkpoints, and summary.json at the end."""
    if dry_run:
        inspect(job, set_=set_)
        return
    resumes = resume, resume_if_begun
    options = RunOptions(runner, run_dir, *resumes, warm_from, max_events, address, rate)
    _execute(lambda: jobs.load(job, set_ or []), options)


def record(
    job: JobFile,
    to: Annotated[Path, typer.Option(help="Folder of the recording.", show_default=False)],
    runner: RunnerOption = RunnerKind.local,
    run_dir: RunDir = None,
    resume: Resume = False,
    resume_if_begun: ResumeIfBegun = False,
    warm_from: WarmFrom = None,
    max_events: MaxEvents = None,
    address: Address = None,
    rate: Rate = None,
    set_: Overrides = None,
) -> None:
    """Run a job, and record its live stream to Parquet."""
    resumes = resume, resume_if_begun
    options = RunOptions(runner, run_dir, *resumes, warm_from, max_events, address, rate, to)
    _execute(lambda: jobs.load(job, set_ or []), options)


def replay(
    recording: Annotated[Path, typer.Argument(help="Folder of the recording.", show_default=False)],
    speed: Annotated[
        str, typer.Option(help="max, or a factor of the recorded speed: 1, 10, 0.5.")
    ] = "max",
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Event time, ISO 8601 or seconds."),
    ] = None,
    runner: RunnerOption = RunnerKind.local,
    run_dir: RunDir = None,
    resume: Resume = False,
    resume_if_begun: ResumeIfBegun = False,
    warm_from: WarmFrom = None,
    max_events: Annotated[
        int | None,
        typer.Option(min=1, help=_MAX_EVENTS, show_default="where the recorded run was stopped"),
    ] = None,
    address: Address = None,
    set_: Overrides = None,
) -> None:
    """Run the job of a recording again, on the recorded stream."""
    from pipeline.config.recorded_job import load_recorded_job

    resumes = resume, resume_if_begun
    warm, overrides = warm_from is not None or any(resumes), set_ or []
    options = RunOptions(runner, run_dir, *resumes, warm_from, max_events, address)
    _execute(
        lambda: load_recorded_job(recording, speed, from_, overrides, max_events, warm), options
    )


def _execute(load: Callable[[], jobs.LoadedJob], options: RunOptions) -> None:
    """Load a job, run it to its end and print the result; exit with the status of the run."""
    from pipeline.callbacks.progress import LiveProgress
    from pipeline.signals import stopping_on_signals
    from pipeline.training.errors import RunError

    with reports_errors(
        failed=(RunError,), interrupted=f"stopped at once; {_GO_ON}", started=False
    ):
        if options.resume and options.warm_from is not None:
            raise JobError("--resume and --warm-from exclude each other")
        loaded = load()
        folder = options.run_dir or Path("runs") / loaded.job.name
        there = RunFolder(folder).has_run
        if options.resume and not there:
            raise JobError(
                f"--resume: no run in {RunFolder(folder).content()}: leave out --resume to begin "
                "one, or name the folder of the run by --run-dir (--resume-if-begun does either)"
            )
        resume = options.resume or (options.resume_if_begun and there)
        if resume:
            _announce_resume(folder)
        runner = _runner(options, loaded, folder)
        gc.freeze()  # what was imported stays: a full collection would look at all of it
        with stopping_on_signals(runner, say), LiveProgress(stderr_console(), say) as progress:
            warm_from = None if resume else options.warm_from
            summary = runner.run(resume, warm_from, options.max_events, progress)
    _report_summary(summary, folder)
    if runner.stopping and not summary["finished"]:
        say(f"stopped before the end of the stream; {_GO_ON}")
        sys.exit(1)


def _announce_resume(folder: Path) -> None:
    """Say where a run without a checkpoint starts when it is resumed."""
    if RunFolder(folder).begun:
        return
    if Journal(folder).begun:
        say(f"no checkpoint in {folder} yet: reading again what its journal says the run has read")
    else:
        say(f"no checkpoint in {folder} yet: starting at the beginning")


def _runner(options: RunOptions, loaded: jobs.LoadedJob, folder: Path) -> LocalRunner | RayRunner:
    """Return the runner of a job. Raises ``JobError`` for the Ray runner without Ray."""
    if options.runner is RunnerKind.local:
        from pipeline.runners.local import LocalRunner

        return LocalRunner(loaded, folder, say, options.rate, options.record)
    if find_spec("ray") is None:
        raise JobError(
            "--runner ray: Ray is not installed: pip install 'everlearn[ray]', or leave out "
            "--runner to run in this process"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts of Ray warn about other parts on import
        from pipeline.runners.ray.driver import RayRunner

    return RayRunner(loaded, folder, say, options.address, options.rate, options.record)


def _report_summary(summary: dict[str, Any], folder: Path) -> None:
    """Print the summary of a run, and what in it needs attention."""
    from pipeline.callbacks.progress import table

    print_result(table(summary))
    if not summary["metrics"].get("online/scored"):
        say("no event has met its label: nothing was learned. See stream.label and label_delay")
    if dead := summary["fates"]["dead"]:
        say(
            f"{dead:,} events became dead letters: see {folder / DEAD_LETTERS}, or everlearn "
            f"dead-letters {folder}"
        )
    say(f"written to {folder / 'summary.json'}")
