"""The blocks of a live stream, each in the journal before it is learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from pipeline.storage.offset_journal import Entry, Journal
from pipeline.storage.recording_writer import RecordingWriter
from pipeline.training.event_fates import Ledger
from pipeline.training.event_source import (
    Cut,
    EventSource,
    ReadBlocks,
    RunStoppedError,
    SourceState,
)
from streams.core.batch import Batch, ReadMark
from streams.core.errors import StreamChangedError
from streams.core.live_stream import (
    BrokerUnavailableError,
    Identity,
    LiveStream,
    Ranges,
    another_record_error,
    check_topic_ids,
    ranges_of,
    reached,
    skip_before,
    truncate_at,
)
from streams.core.stream import Cursor

T = TypeVar("T")

RETRY_S = 0.5
CHECKPOINT_S = 60.0
"""Seconds after which a checkpoint of a live run is due however few events came: of a slow stream,
too, little is read again after a crash."""


class OutOfStepError(Exception):
    """A block is not the next one: the reader must start again from the cursor."""


class JournaledSource(EventSource):
    """A live stream, read from where the run stands.

    First come the blocks that the journal names and the run has not learned, read again; then new
    ones. Each new block is in the journal before it is returned.

    Args:
        stream: the stream.
        journal: the journal of the run.
        read: reads new blocks from a cursor on.
        stopping: returns whether the run is to stop.
        say: takes lines for a person.
        recorder: takes every block, first those that it lacks.
        cut: cuts blocks into micro-batches.
    """

    checkpoint_s = CHECKPOINT_S

    def __init__(
        self,
        stream: LiveStream,
        journal: Journal,
        read: ReadBlocks,
        stopping: Callable[[], bool],
        say: Callable[[str], None],
        recorder: RecordingWriter | None = None,
        cut: Cut = iter,
    ) -> None:
        self.stream = stream
        self.journal = journal
        self.read = read
        self.stopping = stopping
        self.say = say
        self.recorder = recorder
        self._cut = cut
        self._checkpointed: tuple[int, int] | None = None  # block that the checkpoint names
        self._topics: dict[str, str] = {}  # ids of the topics of the run
        self._marks: dict[str, ReadMark] = {}  # how far each partition was read
        self._resumes = False  # whether an earlier process has read some of it
        self._stop_kept: Cursor | None = None  # where the run was to end, by the checkpoint
        self._ended_at: Cursor | None = None  # where it ended, if it goes on from there

    def begin(self, fingerprint: dict[str, Any]) -> Cursor:
        """Begin at the stream's start; or, where a killed run left a journal, at the journal's."""
        self._resumes = self.journal.begun
        if not self._resumes:
            stop = self.stream.stop() if self.stream.bounded else None
            start = self.stream.start()
            topics, schemas = self.stream.topic_ids(), self.stream.find_schema_ids(start)
            self.journal.begin(start, stop, fingerprint, topics, schemas)
        cursor = self.journal.head()
        self.stream.use_schema_ids(self.journal.schemas)
        self.fingerprint = self.journal.fingerprint or None
        self._topics = self.journal.topics
        return cursor

    def resume(self, position: SourceState) -> None:
        offset, number = position["journal"]
        self._checkpointed, self._resumes = (offset, number), True
        self._topics = position.get("topics", {})
        self.stream.use_schema_ids(position.get("schemas", {}))
        marks = position.get("marks", {})
        self._marks = {name: ReadMark(*mark) for name, mark in marks.items()}
        self._stop_kept = position.get("stop")

    def verify(self, positions: Sequence[SourceState], cursor: Cursor) -> None:
        pass

    def holds(self, cursor: Cursor) -> bool:
        try:
            self._verify(cursor)
        except StreamChangedError:
            return False
        return True

    def has_more(self, cursor: Cursor) -> bool:
        ended = self.stream.bounded and reached(cursor, self._retry(self.stream.stop))
        if ended and self.holds(cursor):
            return False
        self._ended_at = cursor  # in a stream that was made anew, the reading says so
        return True

    def batches(self, cursor: Cursor) -> Iterator[Batch]:
        return self._cut(self.blocks(cursor, self._checkpointed))

    def position(self, cursor: Cursor) -> SourceState:
        self._check_topics()
        position = {
            "journal": self.journal.position(cursor),
            "stop": self.journal.stop,
            "topics": self._topics,
            "schemas": self.stream.schema_ids,
            "marks": {name: list(mark) for name, mark in self._marks.items()},
        }
        self.journal.sync()
        return position

    def catch_up(self, ledger: Ledger, finished: bool) -> None:
        if self.recorder is not None:
            with suppress(RunStoppedError):
                self.record_journal(self.recorder)
                self.end(ledger, finished)

    def end(self, ledger: Ledger, finished: bool) -> None:
        if self.recorder is not None:
            self.recorder.close(ledger.events, finished, ledger.cursor())

    def blocks(self, cursor: Cursor, at: tuple[int, int] | None) -> Iterator[Batch]:
        """Read the blocks from ``cursor`` on, up to where the journal says that the run ends.

        Args:
            cursor: where the run stands; inside the block at ``at``.
            at: position of that block in the journal; None: the first.

        Raises:
            RunStoppedError: the run was asked to stop while it waited for a block.
            StreamChangedError: the stream is another one, or no longer holds what comes next.
        """
        learned, cursor = cursor, dict(cursor)
        first_offsets = self._verify(cursor) if self._resumes else {}
        first = at
        if at is not None and self.recorder is not None:
            first = min(at, self.recorder.wanted) if self.recorder.wanted else None
        for entry in self.journal.go_on(first, self._stop_kept):
            number, ranges = entry.number, entry.ranges
            is_new = at is None or number >= at[1]
            if is_new and self._lacks_learned(entry, first_offsets):
                block = self._read_rest(entry, learned)
            else:
                block = self._read_again(entry)
                self._record(number, block)
            if is_new:
                cursor |= _after(ranges)
                yield skip_before(block, learned)
        stop = self._stop()
        while stop is None or not reached(cursor, stop):
            try:
                for block in self._new(cursor, stop):
                    yield block
                    if stop is not None and reached(cursor, stop):
                        return
            except OutOfStepError:
                continue

    def record_journal(self, recorder: RecordingWriter) -> None:
        """Let the recorder take all blocks that the journal names. Raise ``RunStoppedError``."""
        for entry in self.journal.go_on(recorder.wanted):
            recorder.put(entry.number, self._read_again(entry), self.journal.end)

    def _stop(self) -> Cursor | None:
        """Return where the run ends: as the journal says, else at the stream's end now. A run that
        had ended there already goes on to the end now, and the journal says so."""
        if not self.stream.bounded:
            return None
        stop = self.journal.stop
        if stop and self._ended_at is not None and reached(self._ended_at, stop):
            self.journal.extend(self._retry(self.stream.stop))
        return self.journal.stop or self._retry(self.stream.stop)

    def _new(self, cursor: Cursor, stop: Cursor | None) -> Iterator[Batch]:
        """Read new blocks; move the cursor past each."""
        for block in self.read(dict(cursor)):
            if self.stopping():
                raise RunStoppedError
            marks, whole = block.marks, block
            self._marks |= {} if marks is None else marks.last
            ranges = ranges_of(block)
            if stop is not None:
                block = truncate_at(block, stop)
                ranges = ranges_of(block)
            if not ranges and not block.flush:
                continue
            for name, (first, _) in ranges.items():
                if first < cursor.get(name, first):  # another reader has returned it already
                    raise OutOfStepError
            if block is not whole and block.read_at is not None:
                # What is cut off may have confirmed the times before it.
                block = self._read_again(Entry(-1, ranges, block.flush, block.read_at))
            self._record(self.journal.write(ranges, block.flush, block.read_at, marks), block)
            cursor |= _after(ranges)
            yield block

    def _record(self, number: int, block: Batch) -> None:
        if self.recorder is not None:
            self.recorder.put(number, block, self.journal.end)

    def _verify(self, cursor: Cursor) -> Cursor:
        """Check that the stream is the one that the run has read; return its first offsets."""
        known = Identity(self._topics, self._marks)
        first = self._retry(partial(self.stream.verify, known, cursor))
        if not self._topics:  # the run was begun by a version that kept none
            self._topics = self._retry(self.stream.topic_ids)
        return first

    def _check_topics(self) -> None:
        """Raise ``StreamChangedError`` if a topic was made anew: its events are not to be saved."""
        with suppress(BrokerUnavailableError):
            check_topic_ids(self._topics, self.stream.topic_ids())

    def _lacks_learned(self, entry: Entry, first_offsets: Cursor) -> bool:
        """Whether the first records of a block, which the run has learned, were deleted."""
        return any(first < first_offsets.get(name, 0) for name, (first, _) in entry.ranges.items())

    def _read_rest(self, entry: Entry, learned: Cursor) -> Batch:
        """Read again what of a block is not learned. Raise ``StreamChangedError``."""
        if self.recorder is not None:
            raise StreamChangedError(
                f"the recording lacks block {entry.number} of the journal, and some of its records "
                "were deleted: go on with everlearn run, which records nothing"
            )
        if len(entry.ranges) > 1 and not entry.ordered:
            places = ", ".join(f"{name}: {first}" for name, (first, _) in entry.ranges.items())
            raise StreamChangedError(
                f"block {entry.number} of the journal cannot be read again in its order: its first "
                f"records ({places}) were deleted, and their timestamps were not in order"
            )
        ranges = {
            name: (max(first, learned.get(name, first)), after)
            for name, (first, after) in entry.ranges.items()
            if learned.get(name, first) < after
        }
        return self._read_again(entry._replace(ranges=ranges))

    def _place(self, name: str) -> str:
        """Return the name of a partition of the stream for a person."""
        label = name.startswith("labels/")
        return self.stream.place_name(int(name.removeprefix("labels/")), label)

    def _read_again(self, entry: Entry) -> Batch:
        """Read a block again, and check that it is the same. Raise ``StreamChangedError``."""
        at = () if entry.read_at is None else (entry.read_at,)
        block = self._retry(partial(self.stream.read_ranges, entry.ranges, *at))
        marks = {} if block.marks is None else block.marks.last
        for name, mark in marks.items():
            is_same_offset = mark.offset + 1 == entry.ranges[name][1]
            if is_same_offset and mark.digest != entry.digests.get(name, mark.digest):
                raise another_record_error(self._place(name), mark.offset)
        self._marks |= marks
        return replace(block, flush=entry.ends, read_at=entry.read_at)

    def _retry(self, request: Callable[[], T]) -> T:
        """Repeat a request until the broker answers. Raise ``RunStoppedError``."""
        reported = False
        while True:
            try:
                return request()
            except BrokerUnavailableError as error:
                if not reported:
                    self.say(f"{error}; the run waits, and goes on when it is back")
                    reported = True
                if self.stopping():
                    raise RunStoppedError from None
                time.sleep(RETRY_S)


def _after(ranges: Ranges) -> Cursor:
    return {name: after for name, (_, after) in ranges.items()}
