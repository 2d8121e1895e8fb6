"""Start and finish MLflow tracking with a run."""

from __future__ import annotations

from typing import Any

from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob
from pipeline.config.sections import TrackConfig
from pipeline.tracking.mlflow_delivery import (
    ARTIFACTS,
    Status,
    Tracker,
    TrackError,
    check,
    describe,
    tags,
)
from pipeline.training.callback import Callback, RunContext, Say
from pipeline.training.loop import Loop


class MlflowCallback(Callback):
    """Start the tracker once the folder is locked, before the first event.

    Raises ``JobError`` where tracking cannot work.

    Args:
        loaded: the job.
        config: its ``track``.
        say: takes lines for a person.
    """

    def __init__(self, loaded: LoadedJob, config: TrackConfig, say: Say) -> None:
        self._loaded = loaded
        self._config = config
        self._say = say
        self._tracker: Tracker | None = None
        try:
            check(config)
        except TrackError as error:
            raise JobError(f"{loaded.file}: {error}") from None

    def on_start(self, context: RunContext, loop: Loop) -> None:
        params, run_tags = describe(self._loaded.values()), tags(self._loaded.folder)
        try:
            tracker = Tracker(
                self._config, context.folder, context.job, params, run_tags, self._say
            )
            tracker.start()
        except TrackError as error:
            raise JobError(f"{self._loaded.file}: {error}") from None
        self._tracker = tracker

    def on_summary(self, summary: dict[str, Any]) -> None:
        summary["mlflow_run_id"] = None if self._tracker is None else self._tracker.run_id

    def finish(self, status: Status) -> None:
        """Deliver what is left, then the files and the status of the run."""
        if self._tracker is not None:
            files = [self._tracker.folder / name for name in ARTIFACTS]
            self._tracker.close(status, files)
