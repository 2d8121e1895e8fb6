"""Tracking: deliver metrics, the tags of alerts and artifacts to MLflow.

``mlflow_delivery`` reads the metric files of a run folder and delivers their rows in a thread;
``mlflow_client`` makes the requests; ``callback`` starts and ends the delivery with a run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.tracking.callback import MlflowCallback
    from pipeline.tracking.mlflow_client import MlflowRun, TrackError
    from pipeline.tracking.mlflow_delivery import Tracker

__all__ = [
    "MlflowCallback",
    "MlflowRun",
    "TrackError",
    "Tracker",
]

_MODULES = {
    "MlflowCallback": "pipeline.tracking.callback",
    "MlflowRun": "pipeline.tracking.mlflow_client",
    "TrackError": "pipeline.tracking.mlflow_client",
    "Tracker": "pipeline.tracking.mlflow_delivery",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
