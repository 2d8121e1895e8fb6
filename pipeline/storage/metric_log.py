"""Rows of metrics in a file of the run folder: the run writes them, the tracker reads them.

The file is the queue between the two, and survives ``kill -9`` however long the tracker is away. A
row is one line: ``{"step": events seen, "time": ms since 1970, "metrics": {name: value}}``.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

CHUNK = 1 << 18
"""Bytes read at a time, however many rows wait."""


class Row(NamedTuple):
    """One row; the next one starts at byte ``end``."""

    step: int
    time: int
    metrics: dict[str, float]
    end: int


class MetricLog:
    """Append rows to a file, each step once.

    An existing file is continued after its last whole row; a partial row of a killed writer is cut
    off.

    Args:
        file: of the rows; made if need be.
        say: takes one line when a row cannot be written.

    Attributes:
        last: the last step in the file, -1 where there is none.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        self.file = file
        self.say = say
        self._reported = False
        # Unbuffered: a row is out of this process, and safe from its death, once write returns.
        self._out = file.open("ab", buffering=0)
        self._size, self.last = _whole(file)
        os.ftruncate(self._out.fileno(), self._size)

    def write(self, step: int, metrics: Mapping[str, float], time: float | None = None) -> None:
        """Append a row, unless its step is in the file already.

        A run that resumes from an older checkpoint repeats steps; their rows stay as they are.
        Values that are not finite are left out. A full disk loses the row and never stops the run.

        Args:
            step: events seen.
            metrics: values by name.
            time: seconds since 1970; None: now.
        """
        if step <= self.last:
            return
        row = {
            "step": int(step),
            "time": _milliseconds(time),
            "metrics": {k: float(v) for k, v in metrics.items() if math.isfinite(v)},
        }
        data = json.dumps(row).encode() + b"\n"
        try:
            written = self._out.write(data)
            if written != len(data):
                raise OSError(None, "the disk is full")
        except OSError as error:
            with suppress(OSError):  # a partial row, or the next one would be joined to it
                os.ftruncate(self._out.fileno(), self._size)
            if not self._reported:
                self._reported = True
                self.say(
                    f"{self.file} cannot be written ({error.strerror or error}): rows of metrics "
                    "are lost until it can; the run goes on"
                )
            return
        self._size += len(data)
        self.last = step

    def close(self) -> None:
        """Close the file; nothing may be written afterwards."""
        self._out.close()


def read_rows(file: Path, offset: int, metrics: int) -> tuple[list[Row], int]:
    """Read whole rows from a file; skip lines that are not rows.

    Args:
        file: the file; it may be missing.
        offset: byte to read from.
        metrics: values to return in all, about; at least one row is returned where there is one.

    Returns:
        The rows, and the byte after them.

    Raises:
        OSError: the file is there and cannot be read.
    """
    rows: list[Row] = []
    size = CHUNK
    while True:
        try:
            with file.open("rb") as opened:
                opened.seek(offset)
                data = opened.read(size)
        except FileNotFoundError:
            return rows, offset
        if b"\n" in data or len(data) < size:
            break
        size *= 2  # one row is longer than that
    count = 0
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        row = _row(line, offset + len(line))
        if row is not None:
            count += len(row.metrics)
            if rows and count > metrics:
                break
            rows.append(row)
        offset += len(line)
    return rows, offset


def pending_rows(file: Path, offset: int) -> int:
    """Return how many whole rows the file has from byte ``offset`` on."""
    count = 0
    with suppress(FileNotFoundError), file.open("rb") as opened:
        opened.seek(offset)
        while data := opened.read(CHUNK):
            count += data.count(b"\n")
    return count


def _whole(file: Path) -> tuple[int, int]:
    """Return the bytes up to the end of the last whole row, and its step; read only the tail."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        tail = CHUNK
        while True:
            start = max(0, size - tail)
            opened.seek(start)
            data = opened.read(size - start)
            end = data.rfind(b"\n") + 1
            while end > 0:
                begin = data.rfind(b"\n", 0, end - 1) + 1
                if begin == 0 and start > 0:
                    break  # its beginning lies further up
                row = _row(data[begin:end], start + end)
                if row is not None:
                    return start + end, row.step
                end = begin
            if start == 0:
                return 0, -1
            tail *= 2


def _row(line: bytes, end: int) -> Row | None:
    """Parse a line; return None where it is not a row, as after a loss of power."""
    try:
        read: dict[str, Any] = json.loads(line)
        metrics = {str(k): float(v) for k, v in read["metrics"].items()}
        step, moment = int(read["step"]), int(read["time"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    if max(abs(step), abs(moment)) >= 1 << 63:  # too large for a database
        return None
    return Row(step, moment, metrics, end)


def _milliseconds(seconds: float | None) -> int:
    return int((time.time() if seconds is None else seconds) * 1000)
