"""Deliver the metrics of a run to MLflow, in batches, in a thread.

The run never waits for MLflow. Its rows are in files (``pipeline/storage/metric_log.py``), and
``track.json`` says up to which byte they are delivered. One delivery is:

1. read whole rows, from the byte where the last delivery ended,
2. send them to MLflow in one request,
3. write the byte after them to ``track.json``, atomically.

A process killed between 2 and 3 delivers the same rows again, with the same values, times and
steps; MLflow keeps one of two equal ones. So each step is there once, whichever process dies.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pipeline.config.sections import Alert, TrackConfig
from pipeline.storage.metric_log import pending_rows, read_rows
from pipeline.storage.run_folder import ALERTS, METRIC_FILES, TRACK_RECORD
from pipeline.tracking.mlflow_client import (
    BATCH,
    MlflowRun,
    Record,
    TrackError,
    absolute,
    is_http,
    load,
    shown,
    sqlite_file,
)
from streams.background_worker import BackgroundWorker
from streams.core.errors import one_line

__all__ = ["Alert", "TrackConfig", "TrackError", "Tracker", "check", "describe", "tags"]

ARTIFACTS = ("summary.json", "report.html", "replay.jsonl", "dead.jsonl", "error.log")
"""Files of a run folder that are logged to the MLflow run at its end, beside job.yaml."""
POLL_S = 0.5
"""Seconds between two looks for new rows."""
GATHER_S, GATHER_BYTES = 2.0, 64_000
"""Seconds, or bytes, for which rows wait: small requests cost much more for each row."""
BACKOFF_S = (1.0, 15.0)
"""Seconds of the pause after a first failure, and of the longest; it doubles in between."""
START_S = (5.0, 60.0)
"""Seconds that a start waits for a server, which may not answer, and for a sqlite file: to set up a
new one takes seconds, and should be done before the run begins."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


def check(config: TrackConfig) -> None:
    """Raise ``TrackError`` where tracking cannot work on this machine; connect to nothing."""
    if find_spec("mlflow") is None or find_spec("sqlalchemy") is None:
        raise TrackError(
            "track needs MLflow, which is not installed (or not all of it): "
            "pip install 'everlearn[mlflow]'"
        )
    if config.uri is not None and not is_http(config.uri):
        try:
            url = importlib.import_module("sqlalchemy.engine").make_url(config.uri)
            url.get_dialect().import_dbapi()
        except Exception as error:  # no such dialect, or a driver that is not installed
            raise TrackError(
                f"track.uri: {shown(config.uri)} cannot be used: {one_line(error)}"
            ) from None


