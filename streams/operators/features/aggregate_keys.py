"""The keys of events in tables of aggregates: hashes of the values of one or more columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Column, Floats, Ints
from streams.core.hashing import category_keys, mix
from streams.core.schema import Schema
from streams.core.state_dict import State
from streams.core.statistics.quantile_bins import QuantileBins

BINS = 16
"""Bins of a number; a missing one has another."""
CODES = 2 * (BINS + 1)
"""Codes of a number: its bins, and those while edges are not known."""
NO_KEY = 0
"""Where an event has no second key."""

Combinations = Sequence[tuple[str, ...]]


class EventKeys(NamedTuple):
    """The keys of n events.

    Attributes:
        labels: (n, k + e) of label means: of a number alone the code of its bin, of other
            combinations a hash; then, of those with a number, a hash of the number itself, or
            ``NO_KEY``.
        events: (n, m) of other aggregates.
    """

    labels: Ints
    events: Ints


class AggregateKeys:
    """Give each event a key for each combination of columns.

    A category has a hash of its value, a number its bin (``QuantileBins``). Before the edges of a
    column are known, all its numbers have one key, which no bin has later. A missing value is a
    value.

    A column whose first numbers were all integers may hold the ids of something. There a label mean
    has a second key, of the number itself, and other aggregates have that alone.

    Keys do not depend on how the stream is cut into batches.

    Args:
        schema: the features.
        labels: the combinations of columns of label means.
        events: those of other aggregates.

    Attributes:
        bins: of the numbers.
        numeric: which combinations of label means have a number.
        coded: which are of a number alone: their keys are codes.
    """

    def __init__(self, schema: Schema, labels: Combinations, events: Combinations) -> None:
        kinds = {feature.name: feature.kind for feature in schema.features}
        names = list(dict.fromkeys(name for columns in (*labels, *events) for name in columns))
        self._numeric = [name for name in names if kinds[name] == "numeric"]
        self._others = [name for name in names if kinds[name] != "numeric"]
        self.bins = QuantileBins(len(self._numeric), BINS)
        self.numeric = [i for i, by in enumerate(labels) if {*by} & {*self._numeric}]
        self._labels, self._events = labels, events
        self._place = {name: i for i, name in enumerate([*self._others, *self._numeric])}
        self.coded = [i for i, by in enumerate(labels) if len(by) == 1 and i in self.numeric]
        self._codes = np.array([self._place[labels[i][0]] for i in self.coded], np.int64)
        self._hashed = [i for i in range(len(labels)) if i not in self.coded]
        self._of_labels = _Mixer([labels[i] for i in self._hashed], self._place, self._hashed)
        self._of_events = _Mixer(events, self._place, range(len(events)))
        self._whole: NDArray[np.bool_] = self.bins.whole.copy()  # as ``_of_integers`` knows it
        self._of_integers, self._second = self._integers()

    def apply(self, x: Mapping[str, Column], n: int, probe: Array | None) -> EventKeys:
        """Return the keys of the next n events of the stream.

        Args:
            x: columns of n events.
            n: their number.
            probe: (n,) events that leave nothing; None: there are none.
        """
        if not self._numeric or self.bins.known.all():
            return self.view(x, n)
        numbers = self._numbers(x)
        counts = np.ones(n, np.bool_) if probe is None else ~probe
        taken = self.bins.observe(numbers[counts])
        before = np.cumsum(counts) - counts
        return self._keys(x, n, numbers, (before[:, None] < taken) | ~self.bins.known)

    def view(self, x: Mapping[str, Column], n: int) -> EventKeys:
        """Return the keys of n events that come now. Pure."""
        known = self.bins.known
        unknown = None if known.all() else np.broadcast_to(~known, (n, len(known)))
        return self._keys(x, n, self._numbers(x) if self._numeric else None, unknown)

    def _keys(
        self,
        x: Mapping[str, Column],
        n: int,
        numbers: Floats | None,
        unknown: NDArray[np.bool_] | None,
    ) -> EventKeys:
        """Return the keys of events with these columns.

        Args:
            x: columns of n events.
            n: their number.
            numbers: (n, numeric columns); None: there are none.
            unknown: (n, numeric columns) where edges were not known; None: nowhere.
        """
        values = np.empty((n, len(self._place)), np.int64)
        for j, name in enumerate(self._others):
            values[:, j] = category_keys(x[name])
        keys = np.full((n, len(self._labels) + len(self.numeric)), NO_KEY)
        if numbers is None:
            keys[:, self._hashed] = self._of_labels(values)
            return EventKeys(keys, self._of_events(values))
        codes = self.bins.codes(numbers)
        if unknown is not None:
            codes[unknown & (codes < BINS)] = 0
            codes += unknown * (BINS + 1)
        values[:, len(self._others) :] = codes
        keys[:, self._hashed] = self._of_labels(values)
        keys[:, self.coded] = values.take(self._codes, 1)
        if self.bins.whole.any():
            if (self.bins.whole != self._whole).any():
                self._whole = self.bins.whole.copy()
                self._of_integers, self._second = self._integers()
            whole = np.flatnonzero(self._whole)
            exact = numbers.take(whole, 1) + 0.0  # no zero is negative
            counts = ~np.isnan(exact)
            if unknown is not None:
                counts &= ~unknown.take(whole, 1)
            places = whole + len(self._others)
            values[:, places] = np.where(counts, exact.view(np.int64), values.take(places, 1))
            keys[:, self._second] = self._of_integers(values)
            if unknown is not None:
                keys[(unknown & self._whole).any(1), len(self._labels) :] = NO_KEY
        return EventKeys(keys, self._of_events(values))

    def _integers(self) -> tuple[_Mixer, list[int]]:
        """Return what mixes the second keys of label means, and the places that they go to."""
        names = {name for name, whole in zip(self._numeric, self._whole, strict=True) if whole}
        of = [i for i in self.numeric if names & {*self._labels[i]}]
        mixer = _Mixer([self._labels[i] for i in of], self._place, of)
        return mixer, [len(self._labels) + self.numeric.index(i) for i in of]

    def _numbers(self, x: Mapping[str, Column]) -> Floats:
        return np.array([x[name] for name in self._numeric], np.float64).T

    def state(self) -> State:
        return self.bins.state()

    def load(self, state: State) -> None:
        self.bins.load(state)


class _Mixer:
    """Mix the values of columns into keys, one for each combination of columns.

    Args:
        combinations: the columns of each key.
        place: the place of each column among the values.
        numbers: one for each combination; of different ones no value has the same key.
    """

    def __init__(
        self, combinations: Combinations, place: Mapping[str, int], numbers: Sequence[int]
    ) -> None:
        self._first = np.array([place[by[0]] for by in combinations], np.int64)
        self._more: list[tuple[Ints, Ints]] = []
        for depth in range(1, max(map(len, combinations), default=0)):
            longer = [(i, place[by[depth]]) for i, by in enumerate(combinations) if len(by) > depth]
            keys, columns = zip(*longer, strict=True)
            self._more.append((np.array(keys), np.array(columns)))
        self._salts = mix(np.asarray(numbers, np.int64), 1).view(np.int64)

    def __call__(self, values: Ints) -> Ints:
        """Return (n, combinations) keys for the (n, columns) values."""
        keys = values.take(self._first, 1)
        if not keys.shape[1]:
            return keys
        for rows, columns in self._more:
            keys[:, rows] = mix(keys[:, rows], 2).view(np.int64) ^ values.take(columns, 1)
        keys ^= self._salts
        return mix(keys, 0).view(np.int64)
