"""Dead events and labels: the file that they are kept in, each once, and how many are too many."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipeline.storage.run_folder import DEAD_LETTERS
from streams.core.batch import DeadLetter

SHOWN = 3
"""Kinds of reason that are named where there are too many."""


class DeadLetterLog:
    """``dead.jsonl`` of a run folder: a JSON line for each dead event or label, in the order of the
    stream: ``partition``, ``offset``, ``id``, ``reason``; for a label ``label: true``; where they
    are known its bytes, in base64, as ``value``.

    A checkpoint names the bytes that it stands after; a run that goes on from there cuts the file
    back to them. So each is in it once.

    Attributes:
        bytes: written so far.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / DEAD_LETTERS
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

    def write(self, dead: Sequence[DeadLetter]) -> None:
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


class DeadLetterRecord(NamedTuple):
    """A line of the file. ``end``: the byte after it."""

    partition: int
    offset: int
    id: int
    reason: str
    label: bool
    value: bytes | None
    end: int


def letters(file: Path, start: int = 0, stop: int | None = None) -> Iterator[DeadLetterRecord]:
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
                yield DeadLetterRecord(
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
