"""The blocks of a live stream, each in the journal before it is learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
from streams.core.batch import Batch
from streams.core.live_stream import (
    BrokerUnavailableError,
    LiveStream,
    Ranges,
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

    def begin(self, fingerprint: dict[str, Any]) -> Cursor:
        """Begin at the stream's start; or, where a killed run left a journal, at the journal's."""
        if not self.journal.begun:
            stop = self.stream.stop() if self.stream.bounded else None
            self.journal.begin(self.stream.start(), stop, fingerprint)
        cursor = self.journal.head()
        self.fingerprint = self.journal.fingerprint or None
        return cursor

    def resume(self, position: SourceState) -> None:
        offset, number = position["journal"]
        self._checkpointed = (offset, number)

    def batches(self, cursor: Cursor) -> Iterator[Batch]:
        return self._cut(self.blocks(cursor, self._checkpointed))

    def position(self, cursor: Cursor) -> SourceState:
        position = {"journal": self.journal.position(cursor)}
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
        """
        learned, cursor = cursor, dict(cursor)
        first = at
        if at is not None and self.recorder is not None:
            first = min(at, self.recorder.wanted) if self.recorder.wanted else None
        for entry in self.journal.go_on(first):
            block = self._read_again(entry)
            self._record(entry.number, block)
            if at is None or entry.number >= at[1]:
                cursor |= _after(entry.ranges)
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
        """Return where the run ends: as the journal says, else at the stream's end now."""
        if not self.stream.bounded:
            return None
        return self.journal.stop or self._retry(self.stream.stop)

    def _new(self, cursor: Cursor, stop: Cursor | None) -> Iterator[Batch]:
        """Read new blocks; move the cursor past each."""
        for block in self.read(dict(cursor)):
            if self.stopping():
                raise RunStoppedError
            ranges, whole = ranges_of(block), block
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
            self._record(self.journal.write(ranges, block.flush, block.read_at), block)
            cursor |= _after(ranges)
            yield block

    def _record(self, number: int, block: Batch) -> None:
        if self.recorder is not None:
            self.recorder.put(number, block, self.journal.end)

    def _read_again(self, entry: Entry) -> Batch:
        at = () if entry.read_at is None else (entry.read_at,)
        block = self._retry(partial(self.stream.read_ranges, entry.ranges, *at))
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
