"""A stream for tests, given item by item, with marks for crashes, ends and pauses.

>>> stream = TestStream([Event([0.0], "a"), Abort(), Event([1.0], "b"), Label(0, "c"), End()])
>>> blocks = stream.read({}, 8)
>>> len(next(blocks))
1
>>> next(blocks)
Traceback (most recent call last):
streams.testing.AbortedError: item 1
>>> len(next(stream.read({"0": 1}, 8)))
1
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from streams.core.batch import Batch, ClassName, Labels
from streams.core.errors import StreamError
from streams.core.schema import Feature, FeatureKind, Scalar, Schema, Task
from streams.core.stream import Cursor, Stream
from streams.core.stream_config import StreamConfig
from streams.decoding.columns import column_of, first_seen
from streams.decoding.decoder import Columns, Decoder, NamedColumn


class AbortedError(Exception):
    """The stream reached an ``Abort`` mark: it breaks off as a killed process would."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``x``: a mapping of column to value (number: numeric, text: categorical, list:
    vector), a sequence of numbers (a vector), or a uint8 array (channels, height, width)."""

    x: Any
    y: Any = None
    id: Any = None
    time: Any = None
    key: Any = None
    segment: Any = None
    due: Any = None


@dataclass(frozen=True, slots=True)
class Label:
    """A label that arrives here, for the event of that id."""

    id: Any
    y: Any
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class End:
    """The stream truly ends here. Running out of items is an end as well."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Raises ``AbortedError`` when it is first reached, and is ignored from then on."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing arrives until the clock has advanced by this many seconds."""

    seconds: float


Item = Event | Label | End | Abort | Pause


class ManualClock:
    """A clock that advances only when a test moves it. Calling it returns the time in seconds.

    Args:
        now: the first time.
        on_wait: called by a waiting thread with the clock and the time that it waits for; it may
            move the clock. Without it another thread must.
        patience: real seconds after which a wait raises ``TimeoutError``.
    """

    def __init__(
        self,
        now: float = 0.0,
        on_wait: Callable[[ManualClock, float], None] | None = None,
        patience: float = 60.0,
    ) -> None:
        self.now = now
        self.on_wait = on_wait
        self.patience = patience
        self._moved = threading.Condition()

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock on by ``seconds``."""
        self.move_to(self.now + seconds)

    def move_to(self, now: float) -> None:
        """Set the time."""
        with self._moved:
            self.now = now
            self._moved.notify_all()

    def sleep(self, seconds: float) -> None:
        """Wait until the clock has advanced by ``seconds``."""
        until = self.now + seconds
        if self.on_wait:
            self.on_wait(self, until)
        with self._moved:
            if not self._moved.wait_for(lambda: self.now >= until, self.patience):
                raise TimeoutError(f"the clock is at {self.now}: no thread moved it to {until}")


class TestStream(Stream):
    """The items, in order, as events of partition 0 and labels of partition ``labels/0``.

    A block ends early at a mark. A mark before an item that the cursor has passed is passed too.

    Args:
        items: events, labels and marks.
        task: regression or classification. None: regression if any label is a float.
        classes: the stated classes, if any.
        features: kinds of features that are not inferred, by column.
        clock: for pauses. By default it advances by itself.
        config: the settings that every stream has.
    """

    __test__ = False
    kind = "test"

    def __init__(
        self,
        items: Sequence[Item],
        *,
        task: Task | None = None,
        classes: tuple[ClassName, ...] = (),
        features: Mapping[str, FeatureKind] | None = None,
        clock: ManualClock | None = None,
        config: StreamConfig | None = None,
    ) -> None:
        self.items = tuple(items)
        self.config = config or StreamConfig(kind=self.kind)
        self.clock = clock or ManualClock(on_wait=ManualClock.move_to)
        self._aborted: set[int] = set()  # indices of ``Abort`` marks that have been reached
        events = [item for item in items if isinstance(item, Event)]
        labels = [item for item in items if isinstance(item, Label)]
        labelled: list[Event | Label] = [*events, *labels]
        answers = [item.y for item in labelled if item.y is not None]
        if task is None:
            task = "regression" if any(isinstance(y, float) for y in answers) else "classification"
        label = NamedColumn(_Y, _type_of(classes or answers))
        id_type = _type_of([item.id for item in labelled if item.id is not None])
        schema_features, columns = _feature_columns(events, features or {})
        roles = _role_columns(events)
        self.schema = Schema(schema_features, task, classes)
        self.has_ids, self.has_time = "id" in roles, "time" in roles
        self.has_arrivals = bool(labels)
        self._table = pa.table(columns | {f"({role})": column for role, column in roles.items()})
        self._decode = Decoder(
            self.schema,
            Columns(
                id=NamedColumn("(id)", id_type) if self.has_ids else None,
                time="(time)" if self.has_time else None,
                label=label if "y" in roles else None,
                key=_named("key", events, roles),
                segment=_named("segment", events, roles),
                due="(due)" if "due" in roles else None,
            ),
        )
        self._labels = _decode_labels(labels, Schema((), task, classes), label, id_type)

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        lo = hi = cursor.get("0", 0)
        label = cursor.get("labels/0", 0)
        counts = {Event: 0, Label: 0}
        passed = self._passed(lo, label)
        arrived: list[tuple[int, int]] = []  # a label, and the event that it comes before
        for index, item in enumerate(self.items):
            if isinstance(item, Event | Label):
                n = counts[type(item)]
                counts[type(item)] += 1
                if isinstance(item, Label) and n >= label:
                    arrived.append((n, hi))
                elif isinstance(item, Event) and n >= hi:
                    hi += 1
                if hi - lo < block_size:
                    continue
            elif index < passed:
                continue
            if hi > lo or arrived:
                yield self._block(lo, hi, arrived)
                lo, arrived = hi, []
            if isinstance(item, End):
                return
            if isinstance(item, Pause):
                self.clock.sleep(item.seconds)
            if isinstance(item, Abort) and index not in self._aborted:
                self._aborted.add(index)
                raise AbortedError(f"item {index}")
        if hi > lo or arrived:
            yield self._block(lo, hi, arrived)

    def seek(self, time: float) -> Cursor:
        times = self._block(0, self._table.num_rows, []).time
        return {"0": int(np.argmax([*(times >= time), True]))}

    def __len__(self) -> int:
        ends = [i for i, item in enumerate(self.items) if isinstance(item, End)]
        return sum(isinstance(item, Event) for item in self.items[: ends[0] if ends else None])

    def _passed(self, events: int, labels: int) -> int:
        """Return the index after the last item before the cursor."""
        indices = [i for i, item in enumerate(self.items) if isinstance(item, Event)][:events]
        indices += [i for i, item in enumerate(self.items) if isinstance(item, Label)][:labels]
        return max(indices, default=-1) + 1

    def _block(self, lo: int, hi: int, arrived: Sequence[tuple[int, int]]) -> Batch:
        offset = np.arange(lo, hi)
        table = self._table.slice(lo, hi - lo)
        batch = self._decode(table, np.zeros(hi - lo, np.int32), offset, offset.astype(np.float64))
        if not arrived:
            return batch
        rows = self._labels.take(np.array([n for n, _ in arrived]))
        assert rows.y is not None
        y, classes = rows.y, batch.classes
        if self.schema.task == "classification" and not self.schema.classes:
            in_rows = np.empty(0, np.int64) if batch.y is None else batch.y
            codes, classes = first_seen([(in_rows, batch.classes), (y, rows.classes)])
            y = codes[len(in_rows) :]
            batch = batch if batch.y is None else replace(batch, y=codes[: len(in_rows)])
        insert_before = np.searchsorted(batch.offset, [event for _, event in arrived])
        labels = Labels(
            rows.ids, y, rows.time, rows.partition, rows.offset, insert_before.astype(np.int64)
        )
        return replace(batch, arrivals=labels, classes=classes)


