"""Dead letters on their way to a topic, each once, whatever breaks."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.errors import JobError
from pipeline.dead_letters.file_writer import DeadLetterRecord, letters
from pipeline.storage.run_folder import DEAD_LETTERS, FORWARDED
from pipeline.training.callback import Callback, RunContext
from pipeline.training.loop import Loop
from streams.core.errors import StreamError, one_line
from streams.core.live_stream import BrokerUnavailableError
from streams.core.stream import Cursor
from streams.kafka.clients.producer import Producer, ProducerRecord
from streams.kafka.records import TopicPartition
from streams.kafka.stream import KafkaStream

AT_ONCE = 500
"""Letters in a round; after each it is written down how far they have come."""
BYTES_AT_ONCE = 8 << 20
RETRY_S = 1.0
FINISH_S = 10.0
"""How long the end of a run waits for what is still to be delivered."""


@dataclass(frozen=True, slots=True)
class ForwardState:
    """How far the topic has them: all in the first ``bytes`` bytes of the file, and none of those
    after that stands before ``ends``. ``run`` tells the letters of this run folder from others."""

    run: str
    bytes: int
    ends: dict[TopicPartition, int]

    @classmethod
    def read(cls, file: Path) -> ForwardState | None:
        """None where there is none yet."""
        try:
            found = json.loads(file.read_text())
        except FileNotFoundError:
            return None
        ends = {TopicPartition(topic, partition): at for topic, partition, at in found["ends"]}
        return cls(found["run"], found["bytes"], ends)

    def write(self, file: Path) -> None:
        ends = [[*place, at] for place, at in self.ends.items()]
        told = {"run": self.run, "bytes": self.bytes, "ends": ends}
        writing = file.with_name(f".{file.name}")
        with writing.open("w") as opened:
            opened.write(json.dumps(told) + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        writing.replace(file)


class DeadLetterForwarder(Callback):
    """Sends what a checkpoint holds of ``dead.jsonl`` to the topic ``stream.dead_letters.topic``,
    in a thread of its own.

    Before a round of letters is sent, the run folder says how many have come there before and where
    the topic ended then. After a crash, or where an answer stayed out, the topic is read from there
    on to see which of them it has. A broker that is away is waited for, and never by the training;
    what is not delivered when a run ends is by the next one in its folder.
    """

    def __init__(self, finish_s: float = FINISH_S) -> None:
        self.finish_s = finish_s
        self._until = 0  # bytes of the file that a checkpoint holds
        self._changed = threading.Condition()
        self._closing: float | None = None  # when it gives up
        self._thread: threading.Thread | None = None
        self._told = ""
        self._standing: ForwardState | None = None
        self._sure = False  # that nothing after the standing has been sent

    def on_start(self, context: RunContext, loop: Loop) -> None:
        stream = context.stream
        if (
            not isinstance(stream, KafkaStream)
            or (topic := stream.config.dead_letters.topic) is None
        ):
            return
        self._context, self._stream, self._topic = context, stream, topic
        self._file = context.folder / DEAD_LETTERS
        self._state = context.folder / FORWARDED
        self._until = context.dead_bytes
        if context.resumed_from is None:
            self._check()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def _check(self) -> None:
        """Raises ``JobError`` where there is no such topic."""
        try:
            self._stream.producer().end_offsets(self._topic)
        except BrokerUnavailableError:
            pass  # it may come
        except StreamError as error:
            raise JobError(
                f"{self._context.job_file}: stream.dead_letters.topic: {error}"
            ) from None

    def on_checkpoint_saved(self, cursor: Cursor, dead_bytes: int) -> None:
        with self._changed:
            self._until = dead_bytes
            self._changed.notify_all()

    def teardown(self) -> dict[str, float]:
        if self._thread is None:
            return {}
        with self._changed:
            self._closing = time.monotonic() + self.finish_s
            self._changed.notify_all()
        self._thread.join(self.finish_s + 1)
        left = self._until - self._standing.bytes if self._standing else self._until
        if left > 0:
            count = sum(1 for _ in letters(self._file, self._until - left, self._until))
            self._context.say(
                f"{count:,} dead letters are not yet in topic {self._topic!r}: the next run in "
                f"this folder (--resume) delivers them; all are in {self._file}"
            )
        return {}

    def _deliver(self) -> None:
        producer: Producer | None = None
        while self._more():
            try:
                producer = producer or self._stream.producer()
                self._round(producer)
                self._told = ""
            except (StreamError, OSError) as error:
                self._sure = False
                if not self._told:
                    self._told = one_line(error)
                    self._context.say(f"dead letters for topic {self._topic!r} wait: {self._told}")
                with self._changed:
                    self._changed.wait(RETRY_S)
        if producer is not None:
            producer.close()

    def _more(self) -> bool:
        """Waits until there is something to deliver; False where it is over."""
        with self._changed:
            while True:
                done = self._standing.bytes if self._standing else 0
                if self._closing is not None and (
                    self._until <= done or time.monotonic() > self._closing
                ):
                    return False
                if self._until > done:
                    return True
                self._changed.wait()

    def _round(self, producer: Producer) -> None:
        """Delivers the next letters, and writes it down."""
        at = self._standing or ForwardState.read(self._state)
        if at is None:
            at = ForwardState(uuid.uuid4().hex, 0, producer.end_offsets(self._topic))
            at.write(self._state)
            self._sure = True
        self._standing = at
        come = set() if self._sure else set(self._come(producer, at))
        found: list[DeadLetterRecord] = []
        size = 0
        for letter in letters(self._file, at.bytes, self._until):
            found.append(letter)
            size += len(letter.value or b"")
            if len(found) == AT_ONCE or size > BYTES_AT_ONCE:
                break
        new = [letter for letter in found if self._key(letter) not in come]
        self._sure = False
        self._send(producer, new, at.run)
        # Should the last lines be none, nothing is left to deliver all the same.
        at = replace(at, bytes=found[-1].end if found else self._until)
        at = replace(at, ends=producer.end_offsets(self._topic))
        at.write(self._state)
        self._standing, self._sure = at, True

    def _come(self, producer: Producer, at: ForwardState) -> Iterable[bytes]:
        """Keys of the letters that the topic has since then."""
        for message in producer.read_from(at.ends):
            run = message.headers.get("run")
            if not producer.supports_headers:
                try:
                    run = json.loads(message.value or b"")["run"].encode()
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue
            if run == at.run.encode() and message.key is not None:
                yield message.key

    def _send(self, producer: Producer, new: list[DeadLetterRecord], run: str) -> None:
        if not new:
            return
        places = {
            letter: self._stream.topic_partition(letter.partition, letter.label) for letter in new
        }
        missing = [(places[letter], letter.offset) for letter in new if letter.value is None]
        values = self._stream.fetch_values(missing)
        messages = []
        for letter in new:
            value = letter.value
            if value is None:
                value = values.get((places[letter], letter.offset))
            messages.append(self._message(letter, value, run, producer.supports_headers))
        large = producer.send(messages)
        bare = [
            self._message(new[i], None, run, producer.supports_headers, left_out=True)
            for i in large
        ]
        if bare and producer.send(bare):
            raise StreamError("the broker takes not even messages without their value")

    def _message(
        self,
        letter: DeadLetterRecord,
        value: bytes | None,
        run: str,
        headers: bool,
        left_out: bool = False,
    ) -> ProducerRecord:
        topic, partition = self._stream.topic_partition(letter.partition, letter.label)
        about = {
            "reason": letter.reason,
            "topic": topic,
            "partition": str(partition),
            "offset": str(letter.offset),
            "label": "true" if letter.label else "false",
            "job": self._context.job,
            "run": run,
        }
        if left_out:
            about["left_out"] = "too large for this topic"
        key = self._key(letter)
        if headers:
            told = {name: text.encode("utf-8", "replace") for name, text in about.items()}
            return ProducerRecord(self._topic, None, key, value, told)
        whole = about | ({} if value is None else {"value": base64.b64encode(value).decode()})
        return ProducerRecord(self._topic, None, key, json.dumps(whole).encode(), {})

    def _key(self, letter: DeadLetterRecord) -> bytes:
        topic, partition = self._stream.topic_partition(letter.partition, letter.label)
        return f"{topic}/{partition}/{letter.offset}".encode()
