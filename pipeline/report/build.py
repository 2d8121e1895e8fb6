"""The HTML page of a run or of a bench."""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from pipeline.config.job import flat
from pipeline.evaluation.decay_fits import better
from pipeline.report.page import Page, Tile
from pipeline.report.run_data import Result, RunData, read_bench, read_run
from pipeline.tracking.mlflow_delivery import describe
from streams.core.errors import one_line

_RUN = ("job.yaml", "metrics.jsonl", "summary.json")
_BENCH = "results.json"
_COLUMNS = (
    ("acc", "ACC"),
    ("forgetting", "forgetting"),
    ("bwt", "BWT"),
    ("fwt", "FWT"),
    ("aaa", "AAA"),
    ("min_acc", "min-ACC"),
    ("wc_acc", "WC-ACC"),
    ("learning_accuracy", "learned at"),
    ("test_log_loss", "log-loss"),
    ("seconds", "seconds"),
    ("cpu_seconds", "CPU seconds"),
    ("state_bytes", "state (MB)"),
    ("buffer_bytes", "buffer (MB)"),
    ("gradient_steps", "gradient steps"),
)
_FORMATS = {  # scale and format, where not three decimals
    "seconds": (1.0, "{:,.1f}"),
    "cpu_seconds": (1.0, "{:,.1f}"),
    "state_bytes": (1e-6, "{:,.2f}"),
    "buffer_bytes": (1e-6, "{:,.2f}"),
    "gradient_steps": (1.0, "{:,.0f}"),
}
_ONLINE = (
    (
        "online accuracy",
        "each event is predicted before it is learned; window: of the last events scored",
    ),
    ("no-change baseline", "predicts the last known label: hard to beat if labels come in runs"),
    ("served", "predictions of the server, scored when their labels arrive"),
    ("segment, probe", "a part of the stream, and its held-out events, which are never learned"),
)
_CLASSES = (
    ("positive class", "of two classes the one with code 1: precision, recall and F1 are of it"),
    (
        "precision, recall",
        "share of the predictions of a class that are right; of its labels found",
    ),
    ("F1", "harmonic mean of precision and recall; macro: its mean over classes"),
    ("average precision", "area under the curve of precision against recall"),
    ("confidence", "the probability that the model gives to the class it predicts"),
)
_STABILITY = (
    ("ACC", "mean accuracy now over all that was learned"),
    ("forgetting", "mean fall of accuracy from the best after learning to now"),
    ("min-ACC", "mean of the lowest accuracy since each segment or task was learned"),
    ("WC-ACC", "worst case: accuracy on the newest, weighted with min-ACC for the rest"),
    ("learned at", "learning accuracy: mean accuracy on each just after it was learned"),
)
_NETWORK = (
    ("dormant units", "share of hidden units with almost no activation on the probes"),
    ("effective rank", "number of dimensions that the last hidden layer uses"),
)
_HISTOGRAM_NOTES = {
    "interval": "Recall intervals: events between two rehearsals of the same event.",
    "strength": "Strengths: the estimated time for which an event is remembered.",
    "retention": "Retention: the estimated probability that an event is still remembered.",
}
_BENCH_TERMS = (
    ("forgetting (initial)", "fall of accuracy since just after learning, not since the best"),
    ("BWT, FWT", "effect of later tasks on earlier ones; effect of earlier tasks on later ones"),
    ("AAA", "mean accuracy over all evaluations, not only the last"),
    ("±, band", "standard deviation over seeds"),
)


