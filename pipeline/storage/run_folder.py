"""The folder of a run: one process at a time locks it, and writes the files named here."""

from __future__ import annotations

import json
import math
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob

JOB = "job.yaml"
"""The job as it was run."""
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
ALERTS = "alerts.json"
"""Which rows alerts have seen, which alerts fire, and their tags for MLflow."""
SUMMARY = "summary.json"
"""The result of a run."""
STABILITY, EVALUATIONS = "stability.safetensors", "evaluations.jsonl"
"""What the evaluator remembers of probes, and the score of each segment at each evaluation."""
FORWARDED, INJECTED = "dead-topic.json", "injected.jsonl"
"""How far dead letters have come to their topic, and which were sent to their own once more."""
TOKEN = ".driver"
"""The file by which an actor knows that it sees the folder of its driver, and not one of that name
on another machine."""


_RESULTS = ("served.json", REPLAY_HISTOGRAMS, STABILITY, EVALUATIONS, SUMMARY, "report.html")


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

    @property
    def has_run(self) -> bool:
        """Whether a run was begun here, perhaps killed before its first checkpoint."""
        return self.begun or any((self.path / name).exists() for name in (JOB, JOURNAL, TOKEN))

    def content(self) -> str:
        """Return the folder and what is in it, for a message."""
        try:
            names = sorted(path.name for path in self.path.iterdir() if path.name != ".lock")
        except OSError as error:
            return f"{self.path} ({error.strerror})"
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"{self.path} ({', '.join(names[:3]) or 'empty'}{more})"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder and lock it against a second run.

        Raises:
            FolderLockedError: another process has the lock.
            JobError: the folder cannot be written.
        """
        lock = exclusive_lock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise FolderLockedError(
                f"{self.path} is held by another run: wait for it, or choose another --run-dir"
            ) from None
        except OSError as error:
            raise JobError(
                f"cannot write in {self.path}: {error.strerror}; choose another --run-dir"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def check(self, resume: bool) -> None:
        """Raise ``JobError`` where the folder has a run and ``resume`` is false."""
        if not resume and self.begun:
            raise JobError(
                f"{self.path} holds a run already: add --resume to go on with it, or choose "
                "another --run-dir"
            )

    def claim(self, token: str, resume: bool) -> None:
        """Write the token of this driver; clear the folder unless the run resumes."""
        if not resume:
            self.clear()
        (self.path / TOKEN).write_text(token)

    def write_job(self, loaded: LoadedJob) -> None:
        """Write ``job.yaml``. Raise ``JobError`` where that is the job file itself."""
        target = self.path / JOB
        if target.exists() and loaded.file.exists() and target.samefile(loaded.file):
            raise JobError(f"{target} is the job file itself: choose another --run-dir")
        target.write_text(loaded.text())

    def clear(self) -> None:
        """Delete the results of an earlier run, which left no checkpoint to resume from."""
        for name in (*METRIC_FILES, TRACK_RECORD, ALERTS, *_RESULTS, FORWARDED, INJECTED, JOURNAL):
            (self.path / name).unlink(missing_ok=True)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``; a metric that is not finite is null, as JSON has no other."""
        metrics = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in summary["metrics"].items()
        }
        content = _json_lines({**summary, "metrics": metrics})
        write_atomic(self.path / SUMMARY, content + "\n")

    def summary(self) -> dict[str, Any]:
        """Return the summary that a run left here; empty where there is none that can be read."""
        try:
            summary: dict[str, Any] = json.loads((self.path / SUMMARY).read_text())
        except (OSError, ValueError):
            return {}
        return summary

    def log(self) -> Path | str:
        """Write the current stack trace to ``error.log``; return its path, or why not."""
        log = self.path / "error.log"
        try:
            log.write_text(traceback.format_exc())
        except OSError as error:
            return f"{error.strerror}"
        return log


def _json_lines(value: Any, margin: str = "") -> str:
    """Return JSON with a line for each key of an object and each row of a matrix."""
    inner = margin + "  "
    if isinstance(value, dict) and value:
        lines = [f"{json.dumps(key)}: {_json_lines(each, inner)}" for key, each in value.items()]
    elif isinstance(value, list) and any(isinstance(each, list | dict) for each in value):
        lines = [_json_lines(each, inner) for each in value]
    else:
        return json.dumps(value)
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return begin + ",".join(f"\n{inner}{line}" for line in lines) + f"\n{margin}{end}"


class FolderLockedError(JobError):
    """Another process has locked the folder."""


def exclusive_lock(path: Path, blocking: bool = False) -> FileLock:
    """Return a lock on a file, not acquired yet.

    The lock is ``flock``: the system releases it when the process dies, also by ``kill -9``. It
    never follows a symbolic link and never truncates the file. ``acquire`` raises
    ``filelock.Timeout`` where another holder has it, and ``OSError`` where the file cannot be
    opened or the file system has no locks.
    """
    # preserve_lock_file also forbids the fallback to a marker file, which would outlive a kill -9.
    return FileLock(path, blocking=blocking, thread_local=False, preserve_lock_file=True)


def write_atomic(
    path: Path, data: str | bytes | Callable[[IO[bytes]], object], fsync: bool = False
) -> None:
    """Write a file beside its place and rename it: a reader finds the old file or the new one.

    When to ``fsync``: where the file is the only record of something done elsewhere that must not
    be done again or forgotten (a run in MLflow, letters sent to a topic, a part of a recording).
    Not where a loss of power only brings back an older version that is true as well, or that the
    next write replaces.

    Args:
        path: the file.
        data: its content, or a function that writes it to the open file.
        fsync: whether the file and its name are on the disk before this returns.

    Raises:
        OSError: the file cannot be written; the old one, if any, is as it was.
    """
    temporary = path.with_name(f".{path.name}")
    try:
        with temporary.open("wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data.encode() if isinstance(data, str) else data)
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # of a full disk, which needs what the half file takes
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    if fsync:
        flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Return once a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
