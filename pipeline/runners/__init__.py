"""Runners: run a job in this process, or as actors on Ray.

``LocalRunner`` and ``RayRunner`` are the two ``JobRunner``. Importing ``RayRunner`` loads Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.runners.base import JobRunner
    from pipeline.runners.default_callbacks import callbacks_for
    from pipeline.runners.local import LocalRunner
    from pipeline.runners.ray.driver import RayRunner

__all__ = [
    "JobRunner",
    "LocalRunner",
    "RayRunner",
    "callbacks_for",
]

_MODULES = {
    "JobRunner": "pipeline.runners.base",
    "LocalRunner": "pipeline.runners.local",
    "RayRunner": "pipeline.runners.ray.driver",
    "callbacks_for": "pipeline.runners.default_callbacks",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
