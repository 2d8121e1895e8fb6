"""Tracking of a run with MLflow: rows of metrics are taken from the run folder and delivered, in
batches, by a thread of its own.

The run never waits for MLflow. Its rows stand in files (``pipeline/storage/metric_log.py``), and
``track.json`` says up to which byte they are delivered. One delivery is:

1. whole rows are read, from the byte on where the last delivery ended,
2. they go to MLflow in one request,
3. the byte after them is written to ``track.json``, beside it and renamed.

A process killed between 2 and 3 delivers the same rows again, with the same values, times and
steps, and MLflow keeps one of two that are the same. So each step is there once, whoever died and
when.
"""

from __future__ import annotations

import importlib
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
from pipeline.evaluation.alerts import Alerts
from pipeline.storage.metric_log import pending_rows, read_rows
from pipeline.storage.run_folder import METRIC_FILES, TRACK_RECORD
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
from pipeline.tracking.webhooks import Webhooks
from streams.core.background_worker import BackgroundWorker
from streams.core.errors import one_line

__all__ = ["Alert", "TrackConfig", "TrackError", "Tracker", "check", "describe", "tags"]

ARTIFACTS = ("summary.json", "report.html", "replay.jsonl", "dead.jsonl", "error.log")
"""Files of a run folder that hang in the MLflow run at the end, beside job.yaml."""
POLL_S = 0.5
"""How often new rows are looked for: as late as an alert may be."""
GATHER_S, GATHER_BYTES = 2.0, 64_000
"""Rows gather for so long, or to so many bytes: a request of few costs much more for each."""
BACKOFF_S = (1.0, 15.0)
"""Pause after a first failure, and the longest; it doubles in between."""
START_S = (5.0, 60.0)
"""How long a start waits for a server, which may not answer, and for a sqlite file: a new one takes
seconds to set up, and had better do so before the run begins."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


def check(config: TrackConfig) -> None:
    """Raises ``TrackError`` where tracking cannot work on this machine; contacts nobody."""
    if find_spec("mlflow") is None or find_spec("sqlalchemy") is None:
        raise TrackError(
            "track needs MLflow, which is not installed (or not all of it): "
            "pip install 'everlearn[mlflow]'"
        )
    if not is_http(config.uri):
        try:
            url = importlib.import_module("sqlalchemy.engine").make_url(config.uri)
            url.get_dialect().import_dbapi()
        except Exception as error:  # no such dialect, or a driver that is not installed
            raise TrackError(
                f"track.uri: {shown(config.uri)} cannot be used: {one_line(error)}"
            ) from None


class Tracker:
    """Delivers the rows of a run folder to MLflow, and watches them for alerts.

    The MLflow run is kept in ``track.json``: a tracker for the same folder and the same MLflow goes
    on with it. Its methods are for one thread, that of the owner.

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
        self.folder = folder
        self.name = name
        self.say = say
        self.share = share
        uri = absolute(config.uri)
        self._place = f"MLflow at {shown(uri)}"
        self._start_s = START_S[1] if sqlite_file(uri) else START_S[0]
        self._said: set[str] = set()
        self._run = MlflowRun(uri, folder, params, tags, _secrets(config), self._say_once)
        self._record = self._take_up(shown(uri), config.experiment or name)
        self._alerts = Alerts(config.alerts, self._record.firing)
        self._webhooks = Webhooks(self._say_once)
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
        """Id of the MLflow run; None until there is one."""
        return self._record.run_id

    def start(self) -> None:
        """Loads MLflow, and begins or continues the run there; a thread does the rest. Waits for
        MLflow for a few seconds at most. Raises ``TrackError`` where it cannot be loaded."""
        load(self._run.uri)
        self._worker.start()
        self._contacted.wait(self._start_s)

    def close(self, status: Status, artifacts: Sequence[Path] = (), timeout: float = 30.0) -> None:
        """Delivers what is left, then files and the status of the run.

        What cannot be delivered in time, or at all, is said, and stays in the run folder.

        Args:
            status: of the MLflow run.
            artifacts: files to log with it; those that are not there are left out.
            timeout: seconds in all. Where MLflow was away before, it is tried only once more.
        """
        if not self._worker.started:
            return
        self._end = (status, tuple(artifacts))
        self._deadline = time.monotonic() + timeout
        self._worker.close(timeout)
        self._webhooks.close(min(timeout, 1.0))
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
        """Make the first delivery at once; later look for alerts, and deliver what is due."""
        if not self._contacted.is_set():
            self._attempt()
            self._contacted.set()
            return
        self._look()
        if time.monotonic() >= self._next and self._due():
            self._attempt()

    def _finish(self) -> None:
        """Deliver what is left, until the deadline; once more only where MLflow was away."""
        away = self._trouble is not None
        self._look()
        while not self._attempt() and not away and time.monotonic() + self._pause < self._deadline:
            time.sleep(self._pause)

    def _wait(self) -> float:
        if not self._more:
            return POLL_S
        return min(POLL_S, max(0.0, self._next - time.monotonic()))

    def _due(self) -> bool:
        if self._trouble or self._more or self._record.tags:
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
        """One delivery; whether it went well, and that is said where it is new."""
        try:
            self._send()
        except Exception as error:  # of MLflow, its drivers, the disk: none may end the thread
            told = self._run.trouble(error)
            if self._trouble is None:
                self._rows = 0
            # A reason may read otherwise each time; that which stands before it does not.
            new = self._trouble is None or told.partition("(")[0] != self._trouble.partition("(")[0]
            if new and time.monotonic() < self._deadline:
                file = self.folder / METRIC_FILES[0]
                wait = f"metrics wait in {file} and are delivered when it is back"
                self._say_once(f"{told}: {wait}")
            self._trouble = told
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
        if self._record.tags:
            self._run.tag(run_id, self._record.tags)
            self._record.tags = {}
            self._keep()
        spent = time.thread_time() - began
        self._next = time.monotonic() + spent * (1 / self.share - 1)
        if self._worker.closing and not self._more and time.monotonic() < self._deadline:
            self._run.end(run_id, *self._end)
            self._ended = True

    def _deliver(self, run_id: str, file: str) -> bool:
        """Delivers the next rows of a file; whether there may be more of them."""
        record, path = self._record, self.folder / file
        offset = record.delivered.get(file, 0)
        if _size(path) < offset:  # a loss of power took what was not on the disk yet
            offset = 0
        rows, end = read_rows(path, offset, BATCH)
        if end == offset:
            return False
        done = record.steps.get(file, -1)
        rows = [row for row in rows if row.step > done]
        if rows:
            self._run.log(run_id, rows)
            record.steps[file] = rows[-1].step
        record.delivered[file] = end
        self._keep()
        self._rows += len(rows)
        return _size(path) > end

    def _look(self) -> None:
        try:
            self._watch()
        except Exception as error:  # alerts are no reason for metrics to stop
            self._say_once(
                f"alerts cannot be looked after: {type(error).__name__}: {one_line(error)}"
            )

    def _watch(self) -> None:
        """Shows new rows to the alerts, whether MLflow is there or not."""
        record = self._record
        for file in METRIC_FILES if self._alerts.alerts else ():
            path = self.folder / file
            while True:
                offset = record.seen.get(file, 0)
                rows, end = read_rows(path, min(offset, _size(path)), BATCH)
                if end <= offset:
                    break
                for row in rows:
                    changes = self._alerts.see(row)
                    record.seen[file] = row.end
                    if not changes:
                        continue
                    record.firing = dict(self._alerts.firing)
                    for change in changes:
                        metric = f"alert.{change.alert.metric}"
                        record.tags[metric] = self._alerts.tag(change)
                    self._keep()  # before it is said: what was said once is not said again
                    for change in changes:
                        self.say(str(change))
                        if change.alert.webhook:
                            message = change.message(self.name, self.run_id)
                            self._webhooks.post(change.alert.webhook, message)
                record.seen[file] = end

    def _take_up(self, uri: str, experiment: str) -> Record:
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
            new.seen, new.firing = old.seen, old.firing  # what has fired has fired
            return new
        if old.experiment != experiment:
            self.say(f"the MLflow run stays in the experiment {old.experiment!r}, where it began")
        return old

    def _keep(self) -> None:
        try:
            self._record.write(self.folder / TRACK_RECORD)
        except OSError as error:  # rows would be delivered once more, which does no harm
            self._say_once(f"{self.folder / TRACK_RECORD} cannot be written: {one_line(error)}")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.say(text)


