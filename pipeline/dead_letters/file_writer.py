"""Dead events and labels: the file that they are kept in, each once, and how many are too many."""

from __future__ import annotations

import base64
import json
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from streams.core.batch import Batch, Dead
from streams.core.stream_config import DeadLetters

FILE = "dead.jsonl"
SHOWN = 3
"""Kinds of reason that are named where there are too many."""


class DeadFile:
    """``dead.jsonl`` of a run folder: a JSON line for each dead event or label, in the order of the
    stream: ``partition``, ``offset``, ``id``, ``reason``; for a label ``label: true``; where they
    are known its bytes, in base64, as ``value``.

    A checkpoint names the bytes that it stands after; a run that goes on from there cuts the file
    back to them. So each is in it once.

    Attributes:
        bytes: written so far.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.bytes = 0
        self._file: IO[bytes] | None = None

    def open(self, kept: int) -> bool:
        """Goes on after the first ``kept`` bytes; whether they were all there."""
        self.bytes = kept
        self.path.touch()
        whole = self.path.stat().st_size >= kept
        if whole:
            os.truncate(self.path, kept)
        self._file = self.path.open("ab")
        return whole

    def write(self, dead: Sequence[Dead]) -> None:
        for d in dead:
            assert self._file is not None
            entry: dict[str, Any] = {
                "partition": d.partition,
                "offset": d.offset,
                "id": d.id,
                "reason": d.reason,
            }
            if d.label:
                entry["label"] = True
            if d.value is not None:
                entry["value"] = base64.b64encode(d.value).decode()
            self.bytes += self._file.write(json.dumps(entry).encode() + b"\n")

    def sync(self) -> None:
        """All that was written is on the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Letter(NamedTuple):
    """A line of the file. ``end``: the byte after it."""

    partition: int
    offset: int
    id: int
    reason: str
    label: bool
    value: bytes | None
    end: int


def letters(file: Path, start: int = 0, stop: int | None = None) -> Iterator[Letter]:
    """The whole lines between two bytes; what is no such line is passed over.

    Raises ``OSError`` where the file cannot be read.
    """
    with file.open("rb") as opened:
        opened.seek(start)
        end = start
        for text in opened:
            end += len(text)
            if not text.endswith(b"\n") or (stop is not None and end > stop):
                return
            try:
                found = json.loads(text)
                value = found.get("value")
                yield Letter(
                    int(found["partition"]),
                    int(found["offset"]),
                    int(found["id"]),
                    str(found["reason"]),
                    bool(found.get("label", False)),
                    None if value is None else base64.b64decode(value, validate=True),
                    end,
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                continue


def kind(reason: str) -> str:
    """What reasons have in common: without what the message held."""
    column = re.fullmatch(
        r"column (?P<name>'.*?'|\".*?\") holds .*; (?P<expected>.*)", reason, re.S
    )
    if column:
        expected = re.sub(r", -?[\d.]+$", "", column["expected"])  # after the time of its message
        return f"column {column['name']}: {expected}"
    _, found, expected = reason.rpartition("; expected ")
    if found:
        return f"expected {expected}"
    return re.sub(r"\s*-?\d+$", "", reason.partition(":")[0])


class TooManyDead(Exception):  # noqa: N818 (it is what happened)
    """So many events are dead that something must be wrong with the stream, or with the job."""


class Limit:
    """Stops a run of which too much is dead.

    It goes by the events in their order, wherever micro-batches end; labels that come on their own
    are counted apart. A run that goes on counts anew.

    Args:
        settings: what is too many.
        place: what people call a partition (of labels).
    """

    def __init__(self, settings: DeadLetters, place: Callable[[int, bool], str]) -> None:
        self._settings = settings
        self._place = place
        self._windows = {False: _Window(settings.of), True: _Window(settings.of)}

    def add(self, batch: Batch, dead: Sequence[Dead]) -> None:
        """A micro-batch as it came, and all of it that is dead. Raises ``TooManyDead``."""
        arrivals = batch.arrivals
        if dead:
            events = [d for d in dead if not d.label]
            labels = [d for d in batch.dead if d.label]
            rows = np.array([d.before for d in events], np.int64)
            self._look(False, events, rows)
            rows = np.array([d.before for d in labels], np.int64)
            before = np.empty(0, np.int64) if arrivals is None else arrivals.before
            self._look(True, labels, np.searchsorted(before, rows, "right"))
        labels_dead = sum(d.label for d in dead)
        self._windows[False].seen += batch.events
        self._windows[True].seen += labels_dead + (0 if arrivals is None else len(arrivals))

    def _look(self, label: bool, dead: Sequence[Dead], alive: np.ndarray[Any, Any]) -> None:
        """``alive`` (n,): how many of the micro-batch that are alive come before each of the n."""
        share, of = self._settings.share, self._settings.of
        if share == 1:
            return
        window = self._windows[label]
        for i, d in enumerate(dead):
            if window.add(int(alive[i]) + i, d) > share * of:
                raise TooManyDead(self._told(label, [found for _, found in window.dead]))

    def _told(self, label: bool, dead: Sequence[Dead]) -> str:
        what = "labels" if label else "events"
        counts = Counter(kind(d.reason) for d in dead)
        reasons = "; ".join(f"{n:,} x {reason}" for reason, n in counts.most_common(SHOWN))
        more = f"; and {len(counts) - SHOWN} more kinds of reason" if len(counts) > SHOWN else ""
        last = dead[-1]
        return (
            f"{len(dead):,} of the last {self._settings.of:,} {what} are dead ({reasons}{more}), "
            f"as {self._place(last.partition, label)}/{last.offset}: {last.reason[:200]}. Look at "
            f"{FILE} (everlearn dead-letters), then mend what writes them, or the job, or raise "
            "stream.dead_letters.share"
        )


class _Window:
    """The dead among the last ``of``."""

    def __init__(self, of: int) -> None:
        self.of = of
        self.seen = 0  # before the micro-batch at hand
        self.dead: deque[tuple[int, Dead]] = deque()

    def add(self, position: int, dead: Dead) -> int:
        """One that stands at a position of the micro-batch at hand; how many there are now."""
        at = self.seen + position
        self.dead.append((at, replace(dead, value=None)))  # bytes would take memory
        while self.dead[0][0] <= at - self.of:
            self.dead.popleft()
        return len(self.dead)
