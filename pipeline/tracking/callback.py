"""Start and finish MLflow tracking with a run."""

from __future__ import annotations

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
from pipeline.training.builder import Parts
from pipeline.training.callback import Callback, Say
from pipeline.training.run import Run


class MlflowCallback(Callback):
    """Starts the tracker once the folder is held, before the first event.

    Raises ``JobError`` where tracking cannot work.
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

    @property
    def run_id(self) -> str | None:
        return None if self._tracker is None else self._tracker.run_id

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        job = self._loaded.job
        params = describe(self._loaded.values())
        about = (job.name, params, tags(self._loaded.folder), self._say)
        try:
            tracker = Tracker(self._config, run.folder.path, *about)
            tracker.start()
        except TrackError as error:
            raise JobError(f"{self._loaded.file}: {error}") from None
        self._tracker = tracker

    def finish(self, status: Status, run: Run) -> None:
        if self._tracker is not None:
            self._tracker.close(status, [run.folder.path / name for name in ARTIFACTS])
