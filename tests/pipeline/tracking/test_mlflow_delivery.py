"""Tracking with MLflow: each step once, whatever dies, and a run that never waits."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from pydantic import ValidationError

import pipeline.tracking.mlflow_delivery
from pipeline.config.job import flat
from pipeline.config.sections import Alert, TrackConfig
from pipeline.storage.metric_log import CHUNK, MetricLog, pending_rows, read_rows
from pipeline.storage.run_folder import RunFolder, write_atomic
from pipeline.tracking.mlflow_client import Record, TrackError, load
from pipeline.tracking.mlflow_delivery import Tracker, check, describe, tags
from tests.support.http import receiver
from tests.support.mlflow import client

ROOT = Path(__file__).parents[3]


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Waits for a condition, and gives what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)
    return found


def history(uri: str, run_id: str, name: str) -> list[int]:
    """The steps that MLflow has of a metric, in the order of steps."""
    return sorted(m.step for m in client(uri).get_metric_history(run_id, name))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "runs" / "elec2"
    found.mkdir(parents=True)
    (found / "job.yaml").write_text("name: elec2\n")
    return found


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def track(folder: Path, messages: list[str]) -> Iterator[Callable[..., Tracker]]:
    """A tracker at work on the run folder, with a whole core; none is left behind."""
    started = []

    def make(uri: str, alerts: tuple[Alert, ...] = (), **changes: Any) -> Tracker:
        config = TrackConfig(uri=uri, alerts=alerts, experiment=changes.pop("experiment", None))
        given = {"params": {"seed": 7}, "tags": {"version.torch": "2"}, "share": 1.0} | changes
        tracker = Tracker(config, folder, "job", say=messages.append, **given)
        tracker.start()
        started.append(tracker)
        return tracker

    yield make
    for tracker in started:
        tracker.close("KILLED", timeout=0.0)


def fill(folder: Path, *steps: int, file: str = "metrics.jsonl", **metrics: float) -> None:
    rows = MetricLog(folder / file, print)
    for step in steps:
        rows.write(step, metrics or {"online/accuracy": step / 10_000}, time=1.7e9 + step)
    rows.close()


# Rows


def test_log_writes_each_step_once_and_finite_values_only(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = MetricLog(file, print)
    assert rows.last == -1
    rows.write(0, {"a": 1, "b": float("nan"), "c": float("inf")}, time=1.5)
    rows.write(1000, {"a": 2.0})
    rows.write(1000, {"a": 3.0})
    rows.write(500, {"a": 4.0})
    rows.close()
    again = MetricLog(file, print)
    assert again.last == 1000
    again.write(1000, {"a": 5.0})
    again.write(1001, {"a": 6.0})
    again.close()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0] == {"step": 0, "time": 1500, "metrics": {"a": 1.0}}
    assert [(x["step"], x["metrics"]["a"]) for x in lines] == [(0, 1), (1000, 2), (1001, 6)]
    assert abs(lines[1]["time"] / 1000 - time.time()) < 60


@pytest.mark.parametrize(
    "left", [b'{"step": 3, "ti', b"\0" * 10, b"\0\0\n\0\n", b"{}\n", b"[\n" * 9]
)
@pytest.mark.parametrize("before", [1, 4000])
def test_log_cuts_off_a_partial_row(tmp_path: Path, left: bytes, before: int) -> None:
    file = tmp_path / "metrics.jsonl"
    fill(tmp_path, *range(before), **{f"m{i}": 0.5 for i in range(10)})
    whole = file.read_bytes()
    assert (len(whole) > 2 * CHUNK) == (before > 1)
    file.write_bytes(whole + left)
    rows = MetricLog(file, print)
    assert rows.last == before - 1
    rows.close()
    assert file.read_bytes() == whole


def test_read_rows_longer_than_a_chunk(tmp_path: Path) -> None:
    many = {f"metric_{i}": 0.123456789 for i in range(CHUNK // 20)}
    fill(tmp_path, 1, 2, **many)
    file = tmp_path / "metrics.jsonl"
    assert file.stat().st_size > 2 * CHUNK
    rows = MetricLog(file, print)
    assert rows.last == 2
    rows.close()
    first, end = read_rows(file, 0, 1000)
    assert [row.step for row in first] == [1]
    assert first[0].metrics == many
    assert [row.step for row in read_rows(file, end, 1000)[0]] == [2]


def test_read_rows_in_parts_returns_whole_rows(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert read_rows(file, 0, 10) == ([], 0)
    assert pending_rows(file, 0) == 0
    fill(tmp_path, *range(10), a=1.0, b=2.0)
    with file.open("ab") as opened:
        opened.write(b'garbage\n{"step": 10, "time": 1, "metrics": {"a"')
    offset, seen = 0, []
    while True:
        rows, end = read_rows(file, offset, 6)
        if end == offset:
            break
        assert len(rows) <= 3
        seen += [row.step for row in rows]
        offset = end
    assert seen == [*range(10)]
    assert pending_rows(file, 0) == 11


def test_log_on_a_full_disk_loses_rows_and_says_so_once(
    tmp_path: Path, messages: list[str]
) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = MetricLog(file, messages.append)
    rows.write(1, {"a": 1.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, limits[1]))
    try:
        rows.write(2, {"a": 1.0})
        rows.write(3, {"a": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    rows.write(4, {"a": 1.0})
    rows.close()
    assert [row.step for row in read_rows(file, 0, 1000)[0]] == [1, 4]
    assert len(messages) == 1
    assert "metrics.jsonl cannot be written" in messages[0]


# What a job may say


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"uri": "mlruns"}, "use|expected"),
        ({"uri": "file:///tmp/mlruns"}, "plain folder"),
        ({"uri": "sqlite://mlflow.db"}, "three slashes"),
        ({"uri": "sqlite:///"}, "three slashes"),
        ({"uri": "http://:5000"}, "expected sqlite"),
        ({"uri": "http://host:port"}, "expected sqlite"),
        ({"uri": "ftp://host"}, "expected sqlite"),
        ({"uri": "sqlite:///a.db", "every_events": 0}, "greater than 0"),
        ({"uri": "sqlite:///a.db", "evry": 1}, "every_events"),
        ({"uri": "sqlite:///a.db", "alerts": [{"metric": "a"}]}, "exactly one"),
        ({"uri": "sqlite:///a.db", "alerts": [{"metric": "a", "above": 1, "below": 0}]}, "one of"),
        (
            {"uri": "sqlite:///a.db", "alerts": [{"metric": "a", "above": 1, "webhook": "x.org"}]},
            "http://",
        ),
    ],
)
def test_track_config_refuses_bad_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrackConfig.model_validate(given)


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///mlflow.db",
        "sqlite:////abs/a.db?timeout=3",
        "http://127.0.0.1:5000",
        "https://h/x",
    ],
)
def test_track_config_accepts_good_settings(uri: str) -> None:
    check(TrackConfig(uri=uri))


def test_check_without_a_database_driver_raises() -> None:
    with pytest.raises(TrackError, match="cannot be used") as found:
        check(TrackConfig(uri="mysql+nosuchdriver://me:secret@host/mlflow"))
    assert "secret" not in str(found.value)


def test_check_without_mlflow_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(pipeline.tracking.mlflow_delivery, "find_spec", lambda name: None)
    with pytest.raises(TrackError, match=r"pip install 'everlearn\[mlflow\]'"):
        Tracker(TrackConfig(uri="sqlite:///a.db"), folder, "job", {}, {}, print)


def test_import_of_delivery_does_not_import_mlflow() -> None:
    code = "import sys, pipeline.tracking.mlflow_delivery; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_describe_is_flat_and_omits_tracking() -> None:
    job = {"seed": 7, "learner": {"model": {"hidden": [1, 2]}, "empty": {}}, "track": {"uri": "x"}}
    expected = {"seed": 7, "learner.model.hidden": [1, 2], "learner.empty": {}}
    assert describe(flat(job)) == expected
    assert describe(flat({**job, "tracks": 1})) == expected | {"tracks": 1}


def test_tags_hold_versions_and_the_commit(tmp_path: Path) -> None:
    assert "version.torch" in tags()
    assert "git_commit" not in tags(tmp_path)

    def git(*words: str) -> str:
        given = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
        done = subprocess.run(given, cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-qm", "a")
    head = git("rev-parse", "HEAD")
    assert tags(tmp_path)["git_commit"] == head
    (tmp_path / "a").write_text("b")
    assert tags(tmp_path)["git_commit"] == f"{head}-dirty"


# A run in a sqlite file


def test_tracker_delivers_a_whole_run(
    uri: str, folder: Path, tmp_path: Path, track: Callable[..., Tracker], messages: list[str]
) -> None:
    params = {"a b": [1, 2], "odd?key": None, "../up": "x", "long": "y" * 7000}
    params |= {f"p{i}": i for i in range(150)}
    tracker = track(uri, params=params, experiment="an experiment")
    run_id = tracker.run_id
    assert run_id
    fill(folder, 1000, 2000)
    fill(folder, 1500, file="served.jsonl", **{"served/accuracy": 0.5})
    (folder / "summary.json").write_text("{}")
    tracker.close("FINISHED", [folder / "summary.json", folder / "missing.html"])
    assert messages == []
    found = client(uri).get_run(run_id)
    assert found.info.run_name == "elec2"
    assert found.info.status == "FINISHED"
    assert found.data.params["a b"] == "[1, 2]"
    assert found.data.params["odd_key"] == "null"
    assert found.data.params["___up"] == "x"
    assert len(found.data.params["long"]) == 6000
    assert found.data.params["p149"] == "149"
    assert found.data.tags["version.torch"] == "2"
    assert history(uri, run_id, "online/accuracy") == [1000, 2000]
    assert history(uri, run_id, "served/accuracy") == [1500]
    first = client(uri).get_metric_history(run_id, "online/accuracy")[0]
    assert (first.value, first.timestamp) == (0.1, 1_700_001_000_000)
    where = tmp_path / "mlruns" / "an experiment" / run_id / "artifacts"
    assert sorted(file.name for file in where.iterdir()) == ["job.yaml", "summary.json"]


def test_tracker_relative_file_is_in_the_current_folder(
    uri: str, folder: Path, track: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = track("sqlite:///mlflow.db")
    monkeypatch.chdir(folder)
    tracker.close("FINISHED")
    assert client(uri).get_run(tracker.run_id).info.status == "FINISHED"
    assert not (folder / "mlflow.db").exists()


def test_tracker_resumed_continues_the_run_and_repeats_no_step(
    uri: str, folder: Path, track: Callable[..., Tracker], messages: list[str]
) -> None:
    fill(folder, 1000, 2000)
    first = track(uri)
    first.close("KILLED")
    with (folder / "metrics.jsonl").open("ab") as opened:
        opened.write(b'{"step": 3000, "time": 17000')  # the writer was killed here
    second = track(uri, params={"seed": 8})  # not logged again: MLflow would refuse another value
    assert second.run_id == first.run_id
    assert client(uri).get_run(second.run_id).info.status == "RUNNING"
    fill(folder, 1000, 2000, 3000)
    second.close("FINISHED")
    assert messages == []
    found = client(uri).get_run(second.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"seed": "7"}
    assert history(uri, second.run_id, "online/accuracy") == [1000, 2000, 3000]


def test_tracker_at_another_mlflow_begins_a_new_run(
    uri: str, folder: Path, tmp_path: Path, track: Callable[..., Tracker], messages: list[str]
) -> None:
    fill(folder, 1000, 2000)
    first = track(uri)
    first.close("FINISHED")
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "other.db")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    second = track(other)
    second.close("FINISHED")
    assert second.run_id != first.run_id
    assert history(other, second.run_id, "online/accuracy") == [1000, 2000]
    assert len(messages) == 1
    assert "a new run begins" in messages[0]


def test_tracker_of_a_cleared_folder_begins_a_new_run(
    uri: str, folder: Path, track: Callable[..., Tracker]
) -> None:
    fill(folder, 1000, 2000)
    first = track(uri)
    first.close("KILLED")
    RunFolder(folder).clear()
    fill(folder, 1000)
    second = track(uri)
    second.close("FINISHED")
    assert second.run_id != first.run_id
    assert history(uri, second.run_id, "online/accuracy") == [1000]


def test_tracker_after_lost_rows_delivers_none_twice(
    uri: str, folder: Path, track: Callable[..., Tracker]
) -> None:
    fill(folder, 1000, 2000)
    whole = (folder / "metrics.jsonl").read_bytes()
    track(uri).close("KILLED")
    (folder / "metrics.jsonl").write_bytes(whole[: len(whole) // 2 + 5])
    rows = MetricLog(folder / "metrics.jsonl", print)
    assert rows.last == 1000
    for step in (2000, 3000):
        rows.write(step, {"online/accuracy": 0.5})  # with the time of today
    rows.close()
    tracker = track(uri)
    tracker.close("FINISHED")
    assert history(uri, tracker.run_id, "online/accuracy") == [1000, 2000, 3000]


def test_trackers_started_at_once_share_an_experiment(tmp_path: Path, messages: list[str]) -> None:
    """In a file that none of them has set up yet."""

    def one(name: str) -> str | None:
        folder = tmp_path / name
        folder.mkdir()
        config = TrackConfig(uri=f"sqlite:///{tmp_path / 'new.db'}", experiment="shared")
        tracker = Tracker(config, folder, "job", {}, {}, messages.append)
        tracker.start()
        tracker.close("FINISHED")
        return tracker.run_id

    load("sqlite:///new.db")
    with ThreadPoolExecutor(4) as pool:
        ids = [*pool.map(one, "abcd")]
    assert messages == []
    place = client(f"sqlite:///{tmp_path / 'new.db'}")
    where = {place.get_run(run_id).info.experiment_id for run_id in ids}
    assert (len(set(ids)), len(where)) == (4, 1)


def test_tracker_finds_a_run_whose_id_was_lost(
    uri: str, folder: Path, track: Callable[..., Tracker]
) -> None:
    first = track(uri)
    first.close("KILLED")
    record = Record.read(folder / "track.json")
    assert record is not None
    record.run_id, record.described = None, False
    record.write(folder / "track.json")
    assert track(uri).run_id == first.run_id


def test_tracker_leaves_out_what_mlflow_refuses(
    uri: str, folder: Path, track: Callable[..., Tracker], messages: list[str]
) -> None:
    fill(folder, 1, 2, **{"online/what?": 0.5})
    with (folder / "metrics.jsonl").open("ab") as opened:
        opened.write(b'no row\n{"step": 3, "time": 5, "metrics": {"b": NaN, "c": 1}}\n')
        opened.write(b'{"step": 1180591620717411303424, "time": 5, "metrics": {"d": 1}}\n')
        opened.write(b'{"step": 5, "time": -5, "metrics": {"d": 1}}\n')
        opened.write(b'{"step": 6, "time": 5, "metrics": {"d": 1}}\n')
    fill(folder, 7, file="served.jsonl", **{"served/a": 0.5})
    tracker = track(uri)
    tracker.close("FINISHED")
    assert history(uri, tracker.run_id, "online/what_") == [1, 2]
    assert history(uri, tracker.run_id, "served/a") == [7]
    assert history(uri, tracker.run_id, "c") == [3]
    assert history(uri, tracker.run_id, "d") == [6]
    assert client(uri).get_run(tracker.run_id).info.status == "FINISHED"
    assert len(messages) == 1
    assert "does not take the metrics of step 5" in messages[0]


def test_tracker_logs_no_passwords(uri: str, folder: Path, track: Callable[..., Tracker]) -> None:
    hook = "http://127.0.0.1:9/secret-token"
    (folder / "job.yaml").write_text(f"track: {{webhook: '{hook}'}}\n")
    tracker = track(uri, alerts=(Alert(metric="a", above=1, webhook=hook),))
    tracker.close("FINISHED")
    found = client(uri)
    where = Path(found.get_run(tracker.run_id).info.artifact_uri.removeprefix("file://"))
    assert (where / "job.yaml").read_text() == "track: {webhook: 'http://127.0.0.1/***'}\n"


def test_tracker_delivers_a_long_backlog(
    uri: str, folder: Path, track: Callable[..., Tracker]
) -> None:
    fill(folder, *range(3000), a=1.0, b=2.0)
    tracker = track(uri)
    tracker.close("FINISHED")
    assert history(uri, tracker.run_id, "b") == [*range(3000)]


def test_tracker_keeps_to_its_share_of_a_core(
    uri: str, folder: Path, track: Callable[..., Tracker]
) -> None:
    """A backlog waits for the end rather than slow down a loop in the same process."""
    fill(folder, *range(20_000), a=1.0)
    tracker = track(uri, share=0.001)

    def delivered() -> int:
        return json.loads((folder / "track.json").read_text())["steps"].get("metrics.jsonl", -1)

    assert 0 <= wait_until(lambda: delivered() + 1) - 1 < 2000
    tracker.close("KILLED", timeout=0.0)
    assert delivered() < 19_999


DIES = """
    import os, signal, sys
    from pathlib import Path
    from pipeline.tracking.mlflow_client import MlflowRun
    from pipeline.tracking.mlflow_delivery import TrackConfig, Tracker

    log, calls = MlflowRun.log, []

    def delivered_but_not_recorded(self, run_id, rows):
        log(self, run_id, rows)
        calls.append(rows)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    MlflowRun.log = delivered_but_not_recorded
    folder = Path(sys.argv[2])
    tracker = Tracker(TrackConfig(uri=sys.argv[1]), folder, "job", {}, {}, print, share=1.0)
    tracker.start()
    tracker.close("FINISHED")
