"""A current Apache Kafka for tests: topic ids, transactions, compaction, TLS, SASL.

It lies beside the repository, in ``../shared/kafka`` or in the folder ``EVERLEARN_KAFKA``, and
needs Java 17 and openssl. ``apache_kafka_44`` starts it with a pipe to its standard input. The pipe
closes when the process of the test ends in any way, and then the broker ends too.

The fixture ``kafka44`` of ``tests/conftest.py`` is one node for all tests of a process. A test that
needs other settings, TLS files or several nodes starts its own::

    with apache_kafka_44(tmp_path, "--set", "auto.create.topics.enable=false") as kafka:
        kafka.create("topic")
        kafka.send("topic", [b"1", None], keys=[b"a", b"b"])
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("EVERLEARN_KAFKA") or Path(__file__).parents[3] / "shared" / "kafka")
JAVA = 17
ANSWER_S = 20.0
"""How long the broker may take for one request."""

Rows = Iterable[bytes | str | None]
"""Values of records; None is a tombstone."""


@cache
def missing() -> str:
    """Return what this machine lacks to start the broker; empty if nothing."""
    if not (FOLDER / "kafka-server").exists():
        return f"there is no Apache Kafka 4.4 in {FOLDER} (EVERLEARN_KAFKA names another folder)"
    for program in ("java", "openssl"):
        if shutil.which(program) is None:
            return f"Apache Kafka 4.4 needs {program}, which is not installed"
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60)
    version = re.search(r'version "(\d+)', done.stderr)
    if version is None or int(version[1]) < JAVA:
        return f"Apache Kafka 4.4 needs Java {JAVA}; here is {done.stderr.strip()[:60]!r}"
    return ""


@contextmanager
def child_process(command: list[str]) -> Iterator[dict[str, Any]]:
    """Start a program that prints one line of JSON and runs until its standard input closes; yield
    what it printed. So it cannot outlive this process."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:  # closes the pipes
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{command[0]} ended: {process.stderr.read()[-2000:]}")
            yield json.loads(line)
        finally:
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def apache_kafka_44(folder: Path | None, *flags: str) -> Iterator[Kafka44]:
    """Start a broker, and stop it with the block; skip the test where it cannot be had.

    Args:
        folder: for its data, logs and certificates; a later start goes on in it, at the same
            addresses. None: a temporary one.
        flags: of ``kafka-server``: ``--nodes 3``, ``--restart-after 6``, ``--set KEY=VALUE``.
    """
    if lack := missing():
        pytest.skip(lack)
    pytest.importorskip("confluent_kafka", reason="pip install everlearn[confluent]")
    command = [str(FOLDER / "kafka-server"), "--with-stdin", *flags]
    if folder is not None:
        command += ["--dir", str(folder)]
    with child_process(command) as said:
        yield Kafka44(said["bootstrap"], said)


