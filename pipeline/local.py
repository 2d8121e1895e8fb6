"""The local runner: one process reads, predicts, learns and writes checkpoints."""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
import yaml

from learners.learner import LearnerError, line
from pipeline.build import Parts, build, state_digest
from pipeline.checkpoint import Checkpoint, CheckpointError, Checkpoints, read
from pipeline.job import JobError, LoadedJob, differences
from pipeline.ledger import LedgerError
from pipeline.loop import Loop
from streams.state import State
from streams.stream import Stream, StreamError

Say = Callable[[str], None]


class RunError(Exception):
    """The run failed; its state is kept, and the message says how to go on."""


class Watcher:
    """Is shown the loop after every micro-batch."""

    def begin(self, total: int | None, events: int) -> None:
        """Told before the first: events to come in all, where that is known, and those done."""

    def __call__(self, loop: Loop) -> None:
        raise NotImplementedError


class LocalRun:
    """One run of a job in this process, in a folder that it holds alone.

    The folder gets: ``job.yaml`` (the job as it was run), ``checkpoints/``, ``dead.jsonl`` (events
    set aside, one JSON line each), ``summary.json`` at the end.

    Args:
        loaded: the job.
        folder: the run folder.
        say: takes lines for a person.
    """

    def __init__(self, loaded: LoadedJob, folder: Path, say: Say) -> None:
        self.loaded = loaded
        self.folder = folder
        self.say = say
        self.stopping = False
        self.resumed_from: str | None = None
        self._dead: IO[bytes] | None = None
        self._dead_bytes = 0  # in dead.jsonl, up to the last checkpoint
        self._checkpoints = Checkpoints(folder / "checkpoints", loaded.job.checkpoint.keep, say)

    def run(
        self,
        resume: bool = False,
        warm_from: Path | None = None,
        max_events: int | None = None,
        watch: Watcher | None = None,
    ) -> dict[str, Any]:
        """Runs to the end of the stream, to ``max_events`` events in all (rounded up to a whole
        micro-batch), or until ``stop``; returns the summary.

        Raises:
            JobError: nothing was started.
            RunError: it failed on the way; the state up to the last checkpoint is kept.
        """
        torch.set_num_threads(self.loaded.job.threads)
        with self._held(resume):
            try:
                parts, finished = self._begin(resume, warm_from)
                return self._go_on(parts, finished, max_events, watch)
            finally:
                self._checkpoints.close()
                if self._dead is not None:
                    self._dead.close()

    def _begin(self, resume: bool, warm_from: Path | None) -> tuple[Parts, bool]:
        """The job, built and brought back to where it was; whether it had come to its end."""
        parts = build(self.loaded)
        try:
            finished = self._restore(parts, resume, warm_from)
            self._write_job()
        except OSError as error:
            raise JobError(f"{error.filename or self.folder}: {error.strerror}") from None
        return parts, finished

    def _go_on(
        self, parts: Parts, finished: bool, max_events: int | None, watch: Watcher | None
    ) -> dict[str, Any]:
        if finished:
            self.say("the stream had come to its end already: nothing is left to learn")
            if (old := self._old_summary()) and old["finished"]:
                return old
        started, first = time.perf_counter(), parts.loop.events
        try:
            finished = finished or self._train(parts, max_events, watch)
            return self._close(parts, finished, time.perf_counter() - started, first)
        except (StreamError, LearnerError, CheckpointError, LedgerError) as error:
            raise self._failed(f"{self.loaded.file}: {error}") from None
        except OSError as error:
            where = error.filename or self.folder
            raise self._failed(f"{error.strerror or error}: {where}") from None
        except (Exception, SystemExit) as error:  # a defect, of ours or of a user's class
            what = f"{type(error).__name__}: {line(error)} (details: {self._log()})"
            raise self._failed(what) from error

    def _old_summary(self) -> dict[str, Any]:
        """The summary that an earlier run left here, which may have been killed before its last."""
        try:
            summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        except (OSError, ValueError):
            return {}
        return summary

    def _log(self) -> Path | str:
        """Writes the stack trace at hand to a file; where it is."""
        log = self.folder / "error.log"
        try:
            log.write_text(traceback.format_exc())
        except OSError as error:
            return f"{error.strerror}"
        return log

    def stop(self) -> None:
        """Stops after the micro-batch at hand, with a checkpoint."""
        self.stopping = True

    def _train(self, parts: Parts, max_events: int | None, watch: Watcher | None) -> bool:
        loop, every = parts.loop, self.loaded.job.checkpoint.every_events
        limit = float("inf") if max_events is None else max_events
        due = (loop.events // every + 1) * every
        if loop.events >= limit:
            return False
        if watch is not None:
            watch.begin(_total(parts.stream, max_events), loop.events)
        for batch in parts.source.read(loop.ledger.cursor()):
            loop.step(batch)
            if watch is not None:
                watch(loop)
            if loop.events >= due:
                due = (loop.events // every + 1) * every
                self._checkpoint(parts, finished=False)
            if self.stopping or loop.events >= limit:
                return False
        loop.finish(parts.source.size)
        return True

    def _failed(self, what: str) -> RunError:
        try:
            self._checkpoints.wait()
        except Exception as error:  # the run fails already: this one is only told
            self.say(f"checkpoint not written: {line(error)}")
        kept = self._checkpoints.all()
        if not kept:
            return RunError(f"{what}. No checkpoint had been written yet: nothing to go on from")
        return RunError(
            f"{what}. The state after {int(kept[-1].name)} events is kept; when mended, go on with "
            "the same command and --resume"
        )

    def _checkpoint(self, parts: Parts, finished: bool) -> State:
        parts.loop.learner.verify()
        self._write_dead(parts.loop)
        state = parts.state()
        state["dead_bytes"] = self._dead_bytes
        about = {
            "job": self.loaded.job.name,
            "fingerprint": self._fingerprint(parts),
            "versions": _versions(),
            "finished": finished,
        }
        self._checkpoints.write(parts.loop.events, state, about)
        return state

    def _close(self, parts: Parts, finished: bool, seconds: float, first: int) -> dict[str, Any]:
        loop, job = parts.loop, self.loaded.job
        state = self._checkpoint(parts, finished)
        if not self._checkpoints.wait():
            raise self._failed("the last checkpoint could not be written")
        done = loop.events - first
        summary = {
            "job": job.name,
            "seed": job.seed,
            "runner": "local",
            "finished": finished,
            "events": loop.events,
            "fates": loop.ledger.fates(),
            "awaiting": len(loop.join),
            "seconds": round(seconds, 3),
            "events_per_s": round(done / seconds, 1) if done else 0.0,
            "metrics": {
                name: value if math.isfinite(value) else None
                for name, value in loop.results().items()
            },
            "labels": dict(getattr(loop.join, "counts", {})),
            "state_digest": state_digest(state),
            "cursor": loop.ledger.cursor(),
            "model_version": loop.learner.version,
            "mlflow_run_id": None,
            "resumed_from": self.resumed_from,
        }
        writing = self.folder / ".summary.json"
        writing.write_text(json.dumps(summary, indent=2) + "\n")
        writing.replace(self.folder / "summary.json")
        return summary

    def _restore(self, parts: Parts, resume: bool, warm_from: Path | None) -> bool:
        """Brings back the newest checkpoint; whether the stream had been finished in it."""
        self._checkpoints.begin()
        dead = self.folder / "dead.jsonl"
        found = None
        try:
            if resume:
                found = self._checkpoints.newest()
            elif warm_from is not None:
                self._warm(parts, read(warm_from))
        except CheckpointError as error:
            raise JobError(str(error)) from None
        if resume and found is None:
            self.say(f"no checkpoint in {self.folder} yet: starting at the beginning")
        if found is None:
            dead.write_bytes(b"")
            self._dead = dead.open("ab")
            return False
        self._same_job(found, parts)
        parts.load(found.state)
        self.resumed_from = str(found.path)
        self._dead_bytes = found.state["dead_bytes"]
        dead.touch()
        if dead.stat().st_size >= self._dead_bytes:
            os.truncate(dead, self._dead_bytes)
        else:
            self.say(f"{dead} is shorter than it was: events set aside earlier are no more in it")
        self._dead = dead.open("ab")
        self.say(f"resumed after {found.events:,} events from {found.path}")
        return bool(found.about["finished"])

    def _fingerprint(self, parts: Parts) -> dict[str, Any]:
        """The job's, and what the columns of its stream turned out to be."""
        schema = parts.stream.schema
        columns = {f"column {f.name}": [f.kind, *f.shape] for f in schema.features}
        order = [feature.name for feature in schema.features]
        return {**self.loaded.fingerprint(), **columns, "columns": order, "label": schema.task}

    def _same_job(self, found: Checkpoint, parts: Parts) -> None:
        changed = differences(found.about["fingerprint"], self._fingerprint(parts))
        if changed:
            lines = "\n  ".join(changed)
            raise JobError(
                f"{self.loaded.file}: the checkpoint {found.path} is of another job:\n  {lines}\n"
                "Set these back, or start another run (another --run-dir; --warm-from takes over "
                "what the learner knows)"
            )
        versions = _versions()
        moved = [
            f"{name} {was} -> {versions.get(name)}"
            for name, was in found.about["versions"].items()
            if versions.get(name) != was
        ]
        if moved:
            self.say(f"versions differ, so the last bits may too: {', '.join(moved)}")

    def _warm(self, parts: Parts, found: Checkpoint) -> None:
        if self.loaded.learner.opaque:
            raise JobError(
                f"--warm-from {found.path}: learner {self.loaded.job.learner.kind!r} is kept as a "
                "pickle, which is read only when a run resumes its own checkpoint"
            )
        shapes = ("learner.", "column", "label")  # what the state of a learner hangs on
        theirs, ours = (
            {key: value for key, value in keys.items() if key.startswith(shapes)}
            for keys in (found.about["fingerprint"], self._fingerprint(parts))
        )
        changed = differences(theirs, ours)
        if changed:
            raise JobError(f"--warm-from {found.path}: another learner:\n  " + "\n  ".join(changed))
        known = tuple(found.state["learner"]["classes"])
        stated = parts.vocabulary.classes
        if stated != known[: len(stated)]:
            raise JobError(f"--warm-from {found.path}: it knows other classes, {list(known)}")
        parts.vocabulary.load({"classes": list(known), "first": [["", -1]] * len(known)})
        parts.loop.learner.load(parts.loop.learner.migrate(found.state["learner"]))
        self.say(f"warm start from {found.path}: as learned from {found.events:,} events")

    def _write_dead(self, loop: Loop) -> None:
        if not loop.dead:
            return
        assert self._dead is not None
        dead, loop.dead = loop.dead, []
        for d in dead:
            entry = {"partition": d.partition, "offset": d.offset, "id": d.id, "reason": d.reason}
            self._dead_bytes += self._dead.write(json.dumps(entry).encode() + b"\n")
        self._dead.flush()
        os.fsync(self._dead.fileno())

    def _write_job(self) -> None:
        target = self.folder / "job.yaml"
        if target.exists() and target.samefile(self.loaded.file):
            raise JobError(f"{target} is the job file itself: choose another --run-dir")
        text = yaml.safe_dump(
            self.loaded.job.model_dump(mode="json", serialize_as_any=True), sort_keys=False
        )
        target.write_text(text)

    @contextmanager
    def _held(self, resume: bool) -> Iterator[None]:
        """Makes the folder and holds it against a second run."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # never through a link, never cut short
            lock = os.fdopen(os.open(self.folder / ".lock", flags, 0o644), "r+")
        except OSError as error:
            raise JobError(
                f"cannot write in {self.folder}: {error.strerror}; choose another --run-dir"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise JobError(
                    f"{self.folder} is held by another run: wait for it, or choose another "
                    "--run-dir"
                ) from None
            if not resume and self._checkpoints.all():
                raise JobError(
                    f"{self.folder} holds a run already: add --resume to go on with it, or choose "
                    "another --run-dir"
                )
            yield


@contextmanager
def stopping_on_signals(run: LocalRun, say: Say) -> Iterator[None]:
    """While open, Ctrl-C and SIGTERM let the run write a checkpoint and leave; a second one does
    not wait."""

    def handle(number: int, frame: FrameType | None) -> None:
        if run.stopping:
            raise KeyboardInterrupt
        say("stopping: a checkpoint is written first (once more to leave at once)")
        run.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _total(stream: Stream, max_events: int | None) -> int | None:
    """Events that a run will see, where that is known beforehand."""
    try:
        length = len(stream)
    except TypeError:
        return max_events
    return length if max_events is None else min(length, max_events)


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("everlearn", "torch", "numpy", "river"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "checkout"
    return found
