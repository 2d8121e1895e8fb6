"""``everlearn report``: one HTML page of a run, or of a bench, to open anywhere."""

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
    ("seconds", "seconds"),
    ("buffer_bytes", "buffer (MB)"),
    ("gradient_steps", "gradient steps"),
)
_FORMS = {  # scale and form where it is not three decimals
    "seconds": (1.0, "{:,.1f}"),
    "buffer_bytes": (1e-6, "{:,.2f}"),
    "gradient_steps": (1.0, "{:,.0f}"),
}
_ONLINE = (
    (
        "online accuracy",
        "each event is predicted before it is learned; window: of the last events scored",
    ),
    ("no-change baseline", "predicts the last label known: hard to beat where labels come in runs"),
    ("served", "answers of the server, scored when their labels come"),
    ("segment, probe", "a stretch of the stream, and the events of it held out, never learned"),
)
_STABILITY = (
    ("ACC", "mean accuracy now over all that was learned"),
    ("forgetting", "by how much accuracy fell from the best after learning to now, mean"),
    ("min-ACC", "mean of the lowest accuracy since each segment or task was learned"),
    ("WC-ACC", "worst case: accuracy on the newest, weighed with min-ACC for the rest"),
    ("learned at", "learning accuracy: mean accuracy on each just after it was learned"),
)
_NETWORK = (
    ("dormant units", "share of hidden units that hardly answer to any probe"),
    ("effective rank", "dimensions that the last hidden layer makes use of"),
)
_SPREAD = {
    "interval": "Recall intervals: events presented between two rehearsals of the same event.",
    "strength": "Strengths: how long a remembered event is thought to last.",
    "retention": "Retention: how much of each remembered event is thought to be left.",
}
_BENCH_WORDS = (
    ("forgetting (initial)", "the fall from accuracy just after learning, not from the best"),
    ("BWT, FWT", "what learning later tasks did to earlier ones; what earlier did for later"),
    ("AAA", "mean accuracy over all evaluations on the way, not at the end alone"),
    ("±, band", "standard deviation over seeds"),
)


