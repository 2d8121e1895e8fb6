"""What the folder of a run, or of a bench, tells once it is read: curves, evaluations, results.

Whatever is broken in a file is passed over: a line cut short, a value that is no number. A report
of what is there is worth more than none.
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
from pipeline.report.histograms import Histogram, histograms
from pipeline.storage.metric_log import Row, read_rows
from pipeline.storage.run_folder import REPLAY_HISTOGRAMS
from streams.core.batch import Array

ROWS = ("metrics.jsonl", "served.jsonl", "stability.jsonl")
"""Files of rows in the folder of a run."""
EVALUATIONS = 200
"""So many evaluations at least are kept of a longer list, evenly, and twice as many at most."""
_AT_ONCE = 1 << 30  # values: a whole chunk of the file
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
    """A stretch of the stream, and the score on its probes at one evaluation.

    Attributes:
        begin: its first event.
        end: the first event after it; the events so far where it goes on.
        score: accuracy, or minus the mean absolute error; NaN where unknown. ``low`` and ``high``
            bound its 95% interval.
        probes: events of it that are held out.
    """

    begin: int
    end: int
    score: float
    low: float
    high: float
    probes: int


class Since(NamedTuple):
    """Answers on events that were learned once, ``first`` to ``last`` updates of the model before;
    ``since`` is the geometric mean of these."""

    first: int
    last: int
    since: float
    asked: int
    right: int


class Evaluation(NamedTuple):
    """All segments as they stood after so many events, in order of time; and the answers on
    once-seen events by then."""

    events: int
    segments: tuple[SegmentCurve, ...]
    once_seen: tuple[Since, ...] = ()


class Mark(NamedTuple):
    """Something that happened ``at`` so many events: ``kind`` is alert or drift."""

    at: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run left in its folder, up to now.

    Attributes:
        job: ``job.yaml``; empty where it cannot be read.
        summary: ``summary.json``; empty where there is none (yet).
        curves: by name of the metric.
        evaluations: in order of events; of many, an even choice with the last.
        marks: in order of events.
        histograms: of what is remembered, by name.
    """

    job: dict[str, Any]
    summary: dict[str, Any]
    curves: dict[str, Curve]
    evaluations: list[Evaluation]
    marks: list[Mark]
    histograms: dict[str, Histogram]

    def last(self, name: str) -> float | None:
        """The newest value of a metric, of the summary where no row has it; None: there is none."""
        if name in self.curves:
            return float(self.curves[name].values[-1])
        metrics = self.summary.get("metrics")
        value = metrics.get(name) if isinstance(metrics, dict) else None
        return float(value) if isinstance(value, int | float) else None

    @property
    def measure(self) -> str:
        """What a score on probes is."""
        errors = [self.last(f"{kind}/mae") for kind in ("online", "stability")]
        return "accuracy" if errors == [None, None] else "minus the mean absolute error"

    @property
    def events(self) -> int:
        """Events seen, as far as any file knows."""
        told = self.summary.get("events")
        steps = [int(curve.steps[-1]) for curve in self.curves.values()]
        return max([told if isinstance(told, int) else 0, *steps])


@dataclass(frozen=True, slots=True)
class Result:
    """One learner on one scenario with one seed.

    Attributes:
        metrics: finite values by name, ``seconds``, ``buffer_bytes`` and ``gradient_steps`` too.
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
    """Raises ``OSError`` where a file is there and cannot be read."""
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
    found = histograms(_rows(folder / REPLAY_HISTOGRAMS))
    return RunData(job, summary, curves, evaluations, sorted(marks), found)


def read_bench(file: Path) -> list[Result]:
    """The results in ``results.json``, without those that are none.

    Raises ``OSError`` where it cannot be read, ``ValueError`` where it holds no list.
    """
    read = json.loads(file.read_text())
    if not isinstance(read, list):
        raise ValueError("a list of results is wanted")
    return [result for entry in read if (result := _result(entry)) is not None]


def _result(entry: Any) -> Result | None:
    try:
        metrics = dict(entry["metrics"])
        for name in ("seconds", "buffer_bytes", "gradient_steps"):
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
    """Rows as an array, NaN where one is shorter than the longest, or holds no number."""
    rows = rows or []
    filled = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for i, row in enumerate(rows):
        filled[i, : len(row)] = [_number(value) for value in row]
    return filled


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _mapping(load: Any, file: Path) -> dict[str, Any]:
    """What a file holds, where that is keys and values; else nothing."""
    try:
        read = load(file.read_text())
    except (FileNotFoundError, ValueError, yaml.YAMLError):
        return {}
    return read if isinstance(read, dict) else {}


def _alerts(job: Mapping[str, Any]) -> list[Alert]:
    track = job.get("track")
    told = track.get("alerts") if isinstance(track, dict) else None
    alerts = []
    for alert in told if isinstance(told, list) else []:
        with suppress(ValidationError):  # an edited job.yaml
            alerts.append(Alert.model_validate(alert))
    return alerts


def _rows(file: Path) -> Iterator[Row]:
    offset = 0
    while True:
        rows, end = read_rows(file, offset, _AT_ONCE)
        yield from rows
        if end == offset:
            return
        offset = end


def _by_drift(job: Mapping[str, Any]) -> bool:
    """Whether all segments of a run end where there is a drift."""
    return flat(dict(job)).get("evaluate.probes.cut.drift") is not None


def _evaluations(file: Path, by_drift: bool) -> tuple[list[Evaluation], list[int]]:
    """Evaluations, of many some; and after how many events a drift ended a segment, of all."""
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


def _since(read: Sequence[Mapping[str, Any]]) -> tuple[Since, ...]:
    return tuple(
        Since(
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