class ReportError(Exception):
    """There is nothing to report, or the page cannot be written."""


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run folder or of a bench folder.

    Args:
        folder: folder of ``everlearn run`` or ``everlearn bench``.
        out: file to write; None: ``report.html`` in the folder.

    Returns:
        The file.

    Raises ``ReportError`` for any other folder, without plotly, and for a file that cannot be read
    or written.
    """
    if find_spec("plotly") is None:
        raise ReportError("plotly is not installed: pip install 'everlearn[bench]'")
    if not folder.is_dir():
        raise ReportError(f"{folder} is not a folder: expected the folder of a run or of a bench")
    target = folder / "report.html" if out is None else out
    try:
        if (folder / _BENCH).exists():
            page = _bench(folder)
        elif any((folder / name).exists() for name in _RUN):
            page = _run(folder)
        else:
            raise ReportError(
                f"{folder} has no file of a run ({', '.join(_RUN)}) or of a bench ({_BENCH})"
            )
        target.write_text(page.html(), encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{error.filename or target}: {error.strerror or error}") from None
    return target


def attach_report(folder: Path, say: Callable[[str], None]) -> None:
    """Write the page of a finished run, which MLflow takes as an artifact, if plotly is installed.

    An error is reported and does not fail the run.
    """
    if find_spec("plotly") is None:
        return
    try:
        write_report(folder)
    except Exception as error:  # a report must not fail the run
        say(f"no report.html: {type(error).__name__}: {one_line(error)}")


def _run(folder: Path) -> Page:
    """Return the page of a run folder."""
    from pipeline.report import charts

    run = read_run(folder)
    name = run.job.get("name") or run.summary.get("job") or folder.resolve().name
    page = Page(str(name), _status(run))
    page.tiles(_tiles(run))
    curves, marks = run.curves, run.marks
    unequal = run.confusion is not None and run.confusion.unequal
    if figure := charts.online(curves, marks, unequal):
        page.section(
            "Online",
            "Each event is predicted before it is learned, and scored when its label arrives.",
        )
        page.figure(figure)
    alerts = sorted({mark.text for mark in marks if mark.kind == "alert"})
    if alerts:
        page.note(f"Alerts start at the dotted lines: {'; '.join(alerts)}.")
    _classes(page, run)
    _stability(page, run)
    _once_seen(page, run)
    _replay(page, run)
    if figure := charts.plasticity(curves):
        page.section("Plasticity", "The ability of the network to learn.")
        page.figure(figure)
    if figures := charts.learner(curves):
        page.section("Learner", "What the learner publishes of itself; see the page of its method.")
        for figure in figures:
            page.figure(figure)
    if figure := charts.system(curves):
        page.section("System")
        page.figure(figure)
    if not curves:
        page.note("No metrics: a job with a track section writes them during the run.")
    job = describe(flat(run.job))
    page.section("Job", "The settings of the run, without tracking.")
    page.pairs([(key, str(value)) for key, value in job.items() if value is not None])
    page.glossary(
        (*_ONLINE, *(_CLASSES if run.confusion is not None else ()), *_STABILITY, *_NETWORK),
        ("docs/run-a-job.md", "docs/metrics.md", "docs/track.md"),
    )
    return page


def _classes(page: Page, run: RunData) -> None:
    """Add the sections on classes: confusion matrix, scores by class, calibration."""
    from pipeline.report import class_charts

    if run.confusion is not None:
        page.section(
            "Classes",
            "Events by label and prediction, over the whole stream. The colour is the share of the "
            "events with that label: on the diagonal it is recall.",
        )
        page.figure(class_charts.matrix(run.confusion))
        columns = ("class", "precision", "recall", "F1", "labels")
        page.numbers(columns, [("", class_charts.rows(run.confusion))], scrolls=True)
    if run.calibration is not None:
        page.section(
            "Calibration",
            "Predicted against observed frequencies over the whole stream, with 95% intervals. "
            "Below the dotted line the predicted probability is too high.",
        )
        page.figure(class_charts.calibration(run.calibration))


def _stability(page: Page, run: RunData) -> None:
    """Add the sections on forgetting: stability, segments and retention."""
    from pipeline.report import charts

    figure = charts.stability(run.curves, run.marks)
    heat = charts.segments(run.evaluations, run.marks, run.measure)
    if figure is not None or heat is None:
        page.section(
            "Stability",
            "Accuracy and forgetting, measured on held-out probes. Band: 95% interval.",
        )
    if figure is not None:
        page.figure(figure)
    if heat is None:
        page.note("No probes have been evaluated: set evaluate.probes.share in the job.")
        return
    page.section(
        "Segments",
        f"{run.measure.capitalize()} on each segment of the stream during the run: a row that "
        "fades to the right is being forgotten. Neighbouring segments may have been merged.",
    )
    page.figure(heat)
    newest = run.evaluations[-1]
    if figure := charts.retention(newest, run.measure):
        page.section(
            "Retention",
            f"{run.measure.capitalize()} against the age of a segment, after {newest.events:,} "
            "events, with 95% intervals.",
        )
        page.figure(figure)


def _once_seen(page: Page, run: RunData) -> None:
    """Add the section on events learned once."""
    from pipeline.report import buffer_charts

    bins = run.evaluations[-1].once_seen if run.evaluations else ()
    figure = buffer_charts.once_seen(bins)
    if figure is None:
        return
    page.section(
        "Once seen",
        "Accuracy on events learned once and never rehearsed, against the number of updates since, "
        "with 95% intervals.",
    )
    page.figure(figure)
    if fits := buffer_charts.fit_curves(bins):
        best = better(*fits)
        page.note(
            "Neither curve fits clearly better."
            if best is None
            else "The power law fits better: a steep fall, then a slow one."
            if best.kind == "power"
            else "The exponential fits better: the same share is lost with each update."
        )


def _replay(page: Page, run: RunData) -> None:
    """Add the section on the replay buffer."""
    from pipeline.report import buffer_charts

    figures = [
        (name, figure)
        for name, values in sorted(run.histograms.items(), key=lambda item: item[0])
        if (figure := buffer_charts.histogram(values, name)) is not None
    ]
    if figures:
        page.section("Replay", "The replay buffer over time: each column is a histogram.")
    for name, figure in figures:
        if note := _HISTOGRAM_NOTES.get(name):
            page.note(note)
        page.figure(figure)


def _status(run: RunData) -> str:
    """Return a line on the state of the run."""
    summary = run.summary
    events = summary.get("events")
    if not isinstance(events, int) or run.events > events:
        status = "not ended: still running, or killed"
    else:
        status = "finished" if summary.get("finished") else "stopped before the end of the stream"
    facts = [f"Run, {status}"]
    for key, title in (("seed", "seed"), ("runner", "runner"), ("model_version", "model version")):
        value = summary.get(key, run.job.get(key))
        if value is not None:
            facts.append(f"{title} {value}")
    return " · ".join(facts)


def _tiles(run: RunData) -> list[Tile]:
    """Return the tiles of the headline numbers that the run has."""

    def text(form: str, *names: str) -> str:
        values = [run.last(name) for name in names]
        return "" if None in values else form.format(*values)

    measure, title, form = "accuracy", "accuracy", "{:z.3f}"
    if "mean absolute error" in run.measure:
        measure, title, form = "mae", "mean absolute error", "{:.4g}"
    band = ("stability/forgetting_low", "stability/forgetting_high")
    speed = run.summary.get("events_per_s")
    tiles = [
        Tile(
            "events",
            f"{run.events:,}",
            f"{speed:,.0f} per second" if isinstance(speed, int | float) else "",
        ),
        Tile(
            title,
            text(form, f"online/{measure}"),
            text(f"no-change baseline {form}", f"online/no_change_{measure}"),
        ),
        *_rare_tiles(run, text),
        Tile(
            "nats an event",
            text("{:z.3f}", "online/nll"),
            text("time {:z.3f}, type {:z.3f}", "online/nll_time", "online/nll_type"),
        ),
        Tile(
            f"served {title}",
            text(form, f"served/{measure}"),
            text("{:,.0f} predictions scored", "served/scored"),
        ),
        Tile(
            "forgetting now",
            text("{:z.3f}", "stability/forgetting"),
            text("95% interval {:z.3f} to {:z.3f}", *band),
        ),
        Tile(
            "worst-case accuracy",
            text("{:z.3f}", "stability/wc_acc"),
            text("min-ACC {:z.3f}", "stability/min_acc"),
        ),
        Tile(
            "learned at",
            text("{:z.3f}", "plasticity/learning_accuracy"),
            text("ACC now {:z.3f}", "stability/acc"),
        ),
    ]
    return [tile for tile in tiles if tile.value]


def _rare_tiles(run: RunData, text: Callable[..., str]) -> list[Tile]:
    """Return the tile of the score that says more than accuracy where classes are unequal."""
    if run.confusion is None or not run.confusion.unequal:
        return []
    if len(run.confusion.classes) > 2:
        return [Tile("macro-F1", text("{:z.3f}", "online/macro_f1"), "mean over classes")]
    precision = text("average precision {:z.3f}", "online/average_precision")
    return [Tile(f"F1 of {run.confusion.classes[1]}", text("{:z.3f}", "online/f1"), precision)]


def _bench(folder: Path) -> Page:
    """Return the page of a bench folder. Raises ``ReportError``."""
    from pipeline.report import charts

    try:
        results = read_bench(folder / _BENCH)
    except ValueError as error:
        raise ReportError(f"{folder / _BENCH} cannot be read: {error}") from None
    if not results:
        raise ReportError(f"{folder / _BENCH} has no results")
    scenarios: dict[str, list[Result]] = {}
    for result in results:
        scenarios.setdefault(result.scenario, []).append(result)
    learners = {result.learner for result in results}
    page = Page(
        folder.resolve().name,
        f"Bench · {_count(scenarios, 'scenario')} · {_count(learners, 'learner')} · "
        f"{_count(results, 'result')}",
    )
    page.section("Results", "Mean and, below it, standard deviation over seeds.")
    page.numbers(
        ("learner", "seeds", *(title for _, title in _COLUMNS)),
        [
            (scenario, [_numbers(*group) for group in charts.by_learner(runs).items()])
            for scenario, runs in scenarios.items()
        ],
    )
    for scenario, runs in scenarios.items():
        page.section(scenario)
        for note, figure in (
            (
                "Anytime accuracy: mean over the evaluated tasks and the seeds.",
                charts.anytime(runs),
            ),
            ("Forgetting at the end.", charts.forgetting(runs)),
            ("Accuracy on each task at the end of each phase.", charts.matrices(runs)),
        ):
            if figure is not None:
                page.note(note)
                page.figure(figure)
    page.glossary((*_STABILITY, *_BENCH_TERMS), ("docs/metrics.md", "docs/scenarios.md"))
    return page


def _numbers(learner: str, runs: list[Result]) -> tuple[str, list[tuple[str, str]]]:
    """Return a row of the table: the learner, and mean and deviation of each column."""
    from pipeline.report import charts

    cells = [(f"{len(runs)}", "")]
    for column, _ in _COLUMNS:
        values = np.array([[run.metrics.get(column, math.nan)] for run in runs])
        scale, form = _FORMATS.get(column, (1.0, "{:z.3f}"))
        mean, std = (float(value[0]) * scale for value in charts.mean_std(values))
        cells.append(
            (
                "-" if math.isnan(mean) else form.format(mean),
                "" if math.isnan(std) else f"± {form.format(std)}",
            )
        )
    return learner, cells


def _count(items: Sized, noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
