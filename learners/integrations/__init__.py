"""Integrations: other libraries' models as learners, and learners as Avalanche strategies.

``RiverLearner`` runs any river estimator, ``AvalancheLearner`` any Avalanche strategy.
``as_strategy`` makes an Avalanche strategy of a learner. The libraries are optional or heavy, so
names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from learners.integrations.avalanche import AvalancheConfig, AvalancheLearner
    from learners.integrations.avalanche_strategy import as_strategy
    from learners.integrations.river import RiverConfig, RiverLearner

__all__ = ["AvalancheConfig", "AvalancheLearner", "RiverConfig", "RiverLearner", "as_strategy"]

_MODULES = {
    "AvalancheConfig": "learners.integrations.avalanche",
    "AvalancheLearner": "learners.integrations.avalanche",
    "RiverConfig": "learners.integrations.river",
    "RiverLearner": "learners.integrations.river",
    "as_strategy": "learners.integrations.avalanche_strategy",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
