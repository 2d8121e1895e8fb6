"""The answers of a model that goes on learning, over HTTP.

``create_app`` makes the application around a holder of the newest model. Whoever holds the holder
puts a newer model there with one assignment, between two requests; a request is answered by the one
model that it found. The same application runs in a replica of Ray Serve and in a plain process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic_core import from_json
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learners.base import Prediction
from pipeline.config.sections import ServeConfig
from pipeline.models.recipe import Recipe
from pipeline.models.snapshot import InferenceModel
from pipeline.serving.labels import InvalidLabelsError, LabelProducer, LabelsNotAcknowledgedError
from pipeline.serving.openapi import (
    ACCEPTED,
    ANSWER,
    LABEL_REFUSALS,
    MODEL_REFUSALS,
    OBJECT,
    list_of,
    responses,
)
from pipeline.serving.requests import InvalidEventsError, PredictRequest, Reader
from pipeline.serving.responses import (
    HTTPError,
    body_of,
    error,
    http_error,
    json_bytes,
    later,
    listed,
    refused,
    reply,
)
from streams.core.batch import Array, Ints

log = logging.getLogger(__name__)

VERSION_HEADER = "X-Model-Version"
RETRY_AFTER_S = 1
LABELS_AFTER_S = 5
INLINE_EVENTS, INLINE_BYTES = 64, 32_768
"""A request of up to so many is answered where it is read, which costs a fraction of a millisecond
for most models; a thread would cost as much again. A larger one goes to a thread, or health checks
would wait for it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What was said in answer to one request.

    Attributes:
        ids: (m,) int64, of those events that had an id, as the stream names them.
        value: (m,) int64 class codes (-1: it could not say) or float64 targets (NaN).
        version: of the model that answered.
        seconds: from the request to the answer.
        age: of the model, in seconds.
    """

    ids: Ints
    value: Array
    version: int
    seconds: float
    age: float


class Models:
    """The model that answers; None before the first. Swapped by assigning ``current``.

    ``failed`` counts requests for a prediction that ended in a defect, ours or the model's.
    """

    def __init__(self, current: InferenceModel | None = None) -> None:
        self.current = current
        self.failed = 0


Record = Callable[[Answered], None]


def create_app(
    models: Models,
    recipe: Recipe | None,
    config: ServeConfig,
    name: str,
    labels: LabelProducer | str,
    record: Record | None = None,
) -> FastAPI:
    """The application that answers with the model in ``models``.

    Args:
        models: the holder of the model.
        recipe: of the model, in all its versions; None where it is not known yet, as there is no
            model: every question is then refused as too early.
        config: limits of a request.
        name: of the job.
        labels: takes those that are posted; a text: why none are taken.
        record: is told of each answer, on the thread of the event loop: it must be cheap.
    """
    reader = None if recipe is None else Reader(recipe)
    desk = _Desk(models, reader, config, name, labels, record)
    app = FastAPI(
        title=name,
        description="A model that learns from a stream while it answers.",
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_closing(labels),
    )

    def route(how: str, does: Any, summary: str, says: Any, takes: Any = None) -> None:
        method, path = how.split()
        app.add_api_route(
            path,
            does,
            methods=[method],
            summary=summary,
            response_class=Response,
            status_code=min(says),
            responses=says,
            openapi_extra=takes,
        )

    event = (
        (None, None)
        if reader is None
        else (reader.event_schema(), {**reader.example(), reader.id_key: 1})
    )
    label = (None, None) if isinstance(labels, str) else (labels.schema(), labels.example())
    route(
        "POST /predict",
        desk.predict,
        "Predicts each event of a list",
        responses(200, "one entry for each event", ANSWER, MODEL_REFUSALS),
        list_of(config.max_events, *event),
    )
    route(
        "POST /labels",
        desk.labels,
        "Sends each label of a list to the topic that labels are learned from",
        responses(202, "all are there", ACCEPTED, LABEL_REFUSALS),
        list_of(config.max_events, *label),
    )
    early = {503: MODEL_REFUSALS[503]}
    what = "Which model answers, and what it takes"
    route("GET /model", desk.model, what, responses(200, "the model", OBJECT, early))
    what = "Whether there is a model"
    route("GET /healthz", desk.health, what, responses(200, "there is", OBJECT, early))
    app.add_exception_handler(HTTPError, refused)
    app.add_exception_handler(HTTPException, http_error)
    app.add_middleware(_Guard, models=models)
    return app


def warm(servable: InferenceModel) -> None:
    """Has the model answer a made-up event, so that the first who asks pays for nothing. Raises
    whatever the model raises."""
    schema = servable.schema
    features = [[f.name, f.kind, list(f.shape)] for f in schema.features]
    made: Recipe = {"features": features, "task": schema.task, "classes": list(schema.classes)}
    reader = Reader({**made, "id_type": "int", "dtype": "float64"})
    question = reader.read([reader.example()])
    _body(question, servable.answer(question.batch), servable)


def _closing(labels: LabelProducer | str) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """With the application ends what it sends labels with."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        if not isinstance(labels, str):
            labels.close()

    return life


