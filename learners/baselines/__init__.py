"""Baselines: what a continual learner must beat.

``NoChange`` predicts the last known label, ``Prior`` the class frequencies or the mean.
``Finetune`` trains a network on new events alone, ``LinearProbe`` a linear model. Only these two
need torch, so names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from learners.baselines.finetune import Finetune
    from learners.baselines.linear_probe import LinearProbe
    from learners.baselines.no_change import NoChange
    from learners.baselines.prior import Prior

__all__ = ["Finetune", "LinearProbe", "NoChange", "Prior"]

_MODULES = {
    "Finetune": "learners.baselines.finetune",
    "LinearProbe": "learners.baselines.linear_probe",
    "NoChange": "learners.baselines.no_change",
    "Prior": "learners.baselines.prior",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
