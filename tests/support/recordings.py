"""Recordings written as a live run writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from streams.core.batch import Batch
from streams.core.live_stream import ranges_of
from streams.core.schema import Feature, Schema
from streams.recordings.manifest import Part, RecordingManifest, path_of
from streams.recordings.table import table_of

NUMBERS = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")


def write_recording(
    folder: Path, blocks: Sequence[Batch], sizes: Sequence[int], in_rows: bool = False, **more: Any
) -> Path:
    """Write a recording; return its folder.

    Args:
        folder: of the recording.
        blocks: of the stream.
        sizes: blocks in each part; the last size holds for all parts after.
        in_rows: whether labels are in the rows of their events.
        more: of the manifest.
    """
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()
    about = RecordingManifest(
        features=tuple((f.name, f.kind, f.shape) for f in NUMBERS.features),
        task="classification",
        classes=(),
        has_ids=True,
        has_time=True,
        has_arrivals=not in_rows,
        gapless=True,
        interleaved_partitions=True,
        id_type="int",
        dtype="float32",
        start={"0": 0} if in_rows else {"0": 0, "labels/2": 0},
        fingerprint={},
        stream={},
        module_folder=str(folder),
        **more,
    )
    (folder / "recording.json").write_text(about.to_json())
    first, sizes = 0, list(sizes)
    while first < len(blocks):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        write_part(folder, first, blocks[first : first + size], in_rows)
        first += size
    return folder


def write_part(folder: Path, first: int, blocks: Sequence[Batch], in_rows: bool = False) -> None:
    """The part of these blocks, of which the first has this number."""
    ranges: dict[str, tuple[int, int]] = {}
    for block in blocks:
        for name, (low, high) in ranges_of(block).items():
            ranges[name] = (ranges.get(name, (low, 0))[0], high)
    part = Part(
        path_of(folder, first),
        (first, first + len(blocks)),
        ranges,
        sum(block.events for block in blocks),
        max((float(b.time.max()) for b in blocks if len(b)), default=-np.inf),
        in_rows,
        (0, ""),
    )
    pq.write_table(part.with_footer(table_of(first, blocks, NUMBERS)), part.path)