_Y = "(y)"


def _feature_columns(
    events: Sequence[Event], kinds: Mapping[str, FeatureKind]
) -> tuple[tuple[Feature, ...], dict[str, pa.Array]]:
    """Return the features of events, and the column of each by its name; ``kinds`` are not
    inferred."""
    rows = [event.x if isinstance(event.x, Mapping) else {"x": event.x} for event in events]
    features: list[Feature] = []
    columns: dict[str, pa.Array] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        feature = _feature(name, values, kinds.get(name))
        features.append(feature)
        if feature.kind in ("vector", "image"):
            values = [None if v is None else np.ravel(v).tolist() for v in values]
        columns[name] = column_of(values)
        if feature.kind == "image":
            columns[name] = columns[name].cast(pa.list_(pa.uint8()))
    return tuple(features), columns


def _role_columns(events: Sequence[Event]) -> dict[str, pa.Array]:
    """Return the columns of ids, times and so on that any event states, by the attribute of
    ``Event``."""
    columns = {}
    for role in ("y", "id", "time", "key", "segment", "due"):
        values = [getattr(event, role) for event in events]
        if any(value is not None for value in values):
            columns[role] = column_of(values)
    return columns


def _named(role: str, events: Sequence[Event], roles: Mapping[str, pa.Array]) -> NamedColumn | None:
    if role not in roles:
        return None
    return NamedColumn(f"({role})", _type_of([getattr(event, role) for event in events]))


def _decode_labels(
    labels: Sequence[Label], schema: Schema, label: NamedColumn, id_type: Scalar
) -> Batch:
    """Return the labels that arrive on their own as a batch. Raises ``StreamError``."""
    table = pa.table(
        {
            "id": column_of([item.id for item in labels]),
            "time": column_of([item.time for item in labels]),
            _Y: column_of([item.y for item in labels]),
        }
    )
    n = len(labels)
    decode = Decoder(schema, Columns(id=NamedColumn("id", id_type), time="time", label=label))
    batch = decode(table, np.zeros(n, np.int32), np.arange(n), np.zeros(n))
    if batch.dead:
        raise StreamError(f"label {batch.dead[0].offset}: {batch.dead[0].reason}")
    return batch


def _feature(name: str, values: Sequence[Any], kind: FeatureKind | None) -> Feature:
    first = next((value for value in values if value is not None), None)
    shape = () if first is None or isinstance(first, str) else np.shape(first)
    if kind is None:
        kind = "categorical" if isinstance(first, str) else "numeric"
        kind = {1: "vector", 3: "image"}.get(len(shape), kind)  # type: ignore[assignment]
    return Feature(name, kind, shape)


def _type_of(values: Sequence[Any]) -> Scalar:
    for kind, name in ((str, "str"), (bool, "bool"), (float, "float"), (int, "int")):
        if any(isinstance(value, kind) for value in values):
            return name  # type: ignore[return-value]
    return "int"
