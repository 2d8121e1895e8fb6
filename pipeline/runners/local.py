"""The local runner: one process reads, predicts, learns and writes checkpoints; where the run is
tracked, a thread beside it tells MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.callbacks.consumer_lag import ConsumerLag
from pipeline.callbacks.metric_writer import MetricWriter
from pipeline.callbacks.offset_commits import OffsetCommits
from pipeline.callbacks.probe_evaluator import BackgroundEvaluator
from pipeline.callbacks.progress import LiveProgress
from pipeline.config.job import LoadedJob
from pipeline.dead_letters.topic_writer import DeadLetterForwarder
from pipeline.report.build import hang
from pipeline.tracking.callback import MlflowCallback
from pipeline.training.callback import Callback, Say
from pipeline.training.errors import RunError
from pipeline.training.loop import BLOCK, Source
from pipeline.training.run import Run
from streams.core.batch import Batch
from streams.core.pacing import block_size, throttle
from streams.core.stream import Cursor


class LocalRunner:
    """One run of a job in this process.

    Args:
        loaded: the job.
        folder: the run folder.
        say: takes lines for a person.
        rate: events a second that are read at most; None: as fast as they come.
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
        """Stops after the micro-batch at hand, with a checkpoint."""
        self._run.stop()

    def run(
        self,
        resume: bool,
        warm_from: Path | None,
        max_events: int | None,
        progress: LiveProgress,
    ) -> dict[str, Any]:
        """As ``Run.run``."""
        lag = ConsumerLag()
        watchers: list[Callback] = [OffsetCommits(), DeadLetterForwarder(), lag, progress]
        tracking = None
        if (evaluate := self.loaded.job.evaluate).reevaluates_events:
            watchers.append(BackgroundEvaluator(evaluate.probes.every_events, self.say))
        if (config := self.loaded.job.track) is not None:
            tracking = MlflowCallback(self.loaded, config, self.say)
            watchers += [tracking, MetricWriter(config.every_events, lag)]
        if self.loaded.job.serve is not None:
            self.say(
                "serve: the local runner does not serve; use --runner ray, or 'everlearn serve "
                f"{self._run.folder.path}' beside it"
            )
        try:
            summary = self._run.run(resume, warm_from, max_events, watchers, self._blocks)
        except RunError:
            if tracking is not None:
                tracking.finish("FAILED", self._run)
            raise
        if tracking is not None:
            summary["mlflow_run_id"] = tracking.run_id
            self._run.folder.write_summary(summary)
            hang(self._run.folder.path, self.say)
            stopped = self.stopping and not summary["finished"]
            tracking.finish("KILLED" if stopped else "FINISHED", self._run)
        return summary

    def _blocks(self, source: Source, cursor: Cursor) -> Iterator[Batch]:
        return throttle(source.blocks(cursor, block_size(self.rate, BLOCK)), self.rate)
