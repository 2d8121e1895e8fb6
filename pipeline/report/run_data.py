"""The data of a run folder or bench folder: curves, evaluations and results.

Broken parts of a file are skipped, such as a truncated line or a value that is not a number: a
partial report is more useful than none.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from pydantic import ValidationError

from pipeline.config.job import flat
from pipeline.config.sections import Alert
from pipeline.evaluation.alerts import Alerts
from pipeline.evaluation.online.class_metrics import are_unequal
from pipeline.report.histograms import Histogram, histograms
from pipeline.storage.metric_log import Row, read_rows
from pipeline.storage.run_folder import REPLAY_HISTOGRAMS
from streams.core.batch import Array

ROWS = ("metrics.jsonl", "served.jsonl", "stability.jsonl")
"""Metric logs in a run folder."""
EVALUATIONS = 200
"""A longer list of evaluations is thinned evenly to at least this many, at most twice as many."""
_LIMIT = 1 << 30  # values read at a time: a whole chunk of the file
_BROKEN = (ValueError, KeyError, TypeError, AttributeError, OverflowError)


class Curve(NamedTuple):
    """A metric over the run.

    Attributes:
        steps: (n,) float64, events seen.
        values: (n,) float64.
    """

    steps: Array
    values: Array


class SegmentCurve(NamedTuple):
    """A segment of the stream, and the score on its probes at one evaluation.

    Attributes:
        begin: index of its first event.
        end: index of the first event after it; the events so far for the current segment.
        score: accuracy, or minus the mean absolute error; NaN: unknown.
        low, high: ends of the 95% interval of the score.
        probes: number of its probes.
    """

    begin: int
    end: int
    score: float
    low: float
    high: float
    probes: int


class OnceSeenBin(NamedTuple):
    """Answers on events learned once, by the number of updates of the model since.

    Attributes:
        first, last: bounds of the number of updates.
        since: its geometric mean.
        asked: number of answers.
        right: number of right answers.
    """

    first: int
    last: int
    since: float
    asked: int
    right: int


class Evaluation(NamedTuple):
    """One evaluation: all segments in stream order, and the answers on once-seen events so far."""

    events: int
    segments: tuple[SegmentCurve, ...]
    once_seen: tuple[OnceSeenBin, ...] = ()


class Mark(NamedTuple):
    """A moment of the run, ``at`` a number of events; ``kind`` is alert or drift."""

    at: int
    kind: str
    text: str


class ConfusionMatrix(NamedTuple):
    """The events of a run by label and prediction.

    Attributes:
        classes: names of the classes.
        matrix: (k, k) int64, a row for each label and a column for each prediction.
    """

    classes: tuple[str, ...]
    matrix: Array

    @property
    def unequal(self) -> bool:
        """Whether one class is much more frequent than the others."""
        return are_unequal(self.matrix.sum(1))


class Calibration(NamedTuple):
    """Predicted against observed frequencies, by bin.

    Attributes:
        name: the class that was predicted; None: of each prediction its class.
        predicted: mean probabilities.
        observed: shares of the predictions that came true.
        events: numbers of predictions.
    """

    name: str | None
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    events: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunData:
    """The contents of a run folder.

    Attributes:
        job: ``job.yaml``; empty if it cannot be read.
        summary: ``summary.json``; empty if there is none (yet).
        curves: curves by name of the metric.
        evaluations: evaluations in order of events, thinned evenly, with the last.
        marks: marks in order of events.
        histograms: histograms of the replay buffer by name.
        confusion: its confusion matrix; None: the summary has none.
        calibration: its calibration curve; None: the summary has none.
    """

    job: dict[str, Any]
    summary: dict[str, Any]
    curves: dict[str, Curve]
    evaluations: list[Evaluation]
    marks: list[Mark]
    histograms: dict[str, Histogram]
    confusion: ConfusionMatrix | None = None
    calibration: Calibration | None = None

    def last(self, name: str) -> float | None:
        """Return the newest value of a metric, from the rows or the summary; None: no value."""
        if name in self.curves:
            return float(self.curves[name].values[-1])
        metrics = self.summary.get("metrics")
        value = metrics.get(name) if isinstance(metrics, dict) else None
        return float(value) if isinstance(value, int | float) else None

    @property
    def measure(self) -> str:
        """Return the name of the score on probes."""
        if self.last("online/nll") is not None or self.last("stability/nll") is not None:
            return "log-likelihood of the next event"
        errors = [self.last(f"{kind}/mae") for kind in ("online", "stability")]
        return "accuracy" if errors == [None, None] else "minus the mean absolute error"

    @property
    def events(self) -> int:
        """Return the largest number of events in any file."""
        events = self.summary.get("events")
        steps = [int(curve.steps[-1]) for curve in self.curves.values()]
        return max([events if isinstance(events, int) else 0, *steps])


@dataclass(frozen=True, slots=True)
class Result:
    """One learner on one scenario with one seed.

    Attributes:
        metrics: finite values by name, with ``seconds``, ``cpu_seconds``, ``state_bytes``,
            ``buffer_bytes``, ``gradient_steps``.
        matrix: (phases, tasks) accuracy at the end of each phase, NaN where unknown.
        events: (m,) events seen at each evaluation.
        accuracy: (m, tasks) at each evaluation, NaN where unknown.
    """

    scenario: str
    learner: str
    seed: int
    metrics: dict[str, float]
    matrix: Array
    events: Array
    accuracy: Array


def read_run(folder: Path) -> RunData:
    """Read a run folder. Raises ``OSError`` where an existing file cannot be read."""
    job = _mapping(yaml.safe_load, folder / "job.yaml")
    alerts = Alerts(_alerts(job), {})
    curves: dict[str, Curve] = {}
    marks: list[Mark] = []
    for name in ROWS:
        steps: dict[str, array[float]] = {}
        values: dict[str, array[float]] = {}
        for row in _rows(folder / name):
            for metric, value in row.metrics.items():
                steps.setdefault(metric, array("d")).append(row.step)
                values.setdefault(metric, array("d")).append(value)
            marks += [
                Mark(row.step, "alert", f"{change.alert.metric} {change.alert.rule}")
                for change in alerts.see(row)
                if change.firing
            ]
        for metric in steps:
            curves[metric] = Curve(np.array(steps[metric]), np.array(values[metric]))
    evaluations, drifts = _evaluations(folder / "evaluations.jsonl", _by_drift(job))
    marks += [Mark(at, "drift", "drift") for at in drifts]
    summary = _mapping(json.loads, folder / "summary.json")
    buffer_histograms = histograms(_rows(folder / REPLAY_HISTOGRAMS))
    return RunData(
        job,
        summary,
        curves,
        evaluations,
        sorted(marks),
        buffer_histograms,
        _confusion(summary.get("confusion")),
        _calibration(summary.get("calibration")),
    )


def _confusion(read: Any) -> ConfusionMatrix | None:
    """Return the confusion matrix of a summary; None if there is none, or it is broken."""
    try:
        classes = tuple(str(name) for name in read["classes"])
        matrix = np.array(read["matrix"], np.int64)
    except _BROKEN:
        return None
    square = matrix.shape == (len(classes), len(classes)) and len(classes)
    return ConfusionMatrix(classes, matrix) if square and matrix.min() >= 0 else None


def _calibration(read: Any) -> Calibration | None:
    """Return the calibration curve of a summary; None if there is none, or it is broken."""
    try:
        name = None if read["class"] is None else str(read["class"])
        predicted, observed = (tuple(map(float, read[key])) for key in ("predicted", "observed"))
        events = tuple(int(count) for count in read["events"])
    except _BROKEN:
        return None
    whole = len(predicted) == len(observed) == len(events) > 0 and min(events) > 0
    shares = all(0 <= share <= 1 for share in (*predicted, *observed))
    return Calibration(name, predicted, observed, events) if whole and shares else None


def read_bench(file: Path) -> list[Result]:
    """Read the valid results of ``results.json``.

    Raises ``OSError`` where it cannot be read, ``ValueError`` where it is not a list.
    """
    read = json.loads(file.read_text())
    if not isinstance(read, list):
        raise ValueError("expected a list of results")
    return [result for entry in read if (result := _result(entry)) is not None]


_COSTS = ("seconds", "cpu_seconds", "state_bytes", "buffer_bytes", "gradient_steps")


def _result(entry: Any) -> Result | None:
    """Return a result of ``results.json``, or None if it is broken."""
    try:
        metrics = dict(entry["metrics"])
        for name in _COSTS:
            metrics[name] = entry.get(name)
        evaluations = entry.get("evaluations") or {}
        events = np.array([_number(value) for value in evaluations.get("events") or []])
        accuracy = _matrix(evaluations.get("accuracy"))
        known = min(len(events), len(accuracy))
        return Result(
            scenario=str(entry["scenario"]),
            learner=str(entry["learner"]),
            seed=int(entry["seed"]),
            metrics={
                str(name): number
                for name, value in metrics.items()
                if math.isfinite(number := _number(value))
            },
            matrix=_matrix(entry.get("matrix")),
            events=events[:known],
            accuracy=accuracy[:known],
        )
    except _BROKEN:
        return None


def _matrix(rows: Sequence[Sequence[Any]] | None) -> Array:
    """Return rows as an array, NaN for missing values and values that are not numbers."""
    rows = rows or []
    filled = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for i, row in enumerate(rows):
        filled[i, : len(row)] = [_number(value) for value in row]
    return filled


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _mapping(load: Any, file: Path) -> dict[str, Any]:
    """Return the mapping in a file; empty if there is none."""
    try:
        read = load(file.read_text())
    except (FileNotFoundError, ValueError, yaml.YAMLError):
        return {}
    return read if isinstance(read, dict) else {}


def _alerts(job: Mapping[str, Any]) -> list[Alert]:
    """Return the valid alerts of a job."""
    track = job.get("track")
    entries = track.get("alerts") if isinstance(track, dict) else None
    alerts = []
    for alert in entries if isinstance(entries, list) else []:
        with suppress(ValidationError):  # an edited job.yaml
            alerts.append(Alert.model_validate(alert))
    return alerts


def _rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a metric log."""
    offset = 0
    while True:
        rows, end = read_rows(file, offset, _LIMIT)
        yield from rows
        if end == offset:
            return
        offset = end


