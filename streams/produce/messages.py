"""Turns the rows of a file into records of a topic, and their labels into records of another.

The records and their order are a function of the file, the plan and its seed alone.
"""

from __future__ import annotations

import base64
import heapq
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from streams.core.errors import StreamError
from streams.core.settings import PACKAGE_ROOT, unknown
from streams.decoding.columns import plain, seconds
from streams.kafka.clients.producer import ProducerRecord
from streams.produce.faults import FaultInjector
from streams.produce.table import Table, floats, values

BLOCK_ROWS = 4096
DRIFT_KINDS = ("swap", "shift", "shuffle")
NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})


class ProduceError(Exception):
    """Nothing can be sent: the message names the place and the remedy."""


@dataclass(frozen=True, slots=True)
class Delay:
    """When a label follows its event: just before the event that is ``events`` later, or before the
    first event whose time is ``seconds`` later. 0 events mean the same as 1."""

    events: int = 0
    seconds: float | None = None

    @classmethod
    def read(cls, text: str) -> Delay:
        """Parse ``48`` or ``30s``. Raise ``ProduceError``."""
        match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)s", text)
        if not match:
            raise ProduceError(
                f"--label-delay {text!r}: expected a number of events or of seconds, like 48 or 30s"
            )
        return cls(int(match[1])) if match[1] else cls(seconds=float(match[2]))


@dataclass(frozen=True, slots=True)
class Drift:
    """A change of the stream from event ``at`` on.

    ``swap`` replaces each class by the next one in sorted order. ``shift`` adds one standard
    deviation of its column to each number. ``shuffle`` permutes the columns of numbers.
    """

    at: int
    kind: str

    @classmethod
    def read(cls, text: str) -> Drift:
        """Parse ``5000:swap``. Raise ``ProduceError``."""
        at, _, kind = text.partition(":")
        if not at.isascii() or not at.isdigit() or kind not in DRIFT_KINDS:
            raise ProduceError(
                f"--drift {text!r}: expected EVENT:KIND, like 5000:swap. Kinds: "
                + ", ".join(DRIFT_KINDS)
            )
        return cls(int(at), kind)


@dataclass(frozen=True, slots=True)
class ProducePlan:
    """What to send.

    Attributes:
        id, time, label: columns. Without ``id``, the field ``id`` numbers the events from 0. Times
            are sent as seconds.
        labels: send labels to a topic of their own, after ``delay``; else they stay in their
            events.
        format: of the events. Frames hold ``id`` (int64), ``time`` (float64) if there is one,
            ``label`` (int64) if it stays in its event, and ``x`` (float32): the columns of numbers.
        repeat: how often to send the file; times continue from its end.
        max_events: of all repeats; None: all of them.
        poison: bad messages per good message.
        key: column that is the key of an event's message, not in its value; None: the id is the
            key, and is in the value too.
        headers: columns that are headers of those names, not in the value.
    """

    file: Path
    id: str | None = None
    time: str | None = None
    label: str | None = None
    labels: bool = False
    delay: Delay = Delay()
    format: Literal["json", "frames"] = "json"
    repeat: int = 1
    max_events: int | None = None
    drift: tuple[Drift, ...] = ()
    poison: float = 0.0
    seed: int = 0
    key: str | None = None
    headers: tuple[str, ...] = ()


