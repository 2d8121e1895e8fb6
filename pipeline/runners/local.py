"""The local runner: one process reads, predicts, learns and writes checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.callbacks.offset_commits import OffsetCommits
from pipeline.callbacks.probe_evaluator import BackgroundEvaluator
from pipeline.callbacks.progress import LiveProgress
from pipeline.config.job import LoadedJob
from pipeline.report.build import attach_report
from pipeline.runners.default_callbacks import callbacks_for
from pipeline.tracking.callback import MlflowCallback
from pipeline.training.callback import Say
from pipeline.training.errors import RunError
from pipeline.training.reading.batch_reader import BLOCK, BatchReader
from pipeline.training.run import Run
from streams.core.batch import Batch
from streams.core.stream import Cursor
from streams.operators.pacing import block_size, throttle


class LocalRunner:
    """One run of a job in this process.

    Args:
        loaded: the job.
        folder: the run folder.
        say: takes lines for a person.
        rate: events a second to read at most; None reads as fast as they come.
        record: a folder that the stream, a live one, is recorded into.
    """

    def __init__(
        self,
        loaded: LoadedJob,
        folder: Path,
        say: Say,
        rate: float | None = None,
        record: Path | None = None,
    ) -> None:
        self.loaded = loaded
        self.say = say
        self.rate = rate
        self._run = Run(loaded, folder, say, record=record)

    @property
    def stopping(self) -> bool:
        return self._run.stopping

    def stop(self) -> None:
        """Stop after the current micro-batch, with a checkpoint."""
        self._run.stop()

    def run(
        self,
        resume: bool,
        warm_from: Path | None,
        max_events: int | None,
        progress: LiveProgress,
    ) -> dict[str, Any]:
        """Run the job, as ``Run.run``."""
        job = self.loaded.job
        tracking = evaluator = None
        if job.track is not None and job.track.uri is not None:
            tracking = MlflowCallback(self.loaded, job.track, self.say)
        if job.evaluate.reevaluates_events:
            evaluator = BackgroundEvaluator(job.evaluate.probes.every_events, self.say)
        if job.serve is not None:
            self.say(
                "serve: the local runner does not serve; use --runner ray, or 'everlearn serve "
                f"{self._run.folder.path}' beside it"
            )
        callbacks = callbacks_for(job, OffsetCommits(), progress, tracking, evaluator)
        try:
            summary = self._run.run(resume, warm_from, max_events, callbacks, self._blocks)
        except RunError:
            if tracking is not None:
                tracking.finish("FAILED")
            raise
        if tracking is not None:
            attach_report(self._run.folder.path, self.say)
            stopped = self.stopping and not summary["finished"]
            tracking.finish("KILLED" if stopped else "FINISHED")
        return summary

    def _blocks(self, reader: BatchReader, cursor: Cursor) -> Iterator[Batch]:
        return throttle(reader.blocks(cursor, block_size(self.rate, BLOCK)), self.rate)