class _Desk:
    """Where requests come in."""

    def __init__(
        self,
        models: Models,
        reader: Reader | None,
        config: ServeConfig,
        name: str,
        labels: LabelProducer | str,
        record: Record | None,
    ) -> None:
        self._models = models
        self._reader = reader
        self._config = config
        self._name = name
        self._labels = labels
        self._record = record
        # One thread: with it busy, small requests queue there as well, so a model is asked by one
        # at a time. A user's class need not be thread-safe.
        self._worker = ThreadPoolExecutor(1, "answer")
        self._queued = 0

    async def predict(self, request: Request) -> Response:
        began = time.perf_counter()
        try:
            _, reader = self._present()
            body = await body_of(request, self._config.max_bytes)
            servable, _ = self._present()  # the newest, and this one to the end
            content, question, said = await self._ask(servable, reader, body)
        except (HTTPError, ClientDisconnect):  # asked too early or wrongly, or nobody waits
            raise
        except Exception:
            self._models.failed += 1
            raise
        if self._record is not None:
            self._record(
                Answered(
                    question.batch.ids[question.named],
                    said.value[question.named],
                    servable.version,
                    time.perf_counter() - began,
                    time.time() - servable.taken,
                )
            )
        return reply(content, headers={VERSION_HEADER: str(servable.version)})

    async def labels(self, request: Request) -> Response:
        """Takes labels before there is a model too: it may be those that it waits for."""
        if isinstance(self._labels, str):
            raise HTTPError(409, self._labels)
        body = await body_of(request, self._config.max_bytes)
        try:
            accepted = await self._labels.accept(body, self._config.max_events)
        except InvalidLabelsError as error:
            raise HTTPError(422, str(error), error.details) from None
        except LabelsNotAcknowledgedError as error:
            raise later(str(error), LABELS_AFTER_S) from None
        return reply(json_bytes({"accepted": accepted}), 202)

    async def model(self) -> Response:
        servable, reader = self._present()
        schema = servable.schema
        said = {
            "name": self._name,
            "model_version": servable.version,
            "events_seen": servable.events,
            "age_s": time.time() - servable.taken,
            "kind": schema.task,
            "classes": servable.classes,
            "features": [
                {"name": f.name, "kind": f.kind, "shape": f.shape} for f in schema.features
            ],
            "id": reader.id_key,
            "metrics": servable.metrics,
        }
        return reply(json_bytes(said), headers={VERSION_HEADER: str(servable.version)})

    async def health(self) -> Response:
        servable, _ = self._present()
        said = {
            "status": "ok",
            "model_version": servable.version,
            "events_seen": servable.events,
            "age_s": time.time() - servable.taken,
        }
        return reply(json_bytes(said), headers={VERSION_HEADER: str(servable.version)})

    def _present(self) -> tuple[InferenceModel, Reader]:
        servable = self._models.current
        if servable is None or self._reader is None:
            reason = "there is no model yet, the first comes with the first snapshot"
            raise later(f"{self._name}: {reason}", RETRY_AFTER_S)
        return servable, self._reader

    async def _ask(
        self, servable: InferenceModel, reader: Reader, body: bytes
    ) -> tuple[bytes, PredictRequest, Prediction]:
        small = len(body) <= INLINE_BYTES and body.count(b"{") <= INLINE_EVENTS
        if small and not self._queued:
            return self._answer(servable, reader, body)
        loop = asyncio.get_running_loop()
        self._queued += 1
        try:
            return await loop.run_in_executor(self._worker, self._answer, servable, reader, body)
        finally:
            self._queued -= 1

    def _answer(
        self, servable: InferenceModel, reader: Reader, body: bytes
    ) -> tuple[bytes, PredictRequest, Prediction]:
        events = listed(body, self._config.max_events, "events", _parsed)
        try:
            question = reader.read(events)
        except InvalidEventsError as error:
            raise HTTPError(422, str(error), error.details) from None
        said = servable.answer(question.batch)
        return _body(question, said, servable), question, said


class _Guard:
    """Sees to it that every answer names the model, and that a defect is answered too."""

    def __init__(self, app: ASGIApp, models: Models) -> None:
        self._app = app
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if (servable := self._models.current) is not None:
                    MutableHeaders(scope=message).setdefault(VERSION_HEADER, str(servable.version))
            await send(message)

        try:
            await self._app(scope, receive, named)
        except ClientDisconnect:
            pass
        except Exception as found:  # a defect, of ours or of a user's class
            log.exception("a request failed")
            if started:
                raise
            failed = error(500, f"{type(found).__name__}: the log of the server says more")
            await failed(scope, receive, named)


def _body(question: PredictRequest, said: Prediction, servable: InferenceModel) -> bytes:
    """The answer as JSON: null where the model cannot say yet, and no NaN."""
    value: list[Any] = said.value.tolist()
    probabilities = None
    if said.kind == "classification":
        names = said.classes
        known = len(names)
        if said.proba is not None:
            rows = _columns(said.proba, known).tolist()
            probabilities = [
                row if code >= 0 else None for row, code in zip(rows, value, strict=True)
            ]
        # A model of two classes may say the second before that has got its name.
        value = [names[code] if 0 <= code < known else None for code in value]
    return json_bytes(
        {
            "model_version": servable.version,
            "events_seen": servable.events,
            "kind": said.kind,
            "classes": said.classes,
            "ids": question.ids,
            "predictions": value,
            "probabilities": probabilities,
        }
    )


def _columns(proba: Array, known: int) -> Array:
    """(n, known): one column for each class that has a name."""
    missing = known - proba.shape[1]
    return np.pad(proba, ((0, 0), (0, missing))) if missing > 0 else proba[:, :known]


def _parsed(body: bytes) -> Any:
    return from_json(body, allow_inf_nan=False)