class MessageGenerator:
    """Generates the records of a plan.

    Args:
        plan: what to send.
        partitions: of each topic. An event and its label go to partitions of the same number.
        topic: of the events.
        labels_topic: of the labels, if they go to one of their own.

    Attributes:
        events, labels: how many were generated. skipped: malformed rows of the file.
        poison: makes and counts the bad messages.

    Raises:
        ProduceError: the file cannot be read, or lacks what the plan names.
    """

    def __init__(
        self,
        plan: ProducePlan,
        partitions: int,
        topic: str = "events",
        labels_topic: str | None = "labels",
    ) -> None:
        self.plan, self.partitions = plan, partitions
        self._topic, self._labels_topic = topic, labels_topic or topic
        self.events = self.labels = self.skipped = 0
        self._table = self._open()
        names = self._table.names
        self._check_columns(names)
        self._check_options()
        self._beside = {*plan.headers, *([plan.key] if plan.key else [])}
        beside = (plan.id, plan.time, plan.label, *self._beside)
        self._features = [n for n in names if n not in beside]
        kinds = self._table.kinds
        self._numbers = [n for n in self._features if kinds[n] in ("int", "float")]
        self._frame = self._frame_dtype() if plan.format == "frames" else None
        drifts = {drift.kind for drift in plan.drift}
        self._deviations = self._measure_deviations() if "shift" in drifts else {}
        self._next_class = self._list_classes() if "swap" in drifts else {}
        roles = (plan.id or "id", plan.time, self._features)
        self.poison = FaultInjector(plan.poison, plan.seed, self._frame, *roles)
        # A heap of labels that are not due yet: (due, event, id, label).
        self._pending_labels: list[tuple[float, int, Any, Any]] = []
        self._now = -math.inf  # the latest event time

    def _open(self) -> Table:
        """Open the file, whose path starts from the working directory or else from the packages."""
        file = self.plan.file
        existing = [path for path in (file, PACKAGE_ROOT / file) if path.is_file()]
        if not existing:
            raise ProduceError(f"{file}: no such file")
        try:
            return Table(existing[0])
        except StreamError as error:
            raise ProduceError(str(error)) from None

    def _check_columns(self, names: list[str]) -> None:
        plan = self.plan
        for role in ("id", "time", "label"):
            column = getattr(plan, role)
            if column is not None and column not in names:
                raise ProduceError(f"--{role}: {plan.file} has no column {unknown(column, names)}")
        for option, column in [("key", plan.key), *(("header", name) for name in plan.headers)]:
            if column is not None and column not in names:
                raise ProduceError(
                    f"--{option}: {plan.file} has no column {unknown(column, names)}"
                )
        if plan.id is None and "id" in names:
            raise ProduceError(f"{plan.file} has a column named 'id': state --id id, or rename it")

    def _check_options(self) -> None:
        plan = self.plan
        if plan.labels and plan.label is None:
            raise ProduceError("--labels-topic needs --label: the column of the labels")
        if plan.delay != Delay() and not plan.labels:
            raise ProduceError("--label-delay needs --labels-topic: where labels come later")
        if plan.delay.seconds is not None and plan.time is None:
            raise ProduceError("--label-delay in seconds needs --time: the column of event time")
        if plan.repeat > 1 and plan.id is not None:
            raise ProduceError("--repeat sends every id again: leave out --id, or --repeat")
        if plan.label is None and any(d.kind == "swap" for d in plan.drift):
            raise ProduceError("--drift swap needs --label: the column of the labels")

    @property
    def layout(self) -> dict[str, Any] | None:
        """``stream.format.fields`` of a job that reads the frames; None: events are JSON."""
        if self._frame is None:
            return None
        fields = {}
        for name in self._frame.names or ():
            dtype = self._frame[name]
            fields[name] = [dtype.base.name, *dtype.shape] if dtype.shape else dtype.name
        return fields

    def chunks(self, size: int) -> Iterator[tuple[int, list[ProducerRecord]]]:
        """Yield a number of events, at most ``size``, and the records to send with them.

        The last chunk has no events: it holds the labels that are still pending.
        """
        plan = self.plan
        max_events = math.inf if plan.max_events is None else plan.max_events
        drift_starts = sorted({drift.at for drift in plan.drift})
        shift = 0.0
        for _ in range(plan.repeat):
            first = last = math.nan
            events_before = self.events
            for table in self._table.blocks(BLOCK_ROWS):
                at = 0
                while at < table.num_rows and self.events < max_events:
                    stop = min(
                        [start for start in drift_starts if start > self.events] + [max_events]
                    )
                    rows = table.slice(at, min(size, int(min(stop - self.events, BLOCK_ROWS))))
                    time = None
                    if plan.time is not None:
                        time = seconds(plain(rows.column(plan.time))) + shift
                        first = float(np.fmin(first, np.fmin.reduce(time)))
                        last = float(np.fmax(last, np.fmax.reduce(time)))
                    at += rows.num_rows
                    yield rows.num_rows, self._records(rows, time)
                if self.events >= max_events:
                    break
            self.skipped += self._table.skipped
            if math.isfinite(last - first):
                # As if the file continued: one mean distance of rows after its last time.
                shift += (last - first) * (1 + 1 / max(1, self.events - events_before - 1))
        yield 0, self._due_labels(math.inf)

    def _records(self, rows: pa.RecordBatch, time: Any) -> list[ProducerRecord]:
        """Return the records of some rows, with the labels that are due and the bad messages."""
        plan, n, start = self.plan, rows.num_rows, self.events
        columns = {name: self._table.column(rows, name) for name in self._features}
        label: list[Any] = [None] * n
        if plan.label is not None:
            label = values(self._table.column(rows, plan.label))
        for drift in plan.drift:
            if drift.at <= start:
                columns, label = self._apply(drift, columns, label)
        ids: list[Any] = list(range(start, start + n))
        if plan.id is not None:
            ids = values(self._table.column(rows, plan.id))
        fields: dict[str, list[Any]] = {plan.id or "id": ids}
        if time is not None:
            fields[str(plan.time)] = [t if math.isfinite(t) else None for t in time.tolist()]
        if plan.label is not None and not plan.labels:
            fields[plan.label] = label
        encoded = self._encode(fields, columns)
        keys, headers = self._keys(rows, ids), self._headers(rows, label)
        topic = self._topic
        records: list[ProducerRecord] = []
        for row in range(n):
            event = start + row
            if time is not None:
                self._now = float(np.fmax(self._now, time[row]))
            if self._pending_labels:
                records += self._due_labels(self._now if plan.delay.seconds is not None else event)
            partition = event % self.partitions
            if bad := self.poison.of_event(encoded[row]):
                records.append(ProducerRecord(topic, partition, None, bad, NO_HEADERS))
            records.append(ProducerRecord(topic, partition, keys[row], encoded[row], headers[row]))
            if plan.labels and label[row] is not None and label[row] == label[row]:
                due = float(event + max(1, plan.delay.events))
                if plan.delay.seconds is not None:
                    due = float(np.fmax(time[row], -math.inf)) + plan.delay.seconds
                heapq.heappush(self._pending_labels, (due, event, ids[row], label[row]))
        self.events += n
        return records

    def _keys(self, rows: pa.RecordBatch, ids: list[Any]) -> list[bytes | None]:
        """Return the keys of the messages of some rows."""
        if self.plan.key is None:
            return [_text(id_) for id_ in ids]
        return [_text(value) for value in values(self._table.column(rows, self.plan.key))]

    def _headers(self, rows: pa.RecordBatch, label: list[Any]) -> list[Mapping[str, bytes]]:
        """Return the headers of the messages of some rows; a null is no header."""
        if not self.plan.headers:
            return [NO_HEADERS] * rows.num_rows
        columns = {
            name: label if name == self.plan.label else values(self._table.column(rows, name))
            for name in self.plan.headers
        }
        texts = {name: [_text(value) for value in column] for name, column in columns.items()}
        return [
            {name: text for name, column in texts.items() if (text := column[row]) is not None}
            for row in range(rows.num_rows)
        ]

    def _due_labels(self, now: float) -> list[ProducerRecord]:
        """Return the records of the labels that are due."""
        topic, pending = self._labels_topic, self._pending_labels
        records = []
        while pending and pending[0][0] <= now:
            due, event, id_, label = heapq.heappop(pending)
            fields = {"id": id_, "label": label}
            if self.plan.time is not None:
                fields["time"] = self._now if self.plan.delay.seconds is None else due
            value = _json(fields)
            partition = event % self.partitions
            if bad := self.poison.of_label(value):
                records.append(ProducerRecord(topic, partition, None, bad, NO_HEADERS))
            key = str(id_).encode()
            records.append(ProducerRecord(topic, partition, key, value, NO_HEADERS))
            self.labels += 1
        return records

    def _encode(self, fields: dict[str, list[Any]], columns: dict[str, pa.Array]) -> list[bytes]:
        if self._frame is None:
            fields = {name: cells for name, cells in fields.items() if name not in self._beside}
            fields |= {name: values(column) for name, column in columns.items()}
            names = list(fields)
            return [_json(dict(zip(names, row, strict=True))) for row in zip(*fields.values())]  # noqa: B905
        plan = self.plan
        frames = np.zeros(len(fields[plan.id or "id"]), self._frame)
        roles = {"id": plan.id or "id", "time": plan.time, "label": plan.label}
        for role, name in roles.items():
            if role in (self._frame.names or ()) and name is not None:
                missing = math.nan if role == "time" else -1
                frames[role] = [missing if v is None else v for v in fields[name]]
        frames["x"] = np.stack([floats(columns[name]) for name in self._numbers], axis=1)
        raw, size = frames.tobytes(), self._frame.itemsize
        return [raw[at : at + size] for at in range(0, len(raw), size)]

    def _frame_dtype(self) -> np.dtype[Any]:
        plan = self.plan
        if not self._numbers:
            raise ProduceError(f"--format frames: {plan.file} has no column of numbers")
        fields: list[Any] = [("id", "<i8")]
        if plan.time is not None:
            fields.append(("time", "<f8"))
        if plan.label is not None and not plan.labels:
            fields.append(("label", "<i8"))
        for role in ("id", "label"):
            name = getattr(plan, role)
            if (role, "<i8") in fields and name is not None and self._table.kinds[name] != "int":
                raise ProduceError(
                    f"--format frames: the column {name!r} holds no integers: use --format json"
                    + (", or --labels-topic" if role == "label" else "")
                )
        return np.dtype([*fields, ("x", "<f4", (len(self._numbers),))])

    def _apply(
        self, drift: Drift, columns: dict[str, pa.Array], label: list[Any]
    ) -> tuple[dict[str, pa.Array], list[Any]]:
        if drift.kind == "swap":
            return columns, [self._next_class.get(name) for name in label]
        if drift.kind == "shift":
            shifted = {
                n: pc.add(pa.array(floats(columns[n])), self._deviations[n]) for n in self._numbers
            }
            return columns | shifted, label
        order = _derangement(len(self._numbers), self.plan.seed)
        shuffled = [columns[self._numbers[i]] for i in order]
        return columns | dict(zip(self._numbers, shuffled, strict=True)), label

    def _measure_deviations(self) -> dict[str, float]:
        """Return the standard deviation of each column of numbers over the whole file."""
        moments = dict.fromkeys(self._numbers, (0, 0.0, 0.0))  # count, mean, squares about it
        for rows in self._table.blocks(BLOCK_ROWS):
            for name, (n, mean, squares) in moments.items():
                x = floats(self._table.column(rows, name))
                x = x[np.isfinite(x)]
                if len(x):
                    gap, all_ = float(x.mean()) - mean, n + len(x)
                    squares += float(x.var()) * len(x) + gap**2 * n * len(x) / all_
                    moments[name] = (all_, mean + gap * len(x) / all_, squares)
        return {name: math.sqrt(m2 / max(n, 1)) for name, (n, _, m2) in moments.items()}

    def _list_classes(self) -> dict[Any, Any]:
        """Return the class that follows each class of the file."""
        name = str(self.plan.label)
        if self._table.kinds[name] == "float":
            raise ProduceError(f"--drift swap: the labels of column {name!r} are no classes")
        unsorted: set[Any] = set()
        for rows in self._table.blocks(BLOCK_ROWS):
            unsorted |= set(values(self._table.column(rows, name)))
        classes = sorted(unsorted - {None}, key=lambda c: (str(type(c)), c))
        return dict(zip(classes, classes[1:] + classes[:1], strict=True))


def _text(value: Any) -> bytes | None:
    """Return a cell as the text of a key or a header; None: it is null."""
    if value is None or value != value:
        return None
    return value if isinstance(value, bytes) else str(value).encode()


def _json(message: dict[str, Any]) -> bytes:
    return orjson.dumps(message, default=_encodable)


def _encodable(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _derangement(n: int, seed: int) -> list[int]:
    """Return a permutation of n that moves every element."""
    order = np.random.default_rng(seed).permutation(n)
    moved = np.empty_like(order)
    moved[order] = np.roll(order, 1)
    return [int(i) for i in moved]
