"""The scores of served predictions: each waits for the label of its event.

Only a prediction by a model that had not learned the label counts, which versions decide, and no
clock. Nothing of this is part of a run's state: requests change nothing in what is learned.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation.online.class_metrics import add_tally, of_positive_class, of_tally
from pipeline.storage.run_folder import write_atomic
from streams.core.batch import Array, Ints
from streams.core.schema import Task

MEMORY = 100_000
"""Predictions that may wait for a label, and labels that are remembered."""
RECENT = 10_000
"""Requests that latencies and ages are taken over."""


class PredictionLog(NamedTuple):
    """The predictions that a server returned for k requests.

    Attributes:
        ids: (m,) int64, of the events that had an id, as the stream names them.
        value: (m,) int64 class codes (-1: it could not say) or float64 targets (NaN).
        version: (m,) int64, of the model that predicted.
        age: (k,) seconds, of the model at each request.
        seconds: (k,) that each request took.
        failed: further requests that ended in a defect.
    """

    ids: Ints
    value: Array
    version: Ints
    age: Array
    seconds: Array
    failed: int = 0

    @classmethod
    def of_request(
        cls, ids: Ints, value: Array, version: int, age: float, seconds: float
    ) -> PredictionLog:
        """Return the log of one request, which one model answered."""
        versions = np.full(len(ids), version)
        return cls(ids, value, versions, np.array([age]), np.array([seconds]))

    @classmethod
    def concat(cls, logs: Sequence[PredictionLog], failed: int) -> PredictionLog:
        """Return the log of all requests, and of ``failed`` others."""
        if not logs:
            no_ids, no_seconds = np.empty(0, np.int64), np.empty(0)
            return cls(no_ids, no_ids, no_ids, no_seconds, no_seconds, failed)
        *columns, _ = zip(*logs, strict=True)
        ids, value, version, age, seconds = map(np.concatenate, columns)
        return cls(ids, value, version, age, seconds, failed)


class ServedPredictionScorer:
    """Accuracy and F1 (or mean absolute error) of served predictions; ages and latencies.

    Totals are in a small file, so that counting continues after a killed process.
    """

    def __init__(self, task: Task, file: Path) -> None:
        self.task = task
        self._file = file
        self._predicted: dict[int, tuple[float, int]] = {}  # value and version, the oldest first
        self._known: set[int] = set()  # ids of labels
        self._done: set[int] = set()  # of these: a prediction has met the label
        self._labels: deque[tuple[Ints, Array, Ints]] = deque()  # of these, in order of arrival
        self._age: deque[float] = deque(maxlen=RECENT)
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._window: deque[tuple[float, float]] = deque(maxlen=1000)  # labels and predictions
        self._totals: dict[str, Any] = {
            "requests": 0,
            "failed": 0,
            "scored": 0,
            "late": 0,
            "gain": 0.0,
            "tally": [[], [], []],  # of ``class_metrics``
        }
        with suppress(OSError, ValueError, TypeError):  # there is no file in the first run
            self._totals |= json.loads(file.read_text())

    def answered(self, log: PredictionLog) -> None:
        """Take the predictions of requests."""
        totals = self._totals
        totals["requests"] += len(log.seconds)
        totals["failed"] += log.failed
        self._age.extend(log.age.tolist())
        self._seconds.extend(log.seconds.tolist())
        ids = log.ids.tolist()
        for i, value, version in zip(ids, log.value.tolist(), log.version.tolist(), strict=True):
            if i not in self._done:  # the first prediction is the one that was acted on
                self._predicted.setdefault(i, (value, version))
        early = self._known.intersection(ids)  # their labels arrived before this log
        for labels in self._labels if early else ():
            self._score(*labels, early)
        while len(self._predicted) > MEMORY:
            del self._predicted[next(iter(self._predicted))]

    def labelled(self, ids: Ints, y: Array, before: Ints) -> None:
        """Take labels that have become known.

        Args:
            ids: (m,) int64.
            y: (m,) class codes or targets.
            before: (m,) version of the last model that had not learned the label.
        """
        self._known.update(ids.tolist())
        self._labels.append((ids, y, before))
        while len(self._known) > MEMORY and len(self._labels) > 1:
            oldest = self._labels.popleft()[0].tolist()
            self._known.difference_update(oldest)
            self._done.difference_update(oldest)
        self._score(ids, y, before, self._predicted.keys() & set(ids.tolist()))

    def _score(self, ids: Ints, y: Array, before: Ints, predicted: Set[int]) -> None:
        """Score the labels of predicted events: few, so that no other is looked at."""
        if not predicted:
            return
        rows = np.flatnonzero(np.isin(ids, np.fromiter(predicted, np.int64, len(predicted))))
        self._done.update(ids[rows].tolist())
        columns = (column[rows].tolist() for column in (ids, y, before))
        scored: list[tuple[float, float]] = []
        for i, label, last in zip(*columns, strict=True):
            # NaN: this is a second label of the event, or its first prediction has met its label.
            value, version = self._predicted.pop(i, (math.nan, 0))
            if version > last:
                self._totals["late"] += 1
            elif value == value and (self.task == "regression" or value >= 0):
                scored.append((label, value))
        if scored:
            self._window.extend(scored)
            self._count(*np.array(scored).T)

    def _count(self, y: Array, value: Array) -> None:
        """Add labels and predictions (m,) to the totals."""
        totals = self._totals
        totals["scored"] += len(y)
        totals["gain"] += float(self._gains(y, value).sum())
        if self.task == "classification":
            tally = np.array(totals["tally"], np.int64)
            totals["tally"] = add_tally(tally, y.astype(np.int64), value.astype(np.int64)).tolist()

    def _gains(self, y: Array, value: Array) -> Array:
        """Return the absolute errors (m,), or whether each prediction is correct."""
        return np.asarray(np.abs(value - y) if self.task == "regression" else value == y)

    def results(self) -> dict[str, float]:
        """Return metrics by name, without those that are not known yet."""
        totals = self._totals
        metrics: dict[str, float] = {
            f"served/{name}": totals[name] for name in ("requests", "failed", "scored", "late")
        }
        name = "served/mae" if self.task == "regression" else "served/accuracy"
        if totals["scored"]:
            metrics[name] = totals["gain"] / totals["scored"]
        y, value = np.array(self._window).reshape(-1, 2).T
        if self._window:
            metrics[f"{name}_window"] = float(self._gains(y, value).mean())
        if self.task == "classification":
            metrics |= self._of_classes(y.astype(np.int64), value.astype(np.int64))
        for title, column in (("model_age", self._age), ("answer", self._seconds)):
            if column:
                p50, p99 = np.percentile(np.array(column), (50, 99))
                metrics |= {
                    f"served/{title}_p50_s": float(p50),
                    f"served/{title}_p99_s": float(p99),
                }
        if self._age:
            metrics["system/freshness_s"] = float(self._age[-1])
        return metrics

    def _of_classes(self, y: Array, value: Array) -> dict[str, float]:
        """Return the scores of classes, in all and of the last labels and predictions (m,)."""
        whole = np.array(self._totals["tally"], np.int64)
        tallies = {"_window": add_tally(np.zeros((3, 0), np.int64), y, value)}
        if whole[0].sum() == self._totals["scored"]:  # not of an older file, which had no tally
            tallies[""] = whole
        binary = whole.shape[1] <= 2
        metrics: dict[str, float] = {}
        for form, tally in tallies.items():
            scores = {n: v for n, v in of_tally(tally).items() if n.startswith("macro_")}
            scores |= of_positive_class(tally) if binary else {}
            metrics |= {f"served/{name}{form}": float(score) for name, score in scores.items()}
        return metrics

    def keep(self) -> None:
        """Write the totals to the file."""
        write_atomic(self._file, json.dumps(self._totals))
