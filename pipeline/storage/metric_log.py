"""Rows of metrics in a file of the run folder: one measures and writes, the tracker reads.

The file is the spool. What stands in it survives ``kill -9``, however long nobody takes it further.
A row is one line: ``{"step": events seen, "time": ms since 1970, "metrics": {name: value}}``.
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
"""Bytes read at a time: what a reader holds, however many rows wait."""


class Row(NamedTuple):
    """One row; ``end`` is where the next one starts, in bytes."""

    step: int
    time: int
    metrics: dict[str, float]
    end: int


class MetricLog:
    """Appends rows to a file, each step once.

    A file that is there already is taken up after its last whole row: what a killed writer left of
    a row is cut off.

    Args:
        file: where the rows are; made if need be.
        say: is told, once, of a row that could not be written.

    Attributes:
        last: the last step in the file, -1 where there is none.

    Raises ``OSError`` where the file cannot be opened.
    """

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        self.file = file
        self.say = say
        self._told = False
        # Unbuffered: a row is out of this process, and safe from its death, once write returns.
        self._out = file.open("ab", buffering=0)
        self._size, self.last = _whole(file)
        os.ftruncate(self._out.fileno(), self._size)

    def write(self, step: int, metrics: Mapping[str, float], time: float | None = None) -> None:
        """Appends a row; does nothing where ``step`` is not beyond ``last``.

        A run that resumes from an older checkpoint comes by the same steps again: their rows are
        there, and stay as they were. Values that are not finite are left out. A disk that is full
        costs the row, and never the run.

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
            with suppress(OSError):  # the half of a row, or the next one would be joined to it
                os.ftruncate(self._out.fileno(), self._size)
            if not self._told:
                self._told = True
                self.say(
                    f"{self.file} cannot be written ({error.strerror or error}): rows of metrics "
                    "are lost until it can; the run goes on"
                )
            return
        self._size += len(data)
        self.last = step

    def close(self) -> None:
        """Closes the file; nothing may be written after."""
        self._out.close()


def read_rows(file: Path, offset: int, metrics: int) -> tuple[list[Row], int]:
    """Whole rows from ``offset`` (bytes) on, as many as hold about ``metrics`` values, at least one
    where there is one; and the offset after them. A line that is no row is passed over.

    Raises ``OSError`` where the file is there and cannot be read.
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
    held = 0
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        row = _row(line, offset + len(line))
        if row is not None:
            held += len(row.metrics)
            if rows and held > metrics:
                break
            rows.append(row)
        offset += len(line)
    return rows, offset


def waiting(file: Path, offset: int) -> int:
    """Whole rows in the file from ``offset`` (bytes) on."""
    count = 0
    with suppress(FileNotFoundError), file.open("rb") as opened:
        opened.seek(offset)
        while data := opened.read(CHUNK):
            count += data.count(b"\n")
    return count


def _whole(file: Path) -> tuple[int, int]:
    """Bytes up to the end of the last whole row, and its step; reads the tail alone."""
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
    """The row that a line holds; None where it holds none, as after a loss of power."""
    try:
        read: dict[str, Any] = json.loads(line)
        metrics = {str(k): float(v) for k, v in read["metrics"].items()}
        step, moment = int(read["step"]), int(read["time"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    if max(abs(step), abs(moment)) >= 1 << 63:  # which no database holds
        return None
    return Row(step, moment, metrics, end)


def _milliseconds(seconds: float | None) -> int:
    return int((time.time() if seconds is None else seconds) * 1000)
