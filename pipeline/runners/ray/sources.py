"""Source actors, which read the stream, and their blocks as the trainer gets them."""

from __future__ import annotations

import copy
import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from pipeline.models.threads import set_threads
from pipeline.runners.ray.job_package import JobPackage
from pipeline.training.journaled_source import OutOfStepError
from pipeline.training.reading.batch_reader import BLOCK, BatchReader
from streams.core.batch import Batch
from streams.core.errors import StreamError, one_line
from streams.core.live_stream import LiveStream, ranges_of
from streams.core.stream import Cursor, DataIdentity
from streams.operators.pacing import block_size, throttle

AHEAD = 4
"""Blocks that are read ahead of the trainer; a source that is further ahead waits."""
LIVE_BLOCK = 16_384
"""Events in a block of a live stream, where as many wait. Each block goes through the object store;
with blocks of 4,096 that takes a tenth of the time of a source that polls as fast as it can."""
IDLE_S = 0.2
"""Seconds without a block after which the run is idle."""
DEATHS = 5
"""How often sources may die without a block in between before the run fails."""


class SourceActor:
    """Read and decode blocks of events.

    It keeps no state that matters: every call names its reading and where that began. A source
    that was started again sees by the number of the block that it has not read those before.

    Args:
        package: the job.
        rate: events a second to read at most; None reads as fast as they come.
    """

    def __init__(self, package: JobPackage, rate: float | None) -> None:
        loaded = package.unpack()
        set_threads(1)
        self._stream = loaded.stream(loaded.job.stream, loaded.folder)
        self._stream.group = loaded.job.name
        self._rate = rate
        gc.freeze()  # garbage collections then skip all that is loaded by now
        self._reading = ""
        self._blocks: Iterator[Batch] = iter(())
        self._number = 0

    def next(
        self, reading: str, number: int, cursor: Cursor, schemas: Mapping[str, int]
    ) -> tuple[Batch, Cursor] | None:
        """Return a block, and the positions after it; None at the true end of the stream.

        Args:
            reading: names the reading.
            number: of the block in the reading.
            cursor: where the reading began.
            schemas: ``schema_ids`` of the stream of the run.

        Raises:
            OutOfStepError: the reader must begin another reading.
            StreamError: the stream cannot be read.
        """
        if number == 0 and reading != self._reading:
            if isinstance(self._stream, LiveStream):
                self._stream.use_schema_ids(schemas)
            size = LIVE_BLOCK if isinstance(self._stream, LiveStream) else BLOCK
            blocks = self._stream.read(cursor, block_size(self._rate, size))
            self._blocks = throttle(blocks, self._rate)
            self._reading, self._number = reading, 0
        if reading != self._reading or number != self._number:
            raise OutOfStepError
        self._number += 1
        for block in self._blocks:
            return block, {name: after for name, (_, after) in ranges_of(block).items()}
        return None

    def identity(self, cursor: Cursor) -> DataIdentity:
        """Return what was read before a cursor, as ``Stream.identity``."""
        return self._stream.identity(cursor)

    def commit(self, cursor: Cursor) -> None:
        """Note that a checkpoint holds all events before this cursor."""
        self._stream.commit(cursor)


class RemoteBlocks:
    """Read blocks of source actors, some ahead; those of one source stay in order.

    Ray starts a source that dies again; reading goes on after the last block that arrived.

    Args:
        sources: the actors.
        on_idle: called while no block comes.
        say: takes lines for a person.
    """

    def __init__(
        self, sources: Sequence[Any], on_idle: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self.sources = sources
        self.on_idle = on_idle
        self.say = say

    def __call__(self, reader: BatchReader, cursor: Cursor) -> Iterator[Batch]:
        schemas = reader.stream.schema_ids if isinstance(reader.stream, LiveStream) else {}
        deaths, cursor = 0, dict(cursor)
        while True:
            try:
                for block, after in self._read(cursor, schemas):
                    if not after and not block.flush:  # a live stream without new events
                        self.on_idle()
                        continue
                    # A view would keep the whole block in the object store while one of its
                    # events waits for its label.
                    yield copy.deepcopy(block)
                    cursor |= after
                    deaths = 0
                return
            except RayTaskError as error:
                if not isinstance(error.cause, OutOfStepError):
                    raise error.cause from None
            except RayError as error:  # it died, or the machine that it ran on with its blocks
                deaths += 1
                if deaths > DEATHS:
                    raise StreamError(
                        f"the source does not come up again: {one_line(error)}"
                    ) from None
                self.say("the source died; reading goes on after the last block that came")
                for source in self.sources:
                    self._wait(source)

    def identity(self, cursor: Cursor) -> DataIdentity:
        """Return what the first source has read before a cursor. One that was started again reads
        it anew."""
        for _ in range(DEATHS):
            try:
                identity: DataIdentity = ray.get(self.sources[0].identity.remote(cursor))
                return identity
            except RayTaskError as error:
                raise error.cause from None
            except RayError:
                self._wait(self.sources[0])
        raise StreamError("the source does not come up again")

    def _wait(self, source: Any) -> None:
        """Wait until Ray has started the source again."""
        while True:
            ready = source.__ray_ready__.remote()
            while not ray.wait([ready], timeout=IDLE_S)[0]:
                self.on_idle()
            try:
                ray.get(ready)
                return
            except ActorUnavailableError:
                self.on_idle()
                time.sleep(IDLE_S)
            except RayError as error:
                raise StreamError(f"the source does not come up again: {one_line(error)}") from None

    def _read(self, cursor: Cursor, schemas: Mapping[str, int]) -> Iterator[tuple[Batch, Cursor]]:
        reading = f"{time.time_ns()}"
        readings = deque(_Reading(source, reading, cursor, schemas) for source in self.sources)
        while readings:
            for one in readings:
                one.ask()
            first = {one.pending[0]: one for one in readings}
            ready, _ = ray.wait([*first], timeout=IDLE_S)
            if not ready:
                self.on_idle()
                continue
            one = first[ready[0]]
            block = ray.get(one.pending.popleft())
            readings.remove(one)
            if block is not None:
                readings.append(one)  # the next block is another source's, if that has one ready
                yield block


class _Reading:
    """The requests to one source."""

    def __init__(
        self, source: Any, reading: str, cursor: Cursor, schemas: Mapping[str, int]
    ) -> None:
        self.pending: deque[Any] = deque()
        self._source = source
        self._begun = (reading, cursor, schemas)
        self._number = 0

    def ask(self) -> None:
        """Request blocks ahead."""
        reading, *rest = self._begun
        while len(self.pending) < AHEAD:
            self.pending.append(self._source.next.remote(reading, self._number, *rest))
            self._number += 1
