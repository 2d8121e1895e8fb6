"""A file as a live stream: what is sent, where to, when, and what of it is bad on purpose."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli.produce import command
from streams.decoding.formats.factory import Field, make
from streams.decoding.formats.frames import FramesConfig
from streams.decoding.formats.json import JsonConfig
from streams.kafka.clients import timeouts
from streams.produce.messages import Delay, Drift, MessageGenerator, ProduceError, ProducePlan
from streams.produce.produce import ProduceTarget, produce

ROOT = Path(__file__).parents[3]


class Sent(NamedTuple):
    """What stands in a topic: ``(partition, offset, key, value)`` by partition and offset."""

    records: list[tuple[int, int, bytes | None, bytes]]

    @property
    def values(self) -> list[Any]:
        return [orjson.loads(value) for *_, value in self.records]


def read(servers: str, topic: str) -> Sent:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
        from kafka import KafkaConsumer, TopicPartition
    with KafkaConsumer(bootstrap_servers=servers) as consumer:
        places = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        found: list[Any] = []
        until = time.monotonic() + 30

        def ended(place: Any) -> bool:
            # Of the last batch Tansu tells the first offset as the end when it is asked for it.
            end = consumer.highwater(place)
            return end is not None and consumer.position(place) >= end

        while not all(map(ended, places)):
            assert time.monotonic() < until
            for records in consumer.poll(1000).values():
                found += [(r.partition, r.offset, r.key, r.value) for r in records]
    return Sent(sorted(found))


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "events.parquet", **columns: Any) -> Path:
        file = tmp_path / name
        pq.write_table(pa.table(columns), file)
        return file

    return write


def all_of(plan: ProducePlan, partitions: int = 1, size: int = 100) -> list[Any]:
    """What a plan sends, in order: ``("event" or "label", partition, its JSON)``."""
    return [
        ("label" if m.topic == "labels" else "event", m.partition, orjson.loads(m.value))
        for _, messages in MessageGenerator(plan, partitions).chunks(size)
        for m in messages
    ]


def test_generator_columns_become_json(table: Callable[..., Path]) -> None:
    file = table(
        x=[0.5, float("nan"), None],
        n=[1, 2, None],
        word=["a", "b\u00e9", None],
        flag=[True, False, None],
        vector=[[1.0, 2.0], [3.0], []],
        image=[b"\x00\xff", b"", None],
        y=pa.array(["u", "v", None]).dictionary_encode(),
    )
    sent = [event for _, _, event in all_of(ProducePlan(file, label="y"))]
    assert sent[0] == {
        "id": 0,
        "x": 0.5,
        "n": 1,
        "word": "a",
        "flag": True,
        "vector": [1.0, 2.0],
        "image": "AP8=",
        "y": "u",
    }
    assert sent[1] == sent[0] | {
        "id": 1,
        "x": None,
        "n": 2,
        "word": "bé",
        "flag": False,
        "vector": [3.0],
        "image": "",
        "y": "v",
    }
    nothing = dict.fromkeys(("x", "n", "word", "flag", "image", "y"))
    assert sent[2] == {"id": 2, "vector": []} | nothing


def test_generator_csv_cells_become_numbers(tmp_path: Path) -> None:
    file = tmp_path / "e.csv"
    file.write_text("a,b,c,t\n1,2.5,x,2024-01-01T00:00:00Z\n2,3,4,2024-01-01T00:00:01\n1,2\n")
    out = MessageGenerator(ProducePlan(file, time="t"), 1)
    sent = [orjson.loads(m.value) for _, messages in out.chunks(10) for m in messages]
    assert sent == [
        {"id": 0, "t": 1704067200.0, "a": 1, "b": 2.5, "c": "x"},
        {"id": 1, "t": 1704067201.0, "a": 2, "b": 3.0, "c": "4"},
    ]
    assert (out.events, out.skipped) == (2, 1)


def test_generator_missing_cells_become_null(tmp_path: Path) -> None:
    file = tmp_path / "e.csv"
    file.write_text("a,b,c\n1,NA,u\n?,2.5,\n,3,NA\n")
    out = MessageGenerator(ProducePlan(file), 1)
    sent = [orjson.loads(m.value) for _, messages in out.chunks(10) for m in messages]
    assert sent == [
        {"id": 0, "a": 1, "b": None, "c": "u"},
        {"id": 1, "a": None, "b": 2.5, "c": None},
        {"id": 2, "a": None, "b": 3.0, "c": "NA"},
    ]


def order(sent: list[Any]) -> list[Any]:
    """Events by their ids, labels as L and the id."""
    return [f"L{m['id']}" if kind == "label" else m["id"] for kind, _, m in sent]


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        ("0", [0, "L0", 1, "L1", 2, "L2", 3, 4, "L4"]),
        ("1", [0, "L0", 1, "L1", 2, "L2", 3, 4, "L4"]),
        ("3", [0, 1, 2, "L0", 3, "L1", 4, "L2", "L4"]),
        ("99", [0, 1, 2, 3, 4, "L0", "L1", "L2", "L4"]),
        # Of the times 0, 1, 5, 6, 16.
        ("5s", [0, 1, "L0", 2, "L1", 3, "L2", 4, "L4"]),
        ("10.5s", [0, 1, 2, 3, "L0", "L1", "L2", 4, "L4"]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_generator_labels_follow_after_delay(
    delay: str, expected: list[Any], size: int, table: Callable[..., Path]
) -> None:
    file = table(x=[0.0] * 5, t=[0.0, 1.0, 5.0, 6.0, 16.0], y=["a", "b", "a", None, "b"])
    plan = ProducePlan(file, time="t", label="y", labels=True, delay=Delay.read(delay))
    sent = all_of(plan, 2, size)
    assert order(sent) == expected
    assert all("y" not in m for kind, _, m in sent if kind == "event")
    assert all(partition == m["id"] % 2 for _, partition, m in sent)
    labels = {m["id"]: m for kind, _, m in sent if kind == "label"}
    assert {i: m["label"] for i, m in labels.items()} == {0: "a", 1: "b", 2: "a", 4: "b"}
    if delay == "3":
        assert [labels[i]["time"] for i in (0, 1, 2, 4)] == [6.0, 16.0, 16.0, 16.0]
    if delay == "5s":
        assert [labels[i]["time"] for i in (0, 1, 2, 4)] == [5.0, 6.0, 10.0, 21.0]


def test_generator_repeat_continues_ids_and_times(table: Callable[..., Path]) -> None:
    file = table(x=[0.0] * 3, t=[10.0, 12.0, 14.0], y=["a", "b", "a"])
    sent = all_of(ProducePlan(file, time="t", label="y", repeat=3, max_events=8))
    assert [m["id"] for *_, m in sent] == list(range(8))
    assert [m["t"] for *_, m in sent] == [10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 22.0, 24.0]


def test_generator_drift_changes_later_events(table: Callable[..., Path]) -> None:
    n = 9000  # in several blocks
    rng = np.random.default_rng(0)
    a, b = rng.normal(3.0, 2.0, n), rng.normal(1e9, 0.5, n)
    classes = ["u", "v", "w"]
    file = table(a=a, b=b, word=["k"] * n, y=[classes[i % 3] for i in range(n)])
    drift = tuple(map(Drift.read, ("100:swap", "5000:shift", "7000:shuffle")))
    sent = [m for *_, m in all_of(ProducePlan(file, label="y", drift=drift), size=2048)]
    assert [m["y"] for m in sent[:100]] == [classes[i % 3] for i in range(100)]
    assert [m["y"] for m in sent[100:]] == [classes[(i + 1) % 3] for i in range(100, n)]
    found_a, found_b = (np.array([m[name] for m in sent]) for name in "ab")
    np.testing.assert_array_equal(found_a[:5000], a[:5000])
    np.testing.assert_allclose(found_a[5000:7000], a[5000:7000] + a.std(), rtol=1e-9)
    np.testing.assert_allclose(found_b[5000:7000] - b[5000:7000], b.std(), rtol=1e-5)
    np.testing.assert_allclose(found_a[7000:], b[7000:] + b.std(), rtol=1e-9)
    np.testing.assert_allclose(found_b[7000:], a[7000:] + a.std(), rtol=1e-9)
    assert {m["word"] for m in sent} == {"k"}


def test_generator_poison_is_bad_and_counted(table: Callable[..., Path]) -> None:
    file = table(x=np.arange(3000.0), t=np.arange(3000.0), y=["a", "b", "c"] * 1000)
    plan = ProducePlan(file, time="t", label="y", labels=True, poison=0.1, seed=3)
    out = MessageGenerator(plan, 1)
    kinds: Counter[str] = Counter()
    good = 0
    for _, messages in out.chunks(500):
        for m in messages:
            if m.topic == "labels":
                continue
            try:
                event = orjson.loads(m.value)
            except ValueError:
                kinds["no JSON"] += 1
                assert m.key is None
                continue
            if len(m.value) > 200_000:
                kinds["too_large"] += 1
            elif "x" not in event:
                kinds["missing_field"] += 1
            elif not isinstance(event["x"], float):
                kinds["wrong_type"] += 1
            elif event["t"] > 1e12:
                kinds["absurd_time"] += 1
                assert event["id"] < 0
            else:
                assert event == {"id": good, "t": float(good), "x": float(good)}
                good += 1
    assert good == 3000
    told = out.poison.events
    no_json = sum(told[kind] for kind in ("broken_json", "truncated", "random_bytes"))
    named = ("too_large", "missing_field", "wrong_type", "absurd_time")
    assert kinds == {"no JSON": no_json} | {kind: told[kind] for kind in named}
    assert min(told.values()) > 10
    assert 220 < told.total() < 380
    assert 220 < out.poison.labels.total() < 380


@pytest.mark.parametrize("format", ["json", "frames"])
def test_generator_poison_is_dead_to_readers(
    format: Literal["json", "frames"], table: Callable[..., Path]
) -> None:
    """All of it, and nothing else; an absurd time can be read, and is for the guards."""
    file = table(a=np.arange(3000.0), b=np.arange(3000), t=np.arange(3000.0), y=[1, 2, 3] * 1000)
    out = MessageGenerator(
        ProducePlan(file, time="t", label="y", labels=True, format=format, poison=0.1, seed=5), 1
    )
    messages = [m for _, ms in out.chunks(500) for m in ms]
    events = [m.value for m in messages if m.topic != "labels"]
    wanted = [Field("id", "integer")]
    if format == "json":
        wanted += [Field("t", "time"), Field("a", "number"), Field("b", "number")]
        reader = make(JsonConfig(), wanted, Path())
    else:
        wanted += [Field("time", "time"), Field("x", "vector", (2,))]
        layout = FramesConfig.model_validate({"kind": "frames", "fields": out.layout})
        reader = make(layout, wanted, Path())
    rows = reader.read(events)
    bad = [i for i, m in enumerate(m for m in messages if m.topic != "labels") if m.key is None]
    absurd = out.poison.events["absurd_time"]
    assert absurd > 10
    assert rows.table.num_rows == 3000 + absurd
    assert {i for i, _ in rows.bad} < set(bad)
    assert len(rows.bad) == len(bad) - absurd == out.poison.events.total() - absurd

    labels = [m for m in messages if m.topic == "labels"]
    found = make(JsonConfig(), [Field("id", "integer"), Field("label", "integer")], Path()).read(
        [m.value for m in labels]
    )
    assert [i for i, _ in found.bad] == [i for i, m in enumerate(labels) if m.key is None]
    assert found.table.column("id").to_pylist() == list(range(3000))


def test_generator_seed_decides_chunk_size_does_not(table: Callable[..., Path]) -> None:
    file = table(x=np.arange(600.0), z=np.arange(600.0), y=["a", "b"] * 300)
    drift = (Drift(50, "shuffle"), Drift(300, "swap"))

    def sent(seed: int, size: int) -> list[Any]:
        plan = ProducePlan(file, label="y", labels=True, drift=drift, poison=0.1, seed=seed)
        return [m for _, messages in MessageGenerator(plan, 3).chunks(size) for m in messages]

    assert sent(1, 7) == sent(1, 512)
    assert sent(1, 512) != sent(2, 512)


def test_generator_frames_are_packed(table: Callable[..., Path]) -> None:
    file = table(k=[7, 8], t=[1.5, 2.5], a=[1.0, None], word=["x", "y"], y=[1, None], b=[3, 4])
    plan = ProducePlan(file, id="k", time="t", label="y", format="frames")
    out = MessageGenerator(plan, 1)
    assert out.layout == {"id": "int64", "time": "float64", "label": "int64", "x": ["float32", 2]}
    ((_, messages), _) = out.chunks(10)
    one, two = (m.value for m in messages)
    assert (
        one
        == np.array([7], "<i8").tobytes()
        + np.array([1.5], "<f8").tobytes()
        + np.array([1], "<i8").tobytes()
        + np.array([1.0, 3.0], "<f4").tobytes()
    )
    assert len(two) == 32
    poisoned = MessageGenerator(ProducePlan(file, id="k", time="t", format="frames", poison=1.0), 1)
    bad = [m.value for _, ms in poisoned.chunks(10) for m in ms if m.key is None]
    assert len(bad) == 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"file": Path("none.parquet")}, "none.parquet: no such file"),
        ({"label": "z"}, "--label: .* has no column 'z'"),
        ({"labels": True, "label": None}, "--labels-topic needs --label"),
        ({"delay": Delay(3)}, "--label-delay needs --labels-topic"),
        ({"labels": True, "delay": Delay(seconds=1.0)}, "in seconds needs --time"),
        ({"id": "k", "repeat": 2}, "--repeat sends every id again"),
        ({"label": None, "drift": (Drift(1, "swap"),)}, "swap needs --label"),
        ({"label": "x", "drift": (Drift(1, "swap"),)}, "labels of column 'x' are no classes"),
        ({"format": "frames"}, "column 'y' holds no integers: use --format json, or --labels-t"),
    ],
)
def test_generator_impossible_plan_raises(
    change: dict[str, Any], problem: str, table: Callable[..., Path]
) -> None:
    file = table(k=[1], x=[0.5], y=["a"])
    with pytest.raises(ProduceError, match=problem):
        MessageGenerator(ProducePlan(**{"file": file, "label": "y"} | change), 1)


def test_generator_column_named_id_raises(table: Callable[..., Path]) -> None:
    with pytest.raises(ProduceError, match="state --id id"):
        MessageGenerator(ProducePlan(table(id=[1], x=[0.5])), 1)


@pytest.mark.parametrize("text", ["", "-1", "s", "3m", "1e3s"])
def test_delay_read_bad_text_raises(text: str) -> None:
    with pytest.raises(ProduceError, match="--label-delay"):
        Delay.read(text)


@pytest.mark.parametrize("text", ["", "swap", "5:", "x:swap", "-5:swap", "5:turn"])
def test_drift_read_bad_text_raises(text: str) -> None:
    with pytest.raises(ProduceError, match="expected EVENT:KIND"):
        Drift.read(text)


@pytest.mark.parametrize("fast", [False, True])
def test_produce_delivers_events_and_labels(
    fast: bool, broker: str, table: Callable[..., Path]
) -> None:
    if fast:
        pytest.importorskip("confluent_kafka")
    n = 5000
    file = table(k=[f"e{i}" for i in range(n)], x=np.arange(float(n)), y=[i % 7 for i in range(n)])
    plan = ProducePlan(file, id="k", label="y", labels=True, delay=Delay(48))
    topics = f"events-{fast}", f"labels-{fast}"
    sent = produce(plan, ProduceTarget(broker, *topics, partitions=3, fast=fast))
    assert (sent["ended"], sent["partitions"]) == ("done", 3)
    assert (sent["events"], sent["labels"], sent["bad_events"]) == (n, n, {})
    events, labels = read(broker, topics[0]), read(broker, topics[1])
    for found in (events, labels):
        assert len(found.records) == n
        assert all(b[1] == a[1] + 1 for a, b in pairwise(found.records) if a[0] == b[0])
    wanted = [{"k": f"e{i}", "x": float(i)} for p in range(3) for i in range(p, n, 3)]
    assert events.values == wanted
    assert [key for _, _, key, _ in events.records] == [m["k"].encode() for m in wanted]
    ids = [m["k"] for m in wanted]
    assert labels.values == [{"id": i, "label": int(i[1:]) % 7} for i in ids]


def test_produce_unfit_topics_raise(broker: str, table: Callable[..., Path]) -> None:
    file = table(x=[0.5], y=["a"])
    plan = ProducePlan(file, label="y")
    with pytest.raises(ProduceError, match=r"there is no topic 'nowhere' at .*--partitions N"):
        produce(plan, ProduceTarget(broker, "nowhere"))
    produce(plan, ProduceTarget(broker, "two", partitions=2))
    produce(plan, ProduceTarget(broker, "two"))
    assert [m["id"] for m in read(broker, "two").values] == [0, 0]
    with pytest.raises(ProduceError, match="'two' has 2 partitions, not 3"):
        produce(plan, ProduceTarget(broker, "two", partitions=3))
    produce(plan, ProduceTarget(broker, "one", partitions=1))
    with pytest.raises(ProduceError, match="'one' has 1 partitions, not 2"):
        produce(ProducePlan(file, label="y", labels=True), ProduceTarget(broker, "two", "one"))


def test_produce_rate_paces_chunks(broker: str, table: Callable[..., Path]) -> None:
    """By a clock of its own: 1,000 events at 400 a second go out in chunks of 8."""
    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    plan = ProducePlan(table(x=np.zeros(1000)))
    target = ProduceTarget(broker, "paced", partitions=1, rate=400)
    sent = produce(plan, target, clock=lambda: now[0], sleep=sleep)
    assert sent["seconds"] == pytest.approx(2.5)
    assert waits == pytest.approx([8 / 400] * 125)


app = typer.Typer()
app.command("produce")(command)


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in args])


def test_command_prints_what_was_sent(broker: str) -> None:
    file = "streams/data/elec2.parquet"  # found where the packages lie
    result = run(
        *(file, "--servers", broker, "--topic", "elec2", "--labels-topic", "elec2-labels"),
        *("--label", "class", "--label-delay", 48, "--partitions", 2, "--max-events", 1000),
        *("--poison", 0.05, "--drift", "500:swap", "--seed", 1),
    )
    assert result.exit_code == 0, result.stderr
    sent = json.loads(result.stdout)
    assert (sent["events"], sent["labels"]) == (1000, 1000)
    bad = sum(sent["bad_events"].values())
    assert bad > 20
    assert len(read(broker, "elec2").records) == 1000 + bad


def test_command_bad_plan_exits_2(broker: str, table: Callable[..., Path]) -> None:
    result = run(table(x=[1.0]), "--servers", broker, "--topic", "t", "--label", "y")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "has no column 'y'" in result.stderr


def test_command_broker_away_exits_2(
    table: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "BROKER_TIMEOUT_S", 0.5)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # bound, but nobody listens
        port = s.getsockname()[1]
        result = run(table(x=[1.0]), "--servers", f"127.0.0.1:{port}", "--topic", "t")
    assert result.exit_code == 2
    assert f"--servers 127.0.0.1:{port}: no answer from Kafka" in result.stderr


IMPATIENT = """
import typer, pipeline.cli.produce
from streams.kafka.clients import timeouts
timeouts.BROKER_TIMEOUT_S, timeouts.BULK_DELIVERY_TIMEOUT_S = 1.0, 1.5
app = typer.Typer()
app.command()(pipeline.cli.produce.command)
app()
"""


@pytest.mark.parametrize("fast", [False, True])
def test_command_broker_lost_exits_1(
    fast: bool, brokers: Any, table: Callable[..., Path], tmp_path: Path
) -> None:
    if fast:
        pytest.importorskip("confluent_kafka")
    file = table(x=np.zeros(100_000))
    with brokers.tansu(tmp_path) as address:
        one = ProducePlan(table("one.parquet", x=[1.0]))
        produce(one, ProduceTarget(address, "t", partitions=1))
        options = ["--servers", address, "--topic", "t", "--rate", "500"]
        command = [sys.executable, "-c", IMPATIENT, str(file), *options]
        process = subprocess.Popen(
            command + ["--fast"] * fast,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until and len(read(address, "t").records) < 2:
                time.sleep(0.1)
        except BaseException:
            process.kill()
            raise
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "everlearn: sending broke off: " in err
    assert "messages were delivered before)" in err
    assert "Traceback" not in err
