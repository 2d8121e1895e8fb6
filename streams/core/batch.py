"""The frozen, columnar micro-batch that everything else is made of.

Slicing a batch slices its columns: views, no copies. What happens between two events (a label
arrives, an event is rejected) is a *side record*: a label, a dead letter or a tombstone. The batch
carries it next to its rows with ``insert_before``, the index of the row that it comes just before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from streams.core.side_records import (
    Array,
    DeadLetter,
    Floats,
    Ints,
    Labels,
    ReadMark,
    ReadMarks,
    Tombstones,
)

__all__ = [
    "COLUMNS",
    "Array",
    "Batch",
    "ClassName",
    "Column",
    "ColumnSpec",
    "DeadLetter",
    "Features",
    "Floats",
    "Ints",
    "Labels",
    "Ragged",
    "ReadMark",
    "ReadMarks",
    "TimeStatus",
    "Tombstones",
    "reject_rows",
]

ClassName = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Ragged:
    """A column of n rows of unequal length: row i is ``values[bounds[i]:bounds[i + 1]]``.

    Text is stored as UTF-8 bytes (``values`` of dtype uint8). ``bounds`` (n + 1,) need not start at
    zero, so that a slice is a view.
    """

    values: Array
    bounds: Ints

    @classmethod
    def of_text(cls, texts: Iterable[str]) -> Ragged:
        """Return a column of texts."""
        encoded = [text.encode() for text in texts]
        bounds = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=bounds[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), bounds)

    def texts(self) -> list[str]:
        """Return the rows as texts."""
        encoded = self.values[self.bounds[0] : self.bounds[-1]].tobytes()
        bounds = (self.bounds - self.bounds[0]).tolist()
        return [encoded[start:stop].decode() for start, stop in pairwise(bounds)]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, rows: slice) -> Ragged:
        start, stop, _ = rows.indices(len(self))
        return Ragged(self.values, self.bounds[start : max(start, stop) + 1])

    def take(self, rows: Array) -> Ragged:
        """Return a copy of the rows at these indices, or where this mask is True."""
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        lengths = np.diff(self.bounds)[rows]
        bounds = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=bounds[1:])
        position = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)  # in its row
        return Ragged(self.values[np.repeat(self.bounds[:-1][rows], lengths) + position], bounds)

    @staticmethod
    def concat(columns: Sequence[Ragged]) -> Ragged:
        """Return the rows of all columns, in order."""
        values = [c.values[c.bounds[0] : c.bounds[-1]] for c in columns]
        lengths = [np.diff(c.bounds) for c in columns]
        bounds = np.zeros(sum(map(len, lengths)) + 1, np.int64)
        np.cumsum(np.concatenate(lengths), out=bounds[1:])
        return Ragged(np.concatenate(values), bounds)


Column = Array | Ragged
Features = Array | Mapping[str, Column]
SideRecords = tuple[Labels | None, tuple[DeadLetter, ...], Tombstones | None]
Side = TypeVar("Side", Labels, Tombstones)


class TimeStatus(IntEnum):
    """What a stream knows of the time of a row besides the time itself.

    Attributes:
        UNCONFIRMED: nothing.
        CONFIRMED: later rows of its partition, or the reader's clock, agree with it.
        BOUNDED: it was later than that of its message or than the reader's clock, which it has now.
        CORRECTED: it was far ahead of those around it, and has their time now.
    """

    UNCONFIRMED = 0
    CONFIRMED = 1
    BOUNDED = 2
    CORRECTED = 3


Shown = Literal["always", "with the label", "with boundaries", "never"]


class ColumnSpec(NamedTuple):
    """What becomes of one column of a ``Batch``.

    Attributes:
        name: the name of its field in ``Batch``.
        shown: when a learner sees it: always; only with the label; only where the learner declares
            that it needs task boundaries; or never.
        recorded: whether a recording holds it as a column of that name.
    """

    name: str
    shown: Shown = "always"
    recorded: bool = False


COLUMNS = (
    ColumnSpec("ids"),
    ColumnSpec("time"),
    ColumnSpec("partition"),
    ColumnSpec("offset"),
    ColumnSpec("y", shown="with the label"),
    ColumnSpec("due", shown="never", recorded=True),
    ColumnSpec("ingestion_time", shown="never", recorded=True),
    ColumnSpec("time_status", shown="never", recorded=True),
    ColumnSpec("clock", shown="never"),
    ColumnSpec("key", recorded=True),
    ColumnSpec("segment", shown="with boundaries", recorded=True),
    ColumnSpec("probe"),
    ColumnSpec("label_keys", shown="with the label"),
    ColumnSpec("wait", shown="with the label"),
)
"""All columns of a ``Batch`` but ``x``, with their rules. Slices, concatenations, states
and recordings follow from this table: a new column needs a line here and a field in ``Batch``."""


@dataclass(frozen=True, slots=True)
class Batch:
    """n events in the order of the stream.

    Attributes:
        ids: (n,) int64. The event's own id, or its position where it has none.
        time: (n,) float64, seconds of event time; NaN for an event of a request that states none.
        x: array (n, ...), or a mapping of column name to an array (n, ...) or ``Ragged``.
        partition: (n,) int32, the part of the stream (a file, a Kafka partition).
        offset: (n,) int64, the position in its partition. Reading resumes at the next one.
        y: (n,) int64 class codes (-1: none) or float64 targets (NaN: none). None: labels are not
            in the rows.
        due: (n,) float64, the event time at which the label of the row becomes known (NaN: never).
            None: the job states one delay for all.
        ingestion_time: (n,) float64, seconds of the reader's clock when the row was read, or None.
        time_status: (n,) int8, a ``TimeStatus`` for each row, or None: all are confirmed.
        clock: (n,) float64, the event time that the stream has reached at each row, or None: the
            latest ``time`` so far.
        key: (n,) int64 or None, what sequences are grouped by.
        segment: (n,) int64 or None, the task or concept. It is for evaluation: a learner sees it
            only if its class declares that it needs task boundaries.
        probe: (n,) bool or None. True rows are predicted and scored, never learned or observed.
        label_keys: (n, k) int64 or None, the keys that the label of the row counts for once it is
            known (``streams/operators/features/aggregates.py``).
        wait: (n,) float64 or None, of events in sequences: seconds until the next event of the key,
            whose type is ``y``. Where ``y`` is -1, nothing came for so long.
        classes: names of the class codes that the stream has shown so far.
        arrivals: labels that arrive among these rows, or None.
        dead: events and labels that were rejected among these rows.
        tombstones: records without a value among these rows, or None.
        flush: a micro-batch ends with these rows, full or not, because nothing more had arrived.
        read_at: of a block of a live stream: seconds of the reader's clock when it was read.
        marks: of a block of a live stream: how far its partitions have been read.
        last: it is the last micro-batch of its stream. It may be short only for that reason.
    """

    ids: Ints
    time: Floats
    x: Features
    partition: Array
    offset: Ints
    y: Array | None = None
    due: Floats | None = None
    ingestion_time: Floats | None = None
    time_status: NDArray[np.int8] | None = None
    clock: Floats | None = None
    key: Ints | None = None
    segment: Ints | None = None
    probe: NDArray[np.bool_] | None = None
    label_keys: Ints | None = None
    wait: Floats | None = None
    classes: tuple[ClassName, ...] = ()
    arrivals: Labels | None = None
    dead: tuple[DeadLetter, ...] = ()
    tombstones: Tombstones | None = None
    flush: bool = False
    read_at: float | None = None
    marks: ReadMarks | None = None
    last: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_empty(self) -> bool:
        """Whether it has no row and no side record."""
        return not (len(self) or self.has_side_records)

    @property
    def has_side_records(self) -> bool:
        return bool(self.dead) or self.arrivals is not None or self.tombstones is not None

    @property
    def events(self) -> int:
        """The number of events, dead ones included."""
        return len(self) + sum(not d.label for d in self.dead) if self.dead else len(self)

    def __getitem__(self, rows: slice) -> Batch:
        """Return rows ``start:stop`` as views, with their side records. Those just before row
        ``start`` are included; those after the last row (``insert_before == n``) belong to a slice
        that ends at n. ``flush`` is False, ``read_at`` and ``marks`` None."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("a batch is sliced with step 1")
        rows = slice(start, stop)
        side = self._slice_side_records(start, stop) if self.has_side_records else ()
        x = self.x
        x = x[rows] if isinstance(x, np.ndarray) else {name: c[rows] for name, c in x.items()}
        return _select(self, rows, x, self.classes, *side)

    def _slice_side_records(self, start: int, stop: int) -> SideRecords:
        end = stop + 1 if stop == len(self) else stop
        dead = tuple(
            replace(d, insert_before=d.insert_before - start)
            for d in self.dead
            if start <= d.insert_before < end
        )
        return _between(self.arrivals, start, end), dead, _between(self.tombstones, start, end)

    def take(self, rows: Array) -> Batch:
        """Return a copy of the rows at these indices, or where this mask is True, without side
        records."""
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        x = self.x
        x = x[rows] if isinstance(x, np.ndarray) else {n: _pick(c, rows) for n, c in x.items()}
        return _select(self, rows, x, self.classes)

    def to_predict(self, boundaries: bool) -> Batch:
        """Return what a learner sees before it predicts: no labels, and task boundaries only where
        asked for. Its ids and its array ``x`` are read-only."""
        x = _read_only(self.x) if isinstance(self.x, np.ndarray) else self.x
        shown = _question_and_boundaries if boundaries else _question
        return shown(self, _read_only(self.ids), x, self.classes)

    def to_learn(self, boundaries: bool) -> Batch:
        """Return what a learner sees once the labels are known: no side records, and task
        boundaries only where asked for."""
        shown = _lesson_and_boundaries if boundaries else _lesson
        return shown(self, self.ids, self.x, self.classes)

    @staticmethod
    def gather(pieces: Sequence[tuple[Batch, slice | Array]]) -> Batch:
        """Return the rows of each piece (a slice or indices) in order, without side records.
        Cheaper than ``concat`` of slices: a single slice gives views."""
        batch, rows = pieces[0]
        alone = len(pieces) == 1 and not batch.has_side_records
        if alone and isinstance(rows, slice):
            return batch if rows == slice(0, len(batch)) else batch[rows]
        x: Features
        if isinstance(batch.x, np.ndarray):
            x = np.concatenate([b.x[rows] for b, rows in pieces])  # type: ignore[index]
        else:
            x = {name: _concat([_pick(b.x[name], rows) for b, rows in pieces]) for name in batch.x}
        return _join_selected(batch, pieces, x, max((b.classes for b, _ in pieces), key=len))

    def micro_batches(self, size: int) -> Iterator[Batch]:
        """Yield consecutive slices of ``size`` rows; the last may be shorter."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @staticmethod
    def concat(batches: Sequence[Batch]) -> Batch:
        """Return one batch of all rows in order, with their side records."""
        if len(batches) == 1:
            return batches[0]
        first = batches[0]
        x: Features
        if isinstance(first.x, np.ndarray):
            x = np.concatenate([b.x for b in batches])
        else:
            x = {name: _concat([b.x[name] for b in batches]) for name in first.x}
        classes = max((b.classes for b in batches), key=len)
        return _join(first, batches, x, classes, *_merge_side_records(batches))


_BLOCK_ONLY = ("flush", "last", "read_at", "marks")


def _build(signature: str, column: Callable[[ColumnSpec], str]) -> Callable[..., Batch]:
    """Compile a function that builds a batch: ``column`` gives the expression of each column.

    The code is written out, as ``dataclass`` does it: a loop over the columns takes a third longer,
    and every micro-batch is sliced. The function takes the arguments of ``signature``, and then
    ``x``, ``classes``, ``arrivals``, ``dead`` and ``tombstones``.
    """
    columns = {spec.name: column(spec) for spec in COLUMNS}
    names = [field.name for field in fields(Batch) if field.name not in _BLOCK_ONLY]
    values = ", ".join(columns.get(name, name) for name in names)
    side = "arrivals=None, dead=(), tombstones=None"
    source = f"lambda {signature}, x, classes, {side}: Batch({values})"
    function: Callable[..., Batch] = eval(source, globals())
    return function


def _unless_none(expression: str) -> Callable[[ColumnSpec], str]:
    """Return the expression of a column that is None where the column of ``batch`` is."""
    return lambda spec: f"None if batch.{spec.name} is None else {expression.format(spec.name)}"


def _shown(*when: Shown) -> Callable[..., Batch]:
    """Compile a function that leaves out the columns that are not shown at these times."""
    return _build(
        "batch, ids",
        lambda spec: (
            "ids" if spec.name == "ids" else f"batch.{spec.name}" if spec.shown in when else "None"
        ),
    )


_select = _build("batch, rows", _unless_none("batch.{}[rows]"))
_join = _build("batch, batches", _unless_none("np.concatenate([b.{} for b in batches])"))
_join_selected = _build(
    "batch, pieces", _unless_none("np.concatenate([b.{}[rows] for b, rows in pieces])")
)
_question = _shown("always")
_question_and_boundaries = _shown("always", "with boundaries")
_lesson = _shown("always", "with the label")
_lesson_and_boundaries = _shown("always", "with the label", "with boundaries")


def _between(records: Side | None, start: int, end: int) -> Side | None:
    """Return the labels or tombstones before the rows ``start`` to ``end``, counted from there."""
    if records is None:
        return None
    low, high = np.searchsorted(records.insert_before, [start, end])
    return records[low:high].shifted(-start) if low < high else None


def _merge_side_records(batches: Sequence[Batch]) -> SideRecords:
    """Return the side records of consecutive batches, as those of their concatenation."""
    if not any(b.has_side_records for b in batches):
        return None, (), None
    starts = list(accumulate((len(b) for b in batches[:-1]), initial=0))
    dead = tuple(
        replace(d, insert_before=d.insert_before + start)
        for b, start in zip(batches, starts, strict=True)
        for d in b.dead
    )
    labels = _join_shifted(Labels, [b.arrivals for b in batches], starts)
    return labels, dead, _join_shifted(Tombstones, [b.tombstones for b in batches], starts)


def _join_shifted(
    kind: type[Side], parts: Sequence[Side | None], starts: Sequence[int]
) -> Side | None:
    """Return the records of consecutive batches as one; ``starts`` are the first rows of these."""
    shifted = [part.shifted(start) for part, start in zip(parts, starts, strict=True) if part]
    if not shifted:
        return None
    columns = [[getattr(part, name) for part in shifted] for name in kind.__slots__]
    lengths = [len(part) for part in shifted]
    return kind(*(_concat_optional(column, lengths) for column in columns))


def _concat_optional(columns: Sequence[Any], lengths: Sequence[int]) -> Any:
    """Return columns as one; None stands for a mask that is False, all None for None."""
    if all(column is None for column in columns):
        return None
    pairs = zip(columns, lengths, strict=True)
    return np.concatenate([np.zeros(n, np.bool_) if c is None else c for c, n in pairs])


def _concat(columns: Sequence[Any]) -> Any:
    if isinstance(columns[0], Ragged):
        return Ragged.concat(columns)
    return np.concatenate(columns)


def _read_only(column: Array) -> Array:
    view = column.view()
    view.flags.writeable = False
    return view


def _pick(column: Any, rows: slice | Array) -> Any:
    if isinstance(column, Ragged) and not isinstance(rows, slice):
        return column.take(rows)
    return column[rows]


def reject_rows(batch: Batch, rows: NDArray[np.bool_], reasons: list[str]) -> Batch:
    """Turn the rows where the mask is True into dead letters, one reason for each."""
    kept = batch.take(~rows)
    before = np.zeros(len(batch) + 1, np.int64)  # rows kept before each row
    np.cumsum(~rows, out=before[1:])
    dead = [replace(d, insert_before=int(before[d.insert_before])) for d in batch.dead]
    for row, reason in zip(np.flatnonzero(rows).tolist(), reasons, strict=True):
        dead.append(
            DeadLetter(
                partition=int(batch.partition[row]),
                offset=int(batch.offset[row]),
                reason=reason,
                id=int(batch.ids[row]),
                insert_before=int(before[row]),
            )
        )
    arrivals = batch.arrivals
    if arrivals is not None:
        arrivals = replace(arrivals, insert_before=before[arrivals.insert_before])
    tombstones = batch.tombstones
    if tombstones is not None:
        tombstones = replace(tombstones, insert_before=before[tombstones.insert_before])
    dead.sort(key=lambda d: (d.insert_before, d.partition, d.offset))
    return replace(kept, arrivals=arrivals, dead=tuple(dead), tombstones=tombstones)