def _by_drift(job: Mapping[str, Any]) -> bool:
    """Return whether the segments of a run end at drifts."""
    return flat(dict(job)).get("evaluate.probes.cut.drift") is not None


def _evaluations(file: Path, by_drift: bool) -> tuple[list[Evaluation], list[int]]:
    """Return the evaluations, thinned, and the events at which a drift ended a segment."""
    kept: dict[int, Evaluation] = {}
    drifts: set[int] = set()
    newest: Evaluation | None = None
    every = 1
    if not file.exists():
        return [], []
    with file.open("rb") as lines:
        for number, line in enumerate(lines):
            try:
                read = json.loads(line)
                segments, since = _segments(read["segments"]), _since(read.get("once_seen") or ())
                evaluation = Evaluation(int(read["events"]), segments, since)
                drifts.update(int(s["end"]) for s in read["segments"] if s.get("cut") == "drift")
            except _BROKEN:
                continue
            if by_drift:
                drifts.update(segment.begin for segment in evaluation.segments if segment.begin)
            newest = evaluation
            if number % every == 0:
                kept[evaluation.events] = evaluation
            if len(kept) > 2 * EVALUATIONS:
                kept = dict(list(kept.items())[::2])
                every *= 2
    if newest is not None:
        kept[newest.events] = newest
    return [kept[events] for events in sorted(kept)], sorted(drifts)


def _since(read: Sequence[Mapping[str, Any]]) -> tuple[OnceSeenBin, ...]:
    return tuple(
        OnceSeenBin(
            first=int(entry["first"]),
            last=int(entry["last"]),
            since=_number(entry["since"]),
            asked=int(entry["asked"]),
            right=int(entry["right"]),
        )
        for entry in read
    )


def _segments(read: Sequence[Mapping[str, Any]]) -> tuple[SegmentCurve, ...]:
    return tuple(
        SegmentCurve(
            begin=int(segment["begin"]),
            end=int(segment["end"]),
            score=_number(segment.get("score")),
            low=_number(segment.get("low")),
            high=_number(segment.get("high")),
            probes=int(segment.get("probes") or 0),
        )
        for segment in read
    )
