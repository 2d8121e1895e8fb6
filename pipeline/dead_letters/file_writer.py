"""The file of dead letters: writes each once, reads them back, and groups their reasons."""

from __future__ import annotations

import base64
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipeline.storage.run_folder import DEAD_LETTERS
from streams.core.batch import DeadLetter

KINDS = 50
"""Kinds of reason that are counted apart."""
OTHER_REASONS = "other reasons"


class DeadLetterLog:
    """Writes ``dead.jsonl`` of a run folder: a JSON line for each dead letter, in stream order.

    A line holds ``partition``, ``offset``, ``id`` and ``reason``; for a label also ``label: true``;
    if the bytes of the message are known, ``value`` holds them in base64. ``key`` and ``headers``
    are there, in base64 too, where the job reads a field of them.

    A checkpoint stores the size of the file, and a run that resumes from it truncates the file to
    that size. So each letter is in the file once.

    Attributes:
        path: of the file.
        bytes: written so far.
        reasons: the number of dead events of each kind of reason, at most ``KINDS`` kinds and
            ``OTHER_REASONS``.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / DEAD_LETTERS
        self.bytes = 0
        self.reasons: Counter[str] = Counter()
        self._file: IO[bytes] | None = None

    def open(self, kept: int) -> bool:
        """Truncate the file to ``kept`` bytes, and append. Return False if it is shorter."""
        self.bytes = kept
        self.path.touch()
        whole = self.path.stat().st_size >= kept
        if whole:
            os.truncate(self.path, kept)
        self.reasons.clear()
        for letter in read_dead_letters(self.path, stop=kept):
            self._count(letter.reason, letter.label)
        self._file = self.path.open("ab")
        return whole

    def write(self, dead: Sequence[DeadLetter]) -> None:
        """Append dead letters. Raise ``OSError``, which names the file."""
        with self._named_errors():
            self._write(dead)

    def _write(self, dead: Sequence[DeadLetter]) -> None:
        for letter in dead:
            assert self._file is not None
            entry: dict[str, Any] = {
                "partition": letter.partition,
                "offset": letter.offset,
                "id": letter.id,
                "reason": letter.reason,
            }
            if letter.label:
                entry["label"] = True
            if letter.value is not None:
                entry["value"] = _base64(letter.value)
            if letter.key is not None:
                entry["key"] = _base64(letter.key)
            if letter.headers:
                entry["headers"] = [[name, _base64(text or b"")] for name, text in letter.headers]
            self.bytes += self._file.write(json.dumps(entry).encode() + b"\n")
            self._count(letter.reason, letter.label)

    def _count(self, reason: str, label: bool) -> None:
        if not label:
            kind = reason_kind(reason)
            known = kind in self.reasons or len(self.reasons) < KINDS
            self.reasons[kind if known else OTHER_REASONS] += 1

    def sync(self) -> None:
        """Flush all that was written to the disk. Raise ``OSError``, which names the file."""
        if self._file is not None:
            with self._named_errors():
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file. What a checkpoint needs of it was synced before; what a full disk does
        not take now is cut off by the run that resumes, and written again."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Name the file in an ``OSError``: a buffered file does not."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


class DeadLetterRecord(NamedTuple):
    """A line of the file; ``end`` is the offset of the byte after it."""

    partition: int
    offset: int
    id: int
    reason: str
    label: bool
    value: bytes | None
    end: int
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def read_dead_letters(
    file: Path, start: int = 0, stop: int | None = None
) -> Iterator[DeadLetterRecord]:
    """Yield the whole lines between two byte offsets; skip lines that are no dead letters.

    Raise ``OSError`` if the file cannot be read.
    """
    with file.open("rb") as opened:
        opened.seek(start)
        end = start
        for text in opened:
            end += len(text)
            if not text.endswith(b"\n") or (stop is not None and end > stop):
                return
            try:
                entry = json.loads(text)
                headers = [(str(n), _bytes(text) or b"") for n, text in entry.get("headers", ())]
                yield DeadLetterRecord(
                    int(entry["partition"]),
                    int(entry["offset"]),
                    int(entry["id"]),
                    str(entry["reason"]),
                    bool(entry.get("label", False)),
                    _bytes(entry.get("value")),
                    end,
                    _bytes(entry.get("key")),
                    tuple(headers),
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                continue


def reason_kind(reason: str) -> str:
    """Return the reason without what the message held, to group similar reasons."""
    column = re.fullmatch(
        r"column (?P<name>'.*?'|\".*?\") holds .*; (?P<expected>.*)", reason, re.S
    )
    if column:
        # Without the timestamp of the message.
        expected = re.sub(r", -?[\d.:TZ-]+$", "", column["expected"])
        return f"column {column['name']}: {expected}"
    width = re.fullmatch(r"the row has \d+ fields; (expected \d+): .*", reason, re.S)
    if width:
        return f"{width[1]} fields"
    _, separator, expected = reason.rpartition("; expected ")
    if separator:
        return f"expected {expected}"
    wrong_time = re.fullmatch(r"time \S+ (is far ahead .*)", reason)
    if wrong_time:
        return f"time {wrong_time[1]}"
    return re.sub(r"\s*-?\d+$", "", reason.partition(":")[0])
