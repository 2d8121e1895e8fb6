"""Runs on a current Kafka whose log is not one record an offset: transactions, compaction, deleted
records, topics made anew."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.support.kafka44 import COMPACTED, Kafka44

NAMES = itertools.count()
CASES = Path(os.environ.get("EVERLEARN_CASES") or Path(__file__).parents[3] / "shared" / "cases")


def case(name: str) -> Path:
    """Return the folder of a case; skip the test where it is not."""
    if not (CASES / name).is_dir():
        pytest.skip(f"there is no {name} in {CASES}")
    return CASES / name


def send_file(kafka: Kafka44, file: Path, topics: Mapping[str, str]) -> None:
    """Send the messages of a case, each to the topic that stands for its own."""
    for line in file.read_text().splitlines():
        message = json.loads(line)
        value = None if message["value"] is None else json.dumps(message["value"])
        key, partition = message.get("key") or "k", message["partition"]
        kafka.send(topics[message["topic"]], [value], keys=[key], partition=partition)


both = pytest.mark.parametrize("library", ["kafka-python", "confluent-kafka"])
second_in_soak = pytest.mark.parametrize(
    "library", ["confluent-kafka", pytest.param("kafka-python", marks=pytest.mark.soak)]
)


@pytest.fixture
def library() -> str:
    """The client library, where a test does not run with both."""
    return "confluent-kafka"


@pytest.fixture
def topic() -> str:
    return f"log-{next(NAMES)}"


@pytest.fixture
def job(tmp_path: Path, kafka44: Kafka44, topic: str, library: str) -> Callable[..., Path]:
    """Writes a job on the topic; ``stream`` are its settings beside the usual ones."""

    def write(**stream: Any) -> Path:
        about = {
            "kind": "kafka",
            "servers": kafka44.servers,
            "topic": topic,
            "library": library,
            "features": {"numeric": ["a", "b"]},
            "id": "id",
            "label": {"column": "y", "classes": ["no", "yes"]},
            "stop": "latest",
            "linger": 0.05,
        }
        settings = {
            "name": "log",
            "seed": 1,
            "stream": about | stream,
            "learner": {
                "kind": "replay",
                "model": {"kind": "mlp", "hidden": [8]},
                "buffer": {"capacity": 100},
            },
        }
        file = tmp_path / "job.yaml"
        file.write_text(yaml.safe_dump(settings))
        return file

    return write


class RunOutcome(NamedTuple):
    """What a run did: all messages, the last of them, and the summary in its folder."""

    err: str
    line: str
    summary: dict[str, Any]


@pytest.fixture
def command(everlearn: Callable[..., Any]) -> Callable[..., RunOutcome]:
    """Runs a command in a run folder, and expects the exit status ``code``."""

    def run_command(
        name: str, what: Path, folder: str, *flags: object, code: int = 0
    ) -> RunOutcome:
        done = everlearn(name, what, "--run-dir", folder, *flags, code=code)
        summary = Path(folder) / "summary.json"
        content = json.loads(summary.read_text()) if summary.exists() else {}
        return RunOutcome(done.err, done.line, content)

    return run_command


@pytest.fixture
def run(job: Callable[..., Path], command: Callable[..., RunOutcome]) -> Callable[..., RunOutcome]:
    """Runs the job in the folder ``run``, or another; ``stream`` are settings of its stream."""

    def run_job(*flags: object, folder: str = "run", code: int = 0, **stream: Any) -> RunOutcome:
        return command("run", job(**stream), folder, *flags, code=code)

    return run_job


@pytest.fixture
def run_case(
    command: Callable[..., RunOutcome], kafka44: Kafka44, topic: str
) -> Callable[..., RunOutcome]:
    """Runs the job of a case on the topic, in the folder ``run``."""

    def run_job(case: Path, *flags: object, code: int = 0) -> RunOutcome:
        servers, name = f"stream.servers={kafka44.servers}", f"stream.topic={topic}"
        flags = ("--set", servers, "--set", name, *flags)
        return command("run", case / "job.yaml", "run", *flags, code=code)

    return run_job


def rows(ids: Sequence[int]) -> Iterator[str]:
    """Events of these ids."""
    for i in ids:
        a = (i * 7919) % 13
        yield json.dumps({"id": i, "a": a / 13, "b": (i % 5) / 5, "y": "yes" if a > 6 else "no"})


def send_transactions(kafka: Kafka44, topic: str, size: int, ends: Sequence[bool]) -> None:
    """Send transactions of ``size`` events each, committed where True, else aborted."""
    for i, commit in enumerate(ends):
        kafka.transaction(topic, rows(range(size * i, size * (i + 1))), commit)


@second_in_soak
def test_aborted_transactions_are_unread(
    kafka44: Kafka44, topic: str, run: Callable[..., RunOutcome]
) -> None:
    kafka44.create(topic)
    send_transactions(kafka44, topic, 30, [True, True, False, True, False])
    done = run().summary
    assert (done["finished"], done["events"], done["fates"]["learned"]) == (True, 90, 90)
    assert done["cursor"] == {"0": 123}  # 30 + 1, 30 + 1, 30 + 1, 30


@second_in_soak
def test_compacted_topic_gives_the_latest_of_each_key(
    kafka44: Kafka44, topic: str, run: Callable[..., RunOutcome]
) -> None:
    kafka44.create(topic, **COMPACTED)
    kafka44.send(topic, rows(range(200)), keys=[str(i % 50) for i in range(200)])
    kafka44.compact(topic, ("last", next(rows([200]))), records=51)
    assert run().summary["fates"]["learned"] == 51


@pytest.mark.parametrize("gaps", ["refuse", True])
def test_gaps_refuse_stops_and_true_is_the_default(
    kafka44: Kafka44, topic: str, run: Callable[..., RunOutcome], gaps: Any, caplog: Any
) -> None:
    kafka44.create(topic)
    send_transactions(kafka44, topic, 5, [True, True])
    done = run(gaps=gaps, code=int(gaps == "refuse"))
    refused = "partition 0: positions 5 to 5 were passed over" in done.err
    assert refused == (gaps == "refuse")
    assert ("gaps: true and false have no effect" in caplog.text) == (gaps is True)


def test_retention_that_cut_a_learned_head_lets_a_run_resume(
    kafka44: Kafka44, topic: str, run_case: Callable[..., RunOutcome]
) -> None:
    folder = case("retention-cut-a-learned-head")
    kafka44.create(topic)
    send_file(kafka44, folder / "messages.jsonl", {"head": topic})
    run_case(folder, "--max-events", "20")
    kafka44.delete_records(topic, 10)
    done = run_case(folder, "--resume").summary
    assert (done["events"], done["fates"]["learned"]) == (60, 60)


def test_topic_made_anew_is_refused_on_resume(
    kafka44: Kafka44, topic: str, run_case: Callable[..., RunOutcome]
) -> None:
    folder = case("topic-made-anew")
    kafka44.create(topic)
    send_file(kafka44, folder / "first.jsonl", {"anew": topic})
    run_case(folder, "--max-events", "40")
    kafka44.delete(topic)
    kafka44.create(topic)
    send_file(kafka44, folder / "second.jsonl", {"anew": topic})
    done = run_case(folder, "--resume", "--max-events", "60", code=1)
    assert f"the topic '{topic}' is another one now" in done.line
    assert "The state after 40 events is kept" in done.line
    assert "--resume" not in done.line
    assert done.summary["events"] == 40


@second_in_soak
@pytest.mark.parametrize("count", [0, 30, 60])
def test_finished_run_refuses_a_topic_made_anew(
    count: int,
    kafka44: Kafka44,
    topic: str,
    run: Callable[..., RunOutcome],
) -> None:
    """The new topic is no longer than what was read of the old one, which says nothing."""
    kafka44.create(topic)
    kafka44.send(topic, rows(range(60)))
    run()
    kafka44.delete(topic)
    kafka44.create(topic)
    kafka44.send(topic, rows(range(1000, 1000 + count)))
    done = run("--resume", code=1)
    assert f"the topic '{topic}' is another one now" in done.line
    assert "The state after 60 events is kept" in done.line
    assert "goes on from the end" not in done.err
    assert done.summary["events"] == 60


@both
def test_learned_head_is_not_read_again(
    kafka44: Kafka44, topic: str, run: Callable[..., RunOutcome]
) -> None:
    """Two partitions make the block of which the first records are deleted."""
    kafka44.create(topic, 2)
    start = round(1000 * time.time()) - 200_000  # not so long ago that retention deletes them
    for partition in (0, 1):
        ids = range(partition, 1200, 2)
        stamps = [start + 100 * i for i in ids]
        kafka44.send(topic, rows(ids), partition=partition, timestamp_ms=stamps)
    for folder in ("whole", "cut"):
        run("--max-events", 512, folder=folder)
    whole = run("--resume", folder="whole").summary
    kafka44.delete_records(topic, 256)
    kafka44.delete_records(topic, 200, partition=1)
    cut = run("--resume", folder="cut").summary
    assert cut["events"] == 1200
    assert cut["state_digest"] == whole["state_digest"]


@second_in_soak
def test_deleted_records_that_were_not_learned_are_named(
    kafka44: Kafka44, topic: str, run: Callable[..., RunOutcome]
) -> None:
    kafka44.create(topic)
    kafka44.send(topic, rows(range(900)))
    run("--max-events", 512)
    kafka44.delete_records(topic, 600)
    done = run("--resume", code=1)
    assert f"were deleted, by retention or by hand: 88 offsets ({topic}/0: 512 to 599)" in done.line
    assert "start another run (another --run-dir) with --warm-from run/checkpoints/" in done.line
    assert "--resume" not in done.line


@both
def test_topic_made_anew_stops_a_run(
    kafka44: Kafka44, topic: str, run: Callable[..., RunOutcome]
) -> None:
    """The new topic is longer than the old one was read, so no offset tells."""
    kafka44.create(topic)
    kafka44.send(topic, rows(range(400)))

    def make_anew() -> None:
        while len(list(Path("run").glob("journal.jsonl"))) == 0:
            time.sleep(0.05)
        time.sleep(1.5)
        kafka44.delete(topic)
        kafka44.create(topic)
        kafka44.send(topic, rows(range(10_000, 10_900)))

    other = threading.Thread(target=make_anew)
    other.start()
    done = run("--max-events", 900, stop="never", code=1)
    other.join()
    assert f"the topic '{topic}' is another one now" in done.line
    assert "--resume" not in done.line


@both
def test_consumer_makes_no_topic(
    kafka44: Kafka44, topic: str, run: Callable[..., RunOutcome]
) -> None:
    done = run(code=2)
    assert f"there is no topic '{topic}'" in done.line
    assert topic not in kafka44.admin.list_topics(timeout=10).topics


def test_record_tells_where_brokers_have_no_topic_ids(
    kafka44: Kafka44, topic: str, run: Callable[..., RunOutcome]
) -> None:
    """kafka-python asks for none of a broker that is said to be older than Kafka 2.8."""
    old = {"library": "kafka-python", "client": {"api_version": [2, 0]}, "stop": "never"}
    kafka44.create(topic)
    kafka44.send(topic, rows(range(400)))
    run("--max-events", 400, **old)
    run("--resume", "--max-events", 400, **old)
    kafka44.delete(topic)
    kafka44.create(topic)
    kafka44.send(topic, rows(range(10_000, 10_900)))
    done = run("--resume", "--max-events", 900, **old, code=1)
    assert f"{topic}/0 holds another record at offset 399" in done.line
    assert done.summary["events"] == 400


def test_tombstones_are_counted_apart_and_stop_nothing(
    kafka44: Kafka44, topic: str, run_case: Callable[..., RunOutcome]
) -> None:
    folder = case("tombstones")
    kafka44.create(topic)
    send_file(kafka44, folder / "messages.jsonl", {"tomb": topic})
    lines = (folder / "messages.jsonl").read_text().splitlines()
    deleted = sum(json.loads(line)["value"] is None for line in lines)
    done = run_case(folder).summary
    assert done["tombstones"] == {"events": deleted, "labels": 0}
    assert done["events"] == done["fates"]["learned"] == len(lines) - deleted
    assert done["fates"]["dead"] == 0
    assert sum(done["cursor"].values()) == len(lines)


def send_labels_and_tombstones(
    kafka: Kafka44, topic: str, labels: str, name_of: Callable[[int], str]
) -> None:
    """Send labels of events 0 to 39, withdraw some, and send the events, each with a tombstone."""
    start = round(1000 * time.time()) - 60_000
    early = [(i, "yes" if i % 2 else "no") for i in range(40)]
    values = [json.dumps({"id": i, "y": y}) for i, y in early]
    gone = [*range(0, 40, 5)]  # eight of them before their events
    more = [None] * len(gone) + [None, None]  # of no event; without a key
    keys = [*map(name_of, range(40)), *map(name_of, gone), name_of(999), None]
    kafka.send(labels, values + more, keys=keys, timestamp_ms=start)
    for i, row in enumerate(rows(range(40))):
        kafka.send(topic, [row, None], keys=[str(i)] * 2, timestamp_ms=start + 1000 + i)
    late = [name_of(i) for i in range(1, 40, 5)]  # learned already
    kafka.send(labels, [None] * len(late), keys=late, timestamp_ms=start + 5000)


@pytest.mark.parametrize(
    "name_of", [str, lambda i: json.dumps({"id": i})], ids=["plain key", "JSON key"]
)
def test_tombstone_withdraws_a_label_that_is_not_learned(
    kafka44: Kafka44,
    topic: str,
    job: Callable[..., Path],
    command: Callable[..., RunOutcome],
    name_of: Callable[[int], str],
) -> None:
    kafka44.create(topic)
    kafka44.create(f"{topic}-labels")
    send_labels_and_tombstones(kafka44, topic, f"{topic}-labels", name_of)
    about = {"topic": f"{topic}-labels", "id": "id", "label": "y"}
    file = job(labels=about, label={"classes": ["no", "yes"]}, batch_size=8)
    done = command("record", file, "run", "--to", "recording").summary
    assert done["fates"] | {"learned": 32, "unlabelled": 8} == done["fates"]
    assert done["labels"]["withdrawn"] == 8
    assert done["tombstones"] == {"events": 40, "labels": 18}
    assert (done["fates"]["dead"], done["events"]) == (0, 40)
    again = command("replay", Path("recording"), "again").summary
    assert again["state_digest"] == done["state_digest"]
    assert again["tombstones"] == done["tombstones"]