class ReportError(Exception):
    """There is nothing to report of, or no way to write it."""


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Writes the page of a run folder, or of the folder of a bench.

    Args:
        folder: where ``everlearn run`` or a bench wrote.
        out: the file; None: ``report.html`` in the folder.

    Returns:
        The file.

    Raises ``ReportError`` where the folder is neither, where plotly is not installed, and where a
    file can be neither read nor written.
    """
    if find_spec("plotly") is None:
        raise ReportError("plotly is not installed: pip install 'everlearn[bench]'")
    if not folder.is_dir():
        raise ReportError(f"{folder} is no folder: the folder of a run or of a bench is wanted")
    target = folder / "report.html" if out is None else out
    try:
        if (folder / _BENCH).exists():
            page = _bench(folder)
        elif any((folder / name).exists() for name in _RUN):
            page = _run(folder)
        else:
            raise ReportError(
                f"{folder} is the folder of neither a run ({', '.join(_RUN)}) nor a bench "
                f"({_BENCH}): none of these files is in it"
            )
        target.write_text(page.html(), encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{error.filename or target}: {error.strerror or error}") from None
    return target


def hang(folder: Path, say: Callable[[str], None]) -> None:
    """Writes the page of a run that has ended, for MLflow to hold, where plotly is installed. What
    goes wrong with it is said, and no reason for the run to fail."""
    if find_spec("plotly") is None:
        return
    try:
        write_report(folder)
    except Exception as error:  # a page is not worth a run
        say(f"no report.html: {type(error).__name__}: {one_line(error)}")


def _run(folder: Path) -> Page:
    from pipeline.report import charts

    found = read_run(folder)
    name = found.job.get("name") or found.summary.get("job") or folder.resolve().name
    page = Page(str(name), _standing(found))
    page.tiles(_tiles(found))
    curves, marks = found.curves, found.marks
    if figure := charts.online(curves, marks):
        page.section("Online", "Predicted before it is learned, scored when the label comes.")
        page.figure(figure)
    alerts = sorted({mark.text for mark in marks if mark.kind == "alert"})
    if alerts:
        page.note(f"Alerts began at the dotted lines: {'; '.join(alerts)}.")
    _memory(page, found)
    _once_seen(page, found)
    _replay(page, found)
    if figure := charts.plasticity(curves):
        page.section("Plasticity", "What the network has left to learn with.")
        page.figure(figure)
    if figure := charts.system(curves):
        page.section("System")
        page.figure(figure)
    if not curves:
        page.note("No rows of metrics: a job with a track writes them as it goes.")
    job = describe(flat(found.job))
    page.section("Job", "As it was run; what it says of tracking is left out.")
    page.pairs([(key, str(value)) for key, value in job.items() if value is not None])
    page.words(
        (*_ONLINE, *_STABILITY, *_NETWORK),
        ("docs/run-a-job.md", "docs/metrics.md", "docs/track.md"),
    )
    return page


def _memory(page: Page, found: RunData) -> None:
    """What the run has kept of what it learned."""
    from pipeline.report import charts

    figure = charts.stability(found.curves, found.marks)
    heat = charts.segments(found.evaluations, found.marks, found.measure)
    if figure is not None or heat is None:
        page.section(
            "Stability",
            "How much of what was learned is still there, told by held-out probes. Band: 95% "
            "interval.",
        )
    if figure is not None:
        page.figure(figure)
    if heat is None:
        page.note("No probes have been evaluated: evaluate.probes.share of the job holds some out.")
        return
    page.section(
        "Segments",
        f"{found.measure.capitalize()} on each stretch of the stream as the run went on: a row "
        "that fades to the right is being forgotten. Neighbours may have become one, with coarser "
        "rows.",
    )
    page.figure(heat)
    newest = found.evaluations[-1]
    if figure := charts.retention(newest, found.measure):
        page.section(
            "Retention",
            f"{found.measure.capitalize()} against the age of a segment, after {newest.events:,} "
            "events, with 95% intervals.",
        )
        page.figure(figure)


def _once_seen(page: Page, found: RunData) -> None:
    """How fast what was learned once is forgotten."""
    from pipeline.report import buffer_charts as remembered

    since = found.evaluations[-1].once_seen if found.evaluations else ()
    figure = remembered.fading(since)
    if figure is None:
        return
    page.section(
        "Once seen",
        "Accuracy on events that were learned once and never rehearsed, against the updates of the "
        "model since, with 95% intervals.",
    )
    page.figure(figure)
    if fits := remembered.fitted(since):
        best = better(*fits)
        page.note(
            "Neither curve fits clearly better than the other."
            if best is None
            else "The power law fits better: a steep fall, then a slow one."
            if best.kind == "power"
            else "The exponential fits better: the same share is lost with each update."
        )


def _replay(page: Page, found: RunData) -> None:
    """How what is remembered was spread as the run went on."""
    from pipeline.report import buffer_charts as remembered

    drawn = [
        (name, figure)
        for name, histogram in sorted(found.histograms.items(), key=lambda item: item[0])
        if (figure := remembered.spread(histogram, name)) is not None
    ]
    if drawn:
        page.section("Replay", "What is remembered, as histograms over time: a column is a moment.")
    for name, figure in drawn:
        if what := _SPREAD.get(name):
            page.note(what)
        page.figure(figure)


def _standing(found: RunData) -> str:
    """One line on how far the run is."""
    summary = found.summary
    told = summary.get("events")
    if not isinstance(told, int) or found.events > told:
        how = "not ended yet: it goes on, or was killed"
    else:
        how = "finished" if summary.get("finished") else "stopped before the end of the stream"
    facts = [f"Run, {how}"]
    for key, title in (("seed", "seed"), ("runner", "runner"), ("model_version", "model version")):
        value = summary.get(key, found.job.get(key))
        if value is not None:
            facts.append(f"{title} {value}")
    return " · ".join(facts)


def _tiles(found: RunData) -> list[Tile]:
    """Headline numbers, as far as there are any."""

    def told(form: str, *names: str) -> str:
        values = [found.last(name) for name in names]
        return "" if None in values else form.format(*values)

    measure, title, form = "accuracy", "accuracy", "{:z.3f}"
    if found.measure != "accuracy":
        measure, title, form = "mae", "mean absolute error", "{:.4g}"
    band = ("stability/forgetting_low", "stability/forgetting_high")
    speed = found.summary.get("events_per_s")
    tiles = [
        Tile(
            "events",
            f"{found.events:,}",
            f"{speed:,.0f} per second" if isinstance(speed, int | float) else "",
        ),
        Tile(
            title,
            told(form, f"online/{measure}"),
            told(f"no-change baseline {form}", f"online/no_change_{measure}"),
        ),
        Tile(
            f"served {title}",
            told(form, f"served/{measure}"),
            told("{:,.0f} answers scored", "served/scored"),
        ),
        Tile(
            "forgetting now",
            told("{:z.3f}", "stability/forgetting"),
            told("95% interval {:z.3f} to {:z.3f}", *band),
        ),
        Tile(
            "worst-case accuracy",
            told("{:z.3f}", "stability/wc_acc"),
            told("min-ACC {:z.3f}", "stability/min_acc"),
        ),
        Tile(
            "learned at",
            told("{:z.3f}", "plasticity/learning_accuracy"),
            told("ACC now {:z.3f}", "stability/acc"),
        ),
    ]
    return [tile for tile in tiles if tile.value]


def _bench(folder: Path) -> Page:
    from pipeline.report import charts

    try:
        results = read_bench(folder / _BENCH)
    except ValueError as error:
        raise ReportError(f"{folder / _BENCH} cannot be read: {error}") from None
    if not results:
        raise ReportError(f"{folder / _BENCH} holds no result")
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
            (scenario, [_numbers(*group) for group in charts.by_learner(found).items()])
            for scenario, found in scenarios.items()
        ],
    )
    for scenario, found in scenarios.items():
        page.section(scenario)
        for note, figure in (
            ("Anytime accuracy: over the tasks evaluated, mean over seeds.", charts.anytime(found)),
            ("Forgetting at the end.", charts.forgetting(found)),
            ("Accuracy on each task at the end of each phase.", charts.matrices(found)),
        ):
            if figure is not None:
                page.note(note)
                page.figure(figure)
    page.words((*_STABILITY, *_BENCH_WORDS), ("docs/metrics.md", "docs/scenarios.md"))
    return page


def _numbers(learner: str, runs: list[Result]) -> tuple[str, list[tuple[str, str]]]:
    """A row of the table: mean and spread of each column."""
    from pipeline.report import charts

    cells = [(f"{len(runs)}", "")]
    for column, _ in _COLUMNS:
        values = np.array([[run.metrics.get(column, math.nan)] for run in runs])
        scale, form = _FORMS.get(column, (1.0, "{:z.3f}"))
        mean, std = (float(value[0]) * scale for value in charts.mean_std(values))
        cells.append(
            (
                "-" if math.isnan(mean) else form.format(mean),
                "" if math.isnan(std) else f"± {form.format(std)}",
            )
        )
    return learner, cells


def _count(things: Sized, what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"
