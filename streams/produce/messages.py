"""The rows of a file as messages of a topic, and their labels as messages of another.

What is sent, and in which order, follows from the file, the plan and its seed alone.
"""

from __future__ import annotations

import base64
import heapq
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from streams.core.errors import StreamError
from streams.core.settings import unknown
from streams.decoding.columns import plain, seconds
from streams.files.readers import PACKAGE_ROOT
from streams.produce.faults import FaultInjector
from streams.produce.table import Table, floats, values

BLOCK_ROWS = 4096
KINDS = ("swap", "shift", "shuffle")


class ProduceError(Exception):
    """Nothing can be sent: the message names the place and the remedy."""


class ProducedMessage(NamedTuple):
    """``label``: it goes to the topic of labels."""

    label: bool
    partition: int
    key: bytes | None
    value: bytes


@dataclass(frozen=True, slots=True)
class Delay:
    """When a label follows its event: just before the event that comes ``events`` later (0 and 1
    alike: before the next), or before the first whose time is ``seconds`` later."""

    events: int = 0
    seconds: float | None = None

    @classmethod
    def read(cls, text: str) -> Delay:
        """``48``, or ``30s``."""
        found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)s", text)
        if not found:
            raise ProduceError(
                f"--label-delay {text!r}: a number of events or of seconds is wanted, as in 48 "
                "or 30s"
            )
        return cls(int(found[1])) if found[1] else cls(seconds=float(found[2]))


@dataclass(frozen=True, slots=True)
class Drift:
    """From event ``at`` on: ``swap`` makes each class the next one (in sorted order), ``shift``
    adds one standard deviation of its column to each number, ``shuffle`` permutes the columns of
    numbers."""

    at: int
    kind: str

    @classmethod
    def read(cls, text: str) -> Drift:
        """``5000:swap``."""
        at, _, kind = text.partition(":")
        if not at.isascii() or not at.isdigit() or kind not in KINDS:
            raise ProduceError(
                f"--drift {text!r}: EVENT:KIND is wanted, as in 5000:swap. Kinds: "
                + ", ".join(KINDS)
            )
        return cls(int(at), kind)


