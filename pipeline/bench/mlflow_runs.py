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


class Tracking:
    """Makes of each cell of a bench one run: curves, settings, and its result as an artifact.

    Raises ``TrackError`` where it cannot work on this machine; contacts nobody.

    Args:
        uri: of MLflow.
        out: folder of the bench.
    """

    def __init__(self, uri: str, out: Path) -> None:
        try:
            check(TrackConfig(uri=uri))
        except ValidationError as error:
            wanted = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise TrackError(f"--track: {wanted}") from None
        self.uri = uri
        self.out = out

    def tell(self, cell: Cell, loaded: LoadedJob, say: Say) -> None:
        """Tells MLflow of a cell that is done, unless it has been told all."""
        folder = self.out / cell.folder
        if self._told(folder):
            return
        config = TrackConfig(uri=self.uri, experiment=f"bench {cell.scenario}")
        about = describe(loaded.values())
        marked = {**tags(loaded.folder), "scenario": cell.scenario, "learner": cell.learner}
        tracker = Tracker(config, folder, loaded.job.name, about, marked, say, share=1.0)
        tracker.start()
        tracker.close("FINISHED", [folder / RESULT])

    def _told(self, folder: Path) -> bool:
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
        except Exception:  # it is away, or the run is deleted: the tracker tells
            return False
