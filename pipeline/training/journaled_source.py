"""The blocks of a live stream, each in the journal before it is learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TypeVar

from pipeline.storage.offset_journal import Journal
from pipeline.storage.recording_writer import RecordingWriter
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


class RunStoppedError(Exception):
    """Raised where blocks come from: the run was asked to stop while it waited for one."""


class OutOfStepError(Exception):
    """A block is not the one that comes next: whoever reads is to begin anew."""


class JournaledSource:
    """Blocks of a live stream, from where a run stands.

    First come those that the journal names and the run has not learned, read again; then new ones.

    Args:
        stream: the stream.
        journal: of the run.
        read: gives new blocks from a cursor on.
        stopping: whether the run is to stop.
        say: takes lines for a person.
        recorder: takes every block, and those that it lacks first.
    """

    def __init__(
        self,
        stream: LiveStream,
        journal: Journal,
        read: Callable[[Cursor], Iterable[Batch]],
        stopping: Callable[[], bool],
        say: Callable[[str], None],
        recorder: RecordingWriter | None = None,
    ) -> None:
        self.stream = stream
        self.journal = journal
        self.read = read
        self.stopping = stopping
        self.say = say
        self.recorder = recorder

    def blocks(self, cursor: Cursor, at: tuple[int, int] | None) -> Iterator[Batch]:
        """From ``cursor``, which stands in the block that the journal has at ``at``. They end where
        the journal says that the run does; raises ``RunStoppedError``."""
        learned, cursor = cursor, dict(cursor)
        first = at
        if at is not None and self.recorder is not None:
            first = min(at, self.recorder.wanted) if self.recorder.wanted else None
        for number, ranges, ends in self.journal.go_on(first):
            block = replace(self._again(ranges), flush=ends)
            self._record(number, block)
            if at is None or number >= at[1]:
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

    def _stop(self) -> Cursor | None:
        """Where the run ends: as it began, or, if it was to go on for ever then, now."""
        if not self.stream.bounded:
            return None
        return self.journal.stop or self._tried(self.stream.stop)

    def catch_up(self, recorder: RecordingWriter) -> None:
        """Has the recorder take all that the journal names. Raises ``RunStoppedError``."""
        for number, ranges, ends in self.journal.go_on(recorder.wanted):
            recorder.put(number, replace(self._again(ranges), flush=ends), self.journal.end)

    def _new(self, cursor: Cursor, stop: Cursor | None) -> Iterator[Batch]:
        """New blocks; the cursor moves with them."""
        for block in self.read(dict(cursor)):
            if self.stopping():
                raise RunStoppedError
            if stop is not None:
                block = truncate_at(block, stop)
            ranges = ranges_of(block)
            if not ranges and not block.flush:
                continue
            for name, (first, _) in ranges.items():
                if first < cursor.get(name, first):  # another reader has given it already
                    raise OutOfStepError
            self._record(self.journal.write(ranges, block.flush), block)
            cursor |= _after(ranges)
            yield block

    def _record(self, number: int, block: Batch) -> None:
        if self.recorder is not None:
            self.recorder.put(number, block, self.journal.end)

    def _again(self, ranges: Ranges) -> Batch:
        return self._tried(partial(self.stream.read_ranges, ranges))

    def _tried(self, ask: Callable[[], T]) -> T:
        """What the stream answers, once it can be reached. Raises ``RunStoppedError``."""
        told = False
        while True:
            try:
                return ask()
            except BrokerUnavailableError as error:
                if not told:
                    self.say(f"{error}; the run waits, and goes on when it is back")
                    told = True
                if self.stopping():
                    raise RunStoppedError from None
                time.sleep(RETRY_S)


def _after(ranges: Ranges) -> Cursor:
    return {name: after for name, (_, after) in ranges.items()}
