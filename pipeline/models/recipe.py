"""The recipe of a model: what a learner is made of, without what it has learned."""

from __future__ import annotations

from typing import Any

import learners
from learners.base import Learner, LearnerError
from learners.registry import UnknownKindError, find
from streams.core.schema import Feature, Schema
from streams.core.stream import JsonLayout, Stream
from streams.core.stream_config import StandardiseConfig

Recipe = dict[str, Any]


def recipe_of(
    learner: Learner,
    settings: dict[str, Any],
    standardise: StandardiseConfig | None,
    stream: Stream,
) -> Recipe:
    """Return all that makes the model of a run but its state, as JSON.

    Args:
        learner: the learner.
        settings: of the learner, as JSON.
        standardise: how features are scaled before it; None where they are not.
        stream: says how features, numbers and ids are read.
    """
    schema = stream.schema
    return {
        "learner": settings,
        "seed": learner.seed,
        "standardise": None if standardise is None else standardise.model_dump(mode="json"),
        "impute": needs_imputed(learner),
        "dtype": stream.dtype,
        "id_type": stream.id_type,
        "task": schema.task,
        "classes": list(schema.classes),
        "features": [_as_json(feature) for feature in schema.features],
        "json_layout": stream.json_layout(),
    }


def _as_json(feature: Feature) -> list[Any]:
    unit = [True] if feature.unit else []
    return [feature.name, feature.kind, list(feature.shape), feature.missing, *unit]


def needs_imputed(learner: Learner) -> bool:
    """Return whether missing numbers are to be replaced before they come to the learner."""
    return learner.schema.may_miss_numbers and not learner.handles_missing


def layout_of(recipe: Recipe) -> JsonLayout:
    """Return how an event is written as JSON.

    An older recipe does not state it, and events are read as typed cells: the most permissive
    rules, so that clients of such a model need not change.
    """
    default: JsonLayout = {"cells": "typed", "nested": False, "pixels": True, "id": None}
    layout: JsonLayout = recipe.get("json_layout", default)
    return layout


def schema_of(recipe: Recipe) -> Schema:
    """Return the schema of the events that a model takes."""
    features = (
        Feature(name, kind, tuple(shape), *rest)  # an older recipe does not state the last
        for name, kind, shape, *rest in recipe["features"]
    )
    return Schema(tuple(features), recipe["task"], tuple(recipe["classes"]))


def learner_of(recipe: Recipe) -> Learner:
    """Return the learner of a recipe, which has learned nothing yet.

    Raises:
        LearnerError: it cannot be made here.
    """
    settings = recipe["learner"]
    try:
        cls = find(learners.KINDS, Learner, settings["kind"])  # type: ignore[type-abstract]
    except UnknownKindError as error:
        raise LearnerError(f"learner.kind: {error}") from None
    return cls(cls.Config.model_validate(settings), schema_of(recipe), recipe["seed"])