def describe(job: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a run: the values of a job by their paths in it, as from ``job.flat``. What it
    says of tracking is left out: addresses may hold secrets."""
    return {name: value for name, value in job.items() if name.partition(".")[0] != "track"}


def tags(folder: Path | None = None) -> dict[str, str]:
    """The tags of a run: versions, and the commit where ``folder`` (None: the one we are in) is a
    checkout, ``-dirty`` where it was changed since."""
    found = {}
    for name in ("everlearn", "torch", "numpy", "river", "ray"):
        try:
            found[f"version.{name}"] = version(name)
        except PackageNotFoundError:
            if name == "everlearn":
                found["version.everlearn"] = "checkout"
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        found["git_commit"] = commit + ("-dirty" if changed else "")
    return found


def _git(folder: Path | None, *words: str) -> str:
    """What git says; nothing where there is no git, or no checkout."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=5.0, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _secrets(config: TrackConfig) -> dict[str, str]:
    """What must not be logged with the job, and what stands there instead."""
    found = {}
    if config.uri != shown(config.uri):
        found[config.uri] = shown(config.uri)
    if password := urlsplit(config.uri).password:
        found[password] = "***"
    for alert in config.alerts:
        if alert.webhook:
            parts = urlsplit(alert.webhook)
            found[alert.webhook] = f"{parts.scheme}://{parts.hostname}/***"
    return found


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
