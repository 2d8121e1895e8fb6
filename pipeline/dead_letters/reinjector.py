"""Dead letters sent to their own topics once more, each once."""

from __future__ import annotations

import fcntl
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipeline.config.errors import JobError
from pipeline.dead_letters.file_writer import DeadLetterRecord
from pipeline.storage.run_folder import INJECTED
from streams.kafka.clients.producer import Producer, ProducerRecord
from streams.kafka.records import TopicPartition
from streams.kafka.stream import KafkaStream

HEADER = "everlearn-reinjected"
AT_ONCE = 500


class Injected(NamedTuple):
    """What became of messages: sent now, sent by an earlier call, without bytes that could be had,
    refused by the broker for their size."""

    sent: int
    before: int
    missing: int
    large: int


class Injector:
    """Sends dead messages to the partitions in which they stood; each goes to its end, under a
    header that names where it came from.

    ``injected.jsonl`` in the run folder says which are about to be sent, and where their topics
    end; then that they were sent. After a crash the topics are read from there on to see which had
    come.

    Raises ``JobError``, ``StreamError`` and ``OSError``.
    """

    def __init__(self, folder: Path, stream: KafkaStream) -> None:
        self._file = folder / INJECTED
        self._stream = stream

    def inject(self, letters: Sequence[DeadLetterRecord], dry: bool = False) -> Injected:
        """Sends those that were not sent before; ``dry``: only says how many that would be."""
        with self._held() as file:
            journal = _Journal(file)
            producer = self._stream.producer()
            try:
                self._settle(journal, producer)
                named = {self._name(letter): letter for letter in letters}
                fresh = {name: x for name, x in named.items() if name not in journal.sent}
                values = self._values(fresh)
                missing = len(fresh) - len(values)
                large = 0
                names = sorted(values, key=lambda name: (fresh[name].offset, name))
                for start in range(0, 0 if dry else len(names), AT_ONCE):
                    some = names[start : start + AT_ONCE]
                    large += self._send(journal, producer, {n: (fresh[n], values[n]) for n in some})
            finally:
                producer.close()
        return Injected(len(names) - large, len(named) - len(fresh), missing, large)

    @contextmanager
    def _held(self) -> Iterator[IO[bytes]]:
        with self._file.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise JobError(f"{self._file} is held by another process: wait for it") from None
            yield file

    def _values(self, letters: dict[str, DeadLetterRecord]) -> dict[str, bytes]:
        """The bytes of each, from the file, or else from its topic, as far as they can be had."""
        found = {n: x.value for n, x in letters.items() if x.value is not None}
        left = {(self._place(x), x.offset): name for name, x in letters.items() if x.value is None}
        return found | {left[at]: value for at, value in self._stream.fetch_values(left).items()}

    def _send(
        self,
        journal: _Journal,
        producer: Producer,
        letters: dict[str, tuple[DeadLetterRecord, bytes]],
    ) -> int:
        """How many were too large."""
        topics = sorted({self._place(letter)[0] for letter, _ in letters.values()})
        ends = {place: at for topic in topics for place, at in producer.end_offsets(topic).items()}
        journal.sending([*letters], ends)
        messages = []
        for name, (letter, value) in letters.items():
            headers = (
                {HEADER: f"{journal.run}/{name}".encode()} if producer.supports_headers else {}
            )
            messages.append(ProducerRecord(*self._place(letter), None, value, headers))
        large = set(producer.send(messages))
        journal.have_come([name for i, name in enumerate(letters) if i not in large])
        return len(large)

    def _settle(self, journal: _Journal, producer: Producer) -> None:
        """Finds out which of those had come that a call before this was sending as it broke off."""
        if journal.open is None:
            return
        names, ends = journal.open
        come = {
            m.headers.get(HEADER, b"").decode("utf-8", "replace") for m in producer.read_from(ends)
        }
        journal.have_come([name for name in names if f"{journal.run}/{name}" in come])

    def _place(self, letter: DeadLetterRecord) -> TopicPartition:
        return self._stream.topic_partition(letter.partition, letter.label)

    def _name(self, letter: DeadLetterRecord) -> str:
        topic, partition = self._place(letter)
        return f"{topic}/{partition}/{letter.offset}"


class _Journal:
    """``injected.jsonl``: ``{"run": id}``, then in turns ``{"sending": names, "ends": [...]}`` and
    ``{"sent": names}``.

    Attributes:
        run: tells the messages of this run folder from others.
        sent: names of all that were sent.
        open: what was being sent, and where the topics ended then, where it is not known whether it
            came.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sent: set[str] = set()
        self.open: tuple[list[str], dict[TopicPartition, int]] | None = None
        self.run = ""
        file.seek(0)
        whole = 0
        for text in file:
            if not text.endswith(b"\n"):
                break  # it was being written as the process was killed
            whole += len(text)
            self._take(json.loads(text))
        file.truncate(whole)
        if not self.run:
            self.run = uuid.uuid4().hex
            self._write({"run": self.run})

    def _take(self, entry: dict[str, Any]) -> None:
        if "run" in entry:
            self.run = entry["run"]
        elif "sending" in entry:
            ends = {TopicPartition(topic, partition): at for topic, partition, at in entry["ends"]}
            self.open = (entry["sending"], ends)
        else:
            self.sent.update(entry["sent"])
            self.open = None

    def sending(self, names: list[str], ends: dict[TopicPartition, int]) -> None:
        told = [[*place, at] for place, at in sorted(ends.items())]
        self._write({"sending": names, "ends": told})

    def have_come(self, names: list[str]) -> None:
        self._write({"sent": names})

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        self._take(entry)
