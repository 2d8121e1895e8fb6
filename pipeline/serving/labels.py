"""Labels that are posted to the server, sent to the topic that the job learns labels from.

A label is answered for once the broker has it on all its replicas (``acks=all``): from then on it
is a label like any other, read in its turn, in the journal and in the checkpoints. One that was
sent twice is a duplicate for the label join, which counts it: whoever is in doubt posts again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import orjson

from pipeline.config.job import LoadedJob
from pipeline.serving.requests import MOST_DETAILS
from pipeline.serving.responses import listed
from streams.core.errors import StreamError, one_line
from streams.core.settings import unknown
from streams.decoding.formats import python_values as cells
from streams.decoding.formats.factory import Field
from streams.kafka.clients.producer import Message, Outbox
from streams.kafka.config import KafkaConfig
from streams.kafka.records import Messages
from streams.kafka.stream import KafkaStream

WAIT_S = 5.0
"""How long a request waits for the broker."""
WAITING = 20_000
"""Labels that may wait to be sent; it is no use to queue more where a broker is slow or away."""

ONLY_READS = (
    "everlearn serve only reads a run: post labels to the server of a run that serves while it "
    "learns (serve: in its job), or send them to its topic of labels"
)
"""Why the server of a run folder takes none."""


_UNSURE = (
    ": some labels may have been taken; post all again, as those that come twice are counted and "
    "change nothing"
)


class InvalidLabelsError(Exception):
    """Labels of a request cannot be read, and none was sent.

    ``details`` has ``{"label": index, "reason": text}`` for the first of them, in order.
    """

    def __init__(self, wrong: Mapping[int, str], labels: int, what: str = "cannot be read") -> None:
        first = sorted(wrong)[:MOST_DETAILS]
        listed = f"; the first {len(first)} are listed" if len(first) < len(wrong) else ""
        super().__init__(f"{len(wrong)} of {labels} labels {what}{listed}")
        self.details = [{"label": row, "reason": one_line(wrong[row])} for row in first]


class LabelsNotAcknowledgedError(Exception):
    """The broker has not said that it has all the labels of a request: the message says whether it
    may have some."""


class LabelProducer:
    """Checks labels as the stream will read them, and sends them to the topic of its labels.

    ``accept`` is called on an event loop, and holds it up for nothing: labels are checked in one
    thread and sent in another, those of all requests that have come by then at once.
    """

    def __init__(self, stream: KafkaStream) -> None:
        apart = stream.config.labels
        assert apart is not None
        self._topic = apart.topic
        self._time = apart.time
        # As the stream has them, so that what is accepted is what can be read.
        self._blocks = stream.blocks
        self._format, _ = self._blocks.of_labels
        self._fields = self._format.fields
        names = [field.name for field in self._fields]
        self._id = apart.id
        self._label = apart.label
        self._known = set(names)
        self._needed = self._known - {apart.time}
        self._classes = stream.schema.classes
        self._checking = ThreadPoolExecutor(1, "labels")
        self._sender = _Sender(stream.outbox)

    async def accept(self, body: bytes, most: int) -> int:
        """Sends the labels of a request, and gives their number; the broker has them all then.

        Raises:
            Refused: the body is no JSON list of at most so many.
            BadLabels: some cannot be read; none was sent.
            NotSent: the broker has not said that it has them.
        """
        loop = asyncio.get_running_loop()
        messages = await loop.run_in_executor(self._checking, self._read, body, most)
        if not messages:
            return 0
        try:
            sent = asyncio.wrap_future(self._sender.put(messages))
            large = await asyncio.wait_for(sent, WAIT_S)
        except TimeoutError:
            raise LabelsNotAcknowledgedError(
                f"the broker has not answered within {WAIT_S:g} s{_UNSURE}"
            ) from None
        except StreamError as error:
            raise LabelsNotAcknowledgedError(f"{one_line(error)}{_UNSURE}") from None
        if large:
            why = "too large for the broker (the others were sent)"
            raise InvalidLabelsError(dict.fromkeys(large, why), len(messages), "were not sent")
        return len(messages)

    def _read(self, body: bytes, most: int) -> list[Message]:
        return self.messages(listed(body, most, "labels", orjson.loads))

    def messages(self, given: Sequence[Any]) -> list[Message]:
        """The messages of labels, which may be anything that JSON can say. Raises
        ``InvalidLabelsError``."""
        if not given:
            return []
        n, now = len(given), time.time()
        wrong = {row: why for row, label in enumerate(given) if (why := self._misfit(label))}
        _check(wrong, n)
        columns = [[label.get(field.name) for label in given] for field in self._fields]
        for field, column in zip(self._fields, columns, strict=True):
            if field.name == self._time:
                column[:] = [now if value is None else value for value in column]
        table, bad = cells.rows(self._fields, columns, range(n), {})
        _check(dict(bad), n)
        rows = table.to_pylist()
        values = self._written(rows)
        self._check_read(values)
        ids = [str(row[self._id]).encode() for row in rows]
        return [
            Message(self._topic, None, key, value, {})
            for key, value in zip(ids, values, strict=True)
        ]

    def schema(self) -> dict[str, Any]:
        """The JSON schema of one label."""
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
        """A label that can be read."""
        found = {field.name: _EXAMPLES[field.kind] for field in self._fields}
        if self._classes:
            found[self._label] = self._classes[0]
        return found

    def close(self) -> None:
        """What is being sent is, or is given up after some seconds; nothing more is."""
        self._checking.shutdown(wait=False, cancel_futures=True)
        self._sender.close()

    def _misfit(self, label: Any) -> str | None:
        """What is wrong with the shape of a label."""
        if type(label) is not dict:
            return f"{cells.show(label)} given; an object is wanted"
        if self._needed <= label.keys() <= self._known:
            return None
        for name in label:
            if name not in self._known:
                return f"unknown field {unknown(name, sorted(self._known))}"
        missing = [name for name in sorted(self._needed) if name not in label]
        return f"missing: {', '.join(map(repr, missing))}"

    def _written(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        try:
            return self._format.write(rows)
        except Exception:  # of which row nobody says: each by itself, then
            values, wrong = [], {}
            for i, row in enumerate(rows):
                try:
                    values += self._format.write([row])
                except Exception as error:  # of many kinds, by the library of the format
                    kind = self._format.config.kind
                    wrong[i] = f"no message of {kind} holds it: {type(error).__name__}: {error}"
            _check(wrong, len(rows))
            return values

    def _check_read(self, values: list[bytes]) -> None:
        n = len(values)
        nowhere = np.zeros(n, np.int32)
        sent = np.full(n, round(time.time() * 1000))
        label = np.ones(n, np.bool_)
        block = self._blocks(Messages(label, nowhere, np.arange(n), sent, [*values]))
        _check({dead.offset: dead.reason for dead in block.dead}, n)


class _Post(NamedTuple):
    """The messages of a request; ``sent`` is to hold the indices of those that are too large."""

    messages: list[Message]
    sent: Future[list[int]]


class _Sender:
    """Sends in a thread of its own, which is there once there is something to send."""

    def __init__(self, connect: Callable[[], Outbox]) -> None:
        self._connect = connect
        self._posts: deque[_Post] = deque()
        self._waiting = 0  # messages
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, messages: list[Message]) -> Future[list[int]]:
        """To be sent after all that were put before. Cancelled before its turn, it is not sent.
        Raises ``LabelsNotAcknowledgedError`` where too much is waiting."""
        with self._changed:
            if self._posts and self._waiting + len(messages) > WAITING:
                raise LabelsNotAcknowledgedError(
                    f"{self._waiting:,} labels are waiting to be sent, so none of these was"
                )
            post = _Post(messages, Future())
            self._posts.append(post)
            self._waiting += len(messages)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="posted", daemon=True)
                self._thread.start()
            self._changed.notify()
        return post.sent

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(WAIT_S)

    def _work(self) -> None:
        box: Outbox | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._posts or self._closed)
                posts, self._waiting = [*self._posts], 0
                self._posts.clear()
                if self._closed:
                    break
            # Whoever has been told that it takes too long has given up.
            posts = [post for post in posts if post.sent.set_running_or_notify_cancel()]
            if not posts:
                continue
            try:
                box = box or self._connect()
                large = box.send([message for post in posts for message in post.messages])
            except Exception as error:
                for post in posts:
                    post.sent.set_exception(error)
                continue
            start = 0
            for post in posts:
                after = start + len(post.messages)
                post.sent.set_result([i - start for i in large if start <= i < after])
                start = after
        for post in posts:
            post.sent.cancel()
        if box is not None:
            box.close()


def posted(loaded: LoadedJob) -> LabelProducer | str:
    """What takes the labels that are posted to the server of a job; a text: why it takes none."""
    config, kind = loaded.job.stream, loaded.job.stream.kind
    if not isinstance(config, KafkaConfig):
        return (
            f"labels come with the stream of kind {kind!r}, from its rows or files: they can be "
            "posted where the stream is Kafka and its labels are on a topic of their own "
            "(stream.labels)"
        )
    if config.labels is None:
        return (
            "labels come in the messages of the events: they can be posted where the job names a "
            "topic of their own for them (stream.labels)"
        )
    try:
        return LabelProducer(KafkaStream(config, loaded.folder))
    except StreamError as error:  # a file that is not on this machine: it answers all the same
        return f"labels cannot be written here: {one_line(error)}"


def _check(wrong: Mapping[int, str], labels: int) -> None:
    if wrong:
        raise InvalidLabelsError(wrong, labels)


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
