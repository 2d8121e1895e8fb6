"""Record a live stream as Parquet beside the training.

Blocks go into a bounded queue; a thread writes them as the parts of a recording
(``streams/recordings/stream.py``). A part counts once it is on the disk under its final name; the
lines of the journal that name its blocks are on the disk before. So a part is never undone: a run
that resumes reads the blocks after the last part again by the journal, and the recording always
equals the journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob, differences
from pipeline.config.yaml_file import read_yaml
from pipeline.storage.offset_journal import Journal
from pipeline.storage.run_folder import FolderLockedError, exclusive_lock, write_atomic
from streams.background_worker import BackgroundWorker
from streams.core.batch import Batch, Ragged
from streams.core.errors import StreamError
from streams.core.live_stream import LiveStream, ranges_of
from streams.core.stream import Cursor, Stream
from streams.core.stream_config import DeadLetters, StreamConfig
from streams.recordings.manifest import MANIFEST, Part, RecordingManifest, parts, path_of
from streams.recordings.table import table_of

PART_ROWS = 65_536
PART_BYTES = 32 << 20
PART_S = 10.0
"""Rows, bytes, and seconds since its first block, after which a part is written."""
DEAD_BY = ("max_bytes", "max_future_seconds")
"""Settings of a stream that decide which messages are dead, but are not in the fingerprint."""
MAX_PENDING_BYTES = 256 << 20
"""Bytes of blocks that may wait to be written; with more, the run waits."""


class _QueuedBlock(NamedTuple):
    number: int
    block: Batch
    journal: int  # bytes of it, up to the block
    rows: int
    bytes: int


class RecordingWriter:
    """Write the blocks of one run into a folder.

    Args:
        folder: of the recording.
        journal: the file of the journal.
        say: takes lines for a person.

    Attributes:
        wanted: byte in the journal and number of the first block that the recording lacks; None
            where it lacks all.
    """

    def __init__(self, folder: Path, journal: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.journal = journal
        self.say = say
        self.wanted: tuple[int, int] | None = None
        self._about: RecordingManifest | None = None
        self._next = 0  # number of the block that comes next
        self._hash = hashlib.sha256()  # of the journal, up to the last part
        self._hashed = 0
        self._lock: FileLock | None = None
        self._worker = BackgroundWorker(
            "recorder", self._write_next, finish=self._write_rest, on_error=self._fail
        )
        self._changed = threading.Condition()
        self._waiting: deque[_QueuedBlock] = deque()
        self._rows = self._bytes = 0  # of those
        self._pending_bytes = 0  # in the queue, or being written
        self._since = 0.0  # when the first of those came that wait
        self._closing = False
        self._error: Exception | None = None
        self._reported = False

    def begin(
        self, loaded: LoadedJob, stream: Stream, journal: Journal, warm_from: str | None = None
    ) -> None:
        """Go on with the recording in the folder, or begin one.

        Args:
            loaded: the job.
            stream: its stream.
            journal: the journal of the run.
            warm_from: the checkpoint of another run that the run was begun with.

        Raises:
            JobError: the stream is not live, or the folder has the recording of another run.
        """
        if not isinstance(stream, LiveStream):
            raise JobError(
                f"{loaded.file}: record: stream.kind {loaded.job.stream.kind!r} is no live stream: "
                "what it reads is a recording already"
            )
        self._acquire()
        about = _about(loaded, stream, journal.head(), warm_from)
        try:
            there = parts(self.folder)
            if there:
                self._continue_after(there[-1], RecordingManifest.read(self.folder), about, loaded)
        except StreamError as error:
            raise JobError(str(error)) from None
        if there or self._begun():
            self._check_dead_letter_settings(loaded)
        for path in self.folder.glob(".part-*"):
            path.unlink()
        (self.folder / "job.yaml").write_text(loaded.text())
        self._about = self._about or about
        self._write_manifest()
        self._worker.start()

    def _acquire(self) -> None:
        """Lock the folder until ``abort``. Raise ``FolderLockedError``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = exclusive_lock(self.folder / ".lock")
        try:
            self._lock.acquire()
        except Timeout:
            raise FolderLockedError(
                f"{self.folder} is being recorded into by another run: choose another --to"
            ) from None

    def _continue_after(
        self, last: Part, there: RecordingManifest, about: RecordingManifest, loaded: LoadedJob
    ) -> None:
        """Go on after the last part. Raise ``JobError`` where it is not of this run."""
        end, digest = last.journal
        with self.journal.open("rb") as file:
            self._hash.update(file.read(end))
        if self._hash.hexdigest() != digest:
            raise JobError(
                f"{self.folder} holds the recording of another run: choose another --to, or go on "
                "with that run (its --run-dir, and --resume)"
            )
        changed = differences(there.fingerprint, about.fingerprint)
        if changed:
            lines = "\n  ".join(changed).replace("in the checkpoint", "in the recording")
            raise JobError(
                f"{loaded.file}: {self.folder} holds the recording of another job:\n  {lines}\n"
                "Set these back, or choose another --to"
            )
        self._about = there
        self._hashed, self._next = end, last.blocks[1]
        self.wanted = (end, self._next)

    def _begun(self) -> bool:
        """Return whether the run has read anything."""
        with self.journal.open("rb") as file:
            file.readline()
            return bool(file.readline())

    def _check_dead_letter_settings(self, loaded: LoadedJob) -> None:
        """Raise ``JobError`` where a setting that decides which messages are dead has changed: the
        blocks read again would not be those that the run has learned."""
        file = self.folder / "job.yaml"
        if not file.exists():
            return
        old = loaded.stream.Config.with_current_names(read_yaml(file)["stream"])
        new = loaded.values()
        changed = [
            f"stream.{name}: {old[name]} in the recording, {new[f'stream.{name}']} in the job"
            for name in DEAD_BY
            if name in old and old[name] != new.get(f"stream.{name}")
        ]
        if changed:
            raise JobError(
                f"{loaded.file}: {self.folder}: {'; '.join(changed)}: what is read again for the "
                "recording would not be what the run has learned. Set this back; or start another "
                "run, recorded into another folder (--run-dir, --to)"
            )

    def put(self, number: int, block: Batch, journal: int) -> None:
        """Add the next block; skip one that the recording has. Wait while the queue is full.

        Args:
            number: of the block.
            block: the block.
            journal: bytes of the journal up to the block.

        Raises:
            StreamError: the recording cannot be written.
        """
        if number < self._next:
            return
        assert number == self._next, "blocks come in the order of the journal"
        self._next += 1
        self._withdraw_end()
        rows, size = _rows(block), _bytes(block)
        with self._changed:
            if self._pending_bytes > MAX_PENDING_BYTES and not self._reported:
                self._reported = True
                self.say("the recording is written more slowly than events come: the run waits")
            self._changed.wait_for(lambda: self._pending_bytes <= MAX_PENDING_BYTES or self._error)
            self._check()
            alone = not self._waiting
            if alone:
                self._since = time.monotonic()
            self._waiting.append(_QueuedBlock(number, block, journal, rows, size))
            self._pending_bytes += size
            self._rows, self._bytes = self._rows + rows, self._bytes + size
            if alone or self._full:
                self._changed.notify_all()

    def close(self, events: int, finished: bool, cursor: Cursor) -> None:
        """Write what waits, and note how the run has ended. Raise ``StreamError``.

        Args:
            events: events in all.
            finished: whether the stream has ended.
            cursor: where the run stands.
        """
        self._stop()
        self._check()
        assert self._about is not None
        ended = {"events": events, "cursor": cursor, "finished": finished}
        self._about = self._about.model_copy(update=ended)
        self._write_manifest()

    def abort(self) -> None:
        """Write what waits, if that is possible, and release the folder."""
        self._stop()
        if self._lock is not None:
            self._lock.release()

    def _withdraw_end(self) -> None:
        """Withdraw what ``close`` noted of the end of the run."""
        assert self._about is not None
        if self._about.events is not None:
            on = {"events": None, "cursor": None, "finished": False}
            self._about = self._about.model_copy(update=on)
            self._write_manifest()

    def _stop(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._worker.close()

    def _check(self) -> None:
        if self._error is not None:
            raise StreamError(f"{self.folder}: the recording cannot be written: {self._error}")

    def _write_manifest(self) -> None:
        assert self._about is not None
        write_atomic(self.folder / MANIFEST, self._about.to_json())

    def _write_next(self) -> None:
        """Wait until a part is due, and write it."""
        taken = self._take()
        if taken:
            self._write(taken)
            with self._changed:
                self._pending_bytes -= sum(one.bytes for one in taken)
                self._changed.notify_all()

    def _write_rest(self) -> None:
        while self._waiting:
            self._write_next()

    def _fail(self, error: Exception) -> None:
        """Keep the error, which ``put`` and ``close`` raise in the run's thread."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _take(self) -> list[_QueuedBlock]:
        """Wait until a part is due, and take its blocks off the queue; none at the end."""
        with self._changed:
            while not (self._closing or self._full):
                left = self._since + PART_S - time.monotonic() if self._waiting else None
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            taken: list[_QueuedBlock] = []
            rows = size = 0
            while self._waiting and rows < PART_ROWS and size < PART_BYTES:
                one = self._waiting.popleft()
                taken.append(one)
                rows, size = rows + one.rows, size + one.bytes
            self._rows, self._bytes = self._rows - rows, self._bytes - size
            self._since = time.monotonic()
            return taken

    @property
    def _full(self) -> bool:
        """Whether the queue holds enough for a part."""
        return self._rows >= PART_ROWS or self._bytes >= PART_BYTES

    def _write(self, taken: list[_QueuedBlock]) -> None:
        assert self._about is not None
        schema = self._about.schema_
        first, blocks = taken[0].number, [one.block for one in taken]
        table = table_of(first, blocks, schema)
        ranges: dict[str, tuple[int, int]] = {}
        for block in blocks:
            for name, (low, high) in ranges_of(block).items():
                ranges[name] = (min(ranges.get(name, (low, 0))[0], low), high)
        part = Part(
            path_of(self.folder, first),
            (first, first + len(blocks)),
            ranges,
            sum(block.events for block in blocks),
            max((float(np.max(block.time)) for block in blocks if len(block)), default=-np.inf),
            blocks[0].y is not None,
            self._journal_up_to(taken[-1].journal),
        )
        # Measurements seldom repeat: a dictionary of them costs time, and gains nothing.
        coded = [f.name for f in table.schema if not pa.types.is_floating(f.type)]
        write = partial(
            pq.write_table, part.with_footer(table), compression="zstd", use_dictionary=coded
        )
        write_atomic(part.path, write, fsync=True)

    def _journal_up_to(self, end: int) -> tuple[int, str]:
        """Flush the journal to the disk; return the bytes up to ``end`` and their digest."""
        with self.journal.open("rb") as file:
            os.fsync(file.fileno())
            file.seek(self._hashed)
            self._hash.update(file.read(end - self._hashed))
        self._hashed = end
        return end, self._hash.hexdigest()


def _about(
    loaded: LoadedJob, stream: Stream, start: dict[str, int], warm_from: str | None
) -> RecordingManifest:
    schema = stream.schema
    general = loaded.job.stream.model_dump(
        mode="json", include=set(StreamConfig.model_fields) - {"kind"}
    )
    general["dead_letters"] = {
        name: general["dead_letters"][name] for name in DeadLetters.model_fields
    }
    return RecordingManifest(
        features=tuple(
            (f.name, f.kind, f.shape, f.missing, f.unit, f.zone)
            if f.zone
            else (f.name, f.kind, f.shape, f.missing)
            for f in schema.features
        ),
        task=schema.task,
        classes=schema.classes,
        has_ids=stream.has_ids,
        has_time=stream.has_time,
        has_arrivals=stream.has_arrivals,
        gapless=stream.gapless,
        interleaved_partitions=stream.interleaved_partitions,
        id_type=stream.id_type,
        dtype=stream.dtype,
        start=start,
        fingerprint=json.loads(json.dumps(loaded.fingerprint())),
        stream=general,
        module_folder=str(loaded.folder),
        warm_from=warm_from,
    )


def _rows(block: Batch) -> int:
    labels = 0 if block.arrivals is None else len(block.arrivals)
    tombstones = 0 if block.tombstones is None else len(block.tombstones)
    return len(block) + labels + len(block.dead) + tombstones + block.flush


def _bytes(block: Batch) -> int:
    x = block.x
    columns = [x] if isinstance(x, np.ndarray) else list(x.values())
    features = sum(
        int(c.bounds[-1] - c.bounds[0]) + 8 * len(c) if isinstance(c, Ragged) else c.nbytes
        for c in columns
    )
    return features + 48 * _rows(block) + sum(len(d.value or b"") for d in block.dead)
