"""A stream that tests write down item by item, with marks for crashes, ends and the flow of time.

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
from streams.decoding.decoder import Columns, Decoder, Named


class AbortedError(Exception):
    """The stream broke off at an ``Abort`` mark, as a killed process would."""


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
    """Raises ``AbortedError`` the first time that it is reached, and is passed over from then
    on."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing comes until the clock has moved on by so many seconds."""

    seconds: float


Item = Event | Label | End | Abort | Pause


class ManualClock:
    """A clock that stands still until a test moves it. Calling it tells the time in seconds.

    Args:
        on_wait: called with the clock and the time waited for, by whoever waits; it may move the
            clock. Without it another thread has to.
        patience: real seconds after which a wait that nobody ends raises ``TimeoutError``.
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
        self.move_to(self.now + seconds)

    def move_to(self, now: float) -> None:
        with self._moved:
            self.now = now
            self._moved.notify_all()

    def sleep(self, seconds: float) -> None:
        """Returns once the clock has moved on by so much."""
        until = self.now + seconds
        if self.on_wait:
            self.on_wait(self, until)
        with self._moved:
            if not self._moved.wait_for(lambda: self.now >= until, self.patience):
                raise TimeoutError(f"the clock stands at {self.now}: nobody moved it to {until}")


class TestStream(Stream):
    """The items, in order, as events of partition 0 and labels of partition ``labels/0``.

    A block ends early at a mark. A mark that stands before something that the cursor has passed is
    passed as well.

    Args:
        items: events, labels and marks.
        task: inferred if None: regression where any label is a float, else classification.
        classes: the classes, where they are to be stated beforehand.
        features: kinds that are not to be inferred, by column.
        clock: for pauses. By default one that moves on by itself.
        config: settings that every stream has.
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
        self._broken: set[int] = set()
        events = [item for item in items if isinstance(item, Event)]
        labels = [item for item in items if isinstance(item, Label)]
        answers = [
            item.y for item in items if isinstance(item, Event | Label) and item.y is not None
        ]
        if task is None:
            task = "regression" if any(isinstance(y, float) for y in answers) else "classification"
        label = Named(_Y, _type_of(classes or answers))
        ids = _type_of(
            [item.id for item in items if isinstance(item, Event | Label) and item.id is not None]
        )

        rows = [event.x if isinstance(event.x, Mapping) else {"x": event.x} for event in events]
        names = list(dict.fromkeys(name for row in rows for name in row))
        found: list[Feature] = []
        columns: dict[str, pa.Array] = {}
        for name in names:
            values = [row.get(name) for row in rows]
            feature = _feature(name, values, (features or {}).get(name))
            flat = feature.kind in ("vector", "image")
            columns[name] = column_of(
                [v if v is None or not flat else np.ravel(v).tolist() for v in values]
            )
            if feature.kind == "image":
                columns[name] = columns[name].cast(pa.list_(pa.uint8()))
            found.append(feature)
        beside = {}
        for role in ("y", "id", "time", "key", "segment", "due"):
            values = [getattr(event, role) for event in events]
            if any(value is not None for value in values):
                beside[role] = f"({role})"
                columns[f"({role})"] = column_of(values)
        named = {
            role: Named(beside[role], _type_of([getattr(event, role) for event in events]))
            for role in ("key", "segment")
            if role in beside
        }
        self.schema = Schema(tuple(found), task, classes)
        self.has_ids, self.has_time = "id" in beside, "time" in beside
        self.has_arrivals = any(isinstance(item, Label) for item in self.items)
        self._table = pa.table(columns)
        self._decode = Decoder(
            self.schema,
            Columns(
                id=Named(beside["id"], ids) if self.has_ids else None,
                time=beside.get("time"),
                label=label if "y" in beside else None,
                due=beside.get("due"),
                **named,
            ),
        )
        self._labels = _arrivals(labels, Schema((), task, classes), label, ids)

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        lo = hi = cursor.get("0", 0)
        label = cursor.get("labels/0", 0)
        counts = {Event: 0, Label: 0}
        passed = self._passed(lo, label)
        beside: list[tuple[int, int]] = []  # a label, and the row that it comes before
        for index, item in enumerate(self.items):
            if isinstance(item, Event | Label):
                n = counts[type(item)]
                counts[type(item)] += 1
                if isinstance(item, Label) and n >= label:
                    beside.append((n, hi))
                elif isinstance(item, Event) and n >= hi:
                    hi += 1
                if hi - lo < block_size:
                    continue
            elif index < passed:
                continue
            if hi > lo or beside:
                yield self._block(lo, hi, beside)
                lo, beside = hi, []
            if isinstance(item, End):
                return
            if isinstance(item, Pause):
                self.clock.sleep(item.seconds)
            if isinstance(item, Abort) and index not in self._broken:
                self._broken.add(index)
                raise AbortedError(f"item {index}")
        if hi > lo or beside:
            yield self._block(lo, hi, beside)

    def seek(self, time: float) -> Cursor:
        times = self._block(0, self._table.num_rows, []).time
        return {"0": int(np.argmax([*(times >= time), True]))}

    def __len__(self) -> int:
        ends = [i for i, item in enumerate(self.items) if isinstance(item, End)]
        return sum(isinstance(item, Event) for item in self.items[: ends[0] if ends else None])

    def _passed(self, events: int, labels: int) -> int:
        """The index after the last item that lies before the cursor."""
        places = [i for i, item in enumerate(self.items) if isinstance(item, Event)][:events]
        places += [i for i, item in enumerate(self.items) if isinstance(item, Label)][:labels]
        return max(places, default=-1) + 1

    def _block(self, lo: int, hi: int, beside: Sequence[tuple[int, int]]) -> Batch:
        offset = np.arange(lo, hi)
        table = self._table.slice(lo, hi - lo)
        batch = self._decode(table, np.zeros(hi - lo, np.int32), offset, offset.astype(np.float64))
        if not beside:
            return batch
        came = self._labels.take(np.array([n for n, _ in beside]))
        assert came.y is not None
        y, classes = came.y, batch.classes
        if self.schema.task == "classification" and not self.schema.classes:
            rows = np.empty(0, np.int64) if batch.y is None else batch.y
            codes, classes = first_seen([(rows, batch.classes), (y, came.classes)])
            y = codes[len(rows) :]
            batch = batch if batch.y is None else replace(batch, y=codes[: len(rows)])
        before = np.searchsorted(batch.offset, [row for _, row in beside]).astype(np.int64)
        labels = Labels(came.ids, y, came.time, came.partition, came.offset, before)
        return replace(batch, arrivals=labels, classes=classes)


_Y = "(y)"


def _arrivals(labels: Sequence[Label], schema: Schema, label: Named, ids: Scalar) -> Batch:
    table = pa.table(
        {
            "id": column_of([item.id for item in labels]),
            "time": column_of([item.time for item in labels]),
            _Y: column_of([item.y for item in labels]),
        }
    )
    n = len(labels)
    decode = Decoder(schema, Columns(id=Named("id", ids), time="time", label=label))
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
