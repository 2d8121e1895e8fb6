"""A recording holds every block that it was given, whatever the disk and the run do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.config import job as jobs
from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob
from pipeline.config.recorded_job import load_recorded_job
from pipeline.storage import recording_writer as recording
from pipeline.storage.offset_journal import Journal
from pipeline.storage.recording_writer import RecordingWriter
from pipeline.training.journaled_source import JournaledSource
from streams.core.batch import Batch, DeadLetter
from streams.core.errors import StreamError
from streams.core.live_stream import LiveStream, Ranges, ranges_of
from streams.core.schema import Feature, Schema
from streams.core.stream import Cursor
from streams.core.stream_config import StreamConfig
from streams.recordings.manifest import RecordingManifest, parts
from streams.recordings.stream import RecordingConfig, RecordingStream


class Counting(LiveStream):
    """Event i of partition 0 holds i; blocks of ``size`` events."""

    kind = "counting"

    def __init__(self, config: StreamConfig | None = None, folder: Path | None = None) -> None:
        self.schema = Schema((Feature("a", "numeric"),), "regression")
        self.asked: list[int] = []
        self.size = 3

    def start(self) -> Cursor:
        return {"0": 0}

    def end(self) -> Cursor:
        raise NotImplementedError

    def read_ranges(self, ranges: Ranges) -> Batch:
        self.asked.append(ranges["0"][0])
        return block(*ranges["0"])

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        at = cursor["0"]
        while True:
            yield replace(block(at, at + self.size), flush=at % 2 == 0)
            at += self.size


def block(start: int, stop: int) -> Batch:
    offset = np.arange(start, stop)
    dead = (DeadLetter(0, start, "bad", 0, 0, b"?"),) if start % 5 == 0 else ()
    if dead:
        offset = offset[1:]
    x = offset[:, None].astype(np.float64)
    partition = np.zeros(len(offset), np.int32)
    return Batch(offset, x[:, 0], x, partition, offset, y=x[:, 0] / 2, dead=dead)


def loaded(folder: Path, **stream: Any) -> LoadedJob:
    settings = {"kind": "kafka", "servers": "h:1", "topic": "t", "features": {"numeric": ["a"]}}
    settings |= {"label": "y", **stream}
    raw = {"name": "n", "stream": settings, "learner": {"kind": "prior"}}
    (folder / "job.yaml").write_text(yaml.safe_dump(raw))
    return jobs.load(folder / "job.yaml")


class Live:
    """A run that learns nothing: a journal, and a recorder."""

    def __init__(self, folder: Path, to: str = "rec", begin: bool = True, **stream: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.job = loaded(folder, **stream)
        self.messages: list[str] = []
        self.stream = Counting()
        self.journal = Journal(folder)
        if begin:
            self.journal.begin(self.stream.start(), None)
        self.recorder = RecordingWriter(folder.parent / to, self.journal.path, self.messages.append)

    def run(self, blocks: int, cursor: Cursor, at: tuple[int, int] | None = None) -> list[Batch]:
        """So many blocks of a run from there on; whatever is written by then is left."""
        try:
            self.recorder.begin(self.job, self.stream, self.journal)
            live = JournaledSource(
                *(self.stream, self.journal, lambda cursor: self.stream.read(cursor, 3)),
                *(lambda: False, self.messages.append, self.recorder),
            )
            given = live.blocks(cursor, at)
            return [next(given) for _ in range(blocks)]
        finally:
            self.recorder.abort()
            self.journal.close()


def recorded_rows(folder: Path) -> list[Any]:
    """Everything in a recording, row by row."""
    return [
        tuple(row[name] for name in ("_block", "_what", "_offset", "a", "label", "_value"))
        for part in parts(folder)
        for row in pq.read_table(part.path).to_pylist()
    ]


def wanted(blocks: int) -> list[Any]:
    rows: list[Any] = []
    for number in range(blocks):
        for i in range(number * 3, number * 3 + 3):
            if i % 15 == 0 or (i % 5 == 0 and i % 3 == 0):
                rows.append((number, "dead", i, None, None, b"?"))
            else:
                rows.append((number, "event", i, float(i), i / 2, None))
        if number % 2 == 0:
            rows.append((number, "end", None, None, None, None))
    return rows


def test_recording_holds_the_blocks_of_the_journal(tmp_path: Path) -> None:
    live = Live(tmp_path / "run")
    live.run(11, {"0": 0})
    assert recorded_rows(tmp_path / "rec") == wanted(11)
    (part,) = parts(tmp_path / "rec")
    assert part.blocks == (0, 11)
    assert part.ranges == {"0": (0, 33)}
    assert part.events == 33
    assert part.latest == 32.0
    read = RecordingStream(RecordingConfig(kind="recording", path="rec"), tmp_path)
    assert read.origin() == {"0": 0}
    assert read.interleaved_partitions
    assert sum(b.events for b in read.read({}, 5)) == len(read) == 33
    assert not list((tmp_path / "rec").glob(".part-*"))


@pytest.mark.parametrize(("limit", "size"), [("PART_ROWS", 7), ("PART_BYTES", 330)])
def test_recording_part_ends_by_rows_and_bytes(
    limit: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A block of three events: three rows or four, 48 bytes each beside what it holds.
    monkeypatch.setattr(recording, limit, size)
    Live(tmp_path / "run").run(12, {"0": 0})
    assert recorded_rows(tmp_path / "rec") == wanted(12)
    found = [part.blocks for part in parts(tmp_path / "rec")]
    assert found == [(i, i + 2) for i in range(0, 12, 2)]


def test_recording_part_ends_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "PART_S", 0.01)
    live = Live(tmp_path / "run")
    live.recorder.begin(live.job, live.stream, live.journal)
    for number in range(3):
        live.recorder.put(
            number, replace(block(number * 3, number * 3 + 3), flush=not number % 2), 0
        )
        deadline = time.monotonic() + 10
        while len(recorded_rows(tmp_path / "rec")) < len(wanted(number + 1)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    live.recorder.abort()
    live.journal.close()
    assert [part.blocks for part in parts(tmp_path / "rec")] == [(0, 1), (1, 2), (2, 3)]
    assert recorded_rows(tmp_path / "rec") == wanted(3)


def test_recording_resumed_reads_missing_blocks_again(tmp_path: Path) -> None:
    Live(tmp_path / "run").run(4, {"0": 0})
    # Seven blocks more, of which nothing was recorded, as if killed.
    lost = Live(tmp_path / "run", to="lost", begin=False)
    lost.run(11, {"0": 0})
    at = lost.journal.position({"0": 27})
    assert at[1] == 9
    # The run is at block 9, the recording at block 4.
    on = Live(tmp_path / "run", begin=False)
    given = on.run(5, {"0": 28}, at)
    assert on.stream.asked == [12, 15, 18, 21, 24, 27, 30]
    assert [b.offset.tolist() for b in given] == [
        *([28, 29], [31, 32], [33, 34, 35], [36, 37, 38], [39, 40, 41])
    ]
    assert recorded_rows(tmp_path / "rec") == wanted(14)
    # The run is at block 2, and the recording has them all.
    on = Live(tmp_path / "run", begin=False)
    entries = on.journal.path.read_bytes().splitlines(keepends=True)
    on.run(13, {"0": 6}, (sum(map(len, entries[:3])), 2))
    assert on.stream.asked == [*range(6, 42, 3)]
    assert recorded_rows(tmp_path / "rec") == wanted(15)


def test_recording_of_a_finished_run_is_completed(tmp_path: Path) -> None:
    Live(tmp_path / "run", to="other").run(6, {"0": 0})
    over = Live(tmp_path / "run", begin=False)
    over.recorder.begin(over.job, over.stream, over.journal)
    live = JournaledSource(over.stream, over.journal, lambda _: [], lambda: False, print)
    live.record_journal(over.recorder)
    over.recorder.close(18, True, {"0": 18})
    over.recorder.abort()
    over.journal.close()
    assert recorded_rows(tmp_path / "rec") == wanted(6)


def test_recording_with_a_full_queue_makes_the_run_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_PENDING_BYTES", 1000)
    monkeypatch.setattr(recording, "PART_ROWS", 1)
    live, going = Live(tmp_path / "run"), threading.Event()
    write = live.recorder._write
    monkeypatch.setattr(live.recorder, "_write", lambda *given: (going.wait(), write(*given)))
    done = threading.Thread(target=lambda: live.run(30, {"0": 0}))
    done.start()
    done.join(0.5)
    assert done.is_alive()
    # A block weighs 168 to 216 bytes: the sixth puts more than 1000 there.
    assert len(live.journal.path.read_bytes().splitlines()) == 1 + 7
    going.set()
    done.join()
    assert live.messages == ["the recording is written more slowly than events come: the run waits"]
    assert recorded_rows(tmp_path / "rec") == wanted(30)


def test_recording_on_a_failing_disk_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PART_ROWS", 1)
    monkeypatch.setattr(recording, "MAX_PENDING_BYTES", 1000)
    live = Live(tmp_path / "run")
    (tmp_path / "rec").mkdir()
    (tmp_path / "rec" / ".part-000000000002.parquet").mkdir()  # nothing can be written there
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(StreamError, match=r"rec: the recording cannot be written: .*directory"):
        live.run(100, {"0": 0})
    with pytest.raises(StreamError, match="cannot be written"):
        live.recorder.close(1, True, {"0": 1})
    assert recorded_rows(tmp_path / "rec") == wanted(2)


def test_recording_end_is_written_and_withdrawn(tmp_path: Path) -> None:
    live, about = Live(tmp_path / "run"), tmp_path / "rec"
    live.recorder.begin(live.job, live.stream, live.journal)
    assert RecordingManifest.read(about).events is None
    live.recorder.put(0, block(0, 3), live.journal.end)
    live.recorder.close(2, False, {"0": 2})
    live.recorder.abort()
    assert (RecordingManifest.read(about).events, RecordingManifest.read(about).finished) == (
        2,
        False,
    )
    assert RecordingManifest.read(about).cursor == {"0": 2}
    on = Live(tmp_path / "run", begin=False)
    on.recorder.begin(on.job, on.stream, on.journal)
    assert RecordingManifest.read(about).events == 2  # nothing has come yet
    list(on.journal.go_on(None))
    on.recorder.put(1, block(3, 6), on.journal.end)
    assert (RecordingManifest.read(about).events, RecordingManifest.read(about).cursor) == (
        None,
        None,
    )
    on.recorder.close(6, True, {"0": 6})
    on.recorder.abort()
    assert (RecordingManifest.read(about).events, RecordingManifest.read(about).finished) == (
        6,
        True,
    )
    live.journal.close()
    on.journal.close()


def refused(live: Live, match: str) -> None:
    with pytest.raises(JobError, match=match):
        live.run(1, {"0": 0})


def test_recording_of_another_run_is_refused(tmp_path: Path) -> None:
    live = Live(tmp_path / "run")
    live.run(3, {"0": 0})
    before = recorded_rows(tmp_path / "rec")
    other = Live(tmp_path / "other")
    other.stream.size = 4
    refused(other, "rec holds the recording of another run: choose another --to")
    # Of the same blocks, by another job.
    changed = Live(tmp_path / "run", begin=False, batch_size=64)
    refused(changed, "of another job:\n  stream.batch_size: 32 in the recording, 64 in the job")
    # And where the journal has lost what was recorded.
    text = live.journal.path.read_bytes().splitlines(keepends=True)
    live.journal.path.write_bytes(b"".join(text[:3]))
    refused(Live(tmp_path / "run", begin=False), "another run")
    assert recorded_rows(tmp_path / "rec") == before


@pytest.mark.parametrize("blocks", [0, 2])
def test_recording_refuses_changed_dead_letter_settings(blocks: int, tmp_path: Path) -> None:
    live = Live(tmp_path / "run", max_bytes=300)
    live.run(blocks, {"0": 0})
    changed = Live(tmp_path / "run", begin=False, max_bytes=400, max_future_seconds=60)
    if not blocks:  # nothing was read yet
        changed.run(1, {"0": 0})
        return
    what = r"max_bytes: 300 in the recording, 400 in the job; stream\.max_future_seconds: 600\.0"
    refused(changed, rf"rec: stream\.{what} in the rec.*Set this back")
    # Nor where no part had been written yet.
    for part in (tmp_path / "rec").glob("part-*"):
        part.unlink()
    refused(Live(tmp_path / "run", begin=False, max_bytes=400), "Set this back")
    again = Live(tmp_path / "run", begin=False, max_bytes=300, linger=5)
    again.run(2, {"0": 0})
    assert recorded_rows(tmp_path / "rec") == wanted(2)


def test_recording_with_former_names_goes_on(tmp_path: Path) -> None:
    """The manifest and the job of a recording of an earlier version have the former key names."""
    live = Live(tmp_path / "run")
    live.run(2, {"0": 0})
    folder = tmp_path / "rec"
    manifest = json.loads((folder / "recording.json").read_text())
    keys = manifest["fingerprint"]
    keys["stream.wait"] = keys.pop("stream.label_timeout_events")
    keys["stream.within"] = keys.pop("stream.label_timeout_seconds")
    manifest["stream"]["wait"] = manifest["stream"].pop("label_timeout_events")
    (folder / "recording.json").write_text(json.dumps(manifest))
    job = yaml.safe_load((folder / "job.yaml").read_text())
    job["stream"]["ahead"] = job["stream"].pop("max_future_seconds")
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    refused(Live(tmp_path / "run", begin=False, max_future_seconds=60), "600.0 in the recording")
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    again = Live(tmp_path / "run", begin=False)
    again.run(3, {"0": 0})
    assert recorded_rows(folder) == wanted(3)
    assert load_recorded_job(folder, "max", None, []).job.stream.label_timeout_events == 100_000
    overridden = load_recorded_job(folder, "max", None, ["stream.wait=9"])
    assert overridden.job.stream.label_timeout_events == 9


def test_recording_into_a_locked_folder_is_refused(tmp_path: Path) -> None:
    live = Live(tmp_path / "run")
    live.recorder.begin(live.job, live.stream, live.journal)
    refused(Live(tmp_path / "other"), "is being recorded into by another run")
    live.recorder.abort()
    live.journal.close()


def test_recording_holds_no_secrets(tmp_path: Path) -> None:
    live = Live(tmp_path / "run", client={"sasl_plain_password": "hush"})
    live.run(1, {"0": 0})
    for file in (tmp_path / "rec").glob("*.*"):
        assert b"hush" not in file.read_bytes()
    assert "'***'" in (tmp_path / "rec" / "job.yaml").read_text()
    general = json.loads((tmp_path / "rec" / "recording.json").read_text())["stream"]
    assert general["batch_size"] == 32
    assert "client" not in general


def test_ranges_of_the_counting_stream() -> None:
    assert ranges_of(block(15, 18)) == {"0": (15, 18)}
    assert [d.offset for d in block(15, 18).dead] == [15]