@dataclass(frozen=True, slots=True)
class ProducePlan:
    """What is sent.

    Attributes:
        id, time, label: columns; without ``id``, an event's id is its number, from 0, in the field
            ``id``. Times are sent as seconds.
        labels: labels go to a topic of their own, after ``delay``; else they stay in their events.
        format: of the events. Frames hold ``id`` (int64), ``time`` (float64) where there is one,
            ``label`` (int64) where it stays, and ``x`` (float32): the columns of numbers.
        repeat: how often the file is sent; times go on from its end.
        max_events: in all; None: all of them.
        poison: bad messages for each good one.
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


class MessageGenerator:
    """The messages of a plan.

    Attributes:
        events, labels: how many have been given out. skipped: malformed rows of the file.
        poison: what bad messages have been.

    Raises:
        ProduceError: the file cannot be read, or has not what the plan names.
    """

    def __init__(self, plan: ProducePlan, partitions: int) -> None:
        self.plan, self.partitions = plan, partitions
        self.events = self.labels = self.skipped = 0
        # As a job finds its files: from here, else from where the packages lie.
        files = [f for f in (plan.file, PACKAGE_ROOT / plan.file) if f.is_file()]
        if not files:
            raise ProduceError(f"{plan.file}: no such file")
        try:
            self._table = Table(files[0])
        except StreamError as error:
            raise ProduceError(str(error)) from None
        names = self._table.names
        for role in ("id", "time", "label"):
            column = getattr(plan, role)
            if column is not None and column not in names:
                raise ProduceError(f"--{role}: {plan.file} has no column {unknown(column, names)}")
        if plan.id is None and "id" in names:
            raise ProduceError(f"{plan.file} has a column named 'id': state --id id, or rename it")
        self._check()
        self._features = [n for n in names if n not in (plan.id, plan.time, plan.label)]
        kinds = self._table.kinds
        self._numbers = [n for n in self._features if kinds[n] in ("int", "float")]
        self._frame = self._layout() if plan.format == "frames" else None
        self._spread = self._deviations() if any(d.kind == "shift" for d in plan.drift) else {}
        self._next = self._classes() if any(d.kind == "swap" for d in plan.drift) else {}
        roles = (plan.id or "id", plan.time, self._features)
        self.poison = FaultInjector(plan.poison, plan.seed, self._frame, *roles)
        self._held: list[tuple[float, int, Any, Any]] = []  # heap of (due, event, id, label)
        self._now = -math.inf

    def _check(self) -> None:
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
        """What stands under ``stream.format.fields`` in a job that reads the frames."""
        if self._frame is None:
            return None
        described = {}
        for name in self._frame.names or ():
            dtype = self._frame[name]
            described[name] = [dtype.base.name, *dtype.shape] if dtype.shape else dtype.name
        return described

    def chunks(self, size: int) -> Iterator[tuple[int, list[ProducedMessage]]]:
        """Messages of at most ``size`` events at a time, and of how many; the labels that are
        still awaited at the end come with none."""
        plan = self.plan
        most = math.inf if plan.max_events is None else plan.max_events
        ends = sorted({d.at for d in plan.drift})
        shift = 0.0
        for _ in range(plan.repeat):
            first = last = math.nan
            begun = self.events
            for table in self._table.blocks(BLOCK_ROWS):
                at = 0
                while at < table.num_rows and self.events < most:
                    stop = min([e for e in ends if e > self.events] + [most])
                    rows = table.slice(at, min(size, int(min(stop - self.events, BLOCK_ROWS))))
                    time = None
                    if plan.time is not None:
                        time = seconds(plain(rows.column(plan.time))) + shift
                        first = float(np.fmin(first, np.fmin.reduce(time)))
                        last = float(np.fmax(last, np.fmax.reduce(time)))
                    at += rows.num_rows
                    yield rows.num_rows, self._messages(rows, time)
                if self.events >= most:
                    break
            self.skipped += self._table.skipped
            if math.isfinite(last - first):
                # As if the file went on: as far behind its last time as its rows are apart.
                shift += (last - first) * (1 + 1 / max(1, self.events - begun - 1))
        yield 0, self._due(math.inf)

    def _messages(self, rows: pa.RecordBatch, time: Any) -> list[ProducedMessage]:
        plan, n, start = self.plan, rows.num_rows, self.events
        columns = {name: self._table.column(rows, name) for name in self._features}
        label: list[Any] = [None] * n
        if plan.label is not None:
            label = values(self._table.column(rows, plan.label))
        for drift in plan.drift:
            if drift.at <= start:
                columns, label = self._drifted(drift, columns, label)
        ids: list[Any] = list(range(start, start + n))
        if plan.id is not None:
            ids = values(self._table.column(rows, plan.id))
        fields: dict[str, list[Any]] = {plan.id or "id": ids}
        if time is not None:
            fields[str(plan.time)] = [t if math.isfinite(t) else None for t in time.tolist()]
        if plan.label is not None and not plan.labels:
            fields[plan.label] = label
        encoded = self._encoded(fields, columns)
        found: list[ProducedMessage] = []
        for row in range(n):
            event = start + row
            if time is not None:
                self._now = float(np.fmax(self._now, time[row]))
            if self._held:
                due = self._now if plan.delay.seconds is not None else event
                found += self._due(due)
            partition = event % self.partitions
            if bad := self.poison.of_event(encoded[row]):
                found.append(ProducedMessage(False, partition, None, bad))
            found.append(ProducedMessage(False, partition, str(ids[row]).encode(), encoded[row]))
            if plan.labels and label[row] is not None and label[row] == label[row]:
                until = float(event + max(1, plan.delay.events))
                if plan.delay.seconds is not None:
                    until = float(np.fmax(time[row], -math.inf)) + plan.delay.seconds
                heapq.heappush(self._held, (until, event, ids[row], label[row]))
        self.events += n
        return found

    def _due(self, until: float) -> list[ProducedMessage]:
        """The labels that are due."""
        found = []
        while self._held and self._held[0][0] <= until:
            due, event, i, label = heapq.heappop(self._held)
            message = {"id": i, "label": label}
            if self.plan.time is not None:
                message["time"] = self._now if self.plan.delay.seconds is None else due
            value = _json(message)
            partition = event % self.partitions
            if bad := self.poison.of_label(value):
                found.append(ProducedMessage(True, partition, None, bad))
            found.append(ProducedMessage(True, partition, str(i).encode(), value))
            self.labels += 1
        return found

    def _encoded(self, fields: dict[str, list[Any]], columns: dict[str, pa.Array]) -> list[bytes]:
        if self._frame is None:
            fields |= {name: values(column) for name, column in columns.items()}
            names = list(fields)
            return [_json(dict(zip(names, row, strict=True))) for row in zip(*fields.values())]  # noqa: B905
        plan = self.plan
        frames = np.zeros(len(fields[plan.id or "id"]), self._frame)
        roles = {"id": plan.id or "id", "time": plan.time, "label": plan.label}
        for role, name in roles.items():
            if role in (self._frame.names or ()) and name is not None:
                none = math.nan if role == "time" else -1
                frames[role] = [none if v is None else v for v in fields[name]]
        frames["x"] = np.stack([floats(columns[name]) for name in self._numbers], axis=1)
        raw, size = frames.tobytes(), self._frame.itemsize
        return [raw[at : at + size] for at in range(0, len(raw), size)]

    def _layout(self) -> np.dtype[Any]:
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

    def _drifted(
        self, drift: Drift, columns: dict[str, pa.Array], label: list[Any]
    ) -> tuple[dict[str, pa.Array], list[Any]]:
        if drift.kind == "swap":
            return columns, [self._next.get(name) for name in label]
        if drift.kind == "shift":
            moved = {
                n: pc.add(pa.array(floats(columns[n])), self._spread[n]) for n in self._numbers
            }
            return columns | moved, label
        order = _cycle(len(self._numbers), self.plan.seed)
        given = [columns[self._numbers[i]] for i in order]
        return columns | dict(zip(self._numbers, given, strict=True)), label

    def _deviations(self) -> dict[str, float]:
        """The standard deviation of each column of numbers, from all of the file."""
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

    def _classes(self) -> dict[Any, Any]:
        """Each class of the file, and the next."""
        name = str(self.plan.label)
        if self._table.kinds[name] == "float":
            raise ProduceError(f"--drift swap: the labels of column {name!r} are no classes")
        found: set[Any] = set()
        for rows in self._table.blocks(BLOCK_ROWS):
            found |= set(values(self._table.column(rows, name)))
        classes = sorted(found - {None}, key=lambda c: (str(type(c)), c))
        return dict(zip(classes, classes[1:] + classes[:1], strict=True))


def _json(message: dict[str, Any]) -> bytes:
    return orjson.dumps(message, default=_told)


def _told(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _cycle(n: int, seed: int) -> list[int]:
    """A permutation that leaves nothing in its place."""
    order = np.random.default_rng(seed).permutation(n)
    moved = np.empty_like(order)
    moved[order] = np.roll(order, 1)
    return [int(i) for i in moved]
