"""The keys of events in a table of aggregates: hashes of the values of one or more columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from streams.core.batch import Array, Column, Floats, Ints
from streams.core.hashing import category_keys, mix
from streams.core.quantile_bins import QuantileBins
from streams.core.schema import Schema
from streams.core.state_dict import State

BINS = 16
"""Bins of a number; a missing one has another."""


class AggregateKeys:
    """Give each event one key for each combination of columns.

    A category has a hash of its value, a number its bin (``QuantileBins``). Before the edges of a
    column are known, all its numbers have one key, which no bin has later. A missing value is a
    value. Keys do not depend on how the stream is cut into batches.

    Args:
        schema: the features.
        by: the columns of each key.
    """

    def __init__(self, schema: Schema, by: Sequence[tuple[str, ...]]) -> None:
        kinds = {feature.name: feature.kind for feature in schema.features}
        names = list(dict.fromkeys(name for columns in by for name in columns))
        self._numeric = [name for name in names if kinds[name] == "numeric"]
        self._others = [name for name in names if kinds[name] != "numeric"]
        self.bins = QuantileBins(len(self._numeric), BINS)
        place = {name: i for i, name in enumerate([*self._others, *self._numeric])}
        self._first = np.array([place[columns[0]] for columns in by], np.int64)
        self._more = [
            (
                np.array([i for i, c in enumerate(by) if len(c) > depth], np.int64),
                np.array([place[c[depth]] for c in by if len(c) > depth], np.int64),
            )
            for depth in range(1, max(map(len, by), default=0))
        ]
        self._salts = mix(np.arange(len(by)), 1).view(np.int64)

    def apply(self, x: Mapping[str, Column], n: int, probe: Array | None) -> Ints:
        """Return (n, len(by)) int64, the keys of the next n events of the stream.

        Args:
            x: columns of n events.
            n: their number.
            probe: (n,) events that leave nothing; None: there are none.
        """
        if not len(self._numeric) or self.bins.known.all():
            return self.view(x, n)
        numbers = self._numbers(x)
        counts = np.ones(n, np.bool_) if probe is None else ~probe
        taken = self.bins.observe(numbers[counts])
        before = np.cumsum(counts) - counts
        unknown = (before[:, None] < taken) | ~self.bins.known
        codes = self.bins.codes(numbers)
        codes[unknown & (codes < BINS)] = 0
        return self._mix(x, n, codes + unknown * (BINS + 1))

    def view(self, x: Mapping[str, Column], n: int) -> Ints:
        """Return (n, len(by)) int64, the keys of n events that come now. Pure."""
        codes = None
        if self._numeric:
            codes = self.bins.codes(self._numbers(x))
            if not self.bins.known.all():
                codes[:, ~self.bins.known] += BINS + 1
        return self._mix(x, n, codes)

    def _mix(self, x: Mapping[str, Column], n: int, codes: Ints | None) -> Ints:
        """Return the keys of events with these columns and (n, numeric columns) codes."""
        values = np.empty((n, len(self._others) + len(self._numeric)), np.int64)
        for j, name in enumerate(self._others):
            values[:, j] = category_keys(x[name])
        if codes is not None:
            values[:, len(self._others) :] = codes
        keys = values.take(self._first, 1)
        for rows, columns in self._more:
            keys[:, rows] = mix(keys[:, rows], 2).view(np.int64) ^ values.take(columns, 1)
        keys ^= self._salts
        return mix(keys, 0).view(np.int64)

    def _numbers(self, x: Mapping[str, Column]) -> Floats:
        return np.stack([np.asarray(x[name], np.float64) for name in self._numeric], axis=1)

    def state(self) -> State:
        return self.bins.state()

    def load(self, state: State) -> None:
        self.bins.load(state)
