"""A recipe: what a learner is made of, without what it has learned."""

from __future__ import annotations

from typing import Any

import learners
from learners.base import Learner, LearnerError
from learners.registry import UnknownKindError, find
from streams.core.schema import Feature, Schema
from streams.core.stream import JsonLayout, Stream
from streams.core.stream_config import StandardiseConfig

Recipe = dict[str, Any]


def recipe(
    learner: Learner,
    settings: dict[str, Any],
    standardise: StandardiseConfig | None,
    stream: Stream,
) -> Recipe:
    """All but the state that makes the model of a run: the learner with its settings (as JSON), how
    features are scaled before it, and how the stream reads numbers and ids."""
    schema = stream.schema
    return {
        "learner": settings,
        "seed": learner.seed,
        "standardise": None if standardise is None else standardise.model_dump(mode="json"),
        "dtype": stream.dtype,
        "id_type": stream.id_type,
        "task": schema.task,
        "classes": list(schema.classes),
        "features": [[f.name, f.kind, list(f.shape)] for f in schema.features],
        "json_layout": stream.json_layout(),
    }


def layout_of(made: Recipe) -> JsonLayout:
    """Return how an event is written as JSON. Older recipes do not state it, and are read
    as typed cells: what a client could send to such a model it still can."""
    default: JsonLayout = {"cells": "typed", "nested": False, "pixels": True, "id": None}
    layout: JsonLayout = made.get("json_layout", default)
    return layout


def schema_of(made: Recipe) -> Schema:
    features = (Feature(name, kind, tuple(shape)) for name, kind, shape in made["features"])
    return Schema(tuple(features), made["task"], tuple(made["classes"]))


def learner_of(made: Recipe) -> Learner:
    """The learner of a recipe, as it is before it has learned anything. Raises ``LearnerError``
    where it cannot be made here."""
    settings = made["learner"]
    try:
        cls = find(learners.KINDS, Learner, settings["kind"])  # type: ignore[type-abstract]
    except UnknownKindError as error:
        raise LearnerError(f"learner.kind: {error}") from None
    return cls(cls.Config.model_validate(settings), schema_of(made), made["seed"])
