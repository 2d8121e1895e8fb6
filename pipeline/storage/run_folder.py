"""The folder of a run: held by one process at a time, and what is written into it."""

from __future__ import annotations

import fcntl
import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob

DEAD_LETTERS = "dead.jsonl"
"""Events and labels set aside, one JSON line each."""
JOURNAL = "journal.jsonl"
"""The ranges of offsets that a live run has read."""
METRIC_FILES = ("metrics.jsonl", "served.jsonl", "stability.jsonl")
"""Rows of metrics: the queue to MLflow."""
REPLAY_HISTOGRAMS = "replay.jsonl"
"""Recall intervals, strengths and retention of the buffer, as histograms."""
TRACK_RECORD = "track.json"
"""How far the metric files are delivered to MLflow."""
STABILITY, EVALUATIONS = "stability.safetensors", "evaluations.jsonl"
"""What the evaluator remembers of probes, and the score of each segment at each evaluation."""
FORWARDED, INJECTED = "dead-topic.json", "injected.jsonl"
"""How far dead letters have come to their topic, and which were sent to their own once more."""
TOKEN = ".driver"
"""The file by which an actor knows that it sees the folder of its driver, and not one of that name
on another machine."""


_TOLD = ("served.json", REPLAY_HISTOGRAMS, STABILITY, EVALUATIONS, "summary.json", "report.html")


class RunFolder:
    """``job.yaml`` (the job as it was run), ``checkpoints/``, ``dead.jsonl`` (events set aside, one
    JSON line each), ``summary.json`` at the end, ``error.log`` where a defect showed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint, whole or not."""
        return any(path.name.isdigit() for path in self.checkpoints.glob("*"))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder and holds it against a second run. Raises ``JobError``."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # never through a link, never cut short
            lock = os.fdopen(os.open(self.path / ".lock", flags, 0o644), "r+")
        except OSError as error:
            raise JobError(
                f"cannot write in {self.path}: {error.strerror}; choose another --run-dir"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise FolderLockedError(
                    f"{self.path} is held by another run: wait for it, or choose another --run-dir"
                ) from None
            yield

    def check(self, resume: bool) -> None:
        """Raises ``JobError`` where there is a run already, and it is not to go on."""
        if not resume and self.begun:
            raise JobError(
                f"{self.path} holds a run already: add --resume to go on with it, or choose "
                "another --run-dir"
            )

    def begin(self, token: str, resume: bool) -> None:
        """Marks the folder as that of this driver, and clears it where nothing is to go on."""
        if not resume:
            self.clear()
        (self.path / TOKEN).write_text(token)

    def write_job(self, loaded: LoadedJob) -> None:
        target = self.path / "job.yaml"
        if target.exists() and loaded.file.exists() and target.samefile(loaded.file):
            raise JobError(f"{target} is the job file itself: choose another --run-dir")
        target.write_text(loaded.text())

    def clear(self) -> None:
        """Takes away what an earlier run told of itself, which had no checkpoint to go on from."""
        for name in (*METRIC_FILES, TRACK_RECORD, *_TOLD, FORWARDED, INJECTED, JOURNAL):
            (self.path / name).unlink(missing_ok=True)

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_whole(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def summary(self) -> dict[str, Any]:
        """The one that an earlier run left here, which may have been killed before its last."""
        try:
            summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        except (OSError, ValueError):
            return {}
        return summary

    def log(self) -> Path | str:
        """Writes the stack trace at hand to a file; where it is."""
        log = self.path / "error.log"
        try:
            log.write_text(traceback.format_exc())
        except OSError as error:
            return f"{error.strerror}"
        return log


class FolderLockedError(JobError):
    """Another process holds the folder."""


def write_whole(file: Path, text: str) -> None:
    """Writes a small file so that whoever reads it finds the old text or the new, and no half."""
    writing = file.with_name(f".{file.name}")
    writing.write_text(text)
    writing.replace(file)
