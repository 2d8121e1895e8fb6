"""Micro-batches of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline.training.reading.encode_ahead import EncodeAhead
from streams.core.batch import Batch
from streams.core.hashing import hash_categories
from streams.core.stream import Cursor, Stream
from streams.operators.holdout import HoldOut
from streams.operators.label_encoder import LabelEncoder
from streams.operators.microbatch import rebatch

BLOCK = 4096
"""Rows of a block, read at a time."""


class BatchReader:
    """Read the micro-batches of a stream.

    Blocks are read, their columns encoded, their classes numbered, their categories hashed, and
    their probes marked.

    Args:
        stream: the stream.
        size: events in a micro-batch.
        vocabulary: numbers the classes.
        hold_out: marks the probes; None where there are none.
        hashed: the categorical columns whose values become keys, for a learner that takes keys.
        encode: encodes columns of blocks; None where none is encoded.
    """

    def __init__(
        self,
        stream: Stream,
        size: int,
        vocabulary: LabelEncoder,
        hold_out: HoldOut | None = None,
        hashed: Sequence[str] = (),
        encode: EncodeAhead | None = None,
    ) -> None:
        self.stream = stream
        self.size = size
        self.vocabulary = vocabulary
        self.hold_out = hold_out
        self.hashed = hashed
        self.encode = encode

    def blocks(self, cursor: Cursor, size: int = BLOCK) -> Iterator[Batch]:
        """Read blocks from a cursor on. This part may run elsewhere, and ahead of the learner."""
        return self.stream.read(cursor, size)

    def read(self, cursor: Cursor) -> Iterator[Batch]:
        """Return the micro-batches from a cursor on."""
        return self.batches(self.blocks(cursor))

    def batches(self, blocks: Iterable[Batch]) -> Iterator[Batch]:
        """Return the micro-batches of blocks; they do not depend on where blocks end.

        Empty blocks, with which a stream says that nothing has come, are left out.
        """
        if self.encode is not None:
            blocks = self.encode(blocks)
        blocks = (block for block in blocks if not block.is_empty or block.flush)
        if self.stream.schema.task == "classification":
            blocks = map(self.vocabulary.apply, blocks)
        if self.hashed:
            blocks = (hash_categories(block, self.hashed) for block in blocks)
        if self.hold_out is not None:
            blocks = map(self.hold_out.apply, blocks)
        return rebatch(blocks, self.size)
