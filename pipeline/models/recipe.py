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
    aggregates: Aggregates | None = None,
    encoded: EncodedColumns | None = None,
    histories: Histories | None = None,
    sequences: Sequences | None = None,
) -> Recipe:
    """Return all that makes the model of a run but its state, as JSON.

    Args:
        learner: the learner.
        settings: of the learner, as JSON.
        standardise: how features are scaled before it; None where they are not.
        stream: says how features, numbers and ids are read.
        aggregates: the operator that adds aggregates to the features; None: there is none.
        encoded: the columns that encoders turn into vectors; None: there are none.
        histories: the operator that adds histories to the features; None: there is none.
        sequences: the operator that makes sequences of the events of a key; None: there is none.
    """
    schema = stream.schema
    return {
        "learner": settings,
        "seed": learner.seed,
        "encoders": None if encoded is None else encoded.settings(),
        "histories": None if histories is None else histories.settings(),
        "sequences": None if sequences is None else sequences.settings(),
        "aggregates": None if aggregates is None else aggregates.settings(),
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


def aggregates_of(recipe: Recipe) -> Aggregates | None:
    """Return the operator of a recipe that adds aggregates to the features, if it has one."""
    settings = recipe.get("aggregates")
    return None if settings is None else Aggregates.of_settings(settings, encoded_schema_of(recipe))


def histories_of(recipe: Recipe) -> Histories | None:
    """Return the operator of a recipe that adds histories to the features, if it has one."""
    settings = recipe.get("histories")
    return None if settings is None else Histories.of_settings(settings, encoded_schema_of(recipe))


def sequences_of(recipe: Recipe) -> Sequences | None:
    """Return the operator of a recipe that makes sequences, if it has one."""
    settings = recipe.get("sequences")
    return None if settings is None else Sequences.of_settings(settings, encoded_schema_of(recipe))


def operators_of(recipe: Recipe, state: State) -> list[Operator]:
    """Return the operators between an event and the learner of a recipe.

    Args:
        recipe: of the model.
        state: of the model, as in a snapshot.
    """
    operators: list[Operator] = []
    schema = encoded_schema_of(recipe)
    if (aggregates := aggregates_of(recipe)) is not None:
        aggregates.load(state["aggregates"])
        operators.append(aggregates)
        schema = aggregates.schema(schema)
    if (histories := histories_of(recipe)) is not None:
        histories.load(state["histories"])
        operators.append(histories)
        schema = histories.schema(schema)
    if (sequences := sequences_of(recipe)) is not None:
        sequences.load(state["sequences"])
        operators.append(sequences)
        schema = sequences.schema(schema)
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
    schema = encoded_schema_of(recipe)
    if (aggregates := aggregates_of(recipe)) is not None:
        schema = aggregates.schema(schema)
    if (histories := histories_of(recipe)) is not None:
        schema = histories.schema(schema)
    if (sequences := sequences_of(recipe)) is not None:
        schema = sequences.schema(schema)
    return cls(cls.Config.model_validate(settings), schema, recipe["seed"])