@dataclass
class Kafka44:
    """A running broker, and what tests do to it.

    Attributes:
        bootstrap: addresses by listener: PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL.
        said: all that ``kafka-server`` printed: ca, client_certificate, client_key, users,
            mechanisms, pids, logs.
    """

    bootstrap: Mapping[str, str]
    said: Mapping[str, Any]

    @property
    def servers(self) -> str:
        """The address of the plain listener: ``HOST:PORT``."""
        return self.bootstrap["PLAINTEXT"]

    @cached_property
    def admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def create(self, topic: str, partitions: int = 1, **config: Any) -> None:
        """Make a topic; ``cleanup_policy="compact"`` stands for ``cleanup.policy``."""
        from confluent_kafka.admin import NewTopic

        settings = {name.replace("_", "."): str(value) for name, value in config.items()}
        _results(self.admin.create_topics([NewTopic(topic, partitions, -1, config=settings)]))
        self._wait(lambda: len(self._partitions(topic)) == partitions)

    def delete(self, topic: str) -> None:
        """Delete a topic; one of the same name can be made when this returns."""
        _results(self.admin.delete_topics([topic]))
        self._wait(lambda: not self._partitions(topic))

    def topic_id(self, topic: str) -> str:
        from confluent_kafka import TopicCollection

        described = self.admin.describe_topics(TopicCollection([topic]))
        return str(_results(described)[topic].topic_id)

    def add_partitions(self, topic: str, total: int) -> None:
        """Add partitions, so that there are ``total``."""
        from confluent_kafka.admin import NewPartitions

        _results(self.admin.create_partitions([NewPartitions(topic, total)]))
        self._wait(lambda: len(self._partitions(topic)) == total)

    def delete_records(self, topic: str, before: int, partition: int = 0) -> None:
        """Delete the records before an offset, as retention does; the log starts there then."""
        from confluent_kafka import TopicPartition

        _results(self.admin.delete_records([TopicPartition(topic, partition, before)]))

    def send(
        self,
        topic: str,
        rows: Rows,
        keys: Sequence[bytes | str | None] | None = None,
        partition: int = -1,
        timestamp_ms: int | Sequence[int] = 0,
        headers: Sequence[tuple[str, bytes]] | None = None,
        **config: Any,
    ) -> None:
        """Send records, and return when the broker has all of them.

        Args:
            topic: of the records.
            rows: their values; None is a tombstone.
            keys: one for each row.
            partition: -1: by the key.
            timestamp_ms: of all, or one for each row; 0: now.
            headers: of all records.
            config: of the producer: ``compression_type="snappy"``.
        """
        producer = self._producer(config)
        self._produce(producer, topic, rows, keys, partition, timestamp_ms, headers)
        assert producer.flush(ANSWER_S) == 0, "the broker has not taken all records"

    def transaction(
        self,
        topic: str,
        rows: Rows,
        commit: bool = True,
        keys: Sequence[bytes | str | None] | None = None,
        partition: int = -1,
        timestamp_ms: int | Sequence[int] = 0,
    ) -> None:
        """Send records as one transaction that is committed, or aborted; its marker takes an
        offset of each partition that it wrote to."""
        producer = self._producer({"transactional_id": f"to {topic}"})
        producer.init_transactions(ANSWER_S)
        producer.begin_transaction()
        self._produce(producer, topic, rows, keys, partition, timestamp_ms, None)
        assert producer.flush(ANSWER_S) == 0, "the broker has not taken all records"
        (producer.commit_transaction if commit else producer.abort_transaction)(ANSWER_S)

    def compact(self, topic: str, last: tuple[str, str | None], records: int) -> None:
        """Return when a topic of ``COMPACTED`` settings is compacted to this many records.

        The newest segment is never compacted: this sends ``last`` (key and value) to begin one.
        """
        time.sleep(1.2)  # longer than segment.ms
        self.send(topic, [last[1]], keys=[last[0]])
        self._wait(lambda: len(self.read(topic)) == records)

    def read(self, topic: str, partition: int = 0) -> list[tuple[int, bytes | None, bytes | None]]:
        """Return offset, key and value of the records of a partition that are committed."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer(
            {"bootstrap.servers": self.servers, "group.id": "tests", "enable.partition.eof": True}
        )
        try:
            consumer.assign([TopicPartition(topic, partition, 0)])
            records = []
            while (record := consumer.poll(ANSWER_S)) is not None and record.error() is None:
                records.append((record.offset(), record.key(), record.value()))
            assert record is not None, "the broker does not answer"
            return records  # the error says that the partition ends here
        finally:
            consumer.close()

    def _producer(self, config: Mapping[str, Any]) -> Any:
        """Return a new producer: an old one may take a topic made anew for the old one."""
        from confluent_kafka import Producer

        settings = {name.replace("_", "."): value for name, value in config.items()}
        return Producer({"bootstrap.servers": self.servers, "linger.ms": 1} | settings)

    @staticmethod
    def _produce(
        producer: Any,
        topic: str,
        rows: Rows,
        keys: Sequence[bytes | str | None] | None,
        partition: int,
        timestamp_ms: int | Sequence[int],
        headers: Sequence[tuple[str, bytes]] | None,
    ) -> None:
        failures: list[Any] = []
        for i, row in enumerate(rows):
            producer.produce(
                topic,
                row,
                key=keys[i] if keys else None,
                partition=partition,
                timestamp=timestamp_ms if isinstance(timestamp_ms, int) else timestamp_ms[i],
                headers=None if headers is None else [*headers],
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
            producer.poll(0)
        assert not failures, failures[0]

    def _partitions(self, topic: str) -> Mapping[int, Any]:
        listed = self.admin.list_topics(timeout=ANSWER_S).topics  # asks for no topic: makes none
        partitions: Mapping[int, Any] = listed[topic].partitions if topic in listed else {}
        return {number: p for number, p in partitions.items() if p.leader >= 0}

    def _wait(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + ANSWER_S
        while not holds():
            assert time.monotonic() < end, "the broker has not done it"
            time.sleep(0.02)


COMPACTED = {
    "cleanup_policy": "compact",
    "segment_ms": 500,
    "min_cleanable_dirty_ratio": 0.01,
    "max_compaction_lag_ms": 1000,
    "delete_retention_ms": 1000,
}
"""Settings of a topic that is compacted within seconds; see ``Kafka44.compact``."""


def _results(futures: Mapping[Any, Any]) -> dict[Any, Any]:
    """Wait for the results of a request to the broker; raise what went wrong."""
    return {name: future.result(ANSWER_S) for name, future in futures.items()}
