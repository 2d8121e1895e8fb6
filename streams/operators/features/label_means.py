"""Fading means of labels by key, at several time scales at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streams.core.batch import Array, Floats, Ints
from streams.core.key_table import KeyTable
from streams.core.state_dict import State
from streams.core.statistics.running_moments import RunningMoments
from streams.operators.features.aggregate_keys import NO_KEY

PRIOR = 10.0
"""Labels that the overall rate counts as, in the mean of a key (m of an m-estimate: Cestnik 1990;
Micci-Barreca 2001, "A preprocessing scheme for high-cardinality categorical attributes")."""
GAIN = 3.0
"""Differences of rates are small; times this, they vary about as much as scaled numbers do."""
_LIMIT = 10.0  # of a difference of means, in standard deviations of the labels
_GROWTH = 100.0  # weights grow by this power of e before all sums are divided by as much
_ENDLESS = 2**62
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

    Stored sums do not fade. Instead each label weighs 1 / (1 - 1/scale) times as much as the one
    before, and what is read is divided by the weight of the last one (forward decay; Cormode,
    Shkapenyuk, Srivastava and Xu 2009). Before weights become too large, all sums are divided.

    A key is a small code or a hash. Codes, as of bins, have rows of their own; hashes share a
    table. Some keys have a second one, which is more exact: of an integer itself, beside its bin. A
    label counts for both. The second one is read once it has a row, which it gets with its second
    label. So each id has a mean of its own, and numbers that come once take no room.

    A key without a row in its table has the features of a key without labels.

    Args:
        keys: keys of one event.
        coded: which of them are codes, below ``codes``; the others are hashes.
        codes: how many codes such a key may have.
        exact: which keys have a second one, a hash.
        scales: in labels of the stream; None: no fading.
        classes: codes of the tracked classes; None: a regression.
        rows: of a table.
        expected: the number of classes.
    """

    def __init__(
        self,
        keys: int,
        coded: Sequence[int],
        codes: int,
        exact: Sequence[int],
        scales: Sequence[float | None],
        classes: Ints | None,
        rows: int,
        expected: int = 2,
    ) -> None:
        self.keys = keys
        self._coded = np.array(coded, np.int64)
        self._hashed = np.setdiff1d(np.arange(keys), self._coded)
        self._with_exact = np.array(exact, np.int64)
        self._scales = len(scales)
        self._classes = classes
        self._expected = expected
        self._sums = 1 if classes is None else len(classes)  # of labels, at one scale
        self.cells = self._scales * (self._sums + 1)
        self._logs = decay_logs(scales)
        fastest = -float(self._logs.min())
        self._span = max(int(_GROWTH / fastest), 1) if fastest else _ENDLESS  # in labels
        self._cell = np.arange(self.cells)[:, None]
        self._scale_of = self._cell[:, 0] % self._scales  # of each cell
        self._table = KeyTable(rows, admit_after=1) if len(self._hashed) else None
        self._exact = KeyTable(rows, admit_after=2) if exact else None
        # A row is K at each scale, then S at each scale for each class. First come the rows of the
        # table, those of the exact one, and those of codes. Then comes the row of the stream. The
        # last row has no key: a key without a row reads zeros there.
        self._first_exact = 0 if self._table is None else self._table.rows
        self._first_code = self._first_exact + (0 if self._exact is None else self._exact.rows)
        self._code_rows = self._first_code + codes * np.arange(len(coded))
        self._stream = self._first_code + codes * len(coded)
        self._values = np.zeros((self._stream + 2, self.cells))
        self._labels = 0  # learned so far
        self._landmark = 0  # the label that weighs 1 in the sums
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
        rows = np.empty((n, self.keys), np.int64)
        rows[:, self._coded] = self._rows_of_codes(keys)
        if self._table is not None:
            rows[:, self._hashed] = self._table.find(keys.take(self._hashed, 1))
        if self._exact is not None and len(used := self._used(keys)):
            exact = self._exact.find(keys.take(self.keys + used, 1))
            places = self._with_exact[used]
            rows[:, places] = np.where(exact < 0, rows[:, places], exact + self._first_exact)
        values = np.ascontiguousarray(self._values.take(rows.reshape(-1), 0).T)
        fade = np.exp((self._labels - self._landmark) * self._logs)
        rate, overall = self._overall(fade[self._scale_of] * self._values[self._stream])
        count, means = values[: self._scales], values[self._scales :]
        shrunk = count + (PRIOR / fade)[:, None]
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

    def _rows_of_codes(self, keys: Ints) -> Ints:
        return keys.take(self._coded, 1) + self._code_rows

    def _used(self, keys: Ints) -> Ints:
        """Return which second keys any of the events has."""
        used: Ints = (keys[:, self.keys :] != NO_KEY).any(0).nonzero()[0]
        return used

    def _overall(self, stream: Floats) -> tuple[Floats, Floats]:
        """Return the overall rate or mean at each scale for each class, and its feature, for what
        the stream has (cells,) as of now."""
        count, sums = stream[self._scale_of[self._scales :]], stream[self._scales :]
        if self._classes is not None:
            rate = (sums + 2 / self._expected) / (count + 2)
            return rate, GAIN * (rate - 1 / self._expected)
        mean = (sums + PRIOR * self._moments.mean) / (count + PRIOR)
        scaled = (mean - self._moments.mean) / self._moments.std()
        return mean, np.clip(scaled, -_LIMIT, _LIMIT)

    def learn(self, keys: Ints, y: Array) -> None:
        """Add m >= 1 labels (m,) of events with these keys, in order."""
        rows, targets = self._observe(keys), self._targets(y)
        for start in range(0, len(y), self._span):  # so that no weight is too large
            part = slice(start, start + self._span)
            self._add(rows[part], targets[:, part])

    def _add(self, rows: Ints, targets: Floats) -> None:
        """Add (sums, m) what m labels add to the sums of their rows (m, keys)."""
        m = len(rows)
        if self._labels + m - self._landmark > 2 * self._span:
            self._move_landmark()
        number = np.arange(1.0, m + 1) + (self._labels - self._landmark)
        weights = np.exp(-self._logs[:, None] * number)  # (scales, m)
        added = np.concatenate([weights, (targets[:, None] * weights).reshape(-1, m)])
        self._labels += m
        index = rows.reshape(-1) * self.cells + self._cell
        each = np.empty((self.cells, *rows.shape))
        each[:] = added[:, :, None]
        np.add.at(self._values.reshape(-1), index.reshape(-1), each.reshape(-1))
        self._values[-1] = 0

    def _move_landmark(self) -> None:
        """Let the last label weigh 1 in the sums."""
        fade = np.exp((self._labels - self._landmark) * self._logs)
        rows = np.flatnonzero(self._values.any(1))  # pages that were never written stay so
        self._values[rows] *= fade[self._scale_of]
        self._landmark = self._labels

    def _observe(self, keys: Ints) -> Ints:
        """Count the keys of m labels. Return (m, ...) the rows that each label counts for, -1 for
        none."""
        m = len(keys)
        parts = [np.full((m, 1), self._stream), self._rows_of_codes(keys)]
        if self._table is not None:
            hashed = keys.take(self._hashed, 1)
            found = self._observe_in(self._table, 0, hashed.reshape(-1), m)
            parts.append(found.reshape(hashed.shape))
        if self._exact is not None and len(used := self._used(keys)):
            second = keys.take(self.keys + used, 1)
            exact = np.full(second.shape, -1)
            some = np.flatnonzero(second != NO_KEY)
            exact.put(some, self._observe_in(self._exact, self._first_exact, second.take(some), m))
            parts.append(exact)
        return np.concatenate(parts, axis=1)

    def _observe_in(self, table: KeyTable, first: int, keys: Ints, labels: int) -> Ints:
        """Count the (k,) keys of some labels in a table; return their rows, -1 for none.

        Args:
            table: has the keys.
            first: number of rows before those of the table.
            keys: of the labels.
            labels: how many.
        """
        table.advance(labels)
        admitted, found = table.observe_and_find(keys)
        self._values[admitted.rows + first] = 0
        return np.where(found < 0, -1, found + first)

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
        return self._values.nbytes + sum(table.memory_bytes() for table in self._tables().values())

    def _tables(self) -> dict[str, KeyTable]:
        """Return the tables, by their names in a state."""
        tables = {"table": self._table, "exact": self._exact}
        return {name: table for name, table in tables.items() if table is not None}

    def state(self) -> State:
        """Return the occupied rows, and the sums of the stream."""
        tables = {name: table.state() for name, table in self._tables().items()}
        return {**tables, **self._sums_of(self._occupied(tables))}

    def servable(self) -> State:
        """Return what ``features`` needs: all rows, in views, and the sums of the stream."""
        tables = {name: table.servable() for name, table in self._tables().items()}
        return {**tables, **self._sums_of(slice(None))}

    def _sums_of(self, rows: Ints | slice) -> State:
        moments = {} if self._classes is not None else {"moments": self._moments.state()}
        return {
            "values": self._values[rows],
            "labels": self._labels,
            "landmark": self._landmark,
            **moments,
        }

    def load(self, state: State) -> None:
        """Restore what ``state`` returned; or what ``servable`` did, for ``features`` alone."""
        for name, table in self._tables().items():
            table.load(state[name])
        values = state["values"]
        self._values = np.zeros(self._values.shape)
        whole = len(values) == len(self._values)
        self._values[slice(None) if whole else self._occupied(state)] = values
        self._labels, self._landmark = state["labels"], state["landmark"]
        if self._classes is None:
            self._moments.load(state["moments"])

    def _occupied(self, tables: State) -> Ints:
        """Return the rows with a key, by the states of the tables, and those of codes and of the
        stream."""
        first = {"table": 0, "exact": self._first_exact}
        rows = [tables[name]["rows"].astype(np.int64) + first[name] for name in self._tables()]
        return np.concatenate([*rows, np.arange(self._first_code, self._stream + 1)])
