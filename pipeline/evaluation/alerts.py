"""Alerts: a threshold on a metric, said once when it is crossed and once when that is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.config.sections import Alert
from pipeline.storage.metric_log import Row


class Change(NamedTuple):
    """An alert that began (``firing``) or is over, with the row that made it so."""

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
        """What is posted to the webhook."""
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
        alerts: as the job has them.
        firing: what an earlier ``firing`` held: the text of each alert that fires, by its key;
            those that the job no longer has are dropped.
    """

    def __init__(self, alerts: Sequence[Alert], firing: dict[str, str]) -> None:
        self.alerts = alerts
        self.firing = {alert.key: firing[alert.key] for alert in alerts if alert.key in firing}

    def see(self, row: Row) -> list[Change]:
        """Takes the next row; what began and what is over with it."""
        changes = []
        for alert in self.alerts:
            if alert.metric not in row.metrics or row.step < alert.after_events:
                continue
            value = row.metrics[alert.metric]
            firing = alert.violated(value)
            if firing == (alert.key in self.firing):
                continue
            change = Change(alert, firing, value, row.step)
            if firing:
                self.firing[alert.key] = f"{value:g} is {alert.rule} at {row.step:,} events"
            else:
                del self.firing[alert.key]
            changes.append(change)
        return changes

    def tag(self, change: Change) -> str:
        """What the tag of the metric says after a change: all that fires for it, or that it is
        over."""
        metric = change.alert.metric
        texts = [
            self.firing[a.key] for a in self.alerts if a.metric == metric and a.key in self.firing
        ]
        return "firing: " + "; ".join(texts) if texts else f"resolved at {change.step:,} events"
