"""Files that change between the runs of a job, and while it runs."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from streams.core.batch import Batch
from streams.recordings.manifest import path_of
from tests.support.recordings import write_part, write_recording

Everlearn = Callable[..., Any]
WriteJob = Callable[..., Path]
Summary = Callable[[Path], dict[str, Any]]
EXACT = ("state_digest", "fates", "cursor", "events")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(first: int, stop: int) -> list[str]:
    return [
        f"{i},{i * 7919 % 13},{i % 5},{'yes' if i * 7919 % 13 > 6 else 'no'}\n"
        for i in range(first, stop)
    ]


def write(path: str, rows: list[str]) -> None:
    """Writes a file as CSV, packed or not, or as Parquet."""
    file = Path(path)
    file.parent.mkdir(exist_ok=True)
    text = "i,a,b,y\n" + "".join(rows)
    if path.endswith(".gz"):
        file.write_bytes(gzip.compress(text.encode()))
    elif path.endswith(".csv"):
        file.write_text(text)
    else:
        cells = list(zip(*(row.rstrip().split(",") for row in rows), strict=True))
        columns = {"i": pa.array(map(int, cells[0])), "a": pa.array(map(float, cells[1]))}
        pq.write_table(
            pa.table(columns | {"b": pa.array(map(float, cells[2])), "y": cells[3]}), file
        )


@pytest.fixture
def job(write_job: WriteJob) -> Callable[..., Path]:
    def make(path: str, delay: int = 10, **stream: Any) -> Path:
        return write_job(
            stream={
                "path": path,
                "label": "y",
                "time": None,
                "features": ["a", "b"],
                "id": "i",
                "label_delay": {"events": delay},
                **stream,
            },
            checkpoint={"every_events": 100},
        )

    return make


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert [one[name] for name in EXACT] == [other[name] for name in EXACT]


@pytest.mark.parametrize("name", ["d.csv", "d.csv.gz", "d.parquet"])
def test_rows_appended_to_a_finished_file_are_learned(
    job: Callable[..., Path], everlearn: Everlearn, summary: Summary, name: str
) -> None:
    """As a run over the longer file that never ended in between, though labels were awaited."""
    write("whole/" + name, lines(0, 333))
    everlearn("run", job("whole/" + name), "--run-dir", "whole-run")
    write(name, lines(0, 200))
    file = job(name)
    everlearn("run", file, "--run-dir", "r")
    assert summary(Path("r"))["events"] == sum(summary(Path("r"))["fates"].values()) == 200
    before = summary(Path("r"))
    done = everlearn("run", file, "--run-dir", "r", "--resume")
    assert "has nothing new" in done.err
    assert summary(Path("r")) == before
    for stop in (217, 218, 333):
        write(name, lines(0, stop))
        everlearn("run", file, "--run-dir", "r", "--resume")
        assert summary(Path("r"))["events"] == stop
    same(summary(Path("r")), summary(Path("whole-run")))


def test_new_parts_of_a_folder_are_learned(
    job: Callable[..., Path], everlearn: Everlearn, summary: Summary
) -> None:
    file = job("parts")
    for part in (9, 10):
        write(f"parts/day-{part}.csv", lines(100 * part, 100 * part + 100))
    everlearn("run", file, "--run-dir", "r")
    for part in (11, 100):
        write(f"parts/day-{part}.csv", lines(100 * part, 100 * part + 100))
    everlearn("run", file, "--run-dir", "r", "--resume")
    everlearn("run", file, "--run-dir", "whole")
    same(summary(Path("r")), summary(Path("whole")))
    assert summary(Path("r"))["cursor"] == dict.fromkeys("0123", 100)


CHANGES: dict[str, Callable[[list[str]], list[str]]] = {
    "another value": lambda rows: [*rows[:40], rows[40].replace(",0,", ",1,"), *rows[41:]],
    "two rows changed places": lambda rows: [*rows[:7], rows[8], rows[7], *rows[9:]],
    "a row more at the front": lambda rows: [*lines(-1, 0), *rows],
    "the last row that was read": lambda rows: [*rows[:149], "149,0,0,no\n", *rows[150:]],
    "cut": lambda rows: rows[:100],
}


@pytest.mark.parametrize("name", ["d.csv", "d.parquet"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_changed_before_the_cursor_is_refused(
    job: Callable[..., Path], everlearn: Everlearn, summary: Summary, name: str, change: str
) -> None:
    write(name, lines(0, 300))
    file = job(name)
    everlearn("run", file, "--run-dir", "r", "--max-events", 150)
    before = summary(Path("r"))
    changed = CHANGES[change](lines(0, 300))
    assert changed != lines(0, 300)
    write(name, changed)
    done = everlearn("run", file, "--run-dir", "r", "--resume", code=2)
    (line,) = [line for line in done.err.splitlines() if name in line and "restore it" in line]
    assert "150" in line
    assert "--run-dir" in line
    write(name, [*lines(0, 150), *lines(900, 950)])  # restored; what comes after may be anything
    everlearn("run", file, "--run-dir", "r", "--resume")
    assert summary(Path("r"))["events"] == 200
    assert before["events"] == 150


def test_a_part_between_parts_that_were_read_is_refused(
    job: Callable[..., Path], everlearn: Everlearn
) -> None:
    file = job("parts")
    for part in (1, 3):
        write(f"parts/day-{part}.csv", lines(100 * part, 100 * part + 100))
    everlearn("run", file, "--run-dir", "r", "--max-events", 150)
    write("parts/day-2.csv", lines(200, 300))
    done = everlearn("run", file, "--run-dir", "r", "--resume", code=2)
    assert "day-2.csv is new, and comes before day-3.csv, which was read already" in done.err
    Path("parts/day-2.csv").unlink()
    Path("parts/day-1.csv").rename("day-1.csv")
    done = everlearn("run", file, "--run-dir", "r", "--resume", code=2)
    assert "day-1.csv, which was read, is gone" in done.err


def test_a_folder_may_be_moved(
    job: Callable[..., Path], everlearn: Everlearn, summary: Summary
) -> None:
    write("here/1.csv", lines(0, 100))
    write("here/2.csv", lines(100, 300))
    everlearn("run", job("here"), "--run-dir", "whole")
    everlearn("run", job("here"), "--run-dir", "r", "--max-events", 150)
    Path("here").rename("there")
    everlearn("run", job("there"), "--run-dir", "r", "--resume")
    same(summary(Path("r")), summary(Path("whole")))


def without_fingerprints(checkpoints: Path) -> None:
    """Makes the newest checkpoint one of before fingerprints were kept."""
    (newest,) = sorted(checkpoints.iterdir())[-1:]
    manifest = json.loads((newest / "manifest.json").read_text())
    for key in ("seal", "identity", "resume"):
        manifest.pop(key, None)
    seal = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (newest / "manifest.json").write_text(json.dumps(manifest | {"seal": seal}))


def test_a_checkpoint_without_fingerprints_is_read(
    job: Callable[..., Path], everlearn: Everlearn, summary: Summary
) -> None:
    write("d.csv", lines(0, 300))
    file = job("d.csv")
    everlearn("run", file, "--run-dir", "r", "--max-events", 160)
    without_fingerprints(Path("r/checkpoints"))
    done = everlearn("run", file, "--run-dir", "r", "--resume")
    assert "the checkpoint is of before fingerprints were kept" in done.err
    assert summary(Path("r"))["events"] == 300


@pytest.mark.parametrize(("parts", "code"), [((8, 9), 0), ((9, 10), 2)])
def test_a_run_in_another_order_of_files_is_refused(
    job: Callable[..., Path], everlearn: Everlearn, parts: tuple[int, int], code: int
) -> None:
    for part in parts:
        write(f"parts/{part}.csv", lines(100 * part, 100 * part + 100))
    everlearn("run", job("parts"), "--run-dir", "r", "--max-events", 160)
    without_fingerprints(Path("r/checkpoints"))
    done = everlearn("run", job("parts"), "--run-dir", "r", "--resume", code=code)
    assert ("in the order of their text" in done.err) is (code == 2)


def start(file: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline", "run", str(file), "--run-dir", "r", *more]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        command, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip


def after_a_checkpoint(process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not list(Path("r/checkpoints").glob("0*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_file_changed_under_a_killed_run_is_refused(
    job: Callable[..., Path], everlearn: Everlearn, summary: Summary
) -> None:
    write("d.csv", lines(0, 3000))
    file = job("d.csv")
    everlearn("run", file, "--run-dir", "whole")
    process = start(file, "--rate", "1000")
    try:
        after_a_checkpoint(process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    rows = lines(0, 3000)
    rows[50] = rows[50].replace("no", "yes") if "no" in rows[50] else rows[50].replace("yes", "no")
    write("d.csv", rows)
    done = everlearn("run", file, "--run-dir", "r", "--resume", code=2)
    assert "has changed before row" in done.err
    write("d.csv", lines(0, 3000))
    everlearn("run", file, "--run-dir", "r", "--resume")
    same(summary(Path("r")), summary(Path("whole")))


@pytest.mark.parametrize(
    "how", ["replaced", *(pytest.param(h, marks=pytest.mark.soak) for h in ("rewritten", "cut"))]
)
def test_a_file_changed_under_a_run_stops_it(job: Callable[..., Path], how: str) -> None:
    write("d.csv", lines(0, 3000))
    process = start(job("d.csv"), "--rate", "1500")
    try:
        after_a_checkpoint(process)
        rows = [row.replace("no", "yes") for row in lines(0, 3000)]
        if how == "replaced":
            write("other.csv", rows)
            Path("other.csv").rename("d.csv")
        else:
            write("d.csv", rows if how == "rewritten" else lines(0, 60))
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(30)
    assert process.returncode == 1, err
    line = err.strip().splitlines()[-1]
    assert "while it was read" in line
    assert "d.csv" in line
    assert "is kept" in line


def block(first: int) -> Batch:
    """100 events from this one on, with labels."""
    offset = np.arange(first, first + 100, dtype=np.int64)
    x = np.stack([offset * 7919 % 13, offset % 5], axis=1).astype(np.float32)
    y = (x[:, 0] > 6).astype(np.int64)
    partition = np.zeros(100, np.int32)
    return Batch(offset, offset.astype(float), x, partition, offset, y=y, classes=(0, 1))


@pytest.fixture
def recording() -> Path:
    """A recording of 600 events in three parts."""
    folder = Path("rec")
    write_recording(folder, [block(first) for first in range(0, 600, 100)], [2], in_rows=True)
    job = {"name": "live", "stream": {}, "learner": {"kind": "prior"}}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder


@pytest.mark.parametrize("runner", ["local", pytest.param("ray", marks=pytest.mark.soak)])
def test_recording_changed_before_the_cursor_is_refused(
    recording: Path, everlearn: Everlearn, summary: Summary, runner: str
) -> None:
    to = ("--runner", runner, "--run-dir")
    everlearn("replay", recording, *to, "whole")
    everlearn("replay", recording, *to, "run", "--max-events", "320")
    part = path_of(recording, 0)
    whole = part.read_bytes()
    pq.write_table(pq.read_table(part), part, compression="zstd")
    refused = everlearn("replay", recording, *to, "run", "--resume", code=2)
    assert f"{part.name}, which this run has read, has changed: restore it" in refused.line
    assert summary(Path("run"))["events"] == 320
    part.write_bytes(whole)
    recording.rename("moved")
    everlearn("replay", "moved", *to, "run", "--resume")
    same(summary(Path("run")), summary(Path("whole")))


def test_recording_that_grows_is_replayed_on(
    recording: Path, everlearn: Everlearn, summary: Summary
) -> None:
    replay = ("replay", recording, "--run-dir", "run", "--resume-if-begun")
    everlearn(*replay)
    write_part(recording, 6, [block(600)], in_rows=True)
    everlearn(*replay)
    assert summary(Path("run"))["events"] == 700
    path_of(recording, 6).unlink()
    refused = everlearn(*replay, code=2)
    assert "part-000000000006.parquet, which this run has read, is gone" in refused.line
    write_part(recording, 6, [block(600)], in_rows=True)
    without_fingerprints(Path("run/checkpoints"))
    done = everlearn(*replay)
    assert "the checkpoint is of before fingerprints were kept" in done.err
