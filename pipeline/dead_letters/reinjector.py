"""Sends dead letters to their own topics again, each exactly once."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from filelock import Timeout

from pipeline.config.errors import JobError
from pipeline.dead_letters.file_writer import DeadLetterRecord
from pipeline.dead_letters.publisher import IdempotentPublisher, Offsets
from pipeline.storage.run_folder import INJECTED, exclusive_lock
from streams.kafka.clients.producer import Producer, ProducerRecord
from streams.kafka.records import TopicPartition
from streams.kafka.stream import KafkaStream

HEADER = "everlearn-reinjected"
BATCH_LETTERS = 500


class ReinjectionResult(NamedTuple):
    """How many messages were sent now, were sent by an earlier call, have no value that still
    exists, and were refused by the broker as too large."""

    sent: int
    sent_before: int
    missing: int
    too_large: int


class Reinjector:
    """Sends dead letters to the partitions that they came from, at their ends.

    A header names the original position. ``injected.jsonl`` in the run folder holds the intents and
    outcomes of an ``IdempotentPublisher``.

    Raises ``JobError``, ``StreamError`` and ``OSError``.
    """

    def __init__(self, folder: Path, stream: KafkaStream) -> None:
        self._file = folder / INJECTED
        self._stream = stream

    def inject(
        self, letters: Sequence[DeadLetterRecord], dry_run: bool = False
    ) -> ReinjectionResult:
        """Send those that were not sent before; with ``dry_run`` only count them."""
        with self._locked_file() as file, closing(self._stream.producer()) as producer:
            journal = InjectionJournal(file)
            publisher = IdempotentPublisher(producer, journal.id_of)
            self._settle(journal, publisher)
            named = {self._id(letter): letter for letter in letters}
            fresh = {id_: x for id_, x in named.items() if id_ not in journal.sent}
            records = self._records(fresh)
            ids = sorted(records, key=lambda id_: (fresh[id_].offset, id_))
            too_large = 0
            for start in range(0, 0 if dry_run else len(ids), BATCH_LETTERS):
                batch = {
                    id_: self._marked(records[id_], id_, journal.run, producer)
                    for id_ in ids[start : start + BATCH_LETTERS]
                }
                too_large += self._publish(journal, publisher, batch)
        return ReinjectionResult(
            sent=len(ids) - too_large,
            sent_before=len(named) - len(fresh),
            missing=len(fresh) - len(records),
            too_large=too_large,
        )

    @contextmanager
    def _locked_file(self) -> Iterator[IO[bytes]]:
        try:
            with exclusive_lock(self._file), self._file.open("a+b") as file:
                yield file
        except Timeout:
            raise JobError(
                f"{self._file} is in use by another process: wait until it ends"
            ) from None

    def _settle(self, journal: InjectionJournal, publisher: IdempotentPublisher) -> None:
        """Store the outcome of a send that an earlier call did not finish."""
        if journal.intent is not None:
            ids, offsets = journal.intent
            publisher.recover(offsets)
            missing = set(publisher.missing(ids))
            journal.write_outcome([id_ for id_ in ids if id_ not in missing])

    @staticmethod
    def _publish(
        journal: InjectionJournal,
        publisher: IdempotentPublisher,
        records: dict[str, ProducerRecord],
    ) -> int:
        """Send the records between an intent and an outcome; return how many are too large."""
        offsets = publisher.begin(record.topic for record in records.values())
        journal.write_intent([*records], offsets)
        too_large = set(publisher.send(records))
        journal.write_outcome([id_ for id_ in records if id_ not in too_large])
        return len(too_large)

    def _records(self, letters: dict[str, DeadLetterRecord]) -> dict[str, ProducerRecord]:
        """Return the records, from their topics or else from the file, as far as they exist.

        The file holds keys and headers only where the job reads them.
        """
        positions = {(self._partition(x), x.offset): id_ for id_, x in letters.items()}
        fetched = {
            positions[position]: record
            for position, record in self._stream.fetch_records(positions).items()
            if record.value is not None
        }
        stored = {
            id_: ProducerRecord(*self._partition(x), x.key, x.value, dict(x.headers))
            for id_, x in letters.items()
            if x.value is not None
        }
        return stored | fetched

    @staticmethod
    def _marked(record: ProducerRecord, id_: str, run: str, producer: Producer) -> ProducerRecord:
        """Return the record with the header that names its original position."""
        if not producer.supports_headers:
            return record._replace(headers={})
        return record._replace(headers={**record.headers, HEADER: f"{run}/{id_}".encode()})

    def _partition(self, letter: DeadLetterRecord) -> TopicPartition:
        return self._stream.topic_partition(letter.partition, letter.label)

    def _id(self, letter: DeadLetterRecord) -> str:
        return f"{self._stream.place_name(letter.partition, letter.label)}/{letter.offset}"


class InjectionJournal:
    """``injected.jsonl``: ``{"run": id}``, then intents ``{"sending": ids, "ends": [...]}`` and
    outcomes ``{"sent": ids}`` in turn.

    Attributes:
        run: tells the messages of this run folder from others.
        sent: ids of all messages that were sent.
        intent: the last intent, if it has no outcome: ids, and where the topics ended.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sent: set[str] = set()
        self.intent: tuple[list[str], Offsets] | None = None
        self.run = ""
        file.seek(0)
        size = 0
        for line in file:
            if not line.endswith(b"\n"):
                break  # the process was killed while it wrote this
            size += len(line)
            self._apply(json.loads(line))
        file.truncate(size)
        if not self.run:
            self._write({"run": uuid.uuid4().hex})

    def id_of(self, record: ProducerRecord) -> str | None:
        """Return the id of a record that this run folder sent, or None."""
        run, _, id_ = record.headers.get(HEADER, b"").decode("utf-8", "replace").partition("/")
        return id_ if run == self.run else None

    def write_intent(self, ids: list[str], ends: Offsets) -> None:
        listed = [[*partition, at] for partition, at in sorted(ends.items())]
        self._write({"sending": ids, "ends": listed})

    def write_outcome(self, ids: list[str]) -> None:
        self._write({"sent": ids})

    def _apply(self, entry: dict[str, Any]) -> None:
        if "run" in entry:
            self.run = entry["run"]
        elif "sending" in entry:
            ends = {TopicPartition(topic, number): at for topic, number, at in entry["ends"]}
            self.intent = (entry["sending"], ends)
        else:
            self.sent.update(entry["sent"])
            self.intent = None

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        self._apply(entry)
