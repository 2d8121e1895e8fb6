"""Cells of a benchmark as runs of MLflow."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from pydantic import ValidationError

from pipeline.bench.cell import RESULT, Cell
from pipeline.config.job import LoadedJob
from pipeline.config.sections import TrackConfig
from pipeline.storage.run_folder import TRACK_RECORD
from pipeline.tracking.mlflow_client import Record, absolute, load, shown
from pipeline.tracking.mlflow_delivery import Tracker, TrackError, check, describe, tags
from pipeline.training.callback import Say


class CellTracker:
    """Logs each cell of a bench as a run: curves, settings, and the result as an artifact.

    Args:
        uri: tracking URI of MLflow.
        out: folder of the bench.

    Raises ``TrackError`` for a URI that cannot work on this machine; no server is contacted.
    """

    def __init__(self, uri: str, out: Path) -> None:
        try:
            check(TrackConfig(uri=uri))
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise TrackError(f"--track: {problem}") from None
        self.uri = uri
        self.out = out

    def log(self, cell: Cell, loaded: LoadedJob, say: Say) -> None:
        """Log a finished cell, unless its run is complete already."""
        folder = self.out / cell.folder
        if self._is_logged(folder):
            return
        config = TrackConfig(uri=self.uri, experiment=f"bench {cell.scenario}")
        params = describe(loaded.values())
        run_tags = {**tags(loaded.folder), "scenario": cell.scenario, "learner": cell.learner}
        tracker = Tracker(config, folder, loaded.job.name, params, run_tags, say, share=1.0)
        tracker.start()
        tracker.close("FINISHED", [folder / RESULT])

    def _is_logged(self, folder: Path) -> bool:
        """Return whether MLflow has a finished run of the cell in this folder."""
        uri = absolute(self.uri)
        try:
            record = Record.read(folder / TRACK_RECORD)
        except ValueError:
            return False
        if record is None or record.run_id is None or record.uri != shown(uri):
            return False
        load(uri)
        try:
            client = import_module("mlflow.tracking").MlflowClient(uri, uri)
            return bool(client.get_run(record.run_id).info.status == "FINISHED")
        except Exception:  # server away or run deleted: the tracker reports it
            return False
