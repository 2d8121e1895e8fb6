"""Fading means of labels by key, at several time scales at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streams.core.batch import Array, Floats, Ints
from streams.core.key_table import KeyTable
from streams.core.running_moments import RunningMoments
from streams.core.state_dict import State
from streams.operators.features.aggregate_keys import NO_KEY

PRIOR = 10.0
"""Labels that the overall rate counts as, in the mean of a key (m of an m-estimate: Cestnik 1990;
Micci-Barreca 2001, "A preprocessing scheme for high-cardinality categorical attributes")."""
GAIN = 3.0
"""Differences of rates are small; times this, they vary about as much as scaled numbers do."""
_LIMIT = 10.0  # of a difference of means, in standard deviations of the labels
_OUTLIER = 100.0  # standard deviations from the mean at which a label is winsorised


def decay_logs(scales: Sequence[float | None]) -> Floats:
    """Return (s,) the logarithm of the weight that one step of the clock leaves."""
    return np.array([0.0 if scale is None else np.log1p(-1 / scale) for scale in scales])


class LabelMeans:
    """Sums of labels and counts, by key and for the whole stream, which fade with every label.

    At each scale a key has S, the sum of its labels, and K, their count. With every label of the
    *stream*, both are multiplied by 1 - 1/scale; without a scale they do not fade. So a key that
    has not come for long is forgotten, however rare it is. A key has one feature at each scale, for
    each tracked class:

        3 * ((S + 10 p) / (K + 10) - p),

    where p is the overall rate at that scale, (S + 2/c) / (K + 2) of the whole stream, and c the
    number of classes. The features of the stream are 3 * (p - 1/c). In a regression the label takes
    the place of the class, p is the overall mean, and differences are in standard deviations of the
    labels, not times 3.

    Some keys have a second one, which is more exact: of an integer itself, beside its bin. A label
    counts for both. The second one is read once it has a row, which it gets with its second label.
    So each id has a mean of its own, and numbers that come once take no room.

    A key without a row in its table has the features of a key without labels. State fades lazily:
    a row is brought up to date when it is read, so work does not depend on the size of the table.

    Args:
        keys: keys of one event.
        exact: which of them have a second one.
        scales: in labels of the stream; None: no fading.
        classes: codes of the tracked classes; None: a regression.
        rows: of the table.
        expected: the number of classes.
    """

    def __init__(
        self,
        keys: int,
        exact: Sequence[int],
        scales: Sequence[float | None],
        classes: Ints | None,
        rows: int,
        expected: int = 2,
    ) -> None:
        self.keys = keys
        self._with_exact = np.array(exact, np.int64)
        self._scales = len(scales)
        self._classes = classes
        self._expected = expected
        self._sums = 1 if classes is None else len(classes)  # of labels, at one scale
        self.cells = self._scales * (self._sums + 1)
        self._logs = decay_logs(scales)[:, None]
        self._cell = np.arange(self.cells)[:, None]
        self._table = KeyTable(rows, admit_after=1)
        self._exact = KeyTable(rows, admit_after=2) if exact else None
        # A row is K at each scale, then S at each scale for each class. First come the rows of the
        # table, then those of the exact one. The last row has no key: a key without a row reads
        # zeros there.
        total = self._table.rows + (0 if self._exact is None else self._exact.rows) + 1
        self._values = np.zeros((total, self.cells))
        self._clock = np.zeros(total)
        self._total = np.zeros(self.cells)
        self._labels = 0  # learned so far
        self._moments = RunningMoments(())

    @property
    def width(self) -> int:
        """The number of features of one event: those of its keys, then those of the stream."""
        return (self.keys + 1) * self._scales * self._sums

    def features(self, keys: Ints) -> Floats:
        """Return (n, width) float32 for the keys of n events: the first ones, then the second ones
        (``EventKeys.labels``). Pure.

        For each key come the rates of each class, at each scale.
        """
        n = len(keys)
        rows = self._table.find(keys[:, : self.keys])
        used = self._used(keys)
        if self._exact is not None and len(used):
            exact = self._exact.find(keys.take(self.keys + used, 1))
            places = self._with_exact[used]
            rows[:, places] = np.where(exact < 0, rows[:, places], exact + self._table.rows)
        values = self._read(rows.reshape(-1))
        rate, overall = self._overall()
        count, means = values[: self._scales], values[self._scales :]
        shrunk = count + PRIOR
        for start in range(0, len(means), self._scales):  # each class
            part = means[start : start + self._scales]
            part -= rate[start : start + self._scales, None] * count
            part /= shrunk
        if self._classes is not None:
            means *= GAIN
        else:
            means /= self._moments.std()
            np.clip(means, -_LIMIT, _LIMIT, out=means)
        both = np.empty((n, self.keys + 1, len(overall)), np.float32)
        both[:, :-1] = means.T.reshape(n, self.keys, len(overall))
        both[:, -1] = overall
        return both.reshape(n, self.width)

    def _used(self, keys: Ints) -> Ints:
        """Return which second keys any of the events has."""
        return np.flatnonzero((keys[:, self.keys :] != NO_KEY).any(0))

    def _read(self, rows: Ints) -> Floats:
        """Return (cells, m) what rows (m,) hold as of now."""
        values = np.ascontiguousarray(self._values.take(rows, 0).T)
        kinds = values.reshape(self._sums + 1, self._scales, len(rows))
        kinds *= np.exp((self._labels - self._clock.take(rows)) * self._logs)
        return values

    def _overall(self) -> tuple[Floats, Floats]:
        """Return the overall rate or mean at each scale for each class, and its feature."""
        count, sums = np.tile(self._total[: self._scales], self._sums), self._total[self._scales :]
        if self._classes is not None:
            rate = (sums + 2 / self._expected) / (count + 2)
            return rate, GAIN * (rate - 1 / self._expected)
        mean = (sums + PRIOR * self._moments.mean) / (count + PRIOR)
        scaled = (mean - self._moments.mean) / self._moments.std()
        return mean, np.clip(scaled, -_LIMIT, _LIMIT)

    def learn(self, keys: Ints, y: Array) -> None:
        """Add m >= 1 labels (m,) of events with these keys, in order."""
        m = len(y)
        weights = np.exp(np.arange(m - 1, -1, -1.0) * self._logs)  # (scales, m)
        sums = self._targets(y)[:, None] * weights
        added = np.concatenate([weights, sums.reshape(-1, m)])  # (cells, m)
        self._labels += m
        self._total *= np.tile(np.exp(m * self._logs[:, 0]), self._sums + 1)
        self._total += added.sum(1)
        rows = self._observe(self._table, 0, keys[:, : self.keys].reshape(-1), m).reshape(m, -1)
        if self._exact is not None and len(used := self._used(keys)):
            second = keys.take(self.keys + used, 1)
            some = np.flatnonzero(second != NO_KEY)
            exact = np.full(second.shape, -1)
            exact.put(some, self._observe(self._exact, self._table.rows, second.take(some), m))
            rows = np.concatenate([rows, exact], axis=1)
        flat = rows.reshape(-1)
        self._values[flat] = self._read(flat).T  # the same for equal rows
        self._clock[flat] = self._labels
        index = flat * self.cells + self._cell
        each = np.empty((self.cells, *rows.shape))
        each[:] = added[:, :, None]
        np.add.at(self._values.reshape(-1), index.reshape(-1), each.reshape(-1))
        self._values[-1] = 0

    def _observe(self, table: KeyTable, offset: int, keys: Ints, labels: int) -> Ints:
        """Count the (k,) keys of some labels in a table; return their rows, -1 for none.

        Args:
            table: has the keys.
            offset: number of rows before those of the table.
            keys: of the labels.
            labels: how many.
        """
        table.advance(labels)
        admitted, found = table.observe_and_find(keys)
        if len(admitted.rows):
            self._values[admitted.rows + offset] = 0
        return np.where(found < 0, -1, found + offset)

    def _targets(self, y: Array) -> Floats:
        """Return (sums, m) what the labels add to the sums."""
        if self._classes is not None:
            return np.asarray(y == self._classes[:, None], np.float64)
        self._moments.update(y)
        reach = _OUTLIER * self._moments.std()
        low, high = self._moments.mean - reach, self._moments.mean + reach
        targets = np.empty((1, len(y)))
        np.clip(y, low, high, out=targets[0])
        return targets

    def memory_bytes(self) -> int:
        """Return the bytes of the tables and of the sums."""
        exact = 0 if self._exact is None else self._exact.memory_bytes()
        return self._table.memory_bytes() + exact + self._values.nbytes + self._clock.nbytes

    def state(self) -> State:
        """Return the occupied rows, and the sums of the stream."""
        table = self._table.state()
        exact = {} if self._exact is None else self._exact.state()
        rows = self._occupied(table, exact)
        return {"table": table, "exact": exact, **self._sums_of(rows)}

    def servable(self) -> State:
        """Return what ``features`` needs: all rows, in views, and the sums of the stream."""
        exact = {} if self._exact is None else self._exact.servable()
        return {"table": self._table.servable(), "exact": exact, **self._sums_of(slice(None))}

    def _sums_of(self, rows: Ints | slice) -> State:
        moments = {} if self._classes is not None else {"moments": self._moments.state()}
        return {
            "values": self._values[rows],
            "label_clock": self._clock[rows],
            "total": self._total,
            "labels": self._labels,
            **moments,
        }

    def load(self, state: State) -> None:
        """Restore what ``state`` returned; or what ``servable`` did, for ``features`` alone."""
        table, exact = state["table"], state["exact"]
        self._table.load(table)
        if self._exact is not None:
            self._exact.load(exact)
        rows = self._occupied(table, exact) if "rows" in table else slice(None)
        self._values = np.zeros(self._values.shape)
        self._values[rows] = state["values"]
        self._clock = np.zeros(self._clock.shape)
        self._clock[rows] = state["label_clock"]
        self._total, self._labels = np.array(state["total"]), state["labels"]
        if self._classes is None:
            self._moments.load(state["moments"])

    def _occupied(self, table: State, exact: State) -> Ints:
        """Return the rows with a key, by the states of the tables."""
        rows: Ints = table["rows"].astype(np.int64)
        return np.concatenate([rows, exact["rows"] + self._table.rows]) if exact else rows
