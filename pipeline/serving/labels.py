"""Labels that are posted to the server, sent to the topic that the job learns labels from.

A label is accepted once the broker has it on all its replicas (``acks=all``): from then on it is a
label like any other, read in its turn, in the journal and in the checkpoints. The label join counts
one that was sent twice as a duplicate, so a client that is in doubt posts again.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from pipeline.config.job import LoadedJob
from pipeline.serving.requests import parse_list
from pipeline.serving.responses import HTTPError, InvalidItemsError, service_unavailable
from streams.background_worker import BackgroundWorker
from streams.core.errors import StreamError, one_line
from streams.core.settings import unknown
from streams.decoding.formats import python_values
from streams.decoding.formats.factory import Field, FieldKind
from streams.decoding.formats.json import Json, JsonConfig
from streams.kafka.clients.producer import Producer, ProducerRecord
from streams.kafka.config import KafkaConfig
from streams.kafka.record_fields import RecordField
from streams.kafka.records import MergedRecords
from streams.kafka.stream import KafkaStream

WAIT_S = 5.0
"""How long a request waits for the broker."""
RETRY_AFTER_S = 5
MAX_WAITING = 20_000
"""Labels that may wait to be sent; where a broker is slow or away, queueing more is of no use."""

ONLY_READS = (
    "everlearn serve only reads a run: post labels to the server of a run that serves while it "
    "learns (serve: in its job), or send them to its topic of labels"
)
"""Why the server of a run folder takes none."""

_UNSURE = (
    ": some labels may have been taken; post all again, as those that come twice are counted and "
    "change nothing"
)


class InvalidLabelsError(InvalidItemsError):
    """Some labels of a request cannot be read, and none was sent."""

    item = "label"


class LabelsNotAcknowledgedError(HTTPError):
    """The broker has not acknowledged all labels of a request.

    The message says whether it may have some.
    """

    def __init__(self, reason: str) -> None:
        error = service_unavailable(reason, RETRY_AFTER_S)
        super().__init__(error.status, reason, headers=error.headers)


class NoLabels:
    """Stands for a ``LabelProducer`` where no labels are taken; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    async def accept(self, body: bytes, max_labels: int) -> NoReturn:
        """Raise ``HTTPError``."""
        raise HTTPError(409, self.reason)

    def schema(self) -> None:
        """Return None: there is no JSON schema of a label."""

    def example(self) -> None:
        """Return None: there is no label that can be read."""

    def close(self) -> None:
        """Do nothing."""


