"""Who reads, on Ray: source actors, and their blocks as the trainer gets them."""

from __future__ import annotations

import copy
import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from pipeline.runners.ray.job_package import JobPackage
from pipeline.training.journaled_source import OutOfStepError
from pipeline.training.loop import BLOCK, Source
from streams.core.batch import Batch
from streams.core.errors import StreamError, one_line
from streams.core.live_stream import LiveStream, ranges_of
from streams.core.pacing import block_size, throttle
from streams.core.stream import Cursor

AHEAD = 4
"""Blocks that are read ahead: the bound that holds a source back."""
LIVE_BLOCK = 16_384
"""Events of a live stream in a block, where so many wait: each goes through the object store, which
costs a source that polls as fast as it can a tenth of its time with blocks of 4,096."""
IDLE_S = 0.2
"""After so long without a block, what was learned last is published."""
DEATHS = 5
"""A source that dies so often without giving a block is given up."""


class SourceActor:
    """Reads and decodes blocks of events.

    It keeps nothing that matters: every call says in which reading, and where that began. One that
    was started anew is told by the number of the block that it has not read those before it.
    """

    def __init__(self, shipment: JobPackage, rate: float | None) -> None:
        loaded = shipment.unpack()
        torch.set_num_threads(1)
        self._stream = loaded.stream(loaded.job.stream, loaded.folder)
        if isinstance(self._stream, LiveStream):
            self._stream.group = loaded.job.name
        self._rate = rate
        gc.freeze()  # all that is loaded: messages come and go, and collections need not go over it
        self._reading = ""
        self._blocks: Iterator[Batch] = iter(())
        self._number = 0

    def next(self, reading: str, number: int, cursor: Cursor) -> tuple[Batch, Cursor] | None:
        """Block ``number`` of a reading that began at ``cursor``, and the positions after it; None
        at the true end of the stream. Raises ``OutOfStepError``, and ``StreamError`` as the stream
        does."""
        if number == 0 and reading != self._reading:
            most = LIVE_BLOCK if isinstance(self._stream, LiveStream) else BLOCK
            blocks = self._stream.read(cursor, block_size(self._rate, most))
            self._blocks = throttle(blocks, self._rate)
            self._reading, self._number = reading, 0
        if reading != self._reading or number != self._number:
            raise OutOfStepError
        self._number += 1
        for block in self._blocks:
            return block, {name: after for name, (_, after) in ranges_of(block).items()}
        return None

    def commit(self, cursor: Cursor) -> None:
        """A checkpoint holds all before this cursor."""
        if isinstance(self._stream, LiveStream):
            self._stream.commit(cursor)


class RemoteBlocks:
    """Blocks of source actors, some of them asked for ahead; of each in its order.

    A source that dies is started again by Ray; reading goes on after the last blocks that came.
    """

    def __init__(
        self, sources: Sequence[Any], idle: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self.sources = sources
        self.idle = idle
        self.say = say

    def __call__(self, _: Source, cursor: Cursor) -> Iterator[Batch]:
        deaths, cursor = 0, dict(cursor)
        while True:
            try:
                for block, after in self._read(cursor):
                    if not after and not block.flush:  # a live stream of which nothing comes
                        self.idle()
                        continue
                    # A view would keep the whole block in the object store for as long as one of
                    # its events waits for its label.
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

    def _wait(self, source: Any) -> None:
        """Until Ray has started the source again."""
        while True:
            ready = source.__ray_ready__.remote()
            while not ray.wait([ready], timeout=IDLE_S)[0]:
                self.idle()
            try:
                ray.get(ready)
                return
            except ActorUnavailableError:
                self.idle()
                time.sleep(IDLE_S)
            except RayError as error:
                raise StreamError(f"the source does not come up again: {one_line(error)}") from None

    def _read(self, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        reading = f"{time.time_ns()}"
        readings = deque(_Reading(source, reading, cursor) for source in self.sources)
        while readings:
            for one in readings:
                one.ask()
            first = {one.pending[0]: one for one in readings}
            ready, _ = ray.wait([*first], timeout=IDLE_S)
            if not ready:
                self.idle()
                continue
            one = first[ready[0]]
            found = ray.get(one.pending.popleft())
            readings.remove(one)
            if found is not None:
                readings.append(one)  # the next is another's, if it has one ready
                yield found


class _Reading:
    """Blocks that were asked of one source."""

    def __init__(self, source: Any, reading: str, cursor: Cursor) -> None:
        self.pending: deque[Any] = deque()
        self._source = source
        self._begun = (reading, cursor)
        self._number = 0

    def ask(self) -> None:
        reading, cursor = self._begun
        while len(self.pending) < AHEAD:
            self.pending.append(self._source.next.remote(reading, self._number, cursor))
            self._number += 1
