"""The answer to a request for predictions: finite numbers as JSON, or a reason why not."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from learners.base import NotFiniteError
from learners.results import Prediction
from learners.sequences.forecast import mean, quantiles
from pipeline.evaluation.online.sequence_metrics import LEVELS
from pipeline.models.recipe import Recipe
from pipeline.models.snapshot import InferenceModel
from pipeline.serving.requests import InvalidEventsError, PredictRequest, RequestReader
from pipeline.serving.responses import HTTPError, json_bytes
from streams.core.batch import Array
from streams.core.errors import one_line


class Answer(NamedTuple):
    """What a request for predictions led to: the body of the response, and what it was made of."""

    body: bytes
    request: PredictRequest
    prediction: Prediction


def answer_request(model: InferenceModel, request: PredictRequest) -> Answer:
    """Return the predictions of a model for a request. Raise ``HTTPError`` where some are not
    finite, and whatever the model raises."""
    prediction = _finite_prediction(model, request)
    return Answer(_body(request, prediction, model), request, prediction)


def warm(model: InferenceModel) -> None:
    """Have the model answer a made-up event, so that the first request does not pay for it.

    Raises whatever the model raises.
    """
    schema = model.schema
    features = [[f.name, f.kind, list(f.shape)] for f in schema.features]
    recipe: Recipe = {"features": features, "task": schema.task, "classes": list(schema.classes)}
    reader = RequestReader({**recipe, "id_type": "int", "dtype": "float64"})
    request = reader.read([reader.example()])
    answer_request(model, request)


def _finite_prediction(model: InferenceModel, request: PredictRequest) -> Prediction:
    """Return the predictions for a request.

    Raises:
        HTTPError: some are not finite: the numbers of their events are too large for the model,
            whose own numbers were finite when it was loaded.
    """
    problem = "a prediction that is not finite: their numbers are too large for the model"
    try:
        prediction = model.answer(request.batch)
    except NotFiniteError as error:
        raise HTTPError(422, f"{one_line(error)}: the numbers of an event are too large") from error
    wrong = prediction.not_finite().tolist()
    if wrong:
        reasons = dict.fromkeys(wrong, "its numbers are too large for the model")
        raise InvalidEventsError(reasons, {}, len(prediction), f"have {problem}")
    return prediction


def _body(request: PredictRequest, prediction: Prediction, model: InferenceModel) -> bytes:
    """Return the body of the response: null where the model cannot say yet, and no NaN."""
    value: list[Any] = prediction.value.tolist()
    probabilities = None
    if prediction.kind == "classification":
        names = prediction.classes
        known = len(names)
        if prediction.proba is not None:
            rows = _columns(prediction.proba, known).tolist()
            probabilities = [
                row if code >= 0 else None for row, code in zip(rows, value, strict=True)
            ]
        # A model of two classes may predict the second before that has got its name.
        value = [names[code] if 0 <= code < known else None for code in value]
    return json_bytes(
        {
            "model_version": model.version,
            "events_seen": model.events,
            "kind": prediction.kind,
            "classes": prediction.classes,
            "ids": request.ids,
            "predictions": value,
            "probabilities": probabilities,
            **_next_events(prediction),
        }
    )


def _next_events(prediction: Prediction) -> dict[str, Any]:
    """Return what a forecast says of the time of the next events, of sequences alone: seconds since
    the last event of the key, or since the time of the request; null where it never comes."""
    if prediction.forecast is None or prediction.since is None:
        return {}
    levels = quantiles(prediction.forecast, np.array(LEVELS)).tolist()
    means = mean(prediction.forecast).tolist()
    since = prediction.since.tolist()
    return {
        "next": [
            {
                "since": _number(begin),
                "mean": _number(expected),
                "quantiles": {f"{p:g}": _number(q) for p, q in zip(LEVELS, row, strict=True)},
            }
            for begin, expected, row in zip(since, means, levels, strict=True)
        ]
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _columns(proba: Array, known: int) -> Array:
    """Return (n, known): one column for each class that has a name."""
    missing = known - proba.shape[1]
    return np.pad(proba, ((0, 0), (0, missing))) if missing > 0 else proba[:, :known]