class LabelProducer:
    """Check labels as the stream will read them, and send them to the topic of its labels.

    ``accept`` is called on an event loop and does not block it: labels are checked in one thread,
    and sent in another, those of all waiting requests at once.
    """

    def __init__(self, stream: KafkaStream) -> None:
        topic = stream.config.labels
        assert topic is not None
        self._topic = topic.topic
        self._time = topic.time
        # As the stream has them, so that what is accepted is what can be read.
        self._blocks = stream.decoder
        reader = self._blocks.labels
        self._format = reader.format
        self._beside = topic.id if isinstance(topic.id, RecordField) else None
        kind: FieldKind = "integer" if stream.id_type == "int" else "text"
        self._id = topic.id if isinstance(topic.id, str) else topic.id.name or "id"
        beside = [] if self._beside is None else [Field(self._id, kind)]
        self._fields = (*beside, *self._format.fields)
        self._json = Json(JsonConfig(kind="json"), self._fields, Path())
        self._known = {field.name for field in self._fields}
        self._needed = self._known - {topic.time}
        self._label = topic.label
        self._classes = stream.schema.classes
        self._reading = ThreadPoolExecutor(1, "labels")
        self._sender = _Sender(stream.producer)

    async def accept(self, body: bytes, max_labels: int) -> int:
        """Send the labels of a request, and return their number; the broker has them all then.

        Raises:
            HTTPError: the body is no JSON list of at most ``max_labels``.
            InvalidLabelsError: some cannot be read, and none was sent; or some are too large.
            LabelsNotAcknowledgedError: the broker has not acknowledged them.
        """
        loop = asyncio.get_running_loop()
        messages = await loop.run_in_executor(self._reading, self._read, body, max_labels)
        if not messages:
            return 0
        try:
            sent = asyncio.wrap_future(self._sender.put(messages))
            too_large = await asyncio.wait_for(sent, WAIT_S)
        except TimeoutError:
            raise LabelsNotAcknowledgedError(
                f"the broker has not answered within {WAIT_S:g} s{_UNSURE}"
            ) from None
        except StreamError as error:
            raise LabelsNotAcknowledgedError(f"{one_line(error)}{_UNSURE}") from None
        if too_large:
            why = "too large for the broker (the others were sent)"
            reasons = dict.fromkeys(too_large, why)
            raise InvalidLabelsError(reasons, {}, len(messages), "were not sent")
        return len(messages)

    def _read(self, body: bytes, max_labels: int) -> list[ProducerRecord]:
        return self.messages(parse_list(body, max_labels, "labels"))

    def messages(self, labels: Sequence[Any]) -> list[ProducerRecord]:
        """Return the messages of labels, which may be any values that ``orjson.loads`` returns.

        A label is read as the stream reads a message of JSON, and written in the format of the
        topic. Two things differ from a message: a time that is left out is now, and an unknown
        field is refused, as writing the label would lose it. A name with dots may also be a single
        key.

        Raises:
            InvalidLabelsError: some cannot be read.
        """
        if not labels:
            return []
        unknown_fields = {row: why for row, label in enumerate(labels) if (why := self._odd(label))}
        _check(unknown_fields, len(labels))
        now = {} if self._time is None else {self._time: time.time()}
        table, bad = self._json.read_parsed([self._nested(label) for label in labels], now)
        hints = {row: hint for row, label in enumerate(labels) if (hint := self._hint(label))}
        _check(dict(bad), len(labels), hints)
        rows = table.to_pylist()
        values = self._written(rows)
        place = self._beside or RecordField.model_validate({"from": "key"})
        beside = [place.written(row[self._id]) for row in rows]
        records = [
            ProducerRecord(self._topic, None, key, value, headers)
            for (key, headers), value in zip(beside, values, strict=True)
        ]
        self._check_read(records)
        return records

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of one label."""
        columns = {field.name: _json_schema(field) for field in self._fields}
        if self._classes:
            columns[self._label] = {"enum": list(self._classes)}
        return {
            "type": "object",
            "properties": columns,
            "required": [name for name in columns if name in self._needed],
            "additionalProperties": False,
        }

    def example(self) -> dict[str, Any]:
        """Return a label that can be read."""
        label = {field.name: _EXAMPLES[field.kind] for field in self._fields}
        if self._classes:
            label[self._label] = self._classes[0]
        return label

    def close(self) -> None:
        """Send what is being sent, or give up after some seconds; send nothing more."""
        self._reading.shutdown(wait=False, cancel_futures=True)
        self._sender.close()

    def _odd(self, label: Any) -> str | None:
        """Return which field of a label is unknown; None where none is."""
        if type(label) is not dict:
            return None
        for name in _paths(label, self._known):
            if name not in self._known:
                return f"unknown field {unknown(name, sorted(self._known))}"
        return None

    def _hint(self, label: Any) -> str | None:
        """Return which fields a label leaves out; None where it has all."""
        paths = set(_paths(label, self._known)) if type(label) is dict else self._needed
        missing = [repr(name) for name in sorted(self._needed) if name not in paths]
        return f"missing: {', '.join(missing)}" if missing else None

    def _nested(self, label: Any) -> Any:
        """Return the label with objects for the names with dots that are single keys in it."""
        if type(label) is not dict:
            return label
        dotted = [field for field in self._fields if "." in field.name and field.name in label]
        others = {name: value for name, value in label.items() if "." not in name}
        return python_values.nested(dotted, label, lambda value, _: value) | others

    def _written(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        try:
            return self._format.write(rows)
        except Exception:  # the library does not say of which row: write each by itself
            values, wrong = [], {}
            for i, row in enumerate(rows):
                try:
                    values += self._format.write([row])
                except Exception as error:  # of many kinds, by the library of the format
                    kind = self._format.config.kind
                    wrong[i] = f"no message of {kind} holds it: {type(error).__name__}: {error}"
            _check(wrong, len(rows))
            return values

    def _check_read(self, records: list[ProducerRecord]) -> None:
        n = len(records)
        partition = np.zeros(n, np.int32)
        sent = np.full(n, round(time.time() * 1000))
        label = np.ones(n, np.bool_)
        keys, headers = [r.key for r in records], [[*r.headers.items()] for r in records]
        values = [record.value for record in records]
        block = self._blocks(
            MergedRecords(label, partition, np.arange(n), sent, values, keys, [*headers])
        )
        _check({dead.offset: dead.reason for dead in block.dead}, n)


class _Post(NamedTuple):
    """The messages of a request; ``sent`` will hold the indices of those that are too large."""

    messages: list[ProducerRecord]
    sent: Future[list[int]]


class _Sender:
    """Send in a thread of its own, which starts with the first messages."""

    def __init__(self, connect: Callable[[], Producer]) -> None:
        self._connect = connect
        self._producer: Producer | None = None
        self._posts: deque[_Post] = deque()
        self._waiting = 0  # messages
        self._lock = threading.Lock()
        self._worker = BackgroundWorker(
            "label-producer", self._send_waiting, math.inf, finish=self._cancel_waiting
        )

    def put(self, messages: list[ProducerRecord]) -> Future[list[int]]:
        """Queue messages behind all that were put before, and return the future of those that are
        too large. They are not sent if it is cancelled before their turn.

        Raises:
            LabelsNotAcknowledgedError: too many are waiting.
        """
        with self._lock:
            if self._posts and self._waiting + len(messages) > MAX_WAITING:
                raise LabelsNotAcknowledgedError(
                    f"{self._waiting:,} labels are waiting to be sent, so none of these was"
                )
            post = _Post(messages, Future())
            self._posts.append(post)
            self._waiting += len(messages)
            if not self._worker.started:
                self._worker.start()
        self._worker.wake()
        return post.sent

    def close(self) -> None:
        """Stop after what is being sent; wait for it for some seconds."""
        self._worker.close(WAIT_S)

    def _take_waiting(self) -> list[_Post]:
        with self._lock:
            posts, self._waiting = [*self._posts], 0
            self._posts.clear()
        return posts

    def _send_waiting(self) -> None:
        # A request that has waited too long has been cancelled.
        posts = [p for p in self._take_waiting() if p.sent.set_running_or_notify_cancel()]
        if not posts:
            return
        try:
            self._producer = self._producer or self._connect()
            messages = [message for post in posts for message in post.messages]
            too_large = self._producer.send(messages)
        except Exception as error:
            for post in posts:
                post.sent.set_exception(error)
            return
        start = 0
        for post in posts:
            after = start + len(post.messages)
            post.sent.set_result([i - start for i in too_large if start <= i < after])
            start = after

    def _cancel_waiting(self) -> None:
        for post in self._take_waiting():
            post.sent.cancel()
        if self._producer is not None:
            self._producer.close()


def label_producer(loaded: LoadedJob) -> LabelProducer | NoLabels:
    """Return what takes the labels that are posted to the server of a job."""
    config, kind = loaded.job.stream, loaded.job.stream.kind
    if not isinstance(config, KafkaConfig):
        return NoLabels(
            f"labels come with the stream of kind {kind!r}, from its rows or files: they can be "
            "posted where the stream is Kafka and its labels are on a topic of their own "
            "(stream.labels)"
        )
    if config.labels is None:
        return NoLabels(
            "labels come in the messages of the events: they can be posted where the job names a "
            "topic of their own for them (stream.labels)"
        )
    try:
        stream = KafkaStream(config, loaded.folder)
        if stream.decoder.labels.format.needs_schema_id:
            return NoLabels(
                "labels begin with the id of their schema: state it to post labels, as "
                "stream.labels.format.schemas"
            )
        return LabelProducer(stream)
    except (
        StreamError
    ) as error:  # a file is not on this machine: predictions are served all the same
        return NoLabels(f"labels cannot be written here: {one_line(error)}")


def _check(reasons: Mapping[int, str], labels: int, hints: Mapping[int, str] | None = None) -> None:
    if reasons:
        raise InvalidLabelsError(reasons, hints or {}, labels)


def _paths(label: Mapping[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    """Yield the names of the fields in a label: with dots where they stand in objects on the way to
    a known one."""
    for key, value in label.items():
        name = f"{prefix}{key}"
        leads_on = any(other.startswith(f"{name}.") for other in known)
        if leads_on and type(value) is dict:
            yield from _paths(value, known, f"{name}.")
        elif not leads_on:
            yield name


def _json_schema(field: Field) -> dict[str, Any]:
    if field.kind == "time":
        why = "when it became known: seconds, or ISO 8601; now, where it is left out"
        return {"type": ["number", "string"], "description": why}
    return {"type": {"text": "string"}.get(field.kind, field.kind)}


_EXAMPLES: dict[str, Any] = {
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "text": "a",
    "time": "2024-05-01T12:00:00Z",
}
