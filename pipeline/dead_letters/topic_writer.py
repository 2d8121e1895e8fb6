"""Copies dead letters from their file to a topic, each exactly once."""

from __future__ import annotations

import base64
import json
import math
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.dead_letters.file_writer import DeadLetterRecord, read_dead_letters
from pipeline.dead_letters.publisher import IdempotentPublisher, Offsets
from pipeline.storage.run_folder import write_atomic
from streams.background_worker import BackgroundWorker
from streams.core.errors import StreamError, one_line
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients.producer import Producer, ProducerRecord
from streams.kafka.records import TopicPartition
from streams.kafka.stream import KafkaStream

BATCH_LETTERS = 500
"""Letters of a round; the state is stored after each round."""
BATCH_BYTES = 8 << 20
RETRY_S = 1.0
CLOSE_TIMEOUT_S = 10.0
"""How long the end of a run waits for letters that are not delivered yet."""


@dataclass(frozen=True, slots=True)
class ForwardState:
    """What the topic holds: all letters in the first ``bytes`` bytes of the file. Letters after
    them, if it holds any, are at or after ``ends``.

    ``run`` tells the letters of this run folder from those of others.
    """

    run: str
    bytes: int
    ends: Offsets

    @classmethod
    def read(cls, file: Path) -> ForwardState | None:
        """Return None if there is none yet."""
        try:
            entry = json.loads(file.read_text())
        except FileNotFoundError:
            return None
        ends = {TopicPartition(topic, number): at for topic, number, at in entry["ends"]}
        return cls(entry["run"], entry["bytes"], ends)

    def write(self, file: Path) -> None:
        ends = [[*partition, at] for partition, at in self.ends.items()]
        entry = {"run": self.run, "bytes": self.bytes, "ends": ends}
        write_atomic(file, json.dumps(entry) + "\n", fsync=True)


