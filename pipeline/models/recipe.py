"""The recipe of a model: what a learner is made of, without what it has learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import learners
from learners.base import Learner, LearnerError
from learners.pretrained.encoders.columns import ColumnEncoders, EncodedColumns
from learners.registry import UnknownKindError, find
from streams.core.schema import Feature, Schema
from streams.core.state_dict import State
from streams.core.stream import JsonLayout, Stream
from streams.core.stream_config import StandardiseConfig
from streams.operators.base import Operator
from streams.operators.features.aggregates import Aggregates
from streams.operators.features.histories import Histories
from streams.operators.features.impute import Impute
from streams.operators.features.sequences import Sequences
from streams.operators.features.standardise import Standardise

Recipe = dict[str, Any]
AddsFeatures = Aggregates | Histories | Sequences

_ADDS: dict[str, type[Aggregates] | type[Histories] | type[Sequences]] = {
    "aggregates": Aggregates,
    "histories": Histories,
    "sequences": Sequences,
}
"""The operators that add features, by their name in a recipe, in their order."""
_OF_MODEL: dict[str, tuple[type[Operator], str]] = {
    "histories": (Histories, "history"),
    "sequences": (Sequences, "gaps"),
    "aggregates": (Aggregates, "aggregates"),
    "standardise": (Standardise, "m2"),
    "impute": (Impute, "imputed"),
}
"""The operators that a model needs, in their order: their class, by their name in a snapshot, and a
key that only their state has."""


def recipe_of(
    learner: Learner,
    settings: dict[str, Any],
    standardise: StandardiseConfig | None,
    stream: Stream,
    encoded: EncodedColumns | None = None,
    added: Sequence[AddsFeatures] = (),
) -> Recipe:
    """Return all that makes the model of a run but its state, as JSON.

    Args:
        learner: the learner.
        settings: of the learner, as JSON.
        standardise: how features are scaled before it; None where they are not.
        stream: says how features, numbers and ids are read.
        encoded: the columns that encoders turn into vectors; None: there are none.
        added: the operators that add features, in their order.
    """
    schema = stream.schema
    settings_of = {type(operator): operator.settings() for operator in added}
    return {
        "learner": settings,
        "seed": learner.seed,
        "encoders": None if encoded is None else encoded.settings(),
        **{name: settings_of.get(cls) for name, cls in _ADDS.items()},
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
    last: list[Any] = [feature.unit] if feature.unit or feature.zone else []
    if feature.zone:
        last.append(feature.zone)
    return [feature.name, feature.kind, list(feature.shape), feature.missing, *last]


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
    """Return the schema of the events that a model takes: those of a request."""
    features = (
        Feature(name, kind, tuple(shape), *rest)  # an older recipe does not state the last
        for name, kind, shape, *rest in recipe["features"]
    )
    return Schema(tuple(features), recipe["task"], tuple(recipe["classes"]))


def encoded_columns_of(recipe: Recipe) -> EncodedColumns | None:
    """Return the columns that encoders turn into vectors before the operators, if there are any."""
    settings = recipe.get("encoders")
    return None if settings is None else EncodedColumns.of_settings(settings, schema_of(recipe))


def load_encoders(recipe: Recipe) -> ColumnEncoders | None:
    """Load the encoders of a recipe; None: it has none. The models of all snapshots share them.

    Raises:
        LearnerError: one cannot be loaded here, or is not the one that the model was trained with.
    """
    encoded = encoded_columns_of(recipe)
    return None if encoded is None else ColumnEncoders.load_known(encoded, schema_of(recipe))


def encoded_schema_of(recipe: Recipe) -> Schema:
    """Return the schema of the events that the operators take."""
    encoded = encoded_columns_of(recipe)
    return schema_of(recipe) if encoded is None else encoded.schema


def added_of(recipe: Recipe) -> tuple[dict[str, AddsFeatures], Schema]:
    """Return the operators of a recipe that add features, by name, and the schema behind them."""
    taken = behind = encoded_schema_of(recipe)
    added: dict[str, AddsFeatures] = {}
    for name, cls in _ADDS.items():
        if (settings := recipe.get(name)) is not None:  # an older recipe does not have the key
            added[name] = cls.of_settings(settings, taken)
            behind = added[name].schema(behind)
    return added, behind


def operators_of(recipe: Recipe, state: State) -> list[Operator]:
    """Return the operators between an event and the learner of a recipe.

    Args:
        recipe: of the model.
        state: of the model, as in a snapshot.
    """
    added, schema = added_of(recipe)
    for name, operator in added.items():
        operator.load(state[name])
    operators: list[Operator] = [*added.values()]
    if recipe["standardise"] is not None:
        config = StandardiseConfig.model_validate(recipe["standardise"])
        operators.append(Standardise(config, schema))
        operators[-1].load(state["standardise"])
    if recipe.get("impute") and "impute" in state:
        operators.append(Impute(schema))
        operators[-1].load(state["impute"])
    return operators


def states_of(operators: Sequence[Operator]) -> State:
    """Return what the model of a run needs of its operators, by their names."""
    return {
        name: operator.servable()
        for operator in operators
        for name, (cls, _) in _OF_MODEL.items()
        if isinstance(operator, cls)
    }


def model_states(operators: State) -> State:
    """Return from the states of all operators of a run those of the operators of its model."""
    return {
        name: state
        for state in operators.values()
        for name, (_, key) in _OF_MODEL.items()
        if key in state
    }


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
    _, schema = added_of(recipe)
    return cls(cls.Config.model_validate(settings), schema, recipe["seed"])
