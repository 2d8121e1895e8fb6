"""Where the micro-batches of a run come from, and what a checkpoint must know of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pipeline.training.event_fates import Ledger
from streams.core.batch import Batch
from streams.core.stream import Cursor, DataIdentity, Stream

ReadBlocks = Callable[[Cursor], Iterable[Batch]]
"""Reads new blocks from a cursor on."""
Cut = Callable[[Iterable[Batch]], Iterator[Batch]]
"""Cuts blocks into micro-batches."""
SourceState = dict[str, Any]
"""What a checkpoint keeps of its source besides the cursor; JSON."""


class RunStoppedError(Exception):
    """The run was asked to stop while it waited for a block."""


class EventSource(ABC):
    """The micro-batches of a run.

    A run calls ``begin`` or ``resume``, then ``batches``, and ``position`` at each checkpoint.

    Attributes:
        checkpoint_s: seconds after which a checkpoint is due however few events came.
        fingerprint: of the job that began the run; None where the source keeps none.
    """

    checkpoint_s: float = math.inf
    fingerprint: dict[str, Any] | None = None

    @abstractmethod
    def begin(self, fingerprint: dict[str, Any]) -> Cursor:
        """Return where a run without a checkpoint begins. Raise ``StreamError``."""

    @abstractmethod
    def resume(self, position: SourceState) -> None:
        """Take up what ``position`` returned for the checkpoint that the run resumes from."""

    @abstractmethod
    def verify(self, positions: Sequence[SourceState], cursor: Cursor) -> None:
        """Check that the stream is the one that was read. Raise ``StreamError``.

        Args:
            positions: what ``position`` returned at some cursors, in their order.
            cursor: up to which the stream was read.
        """

    def holds(self, cursor: Cursor) -> bool:
        """Return whether the stream still holds what comes after a cursor, after ``resume``."""
        return True

    @abstractmethod
    def has_more(self, cursor: Cursor) -> bool:
        """Return whether a stream that had ended at a cursor has more by now. Where it has, the
        run goes on to what is its end now. ``resume`` was called with the state of that end.

        Raises:
            RunStoppedError: the run was asked to stop while nothing answered.
            StreamError: the stream cannot be read.
        """

    @abstractmethod
    def batches(self, cursor: Cursor) -> Iterator[Batch]:
        """Read the micro-batches from a cursor on.

        Raises:
            RunStoppedError: the run was asked to stop while nothing came.
            StreamError: the stream cannot be read.
        """

    @abstractmethod
    def position(self, cursor: Cursor) -> SourceState:
        """Return what a checkpoint at a cursor must know besides it."""

    @abstractmethod
    def catch_up(self, ledger: Ledger, finished: bool) -> None:
        """Finish what is left beside the learning, where no event is left to learn."""

    @abstractmethod
    def end(self, ledger: Ledger, finished: bool) -> None:
        """Note that the run has ended here; ``finished``: at the end of the stream."""


class DirectSource(EventSource):
    """A stream that reads the same each time: the cursor says it all.

    Args:
        stream: the stream.
        read: reads blocks.
        cut: cuts blocks into micro-batches.
        stopping: returns whether the run is to stop.
        say: takes lines for a person.
        identity: returns what was read before a cursor; None: the stream does.
    """

    def __init__(
        self,
        stream: Stream,
        read: ReadBlocks,
        cut: Cut,
        stopping: Callable[[], bool],
        say: Callable[[str], None] = print,
        identity: Callable[[Cursor], DataIdentity] | None = None,
    ) -> None:
        self.stream = stream
        self.say = say
        self._read = read
        self._cut = cut
        self._stopping = stopping
        self._identity = identity or stream.identity

    def begin(self, fingerprint: dict[str, Any]) -> Cursor:
        return self.stream.origin()

    def resume(self, position: SourceState) -> None:
        pass

    def verify(self, positions: Sequence[SourceState], cursor: Cursor) -> None:
        if not self.stream.has_identity:
            return
        known = [position["identity"] for position in positions if "identity" in position]
        if not known:
            self.say(
                "the checkpoint is of before fingerprints were kept: whether its files have "
                "changed since is not known; from here on it is"
            )
        self.stream.verify_identity(known, cursor)

    def has_more(self, cursor: Cursor) -> bool:
        blocks = self._until_stopped(self._read(cursor))
        return any(not block.is_empty or block.flush for block in blocks)

    def batches(self, cursor: Cursor) -> Iterator[Batch]:
        return self._cut(self._until_stopped(self._read(cursor)))

    def position(self, cursor: Cursor) -> SourceState:
        return {"identity": self._identity(cursor)} if self.stream.has_identity else {}

    def catch_up(self, ledger: Ledger, finished: bool) -> None:
        pass

    def end(self, ledger: Ledger, finished: bool) -> None:
        pass

    def _until_stopped(self, blocks: Iterable[Batch]) -> Iterator[Batch]:
        """Pass blocks on until the run is to stop; a stream that waits gives empty ones."""
        for block in blocks:
            if self._stopping():
                raise RunStoppedError
            yield block
