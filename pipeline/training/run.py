"""A run of a job: begin or resume it, train, save checkpoints, sum it up.

The run is the same in a plain process and inside an actor. The function that reads blocks and the
callbacks are passed in; neither leaves a trace in the state.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob
from pipeline.dead_letters.file_writer import DeadLetterLog
from pipeline.dead_letters.limit import DeadLetterLimit, TooManyDeadLettersError
from pipeline.models.threads import set_threads
from pipeline.storage.checkpoints import Checkpoints, ResumePoint
from pipeline.storage.offset_journal import Journal
from pipeline.storage.recording_writer import RecordingWriter
from pipeline.storage.run_folder import RunFolder
from pipeline.training.builder import Parts, build, state_digest
from pipeline.training.callback import Callback, Callbacks, RunContext, Say
from pipeline.training.checkpoint_schedule import CheckpointSchedule
from pipeline.training.dead_letters import DeadLetterKeeper
from pipeline.training.description import describe
from pipeline.training.errors import RunFailures
from pipeline.training.event_source import DirectSource, EventSource, RunStoppedError
from pipeline.training.journaled_source import JournaledSource
from pipeline.training.reading.batch_reader import BatchReader
from pipeline.training.reading.encode_ahead import ColumnEncoding
from pipeline.training.resume import Restorer, StartingPoint, fingerprint
from pipeline.training.versions import versions
from streams.core.batch import Batch
from streams.core.live_stream import LiveStream
from streams.core.state_dict import State, copied
from streams.core.stream import Cursor, DataIdentity, Stream
from streams.operators.microbatch import first_events

ReadBlocksOf = Callable[[BatchReader, Cursor], Iterable[Batch]]
"""Reads blocks of a stream from a cursor on, in this process or another."""


class _OpenRun(NamedTuple):
    """The parts of a run that is under way."""

    parts: Parts
    source: EventSource
    start: StartingPoint
    callbacks: Callbacks
    keeper: DeadLetterKeeper


class StartOptions(NamedTuple):
    """How a run starts; as the arguments of ``Run.run``."""

    resume: bool
    warm_from: Path | None
    max_events: int | None


class Run:
    """One run of a job in this process, in a folder that it locks.

    Args:
        loaded: the job.
        folder: the run folder.
        say: takes lines for a person.
        runner: named in the summary.
        record: a folder that the stream, a live one, is recorded into.
        writes_summary: whether ``run`` writes ``summary.json``; a runner that adds to the summary
            writes it itself.
    """

    def __init__(
        self,
        loaded: LoadedJob,
        folder: Path,
        say: Say,
        runner: str = "local",
        record: Path | None = None,
        writes_summary: bool = True,
    ) -> None:
        self.loaded = loaded
        self.folder = RunFolder(folder)
        self.say = say
        self.runner = runner
        self.stopping = False
        self.writes_summary = writes_summary
        self._on_idle: Callable[[], None] = lambda: None
        self._dead = DeadLetterLog(folder)
        self._checkpoints = Checkpoints(self.folder.checkpoints, loaded.job.checkpoint.keep, say)
        self._journal = Journal(folder)
        self._failures = RunFailures(loaded, self.folder, self._checkpoints, self._journal, say)
        self._recorder = (
            None if record is None else RecordingWriter(record, self._journal.path, say)
        )

    def idle(self) -> None:
        """Let the callbacks know that no event comes just now; a reader of blocks calls this."""
        self._on_idle()

    def stop(self) -> None:
        """Stop after the current micro-batch, with a checkpoint."""
        self.stopping = True

    def run(
        self,
        resume: bool = False,
        warm_from: Path | None = None,
        max_events: int | None = None,
        callbacks: Sequence[Callback] = (),
        blocks: ReadBlocksOf = BatchReader.blocks,
        identity: Callable[[Cursor], DataIdentity] | None = None,
        encoding: ColumnEncoding | None = None,
    ) -> dict[str, Any]:
        """Run to the end of the stream, to ``max_events`` events in all, or until ``stop``.

        An end in the middle of a micro-batch cuts it short. The state before it is kept too: a run
        that goes on does so from there, and comes to the state of a run without that end.

        Args:
            resume: go on from the newest checkpoint.
            warm_from: a checkpoint of another run to take the learner from.
            max_events: events in all.
            callbacks: observe the run.
            blocks: reads blocks of the stream.
            identity: returns what these have read before a cursor; None: the stream does.
            encoding: encodes columns elsewhere; None: where columns are encoded, it is here.

        Returns:
            The summary.

        Raises:
            JobError: nothing was started.
            RunError: the run failed; the state up to the last checkpoint is kept.
        """
        set_threads(self.loaded.job.threads)
        observers = Callbacks(callbacks)
        with self.folder.lock():
            self.folder.check(resume)
            try:
                options = StartOptions(resume, warm_from, max_events)
                session = self._begin(options, callbacks, blocks, identity, encoding)
                with self._failures.translated():
                    summary = self._run_to_end(session, max_events)
                    summary["metrics"] |= observers.teardown()
            except BaseException:
                with suppress(Exception):  # of the same full disk, which is the reason already
                    observers.teardown()
                raise
            finally:
                self._release()
            observers.on_summary(summary)
            if self.writes_summary:
                with self._failures.translated():
                    self.folder.write_summary(summary)
            return summary

    def _begin(
        self,
        options: StartOptions,
        callbacks: Sequence[Callback],
        blocks: ReadBlocksOf,
        identity: Callable[[Cursor], DataIdentity] | None,
        encoding: ColumnEncoding | None,
    ) -> _OpenRun:
        """Build the job and bring it back to where it stood."""
        parts = build(self.loaded, encoding)
        source = self._source(parts, blocks, identity)
        dead_letters = self.loaded.job.stream.dead_letters
        limit = DeadLetterLimit(dead_letters, parts.stream.place_name)
        try:
            self._checkpoints.begin()
            if not options.resume:
                self.folder.clear()
            restorer = Restorer(self.loaded, parts, source, self._dead, self.say)
            start = restorer.restore(self._checkpoints, *options)
            self.folder.write_job(self.loaded)
            if self._recorder is not None:
                self._recorder.begin(self.loaded, parts.stream, self._journal, start.warm_from)
        except OSError as error:
            raise JobError(f"{error.filename or self.folder.path}: {error.strerror}") from None
        if len(names := parts.stream.sources()) > 1:
            self.say(f"reads {len(names)} files in this order: {_listed(names)}")
        keeper = DeadLetterKeeper(self._dead, limit)
        return _OpenRun(parts, source, start, Callbacks([*callbacks, keeper]), keeper)

    def _source(
        self,
        parts: Parts,
        blocks: ReadBlocksOf,
        identity: Callable[[Cursor], DataIdentity] | None,
    ) -> EventSource:
        """Return the source of the events: a live stream's goes by a journal."""
        read = partial(self._read, partial(blocks, parts.reader))
        cut = parts.reader.batches
        stopping = self._is_stopping
        if isinstance(parts.stream, LiveStream):
            journal, recorder = self._journal, self._recorder
            return JournaledSource(parts.stream, journal, read, stopping, self.say, recorder, cut)
        return DirectSource(parts.stream, read, cut, stopping, self.say, identity)

    def _read(self, blocks: Callable[[Cursor], Iterable[Batch]], cursor: Cursor) -> Iterator[Batch]:
        """Read blocks from a cursor on; an empty one means that no event comes just now."""
        for block in blocks(cursor):
            if block.is_empty and not block.flush:
                self.idle()
            yield block

    def _is_stopping(self) -> bool:
        return self.stopping

    def _run_to_end(self, session: _OpenRun, max_events: int | None) -> dict[str, Any]:
        parts, source, start, callbacks, _ = session
        first = parts.loop.events
        callbacks.on_start(self._context(parts, start, max_events), parts.loop)
        self._on_idle = partial(callbacks.on_idle, parts.loop)
        started = time.perf_counter()
        if start.warm:  # a run that is killed before its first checkpoint would resume cold
            self._save(session, finished=False)
        finished, point = start.finished, start.point
        if finished:
            self.say("the stream has ended already, and has nothing new: nothing is left to learn")
            source.catch_up(parts.loop.ledger, finished)
            if (old := self.folder.summary()) and old["finished"]:
                return old
        else:
            finished, point = self._train(session, max_events)
        return self._close(session, finished, point, time.perf_counter() - started, first)

    def _context(self, parts: Parts, start: StartingPoint, max_events: int | None) -> RunContext:
        return RunContext(
            folder=self.folder.path,
            job=self.loaded.job.name,
            job_file=self.loaded.file,
            stream=parts.stream,
            recipe=parts.recipe,
            say=self.say,
            resumed_from=start.resumed_from,
            total=_total(parts.stream, max_events),
            dead_bytes=self._dead.bytes,
            checkpoint_seconds=lambda: self._checkpoints.seconds,
            describe=cache(partial(describe, self.loaded, parts)),
            encoder_metrics=dict if parts.reader.encode is None else parts.reader.encode.metrics,
        )

    def _train(self, session: _OpenRun, max_events: int | None) -> tuple[bool, ResumePoint | None]:
        """Learn from the source; return whether its stream has ended, and where the run would go
        on, if not from its end."""
        parts, source, start, callbacks, keeper = session
        loop, limit = parts.loop, sys.maxsize if max_events is None else max_events
        if loop.events >= limit:
            source.catch_up(loop.ledger, finished=False)
            return False, start.point
        every_events = self.loaded.job.checkpoint.every_events
        schedule = CheckpointSchedule(every_events, source.checkpoint_s, loop.events)
        finished, point = False, None
        try:
            for batch in source.batches(loop.ledger.cursor()):
                left = limit - loop.events
                if batch.last or batch.events > left:
                    point = self._resume_point(session)
                result = loop.step(batch if batch.events <= left else first_events(batch, left))
                callbacks.on_batch_end(loop, result)
                if point is None and schedule.due(loop.events):
                    self._save(session, finished=False)
                if self.stopping or loop.events >= limit:
                    break
            else:
                finished = not parts.stream.open_end
                if finished:
                    keeper.end(loop)
        except RunStoppedError:
            pass
        except TooManyDeadLettersError:
            self._save(session, finished=False, point=point)
            raise
        if finished and point is None:  # the stream ended with a whole micro-batch
            point = self._resume_point(session)
        last = loop.finish(parts.reader.size) if finished else loop.flush()
        source.end(loop.ledger, finished)
        callbacks.on_end(loop, last)
        return finished, point

    def _resume_point(self, session: _OpenRun) -> ResumePoint:
        """Return the current state, to go on from after an end."""
        parts, source, *_ = session
        self._dead.sync()
        state = {**copied(parts.state()), "dead_bytes": self._dead.bytes}
        return ResumePoint(parts.loop.events, state, source.position(parts.loop.ledger.cursor()))

    def _save(self, session: _OpenRun, finished: bool, point: ResumePoint | None = None) -> State:
        """Write a checkpoint in the background; return its state."""
        parts, source, start, callbacks, _ = session
        parts.loop.verify()
        self._dead.sync()
        state = parts.state()
        dead_bytes = state["dead_bytes"] = self._dead.bytes
        cursor = parts.loop.ledger.cursor()
        about = {
            "job": self.loaded.job.name,
            "fingerprint": fingerprint(self.loaded, parts),
            "versions": versions(),
            "recipe": parts.recipe,
            "modules": str(self.loaded.folder),
            "finished": finished,
            "warm_from": start.warm_from,
            **source.position(cursor),
        }
        saved = partial(callbacks.on_checkpoint_saved, cursor, dead_bytes)
        self._checkpoints.write(parts.loop.events, state, about, saved, point)
        return state

    def _close(
        self,
        session: _OpenRun,
        finished: bool,
        point: ResumePoint | None,
        seconds: float,
        first: int,
    ) -> dict[str, Any]:
        """Save the last checkpoint; return the summary."""
        loop, job = session.parts.loop, self.loaded.job
        state = self._save(session, finished, point)
        if (failure := self._checkpoints.wait()) is not None:
            raise OSError(failure.errno, failure.strerror, str(self._checkpoints.folder))
        done = loop.events - first
        return {
            "job": job.name,
            "seed": job.seed,
            "runner": self.runner,
            "finished": finished,
            "events": loop.events,
            "fates": loop.ledger.fates(),
            "tombstones": loop.ledger.tombstones(),
            "dead_reasons": dict(self._dead.reasons),
            "awaiting": len(loop.join),
            "seconds": round(seconds, 3),
            "events_per_s": round(done / seconds, 1) if done else 0.0,
            "metrics": {
                name: value if math.isfinite(value) else None
                for name, value in loop.results().items()
            },
            **loop.metrics.of_classes(session.parts.vocabulary.classes),
            "labels": dict(getattr(loop.join, "counts", {})),
            "times": loop.times(),
            "state_digest": state_digest(state),
            "cursor": loop.ledger.cursor(),
            "model_version": loop.learner.version,
            "mlflow_run_id": None,
            "resumed_from": session.start.resumed_from,
        }

    def _release(self) -> None:
        """Close the files and end the threads of the run."""
        if self._recorder is not None:
            self._recorder.abort()
        self._checkpoints.close()
        self._journal.close()
        self._dead.close()


def _listed(names: Sequence[str], most: int = 12) -> str:
    """Return names with commas between; of many only the first and the last."""
    if len(names) > most:
        names = [*names[: most - 3], "...", *names[-2:]]
    return ", ".join(names)


def _total(stream: Stream, max_events: int | None) -> int | None:
    """Return how many events a run will have seen at its end, where that is known."""
    try:
        length = len(stream)
    except TypeError:
        return max_events
    return length if max_events is None else min(length, max_events)
