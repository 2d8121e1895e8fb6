"""Rows of files to batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np

from streams.core.batch import Batch, DeadLetter
from streams.core.live_stream import truncate_at
from streams.core.stream import Cursor
from streams.decoding.decoder import POSITION_BITS, Decoder
from streams.decoding.wrong_times import WINDOW
from streams.files.formats.base import File, FileBlock


def decoded(block: FileBlock, decode: Decoder, partition: int, before: int = 0) -> Batch:
    """Return the rows of a block.

    Args:
        block: of a file.
        decode: decodes it.
        partition: the number of the file.
        before: rows of the files before it.
    """
    partitions = np.full(len(block.offset), partition, np.int32)
    aside = [
        DeadLetter(partition, offset, reason, (partition << POSITION_BITS) + offset, row)
        for offset, reason, row in block.aside
    ]
    position = (before + block.offset).astype(np.float64)
    return decode(block.table, partitions, block.offset, position, aside)


def read_between(
    files: Sequence[File], decode: Decoder, begin: Cursor, end: Cursor
) -> Iterator[Batch]:
    """Yield the rows from one cursor to another, at most ``WINDOW`` at a time."""
    for partition, file in enumerate(files):
        start, stop = (cursor.get(str(partition), 0) for cursor in (begin, end))
        if start >= stop:
            continue
        with closing(file.read(start, WINDOW, decode.reads)) as blocks:
            for block in blocks:
                batch = truncate_at(decoded(block, decode, partition), end)
                yield batch
                last = [*block.offset[-1:].tolist(), *(row for row, _, _ in block.aside)]
                if max(last, default=0) >= stop - 1:
                    break
