"""Alerts: thresholds on metrics, reported once when one is crossed and once when it recovers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.config.sections import Alert
from pipeline.storage.metric_log import Row


class AlertChange(NamedTuple):
    """The start (``firing``) or the end of an alert, with the row that caused it."""

    alert: Alert
    firing: bool
    value: float
    step: int

    def __str__(self) -> str:
        what = f"{self.alert.metric} {self.value:g}"
        if self.firing:
            return f"alert: {what} is {self.alert.condition} at {self.step:,} events"
        return f"alert over: {what} is no longer {self.alert.rule} at {self.step:,} events"

    def message(self, job: str, run_id: str | None) -> dict[str, Any]:
        """Return the JSON message for the webhook."""
        side = "above" if self.alert.above is not None else "below"
        return {
            "job": job,
            "run_id": run_id,
            "metric": self.alert.metric,
            "value": self.value,
            side: getattr(self.alert, side),
            "step": self.step,
            "state": "firing" if self.firing else "resolved",
        }


class Alerts:
    """The alerts of a job, and which of them are firing.

    An alert fires at the first row at which its metric has been beyond the threshold for the time
    that it states, at every row in between that has the metric. It ends at the first row that
    clears it.

    Args:
        alerts: the alerts of the job.
        firing: texts of the alerts that were firing before a restart, by key; those that are no
            longer in the job are dropped.
        pending: step and time (ms) of the row at which each of the others crossed its threshold
            before a restart, by key.

    Attributes:
        firing: texts of the alerts that are firing, by key.
        pending: step and time of the row at which each that does not fire yet crossed its
            threshold, by key.
    """

    def __init__(
        self,
        alerts: Sequence[Alert],
        firing: Mapping[str, str],
        pending: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.alerts = alerts
        known, pending = [alert.key for alert in alerts], pending or {}
        self.firing = {key: firing[key] for key in known if key in firing}
        self.pending = {key: tuple(pending[key]) for key in known if key in pending}

    def see(self, row: Row) -> list[AlertChange]:
        """Check the next row; return the alerts that start and end with it."""
        changes = []
        for alert in self.alerts:
            if alert.metric not in row.metrics or row.step < alert.after_events:
                continue
            value, key = row.metrics[alert.metric], alert.key
            if key in self.firing:
                if alert.cleared(value):
                    del self.firing[key]
                    changes.append(AlertChange(alert, False, value, row.step))
            elif not alert.violated(value):
                self.pending.pop(key, None)
            elif _has_lasted(alert, self.pending.setdefault(key, (row.step, row.time)), row):
                del self.pending[key]
                self.firing[key] = f"{value:g} is {alert.condition} at {row.step:,} events"
                changes.append(AlertChange(alert, True, value, row.step))
        return changes

    def tag(self, change: AlertChange) -> str:
        """Return the MLflow tag of a metric after a change: its firing alerts, or the end of the
        last one."""
        metric = change.alert.metric
        texts = [
            self.firing[a.key] for a in self.alerts if a.metric == metric and a.key in self.firing
        ]
        return "firing: " + "; ".join(texts) if texts else f"resolved at {change.step:,} events"


def _has_lasted(alert: Alert, since: Sequence[int], row: Row) -> bool:
    """Return whether an alert has been pending from ``since`` (step, ms) to a row long enough."""
    lasting = alert.duration
    if lasting is None:
        return True
    if lasting.events is not None:
        return row.step - since[0] >= lasting.events
    assert lasting.seconds is not None
    return row.time - since[1] >= 1000 * lasting.seconds
