"""Callbacks: what observes a run while it trains, and changes nothing of it.

Each is one file with one ``pipeline.training.callback.Callback``.
``pipeline.runners.default_callbacks`` chooses those that a job needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.callbacks.alert_watcher import AlertWatcher
    from pipeline.callbacks.consumer_lag import ConsumerLag
    from pipeline.callbacks.label_feed import LabelFeed
    from pipeline.callbacks.metric_writer import MetricWriter
    from pipeline.callbacks.offset_commits import OffsetCommits
    from pipeline.callbacks.probe_evaluator import (
        BackgroundEvaluator,
        Evaluator,
        SnapshotQueue,
        SnapshotScorer,
    )
    from pipeline.callbacks.progress import LiveProgress
    from pipeline.callbacks.run_status import RunStatus
    from pipeline.callbacks.snapshot_publisher import SnapshotPublisher

__all__ = [
    "AlertWatcher",
    "BackgroundEvaluator",
    "ConsumerLag",
    "Evaluator",
    "LabelFeed",
    "LiveProgress",
    "MetricWriter",
    "OffsetCommits",
    "RunStatus",
    "SnapshotPublisher",
    "SnapshotQueue",
    "SnapshotScorer",
]

_MODULES = {
    "AlertWatcher": "pipeline.callbacks.alert_watcher",
    "BackgroundEvaluator": "pipeline.callbacks.probe_evaluator",
    "ConsumerLag": "pipeline.callbacks.consumer_lag",
    "Evaluator": "pipeline.callbacks.probe_evaluator",
    "LabelFeed": "pipeline.callbacks.label_feed",
    "LiveProgress": "pipeline.callbacks.progress",
    "MetricWriter": "pipeline.callbacks.metric_writer",
    "OffsetCommits": "pipeline.callbacks.offset_commits",
    "RunStatus": "pipeline.callbacks.run_status",
    "SnapshotPublisher": "pipeline.callbacks.snapshot_publisher",
    "SnapshotQueue": "pipeline.callbacks.probe_evaluator",
    "SnapshotScorer": "pipeline.callbacks.probe_evaluator",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
