"""Measure how fast events get from Kafka into a learner: decoded, predicted, scored and learned.

Two programs take turns, round by round, over the same topics of one partition:

- *bare*: a loop in this process that polls the topic with the client library and does nothing else;
  events/s from its first message on;
- *job*: ``everlearn run --runner ray``, with the source actor and the trainer in processes of their
  own; events/s from the first poll to the last checkpoint.

A *frame* is 92 bytes: an id (int64), a label (int32), 20 float32. A JSON event has the same fields
with four decimals: 6 numbers (about 90 bytes) or all 20 (about 260). The learner is a perceptron
with one hidden layer of 16, in micro-batches of 1,024. It is fast, because the question is what
comes before it.

    python experiments/benchmarks/live.py [--events 500000] [--rounds 3] [--servers HOST:PORT]

Without ``--servers`` it starts the broker of the tests. The broker takes part of a core, and on a
machine with two cores it slows what is measured. Writes experiments/results/live.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import orjson

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "experiments" / "results" / "live.md"
NAMES = [f"x{i}" for i in range(20)]
WIDTHS = {"JSON of 6": 6, "JSON of 20": 20}
FRAME = np.dtype([("id", "<i8"), ("label", "<i4"), ("x", "<f4", (20,))])
FORMATS = {
    "frames": (
        "{kind: frames, fields: {id: int64, label: int32, x: [float32, 20]}}",
        "{vector: {x: 20}}",
    ),
} | {
    kind: ("{kind: json}", f"{{numeric: [{', '.join(NAMES[:width])}]}}")
    for kind, width in WIDTHS.items()
}
JOB = """
name: {name}
stream:
  kind: kafka
  servers: {servers}
  topic: {topic}
  format: {format}
  features: {features}
  id: id
  label: {{column: label, type: int}}
  library: {library}
  batch_size: 1024
  id_window: 1
learner: {{kind: finetune, model: {{kind: mlp, hidden: [16]}}, optimizer: {{kind: sgd, lr: 0.01}}}}
checkpoint: {{every_events: 1000000}}
"""


@contextmanager
def a_broker(servers: str | None) -> Iterator[str]:
    if servers is not None:
        yield servers
        return
    spec = spec_from_file_location("brokers", ROOT / "tests" / "support" / "brokers.py")
    assert spec is not None
    assert spec.loader is not None
    brokers = sys.modules["brokers"] = module_from_spec(spec)
    spec.loader.exec_module(brokers)
    with tempfile.TemporaryDirectory() as logs, brokers.tansu(Path(logs)) as started:
        yield started


def fill(servers: str, topic: str, values: list[bytes]) -> None:
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    AdminClient({"bootstrap.servers": servers}).create_topics([NewTopic(topic, 1, 1)])
    time.sleep(1.0)
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "linger.ms": 20,
            "batch.size": 500_000,
            "queue.buffering.max.messages": 2_000_000,
            "log_level": 3,
        }
    )
    for i, value in enumerate(values):
        producer.produce(topic, value, partition=0)
        if i % 10_000 == 0:
            producer.poll(0)
    producer.flush()


def bare(servers: str, topic: str, events: int, library: str) -> float:
    """Return the events/s of a loop that polls and does nothing else."""
    seen, first = 0, 0
    if library == "kafka-python":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from kafka import KafkaConsumer, TopicPartition
        consumer = KafkaConsumer(
            bootstrap_servers=servers, max_poll_records=4096, max_partition_fetch_bytes=4 << 20
        )
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek(TopicPartition(topic, 0), 0)
        while seen < events:
            seen += sum(map(len, consumer.poll(1000).values()))
            if not first:
                first, start = seen, time.perf_counter()
    else:
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": servers, "group.id": "bare", "log_level": 3})
        consumer.assign([TopicPartition(topic, 0, 0)])
        while seen < events:
            seen += len(consumer.consume(4096, 1.0))
            if not first:
                first, start = seen, time.perf_counter()
    speed = (seen - first) / (time.perf_counter() - start)
    consumer.close()
    return speed


def job(servers: str, topic: str, events: int, library: str, kind: str, folder: Path) -> float:
    """Return the events/s of a job on Ray, after it has learned this many events."""
    format_, features = FORMATS[kind]
    file = folder / "job.yaml"
    file.write_text(
        JOB.format(
            name=f"live-{uuid.uuid4().hex[:6]}",
            servers=servers,
            topic=topic,
            format=format_,
            features=features,
            library=library,
        )
    )
    run = folder / uuid.uuid4().hex
    command = [sys.executable, "-m", "everlearn", "run", str(file), "--runner", "ray"]
    command += ["--run-dir", str(run), "--max-events", str(events)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads((run / "summary.json").read_text())["events_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    frames = np.zeros(given.events + 2048, FRAME)
    frames["id"] = np.arange(len(frames))
    frames["x"] = rng.normal(size=(len(frames), 20))
    frames["label"] = frames["x"].sum(1) > 0
    rows = frames["x"].astype(float).round(4).tolist()
    events = list(zip(range(len(rows)), frames["label"].tolist(), rows, strict=True))
    values = {"frames": [frame.tobytes() for frame in frames]} | {
        kind: [
            orjson.dumps({"id": i, "label": label, **dict(zip(NAMES, x[:width], strict=False))})
            for i, label, x in events
        ]
        for kind, width in WIDTHS.items()
    }
    lines = [
        "# How fast events come from Kafka into a learner",
        "",
        f"{given.events:,} events, events/s, {os.cpu_count()} cores for broker, source and trainer."
        " Written by `python experiments/benchmarks/live.py`, which says what each does.",
        "",
        "| messages | library | bare poll | job | job / bare, median (each round) |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(lines[4:]))
    with a_broker(given.servers) as servers, tempfile.TemporaryDirectory() as name:
        for kind in values:
            topic = f"live-{uuid.uuid4().hex[:6]}"
            fill(servers, topic, values[kind])
            for library in ("kafka-python", "confluent-kafka"):
                polled, learned = [], []
                for _ in range(given.rounds):
                    polled.append(bare(servers, topic, given.events, library))
                    learned.append(job(servers, topic, given.events, library, kind, Path(name)))
                ratios = [b / a for a, b in zip(polled, learned, strict=True)]
                each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
                lines.append(
                    f"| {kind} | {library} | {statistics.median(polled):,.0f} "
                    f"| {statistics.median(learned):,.0f} "
                    f"| {statistics.median(ratios):.2f} ({each}) |"
                )
                print(lines[-1], flush=True)
    RESULT.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
