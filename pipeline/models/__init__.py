"""Models beside training: the recipe of a model, snapshots of its state, and inference.

- ``recipe`` describes a model as JSON; every checkpoint has it.
- ``snapshot`` has the state at one moment, and the model that predicts from it.
- ``delta`` leaves out of snapshots the rows of large arrays that have not changed.
- ``learner_health`` stops a learner whose numbers are no longer finite.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.models.recipe import Recipe, layout_of, learner_of, recipe_of, schema_of
    from pipeline.models.snapshot import InferenceModel, Snapshot

__all__ = [
    "InferenceModel",
    "Recipe",
    "Snapshot",
    "layout_of",
    "learner_of",
    "recipe_of",
    "schema_of",
]

_MODULES = {
    "InferenceModel": "pipeline.models.snapshot",
    "Recipe": "pipeline.models.recipe",
    "Snapshot": "pipeline.models.snapshot",
    "layout_of": "pipeline.models.recipe",
    "learner_of": "pipeline.models.recipe",
    "recipe_of": "pipeline.models.recipe",
    "schema_of": "pipeline.models.recipe",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
