"""What a learner returns: predictions, statistics of its buffer, and how it takes a feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, ClassName, Ints
from streams.core.schema import Task

_NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predictions for n events.

    Attributes:
        ids: (n,) int64.
        kind: classification or regression.
        value: (n,) int64 class codes, -1 without a prediction; or float64 targets, NaN without one.
        proba: (n, classes) probabilities by class code, or None; all 0 in a row without a
            prediction. A classifier for two classes has two columns from the start.
        classes: names of the class codes known so far.
        version: how many times the learner had learned.
        abstains: (n,) bool, the rows in which a learner that has learned cannot say; None: none.
            Only for regression: before the first label, and where a class code is -1, that is
            clear already.
        forecast: (n, cells, 2 or 2 + classes) float32, of events in sequences: the distribution of
            the time and type of the next event (``learners/sequences/forecast.py``). ``value`` and
            ``proba`` are then of its type, and ``kind`` is classification. None: only the type is
            predicted.
        since: (n,) float64, of an answer to a request about sequences: the event time in seconds
            from which the forecast counts, NaN for a key without events. Else None.
    """

    ids: Ints
    kind: Task
    value: Array
    proba: Array | None
    classes: tuple[ClassName, ...]
    version: int
    abstains: NDArray[np.bool_] | None = None
    forecast: Array | None = None
    since: Array | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def not_finite(self) -> Ints:
        """Return the rows whose target, probabilities or forecast are not finite numbers.

        NaN is no target. It stands for an abstention only in the rows of ``abstains``, and while
        the learner has learned nothing.
        """
        if self.kind == "classification":
            wrong = self._forecasts_not_finite()
            if self.proba is None or (finite := np.isfinite(self.proba)).all():
                return wrong
            return np.union1d(np.flatnonzero(~finite.all(1)), wrong)
        finite = np.isfinite(self.value)
        if finite.all():
            return _NO_ROWS
        abstains = self.version == 0 if self.abstains is None else self.abstains
        return np.flatnonzero(~(finite | (np.isnan(self.value) & abstains)))

    def _forecasts_not_finite(self) -> Ints:
        """Return the rows whose forecast has an infinite number, or NaN in some cells only."""
        if self.forecast is None or np.isfinite(self.forecast).all():
            return _NO_ROWS
        cells = self.forecast.reshape(len(self), -1)
        none = np.isnan(self.forecast[:, :, 1]).all(1)
        return np.flatnonzero(np.isinf(cells).any(1) | (np.isnan(cells).any(1) & ~none))


@dataclass(frozen=True, slots=True)
class BufferSummary:
    """Statistics of a buffer, for the ``replay/`` metrics and histograms.

    Attributes:
        stored: stored events.
        intervals: (63,) int64: of the counted recalls so far, how many came 2**i to 2**(i+1) - 1
            presentations after the last presentation of the event.
        values: what the recall rule knows of stored events, by name: (m,) each, for m events at
            regular distances.
    """

    stored: int
    intervals: Ints
    values: dict[str, Array]


class Encoding(NamedTuple):
    """How a learner takes a feature.

    Attributes:
        text: for a person: ``1 of 32 hashed places``.
        places: how many values of a category it can keep apart; None: any number.
    """

    text: str
    places: int | None = None
