"""What was served is scored too: each answer waits for the label of its event.

Only the answer of a model that had not learned that label counts: versions tell, and no clock.
Nothing of this is part of a run's state: how many ask, and when, leaves no trace in what is
learned.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.storage.run_folder import write_atomic
from streams.core.batch import Array, Ints
from streams.core.schema import Task

MEMORY = 100_000
"""Answers that may wait for a label, and labels that are remembered."""
RECENT = 10_000
"""Requests over which latencies and ages are taken."""


class PredictionLog(NamedTuple):
    """What one replica answered since it last told.

    Attributes:
        ids: (m,) int64 of the events that were asked about by an id.
        value: (m,) class codes or targets.
        version: (m,) int64, of the model that answered.
        age: (k,) seconds, of the model at each of k requests.
        seconds: (k,) that each took to answer.
        failed: requests that ended in an error of ours.
    """

    ids: Ints
    value: Array
    version: Ints
    age: Array
    seconds: Array
    failed: int = 0


class ServedPredictionScorer:
    """Accuracy (or mean absolute error) of what was served, by label; ages and latencies.

    Totals are kept in a small file: whoever goes on after a killed process goes on counting.
    """

    def __init__(self, task: Task, file: Path) -> None:
        self.task = task
        self._file = file
        self._answers: dict[int, tuple[float, int]] = {}  # value and version, the oldest first
        self._known: set[int] = set()
        self._done: set[int] = set()  # of those known: an answer has met the label
        self._labels: deque[tuple[Ints, Array, Ints]] = deque()  # of those known, as they came
        self._age: deque[float] = deque(maxlen=RECENT)
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._window: deque[float] = deque(maxlen=1000)
        self._totals = {
            "requests": 0,
            "failed": 0,
            "scored": 0,
            "late": 0,
            "gain": 0.0,
        }
        with suppress(OSError, ValueError, TypeError):  # there is none in the first of a run
            self._totals |= json.loads(file.read_text())

    def answered(self, answers: PredictionLog) -> None:
        totals = self._totals
        totals["requests"] += len(answers.seconds)
        totals["failed"] += answers.failed
        self._age.extend(answers.age.tolist())
        self._seconds.extend(answers.seconds.tolist())
        told = (answers.ids.tolist(), answers.value.tolist(), answers.version.tolist())
        for i, value, version in zip(*told, strict=True):
            if i not in self._done:  # the first answer is the one that was acted on
                self._answers.setdefault(i, (value, version))
        early = self._known.intersection(told[0])  # labels that are here before the answer is told
        for labels in self._labels if early else ():
            self._score(*labels, early)
        while len(self._answers) > MEMORY:
            del self._answers[next(iter(self._answers))]

    def labelled(self, ids: Ints, y: Array, before: Ints) -> None:
        """Labels that have become known.

        Args:
            ids: (m,) int64.
            y: (m,) class codes or targets.
            before: (m,) version of the last model that had not learned the label.
        """
        self._known.update(ids.tolist())
        self._labels.append((ids, y, before))
        while len(self._known) > MEMORY and len(self._labels) > 1:
            gone = self._labels.popleft()[0].tolist()
            self._known.difference_update(gone)
            self._done.difference_update(gone)
        self._score(ids, y, before, self._answers.keys() & set(ids.tolist()))

    def _score(self, ids: Ints, y: Array, before: Ints, asked: Set[int]) -> None:
        """Of these labels, those that were asked about: few, and no other is looked at."""
        if not asked:
            return
        rows = np.flatnonzero(np.isin(ids, np.fromiter(asked, np.int64, len(asked))))
        self._done.update(ids[rows].tolist())
        columns = (column[rows].tolist() for column in (ids, y, before))
        for i, label, last in zip(*columns, strict=True):
            # NaN: there is a second label of the event, or its first answer has met its label.
            value, version = self._answers.pop(i, (math.nan, 0))
            if version > last:
                self._totals["late"] += 1
            elif value == value and (self.task == "regression" or value >= 0):
                score = abs(value - label) if self.task == "regression" else float(value == label)
                self._window.append(score)
                self._totals["scored"] += 1
                self._totals["gain"] += score

    def results(self) -> dict[str, float]:
        """Metrics by name; one that cannot be had yet is left out."""
        totals = self._totals
        found: dict[str, float] = {
            f"served/{name}": totals[name] for name in ("requests", "failed", "scored", "late")
        }
        name = "served/mae" if self.task == "regression" else "served/accuracy"
        if totals["scored"]:
            found[name] = totals["gain"] / totals["scored"]
        if self._window:
            found[f"{name}_window"] = float(np.mean(self._window))
        for title, column in (("model_age", self._age), ("answer", self._seconds)):
            if column:
                p50, p99 = np.percentile(np.array(column), (50, 99))
                found |= {f"served/{title}_p50_s": float(p50), f"served/{title}_p99_s": float(p99)}
        if self._age:
            found["system/freshness_s"] = float(self._age[-1])
        return found

    def keep(self) -> None:
        """Writes the totals to the file."""
        write_atomic(self._file, json.dumps(self._totals))
