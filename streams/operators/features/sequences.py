"""Sequences: the last events of the key of each event, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Batch, Column, Floats, Ints, reject_rows
from streams.core.errors import StreamError
from streams.core.hashing import category_keys
from streams.core.key_table import KeyTable
from streams.core.schema import Feature, Schema
from streams.core.settings import unknown
from streams.core.state_dict import State
from streams.core.stream_config import SequenceConfig
from streams.operators.base import Operator

TYPES, GAPS, TIME = "sequence_types", "sequence_gaps", "sequence_time"
"""The names of the columns that are added."""


class Sequences(Operator):
    """Appends the last events of the same key, the event itself last, and sets ``key``.

    The label of the stream is the type of an event. ``sequence_types`` (n, length) are the types as
    class codes, the oldest event first, -1 behind the last; ``sequence_gaps`` (n, length) the
    seconds since the event before of the key, 0 for the first; ``sequence_time`` (n,) the time of
    the last event. ``y`` stays the type of the event: the join makes it the label of the event
    before (``next_of_key.py``).

    Arrival is the order: an event that is older than the last one of its key, by no more than
    ``lateness``, comes at the time of that one. Probes are part of the sequence, as those after
    them would have a hole; what follows them is not learned. An event without type is dead. A key
    that was silent for longer than ``expire`` begins anew. All this is the same at any size of
    micro-batches.

    Memory is ``keys * (8 * length + 32)`` bytes: a key has one row of a ``KeyTable``, and a new key
    takes the row of the one of its eight that was not seen for longest.

    Args:
        config: settings.
        schema: of the stream.

    Raises:
        StreamError: a column cannot be used so; the message names place and remedy.
    """

    def __init__(self, config: SequenceConfig, schema: Schema) -> None:
        _check(config, schema)
        self.config = config
        self._table = KeyTable(config.keys, admit_after=1, min_age=0)
        rows = self._table.rows + 1  # the last one has no key, and no events
        self._types = np.full((rows, config.length), -1, np.int32)  # rings
        self._gaps = np.zeros((rows, config.length), np.float32)
        self._time = np.full(rows, np.nan)
        self._count = np.zeros(rows, np.int64)  # events that entered the ring

    def settings(self) -> dict[str, Any]:
        """Return what ``of_settings`` makes the operator from, as JSON."""
        return self.config.model_dump(mode="json")

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], schema: Schema) -> Sequences:
        """Return the operator of these settings, without state, for a stream of this schema."""
        return cls(SequenceConfig.model_validate(settings), schema)

    def schema(self, schema: Schema) -> Schema:
        """Return the schema behind the operator: with its columns, and of task sequences."""
        shape = (self.config.length,)
        added = (
            Feature(TYPES, "history", shape),
            Feature(GAPS, "history", shape),
            Feature(TIME, "history"),
        )
        features = (*schema.features, *added)
        return replace(schema, features=features, task="sequences", sequence=self.config)

    def describe(self) -> str:
        """Return how the events of a key make a sequence, on one line."""
        config = self.config
        within = "" if config.horizon is None else f" within {config.horizon:,g} s"
        return (
            f"the next event of the same {config.by}{within}, from its last {config.length}; "
            f"{config.keys:,} keys in {self.memory_bytes() / 1e6:,.1f} MB"
        )

    def apply(self, batch: Batch) -> Batch:
        assert batch.y is not None
        if (batch.y < 0).any():
            reason = "the event has no type, which is the label of the stream (stream.label)"
            batch = reject_rows(batch, batch.y < 0, [reason] * int(np.count_nonzero(batch.y < 0)))
        y = batch.y
        assert y is not None
        keys = self._keys(batch)
        rows, new = self._table.observe_in_turn(keys)
        n, length = len(batch), self.config.length
        types, gaps = np.empty((n, length), np.int32), np.empty((n, length), np.float32)
        time = np.empty(n)
        for turn in _turns(rows):
            self._enter(rows[turn], new[turn], y[turn], batch.time[turn])
            types[turn], gaps[turn], time[turn] = self._read(rows[turn])
        return replace(batch, x=_with(batch, types, gaps, time), key=keys)

    def view(self, batch: Batch) -> Batch:
        keys = self._keys(batch)
        return replace(batch, x=_with(batch, *self._read(self._table.find(keys))), key=keys)

    def _keys(self, batch: Batch) -> Ints:
        assert not isinstance(batch.x, np.ndarray)
        return category_keys(batch.x[self.config.by])

    def _enter(self, rows: Ints, new: NDArray[np.bool_], types: Ints, time: Floats) -> None:
        """Write one event each behind those of different rows (m,)."""
        last = np.where(new, np.nan, self._time[rows])
        gap = np.where(np.isnan(last), 0.0, np.maximum(time - last, 0.0))
        if self.config.expire is not None:
            new = new | (gap > self.config.expire)
        gap[new] = 0.0
        count = np.where(new, 0, self._count[rows])
        self._types[rows[new]], self._gaps[rows[new]] = -1, 0.0
        place = count % self.config.length
        self._types[rows, place], self._gaps[rows, place] = types, gap
        self._time[rows], self._count[rows] = np.fmax(time, last), count + 1

    def _read(self, rows: Ints) -> tuple[Array, Array, Floats]:
        """Return types and gaps (m, length) and the last time (m,) of rows; of row -1 none."""
        length = self.config.length
        oldest = np.maximum(self._count[rows] - length, 0)
        place = (oldest[:, None] + np.arange(length)) % length
        row = rows[:, None]
        return self._types[row, place], self._gaps[row, place], self._time[rows]

    def memory_bytes(self) -> int:
        """Return the bytes of all tables."""
        arrays = (self._types, self._gaps, self._time, self._count)
        return self._table.memory_bytes() + sum(array.nbytes for array in arrays)

    def state(self) -> State:
        used = np.flatnonzero(self._count)
        return {
            "table": self._table.state(),
            "used": used,
            "types": self._types[used],
            "gaps": self._gaps[used],
            "time": self._time[used],
            "count": self._count[used],
        }

    def servable(self) -> State:
        """Return all rows, in views: snapshots carry the few that have changed."""
        return {
            "table": self._table.servable(),
            "types": self._types,
            "gaps": self._gaps,
            "time": self._time,
            "count": self._count,
        }

    def load(self, state: State) -> None:
        self._table.load(state["table"])
        arrays = [np.array(state[name]) for name in ("types", "gaps", "time", "count")]
        if "used" not in state:
            self._types, self._gaps, self._time, self._count = arrays
            return
        self._types[:], self._gaps[:], self._time[:], self._count[:] = -1, 0.0, np.nan, 0
        used = state["used"]
        self._types[used], self._gaps[used], self._time[used], self._count[used] = arrays


def _turns(rows: Ints) -> list[Ints]:
    """Return the numbers of the events (n,) of a micro-batch by their rank among those of their
    row: no two of one turn are of one row."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    rank = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    if not len(rows) or not rank.any():
        return [np.arange(len(rows))]
    return [np.sort(order[rank == r]) for r in range(int(rank.max()) + 1)]


def _with(batch: Batch, types: Array, gaps: Array, time: Floats) -> Mapping[str, Column]:
    assert not isinstance(batch.x, np.ndarray)
    return {**batch.x, TYPES: types, GAPS: gaps, TIME: time}


def _check(config: SequenceConfig, schema: Schema) -> None:
    """Raise ``StreamError`` where the columns of the stream do not suit sequences."""
    names = [feature.name for feature in schema.features if feature.kind == "categorical"]
    if config.by not in names:
        raise StreamError(
            f"stream.sequence.by: there is no categorical column {unknown(config.by, names)}; "
            "state a column as categorical under stream.features"
        )
    if schema.task == "regression":
        raise StreamError(
            "stream.sequence: the label of the stream is the type of an event, and it is a number: "
            "state it as a class (label: {column: ..., task: classification})"
        )
    for name in (TYPES, GAPS, TIME):
        if name in [feature.name for feature in schema.features]:
            raise StreamError(
                f"stream.sequence: the stream has a feature {name!r}, which is the name of what is "
                "added: give that column another name"
            )
