"""Notice that a learner is no longer finite, and say at which events that began."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from learners.base import Learner, LearnerError, NotFiniteError
from learners.results import Prediction
from streams.core.batch import Array, Batch, Ints
from streams.operators.label_join import Revealed

PlaceName = Callable[[int, bool], str]
"""Returns the name of a partition, given whether it is one of labels."""


class _Number(NamedTuple):
    """A number of an event: its magnitude, and the text that names it."""

    magnitude: float
    text: str


class LearnerHealth:
    """Lead a learner step by step, and stop where its predictions or its state are not finite.

    The message names the events that were learned last, and the largest number among them: often
    one absurd value has spoilt a model.

    Args:
        learner: the learner.
        place_name: names a partition in messages.
    """

    def __init__(self, learner: Learner, place_name: PlaceName) -> None:
        self._learner = learner
        self._place_name = place_name
        self._last: Batch | None = None  # learned by the last step that learned
        self._first = ""  # event learned since the last verification
        self._largest: _Number | None = None  # learned since then

    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        """Return ``Learner.step``. Raise ``NotFiniteError`` where that is not finite, and
        ``LearnerError`` where it is no prediction for the batch."""
        learned, n = revealed.batch, len(batch)
        try:
            prediction = self._learner.step(batch, revealed)
        except NotFiniteError as error:
            raise self._error(str(error), learned, learned, batch) from None
        _check_shapes(prediction, n, self._learner)
        wrong = prediction.not_finite()
        if len(wrong):
            row = int(wrong[0])
            what = self._reason(prediction, row, self._place(batch, row))
            before = self._learned_before(revealed, row)
            opaque = [learned] if self._learner.opaque else []
            raise self._error(what, before, batch[row : row + 1], *opaque)
        if len(learned):
            self._note(learned)
        return prediction

    def verify(self) -> None:
        """Verify the state of the learner before it is saved or served.

        Raises:
            NotFiniteError: the state is not finite.
        """
        try:
            self._learner.verify()
        except NotFiniteError as error:
            first = self._first  # of those learned since the last verification
            raise self._error(str(error), self._last, first=first) from None
        self._first, self._largest = "", None

    def _reason(self, prediction: Prediction, row: int, place: str) -> str:
        """Return why a prediction is not finite, as the learner knows it; else what it is."""
        try:
            self._learner.verify()
        except NotFiniteError as error:
            return f"{error}, and it predicts {_said(prediction, row)} for {place}"
        return f"learner {self._learner.kind!r} predicts {_said(prediction, row)} for {place}"

    def _note(self, learned: Batch) -> None:
        """Remember what an error must name. Only of an opaque learner the largest number since the
        last verification: of others each step shows what became of it."""
        self._last = learned
        if not self._first:
            self._first = self._place(learned, 0)
        if self._learner.opaque:
            largest = self._largest_number(learned)
            if self._largest is None or largest.magnitude > self._largest.magnitude:
                self._largest = largest

    def _learned_before(self, revealed: Revealed, row: int) -> Batch | None:
        """Return the events learned between the last good prediction and that of a row."""
        before = revealed.insert_before
        if not self._learner.per_event or not (before <= row).any():
            return self._last
        if row and (before == row).any():
            return revealed.batch.take(before == row)
        return revealed.batch.take(before <= row)

    def _error(
        self, what: str, learned: Batch | None, *others: Batch, first: str = ""
    ) -> NotFiniteError:
        """Return the error: what is wrong, and after which events.

        Args:
            what: is wrong.
            learned: the events learned last; None: none.
            others: more events that may have an absurd number.
            first: the place of the first event learned, where that is not in ``learned``.
        """
        batches = [*others] if learned is None else [learned, *others]
        numbers = [self._largest_number(batch) for batch in batches if len(batch)]
        if self._largest is not None:
            numbers.append(self._largest)
        after = ""
        if learned is not None and len(learned):
            first, last = first or self._place(learned, 0), self._place(learned, -1)
            after = f" after it learned {first}" + (f" to {last}" if last != first else "")
        largest = max(numbers, default=_Number(0.0, ""), key=lambda number: number.magnitude)
        most = f"; the largest number of late is {largest.text}" if largest.text else ""
        return NotFiniteError(f"{what}{after}{most}. Remedy: {self._learner.remedy}")

    def _largest_number(self, batch: Batch) -> _Number:
        """Return the largest feature or target of n >= 1 events."""
        columns = dict(batch.x) if isinstance(batch.x, dict) else {"": batch.x}
        if batch.y is not None and batch.y.dtype.kind == "f":
            columns["the label"] = batch.y
        features = self._learner.schema.features
        names = [feature.name for feature in features]
        # Keys of categories are hashes, and times are large.
        others = {f.name for f in features if f.kind in ("categorical", "text", "time")}
        largest = _Number(-1.0, "")
        for name, column in columns.items():
            if name in others or not isinstance(column, np.ndarray):
                continue
            if column.dtype.kind not in "fiu":
                continue
            rows = np.abs(column.reshape(len(batch), -1).astype(np.float64, copy=False))
            rows = np.where(np.isnan(rows), -1.0, rows)  # missing
            row, place = divmod(int(rows.argmax()), rows.shape[1])
            if rows[row, place] > largest.magnitude:
                shown = name or (names[place] if len(names) == rows.shape[1] else names[0])
                value = column.reshape(len(batch), -1)[row, place]
                text = f"{shown} = {value:g} in {self._place(batch, row)}"
                largest = _Number(float(rows[row, place]), text)
        return largest

    def _place(self, batch: Batch, row: int) -> str:
        return f"{self._place_name(int(batch.partition[row]), False)}/{batch.offset[row]}"


def check_class_codes(value: Array, learner: Learner) -> None:
    """Raise ``LearnerError`` where predictions (m,) of classes are not class codes."""
    if not len(value) or value.dtype.kind == "f":
        return
    low, high = int(value.min()), int(value.max())
    classes = max(len(learner.classes), 2)  # a model of two classes may name the second first
    if low < -1 or high >= classes:
        code = low if low < -1 else high
        raise LearnerError(
            f"learner {learner.kind!r} predicted class code {code}: a code from 0 to {classes - 1} "
            "is expected, or -1 for none"
        )


def _check_shapes(prediction: Prediction, n: int, learner: Learner) -> None:
    """Raise ``LearnerError`` where a prediction is not one for n events."""
    value, proba, marks = prediction.value, prediction.proba, prediction.abstains
    if value.shape != (n,) or (proba is not None and (proba.ndim != 2 or len(proba) != n)):
        shapes = f"value {value.shape}" + ("" if proba is None else f" and proba {proba.shape}")
        raise LearnerError(
            f"learner {learner.kind!r} predicted {shapes} for {n} events: ({n},) and ({n}, classes)"
            " are expected"
        )
    cells = prediction.forecast
    if cells is not None and (cells.ndim != 3 or len(cells) != n or cells.shape[2] < 2):
        raise LearnerError(
            f"learner {learner.kind!r} predicted a forecast {cells.shape} for {n} events: "
            f"({n}, cells, 2 or 2 + classes) is expected"
        )
    dtype = np.dtype(np.float64 if prediction.kind == "regression" else np.int64)
    if value.dtype != dtype:
        raise LearnerError(
            f"learner {learner.kind!r} predicted values of {value.dtype}: {dtype} is expected"
        )
    if marks is not None and (marks.shape != (n,) or marks.dtype != np.bool_):
        raise LearnerError(
            f"learner {learner.kind!r} predicted abstains {marks.shape} of {marks.dtype}: ({n},) of"
            " bool is expected"
        )


def _said(prediction: Prediction, row: int) -> str:
    """Return what is not finite in a row of a prediction."""
    if prediction.proba is None and prediction.forecast is None:
        return f"{prediction.value[row]:g}"
    if prediction.proba is None or np.isfinite(prediction.proba[row]).all():
        return "a time"
    shares: Ints = np.flatnonzero(~np.isfinite(prediction.proba[row]))
    return f"the probability {prediction.proba[row, shares[0]]:g}"
