"""Check the metrics of a run for alerts, and report each change once, also across resumes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.callbacks.webhooks import Webhooks
from pipeline.config.job import Job
from pipeline.config.sections import Alert
from pipeline.evaluation.alerts import AlertChange, Alerts
from pipeline.storage.metric_log import Row, read_rows
from pipeline.storage.run_folder import ALERTS, METRIC_FILES, TRACK_RECORD, write_atomic
from pipeline.training.callback import Callback, RunContext, Say
from pipeline.training.loop import Loop
from streams.background_worker import BackgroundWorker
from streams.core.errors import one_line

POLL_S = 0.5
"""Seconds between two looks for new rows, and the delay of an alert at most."""
CLOSE_S = 5.0
VALUES = 10_000
"""Values that are read from a file at a time."""

Metrics = Callable[[], dict[str, float]]


class AlertChecker:
    """Pass the rows in a run folder to the alerts of a job, each once.

    ``alerts.json`` says which rows were seen, which alerts fire, and the tags that a tracker sets
    in MLflow. It is written before a change is reported, so that none is reported twice.

    Args:
        alerts: the alerts.
        folder: the run folder.
        job: name of the job.
        say: takes lines for a person, from any thread.
    """

    def __init__(self, alerts: Sequence[Alert], folder: Path, job: str, say: Say) -> None:
        self._folder = folder
        self._job = job
        self._say = say
        record = _mapping(folder / ALERTS) or _mapping(folder / TRACK_RECORD)  # of older runs
        self._seen: dict[str, int] = record.get("seen") or {}
        self._tags: dict[str, str] = record.get("tags") or {}
        self._alerts = Alerts(alerts, record.get("firing") or {}, record.get("pending"))
        self._webhooks = Webhooks(say)

    def check_rows(self) -> None:
        """Check the rows that were written since the last call. Raise ``OSError``."""
        for file in METRIC_FILES:
            path = self._folder / file
            while True:
                offset = min(self._seen.get(file, 0), _size(path))
                rows, end = read_rows(path, offset, VALUES)
                for row in rows:
                    self._seen[file] = row.end
                    self.check(row)
                self._seen[file] = end
                if end == offset:
                    break

    def check(self, row: Row) -> None:
        """Check a row, and report the alerts that start and end with it. Raise ``OSError``."""
        pending = dict(self._alerts.pending)
        changes = self._alerts.see(row)
        for change in changes:
            self._tags[f"alert.{change.alert.metric}"] = self._alerts.tag(change)
        if changes or self._alerts.pending != pending:
            self._keep()  # before it is reported, so that it is not reported again
        for change in changes:
            self._report(change)

    def close(self) -> None:
        """Post what waits, and end."""
        self._keep()
        self._webhooks.close(CLOSE_S)

    def _report(self, change: AlertChange) -> None:
        self._say(str(change))
        if change.alert.webhook:
            run_id = _mapping(self._folder / TRACK_RECORD).get("run_id")
            self._webhooks.post(change.alert.webhook, change.message(self._job, run_id))

    def _keep(self) -> None:
        record = {
            "seen": self._seen,
            "firing": self._alerts.firing,
            "pending": self._alerts.pending,
            "tags": self._tags,
        }
        write_atomic(self._folder / ALERTS, json.dumps(record, indent=1), fsync=True)


class AlertWatcher(Callback):
    """Check rows of metrics in a thread, and between them what changes while no event comes.

    Args:
        alerts: the alerts of the job.
        live: returns metrics that change while no event comes; called in the thread.
    """

    def __init__(self, alerts: Sequence[Alert], live: Metrics = dict) -> None:
        self._alerts = alerts
        self._live = live
        self._loop: Loop | None = None
        self._checker: AlertChecker | None = None
        self._worker: BackgroundWorker | None = None
        self._trouble: set[str] = set()

    def on_start(self, context: RunContext, loop: Loop) -> None:
        self._say, self._loop = context.say, loop
        self._checker = AlertChecker(self._alerts, context.folder, context.job, context.say)
        self._worker = BackgroundWorker("alerts", self._turn, POLL_S)
        self._worker.start()

    def teardown(self) -> dict[str, float]:
        """Check the last rows: the other callbacks have written theirs."""
        if self._worker is not None and self._checker is not None:
            self._worker.close(CLOSE_S)
            self._attempt(self._checker.check_rows)
            self._attempt(self._checker.close)
        return {}

    def _turn(self) -> None:
        assert self._checker is not None
        assert self._loop is not None
        self._attempt(self._checker.check_rows)
        live = self._live()
        if live:
            row = Row(self._loop.events, int(time.time() * 1000), live, 0)
            self._attempt(self._checker.check, row)

    def _attempt(self, check: Callable[..., None], *arguments: Any) -> None:
        """Check; report a problem once, as of a full disk: the run goes on without alerts."""
        try:
            check(*arguments)
        except Exception as error:
            text = f"alerts cannot be checked: {one_line(error)}"
            if text not in self._trouble:
                self._trouble.add(text)
                self._say(text)


def check_last_rows(job: Job, folder: Path, say: Say) -> None:
    """Check the rows that were written after the run itself had ended, as those of an evaluator in
    another process."""
    if job.track is not None and job.track.alerts:
        checker = AlertChecker(job.track.alerts, folder, job.name, say)
        checker.check_rows()
        checker.close()


def _mapping(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty where there is none."""
    try:
        read = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
