"""Bring a run back to where it stood: from its checkpoint, its journal, or another run's model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learners.base import LearnerError
from pipeline.config.encoder_settings import encoder_locations
from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob, differences
from pipeline.dead_letters.file_writer import DeadLetterLog
from pipeline.storage.checkpoints import (
    Checkpoint,
    CheckpointError,
    Checkpoints,
    ResumePoint,
    read,
    resume_point,
)
from pipeline.storage.run_folder import JOURNAL
from pipeline.training.builder import Parts
from pipeline.training.callback import Say
from pipeline.training.event_fates import Ledger
from pipeline.training.event_source import EventSource, RunStoppedError
from pipeline.training.versions import versions
from streams.core.errors import StreamError, one_line

_LEARNER_KEYS = ("learner.", "column", "encoder of ", "label")
"""Keys of a fingerprint that the state of a learner depends on."""


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """Where a run starts.

    Attributes:
        finished: its stream has ended already.
        resumed_from: the checkpoint that it resumes from.
        warm_from: the checkpoint of another run that it was begun with, now or before.
        warm: the learner was taken from there just now.
        point: where the run would go on, if it has come to an end and stays there.
    """

    finished: bool = False
    resumed_from: str | None = None
    warm_from: str | None = None
    warm: bool = False
    point: ResumePoint | None = None


class Restorer:
    """Restore the parts of a job and its source. Raise ``JobError`` where they do not fit.

    Args:
        loaded: the job.
        parts: the job, built.
        source: the source of its events.
        dead: the file of its dead letters.
        say: takes lines for a person.
    """

    def __init__(
        self, loaded: LoadedJob, parts: Parts, source: EventSource, dead: DeadLetterLog, say: Say
    ) -> None:
        self.loaded = loaded
        self.parts = parts
        self.source = source
        self.dead = dead
        self.say = say

    def restore(
        self,
        checkpoints: Checkpoints,
        resume: bool,
        warm_from: Path | None,
        max_events: int | None = None,
    ) -> StartingPoint:
        """Load the newest checkpoint where ``resume`` says so; else begin anew.

        Args:
            checkpoints: of the run.
            resume: whether to go on.
            warm_from: a checkpoint of another run to take the learner from.
            max_events: events that the run is to have read in all.
        """
        try:
            checkpoint = checkpoints.newest() if resume else None
            if checkpoint is not None:
                return self._resume(checkpoint, max_events)
            known = None if warm_from is None else read(warm_from)
        except CheckpointError as error:
            raise JobError(str(error)) from None
        if known is not None:
            self._warm_start(known)
        self._begin()
        if known is None:
            return StartingPoint()
        return StartingPoint(warm_from=str(known.path.resolve()), warm=True)

    def _begin(self) -> None:
        """Begin at the source's start; or at that of its journal, where a run was killed before
        its first checkpoint."""
        self.dead.open(0)
        try:
            cursor = self.source.begin(fingerprint(self.loaded, self.parts))
        except StreamError as error:
            raise JobError(f"{self.loaded.file}: {error}") from None
        self.parts.loop.ledger.begin(cursor)
        if self.source.fingerprint is not None:
            self._check_fingerprint(self.source.fingerprint, self.dead.path.with_name(JOURNAL))

    def _resume(self, checkpoint: Checkpoint, max_events: int | None) -> StartingPoint:
        """Load a checkpoint: of a run that had come to an end and goes on, the state before it."""
        located = "identity" not in checkpoint.about
        self._check_fingerprint(checkpoint.about["fingerprint"], checkpoint.path, located)
        self._check_versions(checkpoint.about["versions"])
        self._check_source(checkpoint)
        self.source.resume(checkpoint.about)
        stays = max_events is not None and checkpoint.events >= max_events
        finished = bool(checkpoint.about["finished"]) and (stays or not self._has_more(checkpoint))
        point = resume_point(checkpoint)
        events, state = checkpoint.events, checkpoint.state
        if point is not None and not (stays or finished):
            if self._holds(point, checkpoint):
                events, state = point.events, point.state
                self.source.resume(point.source)
            point = None
        with _named(f"{self.loaded.file}: {checkpoint.path}"):
            self.parts.load(state)
        if not self.dead.open(state["dead_bytes"]):
            self.say("dead.jsonl is shorter than it was: dead letters of earlier events are lost")
        self.say(f"resumed after {events:,} events from {checkpoint.path}")
        return StartingPoint(
            finished=finished,
            resumed_from=str(checkpoint.path),
            warm_from=checkpoint.about.get("warm_from"),
            point=point,
        )

    def _holds(self, point: ResumePoint, ended: Checkpoint) -> bool:
        """Return whether the run can go on from the point before its last micro-batch. Say
        where it goes on from its end instead."""
        try:
            holds = self.source.holds(Ledger.cursor_of(point.state["ledger"]))
            goes_on = holds or self.source.holds(Ledger.cursor_of(ended.state["ledger"]))
        except (StreamError, RunStoppedError):  # the reading reports it
            return True
        if goes_on and not holds:  # else the reading says what the stream lacks
            self.say(
                "the last micro-batch is no longer in the stream, so the run goes on from the end "
                "that it had come to: the labels that were awaited there are not waited for"
            )
        return holds

    def _has_more(self, ended: Checkpoint) -> bool:
        """Return whether the stream has more than it had when a run ended with this checkpoint."""
        try:
            return self.source.has_more(Ledger.cursor_of(ended.state["ledger"]))
        except RunStoppedError:
            return False
        except StreamError as error:
            raise JobError(f"{self.loaded.file}: {error}") from None

    def _check_source(self, checkpoint: Checkpoint) -> None:
        """Raise ``JobError`` where the stream is not what the run has read of it."""
        about = checkpoint.about
        positions = [about["resume"]["source"], about] if "resume" in about else [about]
        try:
            self.source.verify(positions, Ledger.cursor_of(checkpoint.state["ledger"]))
        except StreamError as error:
            raise JobError(f"{self.loaded.file}: {error}") from None

    def _check_fingerprint(self, kept: dict[str, Any], path: Path, located: bool = True) -> None:
        """Raise ``JobError`` where a fingerprint is of another job; ``located``: or of data that
        lie elsewhere."""
        keys = self.loaded.job.stream.location_keys
        elsewhere = set() if located else {f"stream.{key}" for key in keys}
        ours = fingerprint(self.loaded, self.parts)
        changed = differences(
            {key: value for key, value in kept.items() if key not in elsewhere},
            {key: value for key, value in ours.items() if key not in elsewhere},
        )
        if changed:
            lines = "\n  ".join(changed)
            raise JobError(
                f"{self.loaded.file}: {path} is of another job:\n  {lines}\nSet these back, or "
                "start another run (another --run-dir; --warm-from takes over what the learner "
                "knows)"
            )

    def _check_versions(self, kept: dict[str, str]) -> None:
        now = versions()
        changed = [
            f"{name} {version} -> {now.get(name)}"
            for name, version in kept.items()
            if now.get(name) != version
        ]
        if changed:
            self.say(f"versions differ, so the last bits may too: {', '.join(changed)}")

    def _warm_start(self, checkpoint: Checkpoint) -> None:
        """Load the learner and its classes from a checkpoint of another run."""
        if self.loaded.learner.opaque:
            raise JobError(
                f"--warm-from {checkpoint.path}: learner {self.loaded.job.learner.kind!r} is kept "
                "as a pickle, which is read only when a run resumes its own checkpoint"
            )
        theirs, ours = (
            {key: value for key, value in keys.items() if key.startswith(_LEARNER_KEYS)}
            for keys in (
                checkpoint.about["fingerprint"],
                fingerprint(self.loaded, self.parts),
            )
        )
        changed = differences(theirs, ours)
        if changed:
            lines = "\n  ".join(changed)
            raise JobError(f"--warm-from {checkpoint.path}: another learner:\n  {lines}")
        known = tuple(checkpoint.state["learner"]["classes"])
        stated = self.parts.vocabulary.classes
        if stated != known[: len(stated)]:
            raise JobError(f"--warm-from {checkpoint.path}: it knows other classes, {list(known)}")
        first = [["", -1]] * len(known)
        self.parts.vocabulary.load({"classes": list(known), "first": first})
        learner = self.parts.loop.learner
        with _named(f"--warm-from {checkpoint.path}"):
            learner.load(learner.migrate(checkpoint.state["learner"]))
        self.say(f"warm start from {checkpoint.path}: as learned from {checkpoint.events:,} events")


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Let the error of a learner that refuses a state name where the state is."""
    try:
        yield
    except LearnerError as error:
        raise JobError(f"{place}: {one_line(error)}") from None


def fingerprint(loaded: LoadedJob, parts: Parts) -> dict[str, Any]:
    """Return what the state depends on: the job's fingerprint, the columns of its stream, and the
    encoders of these."""
    schema = parts.stream.schema
    encoded = {} if parts.encoded is None else parts.encoded.fingerprints()
    encoders = {f"encoder of {name}": value for name, value in encoded.items()}
    columns = {f"column {f.name}": [f.kind, *f.shape] for f in schema.features}
    order = [feature.name for feature in schema.features]
    elsewhere = encoder_locations(loaded.job.stream.encoder)
    job = {key: value for key, value in loaded.fingerprint().items() if key not in elsewhere}
    return {**job, **columns, **encoders, "columns": order, "label": schema.task}