class TopicWriter:
    """Delivers dead letters to a topic, in a thread of its own.

    The thread waits while the broker is away, and retries; the caller never waits. Letters that are
    not delivered at ``close`` are delivered by the next writer of the same state file.

    Args:
        file: ``dead.jsonl``.
        state_file: keeps how far the topic has the file.
        stream: where the letters come from; gives the names of partitions and the connection.
        topic: where to.
        job: name of the job, for the headers.
        say: takes messages for the user.
        close_timeout_s: how long ``close`` waits.
    """

    def __init__(
        self,
        file: Path,
        state_file: Path,
        stream: KafkaStream,
        topic: str,
        job: str,
        say: Callable[[str], None],
        close_timeout_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        self._file = file
        self._state_file = state_file
        self._stream = stream
        self._topic = topic
        self._job = job
        self._say = say
        self._close_timeout_s = close_timeout_s
        self._end = 0  # deliver the letters before this byte of the file
        self._deadline = math.inf  # of ``close``
        self._producer: Producer | None = None
        self._publisher: IdempotentPublisher | None = None
        self._worker = BackgroundWorker(
            "dead-letters", self._deliver, math.inf, finish=self._deliver_rest
        )
        self._problem = ""  # that was reported to the user
        self._state: ForwardState | None = None

    def check_topic(self) -> None:
        """Raise ``StreamError`` if there is no such topic. A broker that is away is no error."""
        try:
            with closing(self._stream.producer()) as producer:
                producer.end_offsets(self._topic)
        except BrokerUnavailableError:
            pass

    def start(self, end: int) -> None:
        """Start to deliver the letters in the first ``end`` bytes of the file."""
        self._end = end
        self._worker.start()

    def deliver_up_to(self, end: int) -> None:
        """Deliver the letters before byte ``end`` too; return at once."""
        self._end = end
        self._worker.wake()

    def close(self) -> None:
        """Wait for undelivered letters, for a while; say how many are left."""
        self._deadline = time.monotonic() + self._close_timeout_s
        self._worker.close(self._close_timeout_s + 5.0)
        delivered = self._state.bytes if self._state else 0
        if delivered < self._end:
            count = sum(1 for _ in read_dead_letters(self._file, delivered, self._end))
            self._say(
                f"{count:,} dead letters are not yet in topic {self._topic!r}: the next run in "
                f"this folder (--resume) delivers them; all are in {self._file}"
            )

    @property
    def _pending(self) -> bool:
        """Whether letters wait to be delivered."""
        return self._end > (self._state.bytes if self._state else 0)

    def _deliver(self) -> None:
        while self._pending and not self._worker.closing:
            if not self._try_batch():
                self._worker.wait(RETRY_S)

    def _deliver_rest(self) -> None:
        """Deliver what is left when the writer is closed, until the deadline."""
        while self._pending and time.monotonic() <= self._deadline:
            if not self._try_batch():
                time.sleep(RETRY_S)
        if self._producer is not None:
            self._producer.close()

    def _try_batch(self) -> bool:
        """Deliver the next letters; return whether that worked. Report a problem once."""
        try:
            if self._producer is None or self._publisher is None:
                self._producer = self._stream.producer()
                reader = self._id_reader(self._producer)
                self._publisher = IdempotentPublisher(self._producer, reader)
            self._deliver_batch(self._producer, self._publisher)
            self._problem = ""
        except (StreamError, OSError) as error:
            if self._publisher is not None and self._state is not None:
                self._publisher.recover(self._state.ends)
            if not self._problem:
                self._problem = one_line(error)
                self._say(f"dead letters for topic {self._topic!r} wait: {self._problem}")
            return False
        return True

    def _deliver_batch(self, producer: Producer, publisher: IdempotentPublisher) -> None:
        """Deliver the next letters, and store the new state."""
        if self._state is None:
            self._state = self._load_state(publisher)
        run, start, end = self._state.run, self._state.bytes, self._end
        letters: dict[str, DeadLetterRecord] = {}
        size = 0
        for letter in read_dead_letters(self._file, start, end):
            letters[self._id(letter)] = letter
            size += len(letter.value or b"")
            if len(letters) == BATCH_LETTERS or size > BATCH_BYTES:
                end = letter.end
                break
        missing = {id_: letters[id_] for id_ in publisher.missing(letters)}
        self._send(producer, publisher, missing, run)
        state = ForwardState(run, end, publisher.begin([self._topic]))
        state.write(self._state_file)
        self._state = state

    def _load_state(self, publisher: IdempotentPublisher) -> ForwardState:
        """Return the stored state; store the first one if there is none."""
        state = ForwardState.read(self._state_file)
        if state is None:
            state = ForwardState(uuid.uuid4().hex, 0, publisher.begin([self._topic]))
            state.write(self._state_file)
        else:
            publisher.recover(state.ends)
        return state

    def _send(
        self,
        producer: Producer,
        publisher: IdempotentPublisher,
        letters: dict[str, DeadLetterRecord],
        run: str,
    ) -> None:
        """Send the letters; those that are too large go without their value."""
        values = self._values(letters)
        headers = producer.supports_headers
        records = {
            id_: self._record(id_, letter, values.get(id_), run, headers)
            for id_, letter in letters.items()
        }
        too_large = publisher.send(records)
        without_value = {
            id_: self._record(id_, letters[id_], None, run, headers, left_out=True)
            for id_ in too_large
        }
        if publisher.send(without_value):
            raise StreamError("the broker refuses even messages without their value as too large")

    def _values(self, letters: dict[str, DeadLetterRecord]) -> dict[str, bytes]:
        """Return the values, from the letters or else from their topics, as far as they exist."""
        values = {id_: x.value for id_, x in letters.items() if x.value is not None}
        positions = {
            (self._stream.topic_partition(x.partition, x.label), x.offset): id_
            for id_, x in letters.items()
            if x.value is None
        }
        fetched = self._stream.fetch_records(positions)
        return values | {
            positions[position]: record.value
            for position, record in fetched.items()
            if record.value is not None
        }

    def _record(
        self,
        id_: str,
        letter: DeadLetterRecord,
        value: bytes | None,
        run: str,
        with_headers: bool,
        left_out: bool = False,
    ) -> ProducerRecord:
        topic, number = self._stream.topic_partition(letter.partition, letter.label)
        about = {
            "reason": letter.reason,
            "topic": topic,
            "partition": str(number),
            "offset": str(letter.offset),
            "label": "true" if letter.label else "false",
            "job": self._job,
            "run": run,
        }
        if left_out:
            about["left_out"] = "too large for this topic"
        key = id_.encode()
        if with_headers:
            headers = {name: text.encode("utf-8", "replace") for name, text in about.items()}
            return ProducerRecord(self._topic, None, key, value, headers)
        if value is not None:
            about["value"] = base64.b64encode(value).decode()
        return ProducerRecord(self._topic, None, key, json.dumps(about).encode(), {})

    def _id(self, letter: DeadLetterRecord) -> str:
        return f"{self._stream.place_name(letter.partition, letter.label)}/{letter.offset}"

    def _id_reader(self, producer: Producer) -> Callable[[ProducerRecord], str | None]:
        """Return what reads the id of a record that this run folder sent."""

        def id_of(record: ProducerRecord) -> str | None:
            sender = record.headers.get("run")
            if not producer.supports_headers:
                try:
                    sender = json.loads(record.value or b"")["run"].encode()
                except (ValueError, KeyError, TypeError, AttributeError):
                    return None
            run = self._state.run if self._state else ""
            ours = sender == run.encode() and record.key is not None
            return record.key.decode() if ours and record.key is not None else None

        return id_of
