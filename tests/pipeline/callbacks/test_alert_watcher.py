"""Alerts of a run: each change is reported once, with MLflow or without, across restarts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from learners.base import LearnerConfig
from learners.baselines.prior import Prior
from pipeline.callbacks.alert_watcher import AlertWatcher
from pipeline.config.sections import Alert
from pipeline.evaluation.prequential import Prequential
from pipeline.storage.metric_log import MetricLog
from pipeline.training.callback import RunContext
from pipeline.training.loop import Loop
from streams.core.schema import Schema
from streams.operators.labels_in_rows import DelayByEvents
from tests.support.http import receiver

WINDOW = "online/accuracy_window"


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def watch(tmp_path: Path, messages: list[str]) -> Iterator[Callable[..., AlertWatcher]]:
    """A watcher at work on the folder of the test; none is left behind."""
    started: list[AlertWatcher] = []

    def make(*alerts: Alert, live: Callable[[], dict[str, float]] = dict) -> AlertWatcher:
        watcher = AlertWatcher(alerts, live)
        learner = Prior(LearnerConfig(kind="prior"), Schema((), "classification"), 0)
        loop = Loop([], DelayByEvents(0, 10), learner, Prequential("classification", 10))
        stream: Any = None
        context = RunContext(tmp_path, "job", Path("job.yaml"), stream, {}, messages.append)
        watcher.on_start(context, loop)
        started.append(watcher)
        return watcher

    yield make
    for watcher in started:
        watcher.teardown()


def low(**changes: Any) -> Alert:
    return Alert.model_validate({"metric": WINDOW, "below": 0.8} | changes)


def see(folder: Path, rows: Mapping[int, float], name: str = WINDOW, file: str = "metrics") -> None:
    log = MetricLog(folder / f"{file}.jsonl", print)
    for step, value in rows.items():
        log.write(step, {name: value}, time=1.7e9 + step)
    log.close()


def tags(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "alerts.json").read_text())["tags"]
    return found


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


def test_alert_on_forgetting_fires(
    watch: Callable[..., AlertWatcher], tmp_path: Path, messages: list[str]
) -> None:
    lost = "stability/forgetting_low"
    watcher = watch(Alert(metric=lost, above=0.05))
    see(tmp_path, {1000: 0.0, 2000: 0.0})
    see(tmp_path, {1000: 0.02, 2000: 0.11}, lost, "stability")
    watcher.teardown()
    assert messages == ["alert: stability/forgetting_low 0.11 is above 0.05 at 2,000 events"]
    assert tags(tmp_path)[f"alert.{lost}"] == "firing: 0.11 is above 0.05 at 2,000 events"


def test_alert_fires_and_ends_at_its_threshold(
    watch: Callable[..., AlertWatcher], tmp_path: Path, messages: list[str]
) -> None:
    watcher = watch(low(after_events=5000))
    see(tmp_path, {1000: 0.1, 6000: 0.9, 12000: 0.71, 13000: 0.7})
    wait_until(lambda: messages)
    assert messages == ["alert: online/accuracy_window 0.71 is below 0.8 at 12,000 events"]
    see(tmp_path, {14000: 0.83, 15000: 0.9, 16000: 0.5})
    watcher.teardown()
    assert messages[1:] == [
        "alert over: online/accuracy_window 0.83 is no longer below 0.8 at 14,000 events",
        "alert: online/accuracy_window 0.5 is below 0.8 at 16,000 events",
    ]
    assert tags(tmp_path)[f"alert.{WINDOW}"] == "firing: 0.5 is below 0.8 at 16,000 events"


def test_alert_after_a_restart_skips_rows_seen_before(
    watch: Callable[..., AlertWatcher], tmp_path: Path, messages: list[str]
) -> None:
    """Also the time for which an alert must last goes on across the restart."""
    alerts = (low(), low(below=0.7, **{"for": {"events": 2500}}))
    see(tmp_path, {1000: 0.9, 2000: 0.5})
    watch(*alerts).teardown()
    assert len(messages) == 1
    see(tmp_path, {3000: 0.6, 4000: 0.6})
    watch(*alerts).teardown()
    see(tmp_path, {5000: 0.6, 6000: 0.9})
    watch(*alerts).teardown()
    assert messages[1:] == [
        "alert: online/accuracy_window 0.6 is below 0.7 for 2,500 events at 5,000 events",
        "alert over: online/accuracy_window 0.9 is no longer below 0.8 at 6,000 events",
        "alert over: online/accuracy_window 0.9 is no longer below 0.7 at 6,000 events",
    ]
    assert tags(tmp_path)[f"alert.{WINDOW}"] == "resolved at 6,000 events"


def test_alert_of_an_older_run_does_not_fire_again(
    watch: Callable[..., AlertWatcher], tmp_path: Path, messages: list[str]
) -> None:
    """Runs of before kept the state of alerts with the record of MLflow."""
    see(tmp_path, {1000: 0.5})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    record = {"seen": {"metrics.jsonl": size}, "firing": {low().key: "0.5"}, "tags": {}}
    (tmp_path / "track.json").write_text(json.dumps(record))
    see(tmp_path, {2000: 0.6, 3000: 0.9})
    watch(low()).teardown()
    assert messages == [
        "alert over: online/accuracy_window 0.9 is no longer below 0.8 at 3,000 events"
    ]


def test_alerts_of_one_metric_share_its_tag(
    watch: Callable[..., AlertWatcher], tmp_path: Path
) -> None:
    see(tmp_path, {1: 0.4, 2: 0.6})
    watch(low(), low(below=0.5), low(below=None, above=2.0)).teardown()
    assert tags(tmp_path)[f"alert.{WINDOW}"] == "firing: 0.4 is below 0.8 at 1 events"


def test_alert_on_silence_needs_no_rows(
    watch: Callable[..., AlertWatcher], tmp_path: Path, messages: list[str]
) -> None:
    """No event comes, so that no row is written: what is live is checked all the same."""
    name, quiet = "system/seconds_since_last_message", [700.0]
    alert = Alert.model_validate({"metric": name, "above": 600, "for": {"seconds": 0.5}})
    watch(alert, live=lambda: {name: quiet[0]})
    wait_until(lambda: messages)
    assert messages == [f"alert: {name} 700 is above 600 for 0.5 s at 0 events"]
    quiet[0] = 0.1
    wait_until(lambda: len(messages) == 2)
    assert messages[1].startswith("alert over: ")


def test_alert_is_posted_once(
    watch: Callable[..., AlertWatcher], tmp_path: Path, messages: list[str]
) -> None:
    posted: list[Any] = []

    def take(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        posted.append((request.path, request.headers["Content-Type"], json.loads(body)))
        request.send_response(204)
        request.end_headers()

    with receiver(take) as address:
        watcher = watch(low(webhook=f"{address}/hook"))
        see(tmp_path, {1000: 0.5, 2000: 0.9})
        watcher.teardown()
        watch(low(webhook=f"{address}/hook")).teardown()
    message = {"job": "job", "run_id": None, "metric": WINDOW, "below": 0.8}
    assert posted == [
        ("/hook", "application/json", message | {"value": 0.5, "step": 1000, "state": "firing"}),
        ("/hook", "application/json", message | {"value": 0.9, "step": 2000, "state": "resolved"}),
    ]
    assert len(messages) == 2


def test_webhook_slow_delays_nothing_and_dead_is_reported(
    watch: Callable[..., AlertWatcher], tmp_path: Path, messages: list[str]
) -> None:
    released, asked = threading.Event(), threading.Event()

    def wait(request: BaseHTTPRequestHandler) -> None:
        asked.set()
        released.wait(20)

    with receiver(wait) as address:
        watch(low(webhook=address), low(below=0.7, webhook="http://127.0.0.1:9/secret"))
        see(tmp_path, {1000: 0.5})
        assert asked.wait(10)
        wait_until(lambda: len(messages) == 2)
        see(tmp_path, {2000: 0.9})
        wait_until(lambda: len(messages) == 4)
        released.set()
        wait_until(lambda: [line for line in messages if "Connection refused" in line])
    assert "secret" not in " ".join(messages)


def test_run_with_alerts_needs_no_mlflow(everlearn: Any, write_job: Any) -> None:
    """Without ``uri``: the alert is said once, also by a run that resumes."""
    alert = {"metric": "online/accuracy", "below": 1.0, "after_events": 1000}
    file = write_job(track={"every_events": 500, "alerts": [alert]})
    first = everlearn("run", file, "--run-dir", "run", "--max-events", 2000)
    assert first.err.count("alert: online/accuracy") == 1
    again = everlearn("run", file, "--run-dir", "run", "--max-events", 4000, "--resume")
    assert "alert: online/accuracy" not in again.err
    assert not Path("run/track.json").exists()
    assert Path("run/metrics.jsonl").stat().st_size > 0