class Tracker:
    """Deliver the rows of a run folder to MLflow, and the tags of its alerts.

    The MLflow run is kept in ``track.json``: a tracker for the same folder and the same MLflow
    continues it. Its methods are for one thread, that of the owner.

    Args:
        config: the job's ``track``.
        folder: the run folder; names the MLflow run.
        name: the job's; names the experiment where the config does not.
        params: of the run, as from ``describe``.
        tags: of the run, as from ``tags``.
        say: takes lines for a person, from any thread.
        share: of one core that deliveries may take while the run goes on; what is more waits in the
            file until the end. A loop in the same process is slowed down by no more than that. A
            tracker with a process of its own may take all, 1.0.

    Raises ``TrackError`` where it cannot work on this machine.
    """

    def __init__(
        self,
        config: TrackConfig,
        folder: Path,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        say: Callable[[str], None],
        share: float = 0.01,
    ) -> None:
        check(config)
        assert config.uri is not None
        self.folder = folder
        self.name = name
        self.say = say
        self.share = share
        uri = absolute(config.uri)
        self._place = f"MLflow at {shown(uri)}"
        self._start_s = START_S[1] if sqlite_file(uri) else START_S[0]
        self._said: set[str] = set()
        self._run = MlflowRun(uri, folder, params, tags, _secrets(config), self._say_once)
        self._record = self._resume_record(shown(uri), config.experiment or name)
        self._worker = BackgroundWorker("tracker", self._turn, self._wait, self._finish)
        self._contacted = threading.Event()
        self._end: tuple[Status, tuple[Path, ...]] = ("KILLED", ())
        self._deadline = float("inf")
        self._ended = False
        self._trouble: str | None = None  # what keeps rows from being delivered, as it was said
        self._rows = 0  # delivered since then
        self._pause = 0.0  # after the last failure
        self._next = 0.0  # when the next delivery may begin
        self._more = False  # whether the last one left rows behind
        self._gathering: float | None = None  # since when there are rows to deliver

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run; None until there is one."""
        return self._record.run_id

    def start(self) -> None:
        """Load MLflow, and begin or continue the run in a thread. Wait for MLflow some seconds.

        Raises:
            TrackError: MLflow cannot be loaded.
        """
        load(self._run.uri)
        self._worker.start()
        self._contacted.wait(self._start_s)

    def close(self, status: Status, artifacts: Sequence[Path] = (), timeout: float = 30.0) -> None:
        """Deliver what is left, then files and the status of the run.

        What cannot be delivered in time, or at all, is reported, and stays in the run folder.

        Args:
            status: of the MLflow run.
            artifacts: files to log with it; missing ones are left out.
            timeout: seconds in all. Where MLflow was away before, there is one more try only.
        """
        if not self._worker.started:
            return
        self._end = (status, tuple(artifacts))
        self._deadline = time.monotonic() + timeout
        self._worker.close(timeout)
        if not self._ended:
            rows = sum(
                pending_rows(self.folder / f, self._record.delivered.get(f, 0))
                for f in METRIC_FILES
            )
            what = f"{rows:,} rows of metrics wait" if rows else "the end of the run waits"
            self.say(
                f"{self._place} was not told all: {what} in {self.folder}. The same command with "
                "--resume delivers what waits"
            )

    def _turn(self) -> None:
        """Make the first delivery at once; later deliver what is due."""
        if not self._contacted.is_set():
            self._attempt()
            self._contacted.set()
            return
        if time.monotonic() >= self._next and self._due():
            self._attempt()

    def _finish(self) -> None:
        """Deliver what is left, until the deadline; once more only where MLflow was away."""
        away = self._trouble is not None
        while not self._attempt() and not away and time.monotonic() + self._pause < self._deadline:
            time.sleep(self._pause)

    def _wait(self) -> float:
        if not self._more:
            return POLL_S
        return min(POLL_S, max(0.0, self._next - time.monotonic()))

    def _due(self) -> bool:
        if self._trouble or self._more or self._new_tags():
            return True
        new = sum(
            max(0, _size(self.folder / f) - self._record.delivered.get(f, 0)) for f in METRIC_FILES
        )
        if not new:
            self._gathering = None
            return False
        if self._gathering is None:
            self._gathering = time.monotonic()
        return new >= GATHER_BYTES or time.monotonic() - self._gathering >= GATHER_S

    def _attempt(self) -> bool:
        """Make one delivery; return whether it succeeded, and report a change."""
        try:
            self._send()
        except Exception as error:  # of MLflow, its drivers, the disk: none may end the thread
            trouble = self._run.trouble(error)
            if self._trouble is None:
                self._rows = 0
            # The reason in brackets may differ each time; the text before it does not.
            start = trouble.partition("(")[0]
            new = self._trouble is None or start != self._trouble.partition("(")[0]
            if new and time.monotonic() < self._deadline:
                file = self.folder / METRIC_FILES[0]
                wait = f"metrics wait in {file} and are delivered when it is back"
                self._say_once(f"{trouble}: {wait}")
            self._trouble = trouble
            self._pause = min(max(BACKOFF_S[0], 2 * self._pause), BACKOFF_S[1])
            self._next = time.monotonic() + self._pause
            return False
        if self._trouble is not None:
            self._trouble, self._pause = None, 0.0
            self._said.clear()  # the next time is a new one
            self.say(f"{self._place} is back: {self._rows:,} rows delivered")
        return self._ended or not self._worker.closing

    def _send(self) -> None:
        if not self._run.begun:
            self._run.begin(self._record, self._keep)
        run_id, began = self._record.run_id, time.thread_time()
        assert run_id is not None
        self._gathering = None
        self._more = True
        while self._more:
            left = [self._deliver(run_id, file) for file in METRIC_FILES]
            self._more = any(left)
            if not self._worker.closing or time.monotonic() > self._deadline:
                break
        if tags := self._new_tags():
            self._run.tag(run_id, tags)
            self._record.tags |= tags
            self._keep()
        spent = time.thread_time() - began
        self._next = time.monotonic() + spent * (1 / self.share - 1)
        if self._worker.closing and not self._more and time.monotonic() < self._deadline:
            self._run.end(run_id, *self._end)
            self._ended = True

    def _deliver(self, run_id: str, file: str) -> bool:
        """Deliver the next rows of a file; return whether there may be more."""
        record, path = self._record, self.folder / file
        offset = record.delivered.get(file, 0)
        if _size(path) < offset:  # a loss of power took what was not on the disk yet
            offset = 0
        rows, end = read_rows(path, offset, BATCH)
        if end == offset:
            return False
        last = record.steps.get(file, -1)
        rows = [row for row in rows if row.step > last]
        if rows:
            self._run.log(run_id, rows)
            record.steps[file] = rows[-1].step
        record.delivered[file] = end
        self._keep()
        self._rows += len(rows)
        return _size(path) > end

    def _new_tags(self) -> dict[str, str]:
        """Return the tags of alerts that are not set yet."""
        try:
            tags: dict[str, str] = json.loads((self.folder / ALERTS).read_text())["tags"]
        except (OSError, ValueError, KeyError, TypeError):  # there are no alerts
            return {}
        return {name: text for name, text in tags.items() if self._record.tags.get(name) != text}

    def _resume_record(self, uri: str, experiment: str) -> Record:
        """Return the record in the folder, or a new one where that is of another MLflow."""
        new = Record(uri, experiment)
        file = self.folder / TRACK_RECORD
        try:
            old = Record.read(file)
        except ValueError as error:
            self.say(f"{file} cannot be read ({error}): a new MLflow run begins, with all rows")
            return new
        if old is None:
            return new
        if old.uri != uri:
            self.say(f"{file} is of MLflow at {old.uri}: a new run begins at {uri}, with all rows")
            return new
        if old.experiment != experiment:
            self.say(f"the MLflow run stays in the experiment {old.experiment!r}, where it began")
        return old

    def _keep(self) -> None:
        try:
            self._record.write(self.folder / TRACK_RECORD)
        except OSError as error:  # rows may be delivered twice, which is harmless
            self._say_once(f"{self.folder / TRACK_RECORD} cannot be written: {one_line(error)}")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.say(text)


def describe(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params of a run: the values of a job by their paths. Those of ``track`` are left
    out: addresses may hold secrets."""
    return {name: value for name, value in job.items() if name.partition(".")[0] != "track"}


def tags(folder: Path | None = None) -> dict[str, str]:
    """Return the tags of a run: versions, and the commit of the checkout.

    Args:
        folder: in the checkout; None takes the current one. ``-dirty`` marks a changed checkout.
    """
    values = {}
    for name in ("everlearn", "torch", "numpy", "river", "ray"):
        try:
            values[f"version.{name}"] = version(name)
        except PackageNotFoundError:
            if name == "everlearn":
                values["version.everlearn"] = "checkout"
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        values["git_commit"] = commit + ("-dirty" if changed else "")
    return values


def _git(folder: Path | None, *words: str) -> str:
    """Return what git prints; nothing where there is no git, or no checkout."""
    try:
        process = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=5.0, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return process.stdout.strip()


def _secrets(config: TrackConfig) -> dict[str, str]:
    """Return the texts that must not be logged with the job, and their replacements."""
    secrets, uri = {}, config.uri or ""
    if uri != shown(uri):
        secrets[uri] = shown(uri)
    if password := urlsplit(uri).password:
        secrets[password] = "***"
    for alert in config.alerts:
        if alert.webhook:
            parts = urlsplit(alert.webhook)
            secrets[alert.webhook] = f"{parts.scheme}://{parts.hostname}/***"
    return secrets


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