"""


def kill_between_delivery_and_record(uri: str, folder: Path) -> None:
    code = textwrap.dedent(DIES)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, uri, str(folder)], env=environment)
    assert done.returncode == -signal.SIGKILL


def test_tracker_killed_before_its_record_delivers_the_same(
    uri: str, folder: Path, track: Callable[..., Tracker], messages: list[str]
) -> None:
    fill(folder, *range(1300), a=1.0)
    kill_between_delivery_and_record(uri, folder)
    record = Record.read(folder / "track.json")
    assert record is not None
    assert record.run_id
    assert history(uri, record.run_id, "a") == [*range(1300)]
    assert record.steps == {"metrics.jsonl": 999}  # 300 went out and are not recorded
    fill(folder, *range(1300, 1500), a=1.0)
    tracker = track(uri)
    tracker.close("FINISHED")
    assert tracker.run_id == record.run_id
    assert history(uri, record.run_id, "a") == [*range(1500)]
    assert messages == []


# MLflow is not there


def test_tracker_with_a_locked_file_says_so_once_and_retries(
    uri: str, folder: Path, tmp_path: Path, track: Callable[..., Tracker], messages: list[str]
) -> None:
    fill(folder, 1000, 2000)
    lock = sqlite3.connect(tmp_path / "mlflow.db")
    lock.execute("BEGIN EXCLUSIVE")
    tracker = track(uri)
    assert tracker.run_id is None
    assert messages == [
        f"MLflow at {uri} cannot be reached (database is locked): metrics wait in "
        f"{folder}/metrics.jsonl and are delivered when it is back"
    ]
    lock.rollback()
    lock.close()
    wait_until(lambda: len(messages) > 1)
    assert messages[1] == f"MLflow at {uri} is back: 2 rows delivered"
    tracker.close("FINISHED")
    assert history(uri, tracker.run_id, "online/accuracy") == [1000, 2000]


def test_tracker_with_an_impossible_file_says_so(
    folder: Path, tmp_path: Path, track: Callable[..., Tracker], messages: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    fill(folder, 1000, 2000)
    tracker = track(f"sqlite:///{tmp_path}/file/mlflow.db")
    assert len(messages) == 1
    assert "(Not a directory)" in messages[0] or "(File exists)" in messages[0]
    began = time.monotonic()
    tracker.close("FINISHED")
    assert time.monotonic() - began < 10
    assert messages[1:] == [
        f"MLflow at sqlite:///{tmp_path}/file/mlflow.db was not told all: 2 rows of metrics wait "
        f"in {folder}. The same command with --resume delivers what waits"
    ]


def test_tracker_of_a_deleted_run_goes_on_once_restored(
    uri: str, folder: Path, track: Callable[..., Tracker], messages: list[str]
) -> None:
    fill(folder, 1000)
    tracker = track(uri)
    client(uri).delete_run(tracker.run_id)
    fill(folder, 2000)
    wait_until(lambda: messages)
    assert f"the run {tracker.run_id} is deleted: restore it" in messages[0]
    client(uri).restore_run(tracker.run_id)
    wait_until(lambda: len(messages) > 1)
    tracker.close("FINISHED")
    assert len(messages) == 2
    assert "is back" in messages[1]
    assert history(uri, tracker.run_id, "online/accuracy") == [1000, 2000]


def test_tracker_of_a_deleted_experiment_says_so(
    uri: str, track: Callable[..., Tracker], messages: list[str]
) -> None:
    place = client(uri)
    place.delete_experiment(place.create_experiment("gone"))
    assert track(uri, experiment="gone").run_id is None
    assert "the experiment 'gone' is deleted" in messages[0]


def test_tracker_refused_says_so_once_without_the_password(
    folder: Path, track: Callable[..., Tracker], messages: list[str]
) -> None:
    asked = []

    def refuse(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        request.send_response(401)
        request.send_header("Content-Length", "0")
        request.end_headers()

    with receiver(refuse) as address:
        tracker = track(address.replace("//", "//me:hunter2@"))
        wait_until(lambda: len(asked) > 1)
        tracker.close("FINISHED")
    assert "refuses" in messages[0]
    assert "hunter2" not in " ".join(messages)
    assert len(messages) == 2  # and once at the end, that something waits


def test_tracker_of_a_silent_server_delays_nothing(
    folder: Path, track: Callable[..., Tracker], messages: list[str]
) -> None:
    released = threading.Event()
    with receiver(lambda request: released.wait(20) and None) as address:
        began = time.monotonic()
        tracker = track(address)
        assert time.monotonic() - began < 7
        fill(folder, 1000)
        began = time.monotonic()
        tracker.close("FINISHED", timeout=0.5)
        assert time.monotonic() - began < 2
        released.set()
    assert "1 rows of metrics wait" in messages[-1]


# A server


class Server:
    """A real ``mlflow server`` that can be killed and come back."""

    def __init__(self, folder: Path, database: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.folder, self.database = folder, database
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        words += ["--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{self.database}"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                words,
                env=os.environ | quiet,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        wait_until(self._answers, 90)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # it has a worker
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        try:
            with urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def server(database: Path, tmp_path: Path) -> Iterator[Server]:
    shutil.copy(database, tmp_path / "server.db")
    found = Server(tmp_path, tmp_path / "server.db")
    yield found
    found.kill()


def test_tracker_delivers_when_the_server_comes_back(
    server: Server, folder: Path, track: Callable[..., Tracker], messages: list[str]
) -> None:
    uri = server.uri
    fill(folder, *range(100), a=1.0)
    began = time.monotonic()
    track(uri).close("KILLED")
    assert time.monotonic() - began < 10
    away = (
        f"MLflow at {uri} cannot be reached (Connection refused): metrics wait in "
        f"{folder}/metrics.jsonl and are delivered when it is back"
    )
    assert messages[0] == away
    assert "100 rows of metrics wait" in messages[1]
    messages.clear()

    server.start()
    tracker = track(uri)
    fill(folder, *range(200), a=1.0)
    wait_until(lambda: len(history(uri, tracker.run_id or "", "a")) == 200)
    assert messages == []

    server.kill()
    fill(folder, *range(300), a=1.0)
    wait_until(lambda: messages)
    assert messages == [away]
    server.start()
    wait_until(lambda: len(messages) > 1)
    assert messages == [away, f"MLflow at {uri} is back: 100 rows delivered"]
    tracker.close("KILLED")

    fill(folder, *range(2300), a=1.0)
    kill_between_delivery_and_record(uri, folder)
    last = track(uri)
    assert last.run_id == tracker.run_id
    (folder / "summary.json").write_text("{}")
    last.close("FINISHED", [folder / "summary.json"])
    assert history(uri, last.run_id or "", "a") == [*range(2300)]
    found = client(uri)
    assert found.get_run(last.run_id).info.status == "FINISHED"
    names = [file.path for file in found.list_artifacts(last.run_id)]
    assert names == ["job.yaml", "summary.json"]
    assert len(messages) == 2


# Tags of alerts


def test_tracker_sets_the_tags_of_alerts(
    uri: str, folder: Path, track: Callable[..., Tracker]
) -> None:
    """As ``alerts.json`` names them, while it runs and at its end; also in a run elsewhere."""

    def write(**texts: str) -> None:
        names = {f"alert.online/{name}": text for name, text in texts.items()}
        write_atomic(folder / "alerts.json", json.dumps({"tags": names}))

    def found(tracker: Tracker) -> dict[str, str]:
        data = client(uri).get_run(tracker.run_id or "").data.tags
        return {name: text for name, text in data.items() if name.startswith("alert.")}

    write(mae="firing: 0.4")
    tracker = track(uri)
    wait_until(lambda: found(tracker) == {"alert.online/mae": "firing: 0.4"})
    write(mae="resolved at 9 events", kappa="firing: 0.1")
    tracker.close("FINISHED")
    assert found(tracker) == {
        "alert.online/mae": "resolved at 9 events",
        "alert.online/kappa": "firing: 0.1",
    }
