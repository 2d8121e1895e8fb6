"""Runs on streams whose times are wrong, or are not in seconds: one wrong time moves nobody."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a deprecated way
    from kafka import KafkaProducer

START = 1_704_067_200
LABELS = ["ABBBAAB"[i % 7] for i in range(400)]
NAMES = itertools.count()
Everlearn = Callable[..., Any]


class Runs:
    """Runs jobs of the no-change learner in a folder of their own."""

    def __init__(self, folder: Path, everlearn: Everlearn) -> None:
        self.folder = folder
        self.everlearn = everlearn

    def csv(self, name: str, times: Sequence[Any]) -> str:
        rows = zip(times, range(len(times)), LABELS, strict=False)
        text = "".join(f"{time},{x},{label}\n" for time, x, label in rows)
        (self.folder / name).write_text("time,x,label\n" + text)
        return name

    def job(self, **stream: Any) -> Path:
        stream = {"kind": "recorded", "label": "label", "time": "time"} | stream
        stream = {key: value for key, value in stream.items() if value is not None}
        file = self.folder / f"job{next(NAMES)}.yaml"
        file.write_text(
            yaml.safe_dump({"name": "times", "stream": stream, "learner": {"kind": "no-change"}})
        )
        return file

    def refused(self, **stream: Any) -> str:
        line: str = self.everlearn("run", self.job(**stream), code=2).err
        return line

    def run(self, **stream: Any) -> dict[str, Any]:
        job = self.job(**stream)
        folder = self.folder / f"{job.stem}-run"
        self.everlearn("run", job, "--run-dir", folder)
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        dead = folder / "dead.jsonl"
        lines = dead.read_text().splitlines() if dead.exists() else []
        return summary | {"dead": [json.loads(line) for line in lines]}


@pytest.fixture
def runs(tmp_path: Path, everlearn: Everlearn) -> Runs:
    return Runs(tmp_path, everlearn)


def minutes(n: int, year: int = 2024) -> list[datetime]:
    return [datetime(year, 5, 1, tzinfo=UTC) + timedelta(minutes=i) for i in range(n)]


@pytest.mark.parametrize("row", [0, 10, 298, 299])
def test_a_mistyped_year_is_dead_alone(runs: Runs, row: int) -> None:
    times = minutes(300)
    times[row] = times[row].replace(year=2204)
    texts = [time.isoformat().removesuffix("+00:00") for time in times]
    found = runs.run(path=runs.csv("a.csv", texts), label_delay={"seconds": 600})
    assert found["fates"] | {"learned": 299, "dead": 1} == found["fates"]
    (dead,) = found["dead"]
    shown = times[row].isoformat().replace("+00:00", "Z")
    assert dead["offset"] == row
    assert dead["reason"] == f"time {shown} is far ahead of those around it"
    if row:  # the events after it are scored as if it were not there
        left = [text for i, text in enumerate(texts) if i != row]
        rest = zip(left, (x for x in range(300) if x != row), strict=True)
        lines = "".join(f"{time},{x},{LABELS[x]}\n" for time, x in rest)
        (runs.folder / "b.csv").write_text("time,x,label\n" + lines)
        clean = runs.run(path="b.csv", label_delay={"seconds": 600})
        assert found["metrics"] == clean["metrics"]


def test_wrong_times_of_events_and_labels_in_parquet_move_nobody(runs: Runs) -> None:
    """Timestamps in two files, and labels in a file of their own, each with wrong years."""
    time = np.array([START + 60 * i for i in range(200)], "datetime64[s]")
    known = time + 300
    wrong, late = time.copy(), known.copy()
    wrong[[60, 61, 140]] += np.timedelta64(366, "D")
    late[[7, 120]] += np.timedelta64(50_000, "D")
    found = []
    for name, events, labels in (("right", time, known), ("wrong", wrong, late)):
        ids = np.arange(200)
        for part in (0, 1):
            rows = slice(100 * part, 100 * part + 100)
            table = {"i": ids[rows], "t": events[rows], "x": ids[rows] % 5 / 1.0}
            pq.write_table(pa.table(table), runs.folder / f"{name}-{part}.parquet")
        table = {"i": ids, "k": labels, "y": LABELS[:200]}
        pq.write_table(pa.table(table), runs.folder / f"{name}-labels.parquet")
        found.append(
            runs.run(
                path=[f"{name}-0.parquet", f"{name}-1.parquet"],
                label=None,
                id="i",
                time="t",
                label_timeout_seconds=900,
                labels={"path": f"{name}-labels.parquet", "id": "i", "label": "y", "time": "k"},
            )
        )
    assert [d["id"] for d in found[1]["dead"]] == [60, 61, 140]
    assert found[0]["fates"]["learned"] == 200
    assert found[1]["fates"] | {"learned": 197, "expired": 0, "dead": 3} == found[1]["fates"]


def test_units_and_formats_give_the_same_run(runs: Runs) -> None:
    seconds = [START + 60 * i for i in range(120)]
    delay = {"label_delay": {"seconds": 600}}
    plain = runs.run(path=runs.csv("s.csv", seconds), **delay)["state_digest"]
    for unit, factor in (("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        path = runs.csv(f"{unit}.csv", [second * factor for second in seconds])
        line = runs.refused(path=path, **delay)
        assert f"would be after the year 5000: {unit_name(unit)}? state stream.time_unit: " in line
        assert f"time_unit: {unit}" in line
        assert runs.run(path=path, time_unit=unit, **delay)["state_digest"] == plain
    texts = [datetime.fromtimestamp(s, UTC).strftime("%d.%m.%Y %H:%M") for s in seconds]
    formatted = runs.run(path=runs.csv("f.csv", texts), time_format="%d.%m.%Y %H:%M", **delay)
    assert formatted["state_digest"] == plain


def unit_name(unit: str) -> str:
    return {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}[unit]


def test_integers_that_are_dates_are_refused(runs: Runs) -> None:
    days = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(100)]
    numbers = [int(day.strftime("%Y%m%d")) for day in days]
    delay = {"label_delay": {"seconds": 864_000}}
    line = runs.refused(path=runs.csv("ymd.csv", numbers), **delay)
    assert "column 'time': 20240101: a date? state stream.time_format: \"%Y%m%d\"" in line
    for form in ("%Y%m%d%H%M", "%Y%m%d%H%M%S"):  # would be milliseconds after the year 5000 as well
        line = runs.refused(path=runs.csv("ymdhm.csv", [f"{day:{form}}" for day in days]), **delay)
        assert f'a date? state stream.time_format: "{form}"' in line
    found = runs.run(path="ymd.csv", time_format="%Y%m%d", **delay)
    iso = runs.run(path=runs.csv("iso.csv", [f"{day:%Y-%m-%d}" for day in days]), **delay)
    assert found["state_digest"] == iso["state_digest"]
    counted = runs.run(path=runs.csv("counter.csv", range(100)), label_delay={"seconds": 5})
    assert counted["fates"]["learned"] == 100


def test_the_night_clocks_are_set_back_needs_a_zone(runs: Runs) -> None:
    begin = datetime(2024, 10, 26, 20, tzinfo=UTC)
    moments = [begin + timedelta(minutes=10 * i) for i in range(60)]
    back = datetime(2024, 10, 27, 1, tzinfo=UTC)
    local = [m + timedelta(hours=2 if m < back else 1) for m in moments]
    delay = {"label_delay": {"seconds": 3600}}
    path = runs.csv("local.csv", [f"{time:%Y-%m-%d %H:%M}" for time in local])
    found = runs.run(path=path, **delay)
    assert found["fates"]["dead"] == 5
    assert found["dead"][0]["reason"] == (
        "time goes back: 2024-10-27T02:00:00Z is 3000 s before 2024-10-27T02:50:00Z, the latest "
        "seen, and lateness is 0 s; if clocks were set back then, state stream.time_zone, as in "
        "Europe/Vienna"
    )
    zoned = runs.run(path=path, time_zone="Europe/Vienna", **delay)
    utc = runs.run(
        path=runs.csv("utc.csv", [f"{time:%Y-%m-%d %H:%M}" for time in moments]), **delay
    )
    assert zoned["fates"]["dead"] == 0
    assert zoned["state_digest"] == utc["state_digest"]
    assert "'Europe/Viena' is no time zone" in runs.refused(path=path, time_zone="Europe/Viena")


class Topic:
    """A topic of one partition, and the job that reads it to its end."""

    def __init__(self, servers: str, brokers: Any) -> None:
        self.servers = servers
        self.name = f"times-{next(NAMES)}-{os.getpid()}"
        brokers.make_topics(servers, self.name)

    def send(self, values: Sequence[dict[str, Any]], stamps: Sequence[float]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            producer = KafkaProducer(bootstrap_servers=self.servers)
            for value, stamp in zip(values, stamps, strict=True):
                sent = producer.send(
                    self.name,
                    json.dumps(value).encode(),
                    key=b"k",
                    partition=0,
                    timestamp_ms=round(stamp * 1000),
                )
                sent.get(10)
            producer.close()

    def stream(self, library: str, **more: Any) -> dict[str, Any]:
        return {
            "kind": "kafka",
            "servers": self.servers,
            "topic": self.name,
            "features": {"numeric": ["x"]},
            "id": "id",
            "time": None,
            "label": {"column": "label", "classes": ["A", "B"]},
            "stop": "latest",
            "library": library,
        } | more


@pytest.fixture
def topic(broker: str, brokers: Any) -> Topic:
    return Topic(broker, brokers)


def values(n: int, **columns: Any) -> list[dict[str, Any]]:
    return [
        {"id": i, "x": i, "label": "AAB"[i // 5 % 3]} | {k: c[i] for k, c in columns.items()}
        for i in range(n)
    ]


def test_a_timestamp_a_day_ahead_moves_no_label(runs: Runs, topic: Topic) -> None:
    """It is that of its neighbours, and counted; its event is learned."""
    right = START + np.arange(60.0)
    stamps = right.copy()
    stamps[10] += 86_400
    topic.send(values(60), stamps.tolist())
    delay = {"label_delay": {"seconds": 5}, "batch_size": 1}
    found = [runs.run(**topic.stream(lib, **delay)) for lib in ("kafka-python", "confluent-kafka")]
    path = runs.csv("right.csv", right.tolist())
    rows = "".join(f"{t},{v['x']},{v['label']}\n" for t, v in zip(right, values(60), strict=True))
    (runs.folder / path).write_text("time,x,label\n" + rows)
    clean = runs.run(path=path, **delay)
    for one in found:
        assert one["fates"]["learned"] == 60
        assert one["metrics"]["online/accuracy"] == clean["metrics"]["online/accuracy"]
        assert one["times"] == {"bounded": 0, "corrected": 1}
    assert found[0]["state_digest"] == found[1]["state_digest"]


def test_an_event_time_ahead_of_its_message_is_dead_alone(runs: Runs, topic: Topic) -> None:
    """One that is a little ahead is bounded; what is in milliseconds says so."""
    right = START + np.arange(100.0)
    own = right.copy()
    own[10] += 23 * 3600
    own[20] += 300
    own[30] *= 1000
    topic.send(values(100, t=own.tolist()), right.tolist())
    found = runs.run(**topic.stream("kafka-python", time="t"))
    assert found["fates"] | {"learned": 98, "dead": 2} == found["fates"]
    assert found["times"] == {"bounded": 1, "corrected": 0}
    first, second = (dead["reason"] for dead in found["dead"])
    assert first == (
        "column 't' holds 2024-01-01T23:00:10Z; expected a time at most 600 s after that of the "
        "message, 2024-01-01T00:00:10Z"
    )
    assert "milliseconds? state stream.time_unit: ms" in second
