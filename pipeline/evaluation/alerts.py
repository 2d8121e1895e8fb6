"""Alerts: thresholds on metrics, reported once when one is crossed and once when it recovers."""

from __future__ import annotations

from collections.abc import Sequence
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
            return f"alert: {what} is {self.alert.rule} at {self.step:,} events"
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

    Args:
        alerts: the alerts of the job.
        firing: texts of the alerts that were firing before a restart, by key; those that are no
            longer in the job are dropped.

    Attributes:
        firing: texts of the alerts that are firing, by key.
    """

    def __init__(self, alerts: Sequence[Alert], firing: dict[str, str]) -> None:
        self.alerts = alerts
        self.firing = {alert.key: firing[alert.key] for alert in alerts if alert.key in firing}

    def see(self, row: Row) -> list[AlertChange]:
        """Check the next row; return the alerts that start and end with it."""
        changes = []
        for alert in self.alerts:
            if alert.metric not in row.metrics or row.step < alert.after_events:
                continue
            value = row.metrics[alert.metric]
            firing = alert.violated(value)
            if firing == (alert.key in self.firing):
                continue
            change = AlertChange(alert, firing, value, row.step)
            if firing:
                self.firing[alert.key] = f"{value:g} is {alert.rule} at {row.step:,} events"
            else:
                del self.firing[alert.key]
            changes.append(change)
        return changes

    def tag(self, change: AlertChange) -> str:
        """Return the MLflow tag of a metric after a change: its firing alerts, or the end of the
        last one."""
        metric = change.alert.metric
        texts = [
            self.firing[a.key] for a in self.alerts if a.metric == metric and a.key in self.firing
        ]
        return "firing: " + "; ".join(texts) if texts else f"resolved at {change.step:,} events"
