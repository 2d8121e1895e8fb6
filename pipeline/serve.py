"""The answers of a model that goes on learning, over HTTP.

``create_app`` makes the application around a holder of the newest model. Whoever holds the holder
puts a newer model there with one assignment, between two requests; a request is answered by the one
model that it found. The same application runs in a replica of Ray Serve and in a plain process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic_core import from_json, to_json
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learners.learner import Prediction, line
from pipeline.questions import BadEvents, Question, Reader
from pipeline.servable import Recipe, Servable, ServeConfig
from streams.batch import Array, Ints

log = logging.getLogger(__name__)

VERSION_HEADER = "X-Model-Version"
RETRY_AFTER_S = 1
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

    def __init__(self, current: Servable | None = None) -> None:
        self.current = current
        self.failed = 0


Record = Callable[[Answered], None]


def create_app(
    models: Models,
    recipe: Recipe | None,
    config: ServeConfig,
    name: str,
    record: Record | None = None,
) -> FastAPI:
    """The application that answers with the model in ``models``.

    Args:
        models: the holder of the model.
        recipe: of the model, in all its versions; None where it is not known yet, as there is no
            model: every question is then refused as too early.
        config: limits of a request.
        name: of the job.
        record: is told of each answer, on the thread of the event loop: it must be cheap.
    """
    desk = _Desk(models, None if recipe is None else Reader(recipe), config, name, record)
    app = FastAPI(
        title=name,
        description="A model that learns from a stream while it answers.",
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_api_route(
        "/predict",
        desk.predict,
        methods=["POST"],
        summary="Predicts each event of a list",
        response_class=Response,
        openapi_extra=desk.request_schema(),
        responses=_responses(_ANSWER, "one entry for each event", 400, 413, 422, 500, 503),
    )
    app.add_api_route(
        "/model",
        desk.model,
        methods=["GET"],
        summary="Which model answers, and what it takes",
        response_class=Response,
        responses=_responses(_OBJECT, "the model", 503),
    )
    app.add_api_route(
        "/healthz",
        desk.health,
        methods=["GET"],
        summary="Whether there is a model",
        response_class=Response,
        responses=_responses(_OBJECT, "there is", 503),
    )
    app.add_exception_handler(_Refused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(_Guard, models=models)
    return app


def warm(servable: Servable) -> None:
    """Has the model answer a made-up event, so that the first who asks pays for nothing. Raises
    whatever the model raises."""
    schema = servable.schema
    features = [[f.name, f.kind, list(f.shape)] for f in schema.features]
    made: Recipe = {"features": features, "task": schema.task, "classes": list(schema.classes)}
    reader = Reader({**made, "id_type": "int", "dtype": "float64"})
    question = reader.read([reader.example()])
    _body(question, servable.answer(question.batch), servable)


class _Refused(Exception):  # noqa: N818 (what becomes of a request)
    """A request that is not answered: status, reason, and details of it."""

    def __init__(
        self,
        status: int,
        reason: str,
        details: list[dict[str, Any]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.details = details or []
        self.headers = headers


class _Desk:
    """Where requests come in."""

    def __init__(
        self,
        models: Models,
        reader: Reader | None,
        config: ServeConfig,
        name: str,
        record: Record | None,
    ) -> None:
        self._models = models
        self._reader = reader
        self._config = config
        self._name = name
        self._record = record
        # One thread: with it busy, small requests queue there as well, so a model is asked by one
        # at a time. A user's class need not be thread-safe.
        self._worker = ThreadPoolExecutor(1, "answer")
        self._queued = 0

    async def predict(self, request: Request) -> Response:
        began = time.perf_counter()
        try:
            _, reader = self._present()
            body = await self._body_of(request)
            servable, _ = self._present()  # the newest, and this one to the end
            content, question, said = await self._ask(servable, reader, body)
        except (_Refused, ClientDisconnect):  # asked too early or wrongly, or nobody waits
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
        return _json(content, headers={VERSION_HEADER: str(servable.version)})

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
        return _json(_bytes(said), headers={VERSION_HEADER: str(servable.version)})

    async def health(self) -> Response:
        servable, _ = self._present()
        said = {
            "status": "ok",
            "model_version": servable.version,
            "events_seen": servable.events,
            "age_s": time.time() - servable.taken,
        }
        return _json(_bytes(said), headers={VERSION_HEADER: str(servable.version)})

    def _present(self) -> tuple[Servable, Reader]:
        servable = self._models.current
        if servable is None or self._reader is None:
            raise _Refused(
                503,
                f"{self._name}: there is no model yet, the first comes with the first snapshot",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        return servable, self._reader

    async def _body_of(self, request: Request) -> bytes:
        most = self._config.max_bytes
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            raise _Refused(413, f"{length[:20]} bytes given; at most {most:,} in one request")
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:  # it may go on for ever: the rest is not waited for
                close = {"Connection": "close"}
                raise _Refused(413, f"at most {most:,} bytes in one request", headers=close)
            chunks.append(chunk)
        return b"".join(chunks)

    async def _ask(
        self, servable: Servable, reader: Reader, body: bytes
    ) -> tuple[bytes, Question, Prediction]:
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
        self, servable: Servable, reader: Reader, body: bytes
    ) -> tuple[bytes, Question, Prediction]:
        try:
            events = from_json(body, allow_inf_nan=False)
        except ValueError as error:  # nesting beyond what it reads is one as well
            raise _Refused(400, f"not JSON: {line(error)}") from None
        if not isinstance(events, list):
            raise _Refused(422, "a JSON list of events is wanted: [{...}, ...]")
        if len(events) > self._config.max_events:
            most = self._config.max_events
            raise _Refused(413, f"{len(events):,} events given; at most {most:,} in one request")
        try:
            question = reader.read(events)
        except BadEvents as error:
            raise _Refused(422, str(error), error.details) from None
        said = servable.answer(question.batch)
        return _body(question, said, servable), question, said

    def request_schema(self) -> dict[str, Any]:
        """What ``/predict`` takes, with the names of the features, for the documentation."""
        schema: dict[str, Any] = {"type": "array", "maxItems": self._config.max_events}
        content: dict[str, Any] = {"schema": schema}
        if self._reader is not None:
            schema["items"] = self._reader.event_schema()
            content["example"] = [self._reader.example() | {self._reader.id_key: 1}]
        return {"requestBody": {"required": True, "content": {"application/json": content}}}


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
        except Exception as error:  # a defect, of ours or of a user's class
            log.exception("a request failed")
            if started:
                raise
            failed = _error(500, f"{type(error).__name__}: the log of the server says more")
            await failed(scope, receive, named)


def _body(question: Question, said: Prediction, servable: Servable) -> bytes:
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
    return _bytes(
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


def _bytes(said: Any) -> bytes:
    return to_json(said, inf_nan_mode="null")


def _json(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(content, status, headers, "application/json")


def _error(
    status: int,
    reason: str,
    details: list[dict[str, Any]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    return _json(_bytes({"error": reason, "details": details or []}), status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    return _error(error.status, str(error), error.details, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """404 and 405 of the routing, and whatever else comes as such."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    reason, asked = error.detail, line(f"{request.method} {request.url.path}")
    if error.status_code == 404:
        reason = f"{asked}: there are POST /predict, GET /model, GET /healthz and GET /docs"
    if error.status_code == 405:
        reason = f"{asked}: {headers.get('Allow', 'another method')} is wanted"
    return _error(error.status_code, reason, headers=headers)


_OBJECT: dict[str, Any] = {"type": "object"}
_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "details": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"event": {"type": "integer"}, "reason": {"type": "string"}},
            },
        },
    },
    "required": ["error", "details"],
}
_NAME: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_SAID: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "model_version": {"type": "integer"},
        "events_seen": {"type": "integer"},
        "kind": {"enum": ["classification", "regression"]},
        "classes": {"type": "array", "items": _NAME},
        "ids": {"type": "array", "items": {"type": ["integer", "string", "null"]}},
        "predictions": {"type": "array", "items": _SAID},
        "probabilities": {
            "type": ["array", "null"],
            "items": {"type": ["array", "null"], "items": {"type": "number"}},
        },
    },
}
_REASONS = {
    400: "not JSON",
    413: "too many bytes or events",
    422: "events that cannot be read: which, and why",
    500: "the model failed",
    503: "there is no model yet: ask again after Retry-After seconds",
}


def _responses(answer: dict[str, Any], what: str, *refusals: int) -> dict[int | str, Any]:
    """What a route may answer, for the documentation."""
    found: dict[int | str, Any] = {200: _described(what, answer)}
    return found | {status: _described(_REASONS[status], _ERROR) for status in refusals}


def _described(what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema}}}
