"""A run of a job: resumed or begun anew, led through the loop, kept in checkpoints, summed up.

It runs the same in a plain process and inside an actor. Where blocks of events come from is handed
in, and so is whoever watches; neither leaves a trace in the state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from learners.base import LearnerError
from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob, differences
from pipeline.dead_letters.file_writer import DeadLetterLog
from pipeline.dead_letters.limit import DeadLetterLimit, TooManyDeadLettersError
from pipeline.storage.checkpoints import Checkpoint, CheckpointError, Checkpoints, read
from pipeline.storage.offset_journal import Journal
from pipeline.storage.recording_writer import RecordingWriter
from pipeline.storage.run_folder import RunFolder
from pipeline.training.builder import Parts, build, state_digest
from pipeline.training.callback import Callback, Say
from pipeline.training.errors import RunError
from pipeline.training.event_fates import LedgerError
from pipeline.training.journaled_source import JournaledSource, RunStoppedError
from pipeline.training.loop import Source
from pipeline.training.versions import versions
from streams.core.batch import Batch
from streams.core.errors import StreamError, one_line
from streams.core.live_stream import LiveStream
from streams.core.state_dict import State
from streams.core.stream import Cursor, Stream

Blocks = Callable[[Source, Cursor], Iterable[Batch]]


LIVE_S = 60.0
"""A live stream may be slow: after so many seconds a checkpoint is written however few events came,
so that little is to be read again."""


class Run:
    """One run of a job in this process, in a folder that it holds alone.

    Args:
        loaded: the job.
        folder: the run folder.
        say: takes lines for a person.
        runner: named in the summary.
        record: a folder that the stream, a live one, is recorded into.
    """

    def __init__(
        self,
        loaded: LoadedJob,
        folder: Path,
        say: Say,
        runner: str = "local",
        record: Path | None = None,
    ) -> None:
        self.loaded = loaded
        self.folder = RunFolder(folder)
        self.say = say
        self.runner = runner
        self.stopping = False
        self.resumed_from: str | None = None
        self.dead = DeadLetterLog(folder)
        self.checkpoints = Checkpoints(self.folder.checkpoints, loaded.job.checkpoint.keep, say)
        self.journal = Journal(folder)
        self._journal_at: tuple[int, int] | None = None  # that the checkpoint begun from names
        self._watchers: Sequence[Callback] = ()
        self._warmed = False
        self._warm_from: str | None = None  # the checkpoint that it was begun with
        self._recorder = None if record is None else RecordingWriter(record, self.journal.path, say)

    def run(
        self,
        resume: bool = False,
        warm_from: Path | None = None,
        max_events: int | None = None,
        watchers: Sequence[Callback] = (),
        blocks: Blocks = Source.blocks,
    ) -> dict[str, Any]:
        """Runs to the end of the stream, to ``max_events`` events in all (rounded up to a whole
        micro-batch), or until ``stop``; returns the summary.

        Raises:
            JobError: nothing was started.
            RunError: it failed on the way; the state up to the last checkpoint is kept.
        """
        torch.set_num_threads(self.loaded.job.threads)
        self._watchers = watchers
        with self.folder.lock():
            self.folder.check(resume)
            told: dict[str, float] = {}
            try:
                parts, finished = self._begin(resume, warm_from)
                summary = self._go_on(parts, finished, max_events, watchers, blocks)
            finally:
                for watcher in watchers:
                    told |= watcher.close()
                if self._recorder is not None:
                    self._recorder.drop()
                self.checkpoints.close()
                self.journal.close()
                self.dead.close()
            if told:
                summary["metrics"] |= told
                self.folder.write_summary(summary)
            return summary

    def _begin(self, resume: bool, warm_from: Path | None) -> tuple[Parts, bool]:
        """The job, built and brought back to where it was; whether it had come to its end."""
        parts = build(self.loaded)
        try:
            finished = self._restore(parts, resume, warm_from)
            self.folder.write_job(self.loaded)
            if self._recorder is not None:
                begun = (self.loaded, parts.stream, self.journal, self._warm_from)
                self._recorder.begin(*begun)
        except OSError as error:
            raise JobError(f"{error.filename or self.folder.path}: {error.strerror}") from None
        return parts, finished

    def _go_on(
        self,
        parts: Parts,
        finished: bool,
        max_events: int | None,
        watchers: Sequence[Callback],
        blocks: Blocks,
    ) -> dict[str, Any]:
        first = parts.loop.events
        try:
            for watcher in watchers:
                watcher.begin(self, parts, _total(parts.stream, max_events))
            started = time.perf_counter()
            if self._warmed:  # or a run that is killed before the first would go on cold
                self._checkpoint(parts, finished=False)
            if finished:
                self.say("the stream had come to its end already: nothing is left to learn")
                self._catch_up(parts, finished)
                if (old := self.folder.summary()) and old["finished"]:
                    return old
            else:
                finished = self._train(parts, max_events, watchers, blocks)
            return self._close(parts, finished, time.perf_counter() - started, first)
        except JobError:  # of one who was to watch: nothing was begun
            raise
        except (
            StreamError,
            LearnerError,
            CheckpointError,
            LedgerError,
            TooManyDeadLettersError,
        ) as error:
            raise self._failed(f"{self.loaded.file}: {error}") from None
        except OSError as error:
            where = error.filename or self.folder.path
            raise self._failed(f"{error.strerror or error}: {where}") from None
        except (Exception, SystemExit) as error:  # a defect, of ours or of a user's class
            what = f"{type(error).__name__}: {one_line(error)} (details: {self.folder.log()})"
            raise self._failed(what) from error

    def stop(self) -> None:
        """Stops after the micro-batch at hand, with a checkpoint."""
        self.stopping = True

    def _train(
        self,
        parts: Parts,
        max_events: int | None,
        watchers: Sequence[Callback],
        blocks: Blocks,
    ) -> bool:
        loop, every = parts.loop, self.loaded.job.checkpoint.every_events
        limit = float("inf") if max_events is None else max_events
        due = (loop.events // every + 1) * every
        too_many = DeadLetterLimit(self.loaded.job.stream.dead_letters, parts.stream.place_name)
        live, since = isinstance(parts.stream, LiveStream), time.monotonic()
        finished = False
        if loop.events >= limit:
            self._catch_up(parts, finished)
            return False
        with suppress(RunStoppedError):
            for batch in parts.source.batches(self._blocks(parts, blocks)):
                loop.step(batch)
                for watcher in watchers:
                    watcher(loop)
                dead, loop.dead = loop.dead, []
                self.dead.write(dead)
                try:
                    too_many.add(batch, dead)
                except TooManyDeadLettersError:
                    self._checkpoint(parts, finished=False)
                    raise
                now = time.monotonic()
                if loop.events >= due or (live and now - since >= LIVE_S):
                    due, since = (loop.events // every + 1) * every, now
                    self._checkpoint(parts, finished=False)
                if self.stopping or loop.events >= limit:
                    break
            else:
                finished = not parts.stream.open_end
                if finished:
                    loop.finish(parts.source.size)
        if self._recorder is not None:
            self._recorder.close(loop.events, finished, loop.ledger.cursor())
        for watcher in watchers:
            watcher.end(loop)
        return finished

    def _blocks(self, parts: Parts, blocks: Blocks) -> Iterable[Batch]:
        """Blocks of the stream from where the run stands; of a live one, by the journal."""
        cursor = parts.loop.ledger.cursor()
        if not isinstance(parts.stream, LiveStream):
            return self._until_stopped(blocks(parts.source, cursor))
        return self._live(parts.stream, partial(blocks, parts.source)).blocks(
            cursor, self._journal_at
        )

    def _until_stopped(self, blocks: Iterable[Batch]) -> Iterator[Batch]:
        """The blocks, but for those without anything in them: with these a stream that waits lets
        the run be stopped. Raises ``RunStoppedError``."""
        for block in blocks:
            if self.stopping:
                raise RunStoppedError
            if len(block) or block.dead or block.arrivals is not None or block.flush:
                yield block

    def _live(
        self, stream: LiveStream, read: Callable[[Cursor], Iterable[Batch]]
    ) -> JournaledSource:
        journal, stopping = self.journal, lambda: self.stopping
        return JournaledSource(stream, journal, read, stopping, self.say, self._recorder)

    def _catch_up(self, parts: Parts, finished: bool) -> None:
        """Nothing is left to learn, but some of it may be left to record."""
        if self._recorder is None or not isinstance(parts.stream, LiveStream):
            return
        with suppress(RunStoppedError):
            self._live(parts.stream, parts.source.blocks).catch_up(self._recorder)
            ledger = parts.loop.ledger
            self._recorder.close(ledger.events, finished, ledger.cursor())

    def _failed(self, what: str) -> RunError:
        try:
            self.checkpoints.wait()
        except Exception as error:  # the run fails already: this one is only told
            self.say(f"checkpoint not written: {one_line(error)}")
        kept = self.checkpoints.all()
        if not kept and self.journal.begun:
            return RunError(
                f"{what}. No checkpoint had been written yet, but the journal says what was read; "
                "when mended, go on with the same command and --resume"
            )
        if not kept:
            return RunError(f"{what}. No checkpoint had been written yet: nothing to go on from")
        return RunError(
            f"{what}. The state after {int(kept[-1].name)} events is kept; when mended, go on with "
            "the same command and --resume"
        )

    def _checkpoint(self, parts: Parts, finished: bool) -> State:
        parts.loop.learner.verify()
        self.dead.sync()
        state = parts.state()
        state["dead_bytes"] = self.dead.bytes
        about = {
            "job": self.loaded.job.name,
            "fingerprint": self._fingerprint(parts),
            "versions": versions(),
            "recipe": parts.recipe,
            "modules": str(self.loaded.folder),
            "finished": finished,
            "warm_from": self._warm_from,
        }
        cursor, dead_bytes = parts.loop.ledger.cursor(), self.dead.bytes
        if isinstance(parts.stream, LiveStream):
            about["journal"] = self.journal.position(cursor)
            self.journal.sync()
        self.checkpoints.write(
            parts.loop.events, state, about, partial(self._kept, cursor, dead_bytes)
        )
        return state

    def _kept(self, cursor: Cursor, dead_bytes: int) -> None:
        for watcher in self._watchers:
            watcher.kept(cursor, dead_bytes)

    def _close(self, parts: Parts, finished: bool, seconds: float, first: int) -> dict[str, Any]:
        loop, job = parts.loop, self.loaded.job
        state = self._checkpoint(parts, finished)
        if not self.checkpoints.wait():
            raise self._failed("the last checkpoint could not be written")
        done = loop.events - first
        summary = {
            "job": job.name,
            "seed": job.seed,
            "runner": self.runner,
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
        self.folder.write_summary(summary)
        return summary

    def _restore(self, parts: Parts, resume: bool, warm_from: Path | None) -> bool:
        """Brings back the newest checkpoint; whether the stream had been finished in it."""
        self.checkpoints.begin()
        found = None
        if not resume:
            self.folder.clear()
        try:
            if resume:
                found = self.checkpoints.newest()
            if found is None and warm_from is not None:
                known = read(warm_from)
                self._warm(parts, known)
                self._warmed, self._warm_from = True, str(known.path.resolve())
        except CheckpointError as error:
            raise JobError(str(error)) from None
        if found is None:
            self.dead.open(0)
            self._begin_live(parts)
            return False
        self._same_job(found, parts)
        parts.load(found.state)
        self.resumed_from = str(found.path)
        self._warm_from = found.about.get("warm_from")
        if isinstance(parts.stream, LiveStream):
            offset, number = found.about["journal"]
            self._journal_at = (offset, number)
        if not self.dead.open(found.state["dead_bytes"]):
            self.say(
                "dead.jsonl is shorter than it was: events set aside earlier are no more in it"
            )
        self.say(f"resumed after {found.events:,} events from {found.path}")
        return bool(found.about["finished"])

    def _begin_live(self, parts: Parts) -> None:
        """A live stream is begun where it says; or, where the journal has said so before and there
        is no checkpoint yet, there."""
        if not isinstance(parts.stream, LiveStream):
            parts.loop.ledger.begin(parts.stream.origin())
            return
        stream, fingerprint = parts.stream, self._fingerprint(parts)
        if not self.journal.begun:
            try:
                stop = stream.stop() if stream.bounded else None
                self.journal.begin(stream.start(), stop, fingerprint)
            except StreamError as error:
                raise JobError(f"{self.loaded.file}: {error}") from None
        parts.loop.ledger.begin(self.journal.head())
        self._same(self.journal.fingerprint or fingerprint, parts, self.journal.path)

    def _fingerprint(self, parts: Parts) -> dict[str, Any]:
        """The job's, and what the columns of its stream turned out to be."""
        schema = parts.stream.schema
        columns = {f"column {f.name}": [f.kind, *f.shape] for f in schema.features}
        order = [feature.name for feature in schema.features]
        return {**self.loaded.fingerprint(), **columns, "columns": order, "label": schema.task}

    def _same(self, fingerprint: dict[str, Any], parts: Parts, path: Path) -> None:
        """Raises ``JobError`` where what was kept is of another job."""
        changed = differences(fingerprint, self._fingerprint(parts))
        if changed:
            lines = "\n  ".join(changed)
            raise JobError(
                f"{self.loaded.file}: {path} is of another job:\n  {lines}\nSet these back, or "
                "start another run (another --run-dir; --warm-from takes over what the learner "
                "knows)"
            )

    def _same_job(self, found: Checkpoint, parts: Parts) -> None:
        self._same(found.about["fingerprint"], parts, found.path)
        now = versions()
        moved = [
            f"{name} {was} -> {now.get(name)}"
            for name, was in found.about["versions"].items()
            if now.get(name) != was
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


def _total(stream: Stream, max_events: int | None) -> int | None:
    """Events that a run will see, where that is known beforehand."""
    try:
        length = len(stream)
    except TypeError:
        return max_events
    return length if max_events is None else min(length, max_events)
