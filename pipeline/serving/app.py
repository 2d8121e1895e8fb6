"""The HTTP application: predictions of the newest model, and labels for the run to learn.

``create_app`` makes it around a holder of the newest model. A newer one is put there with one
assignment, between two requests; a request is answered by the one model that it took. The same
application runs in a replica of Ray Serve and in a plain process.

It is plain Starlette with an OpenAPI document of our own. What an event must look like is known
only once there is a stream, and its format and decoder decide what can be read. Models of pydantic,
which FastAPI would check bodies with, would be a second set of rules beside these.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from pipeline.config.sections import ServeConfig
from pipeline.models.recipe import Recipe
from pipeline.models.snapshot import InferenceModel
from pipeline.serving.answers import Answer, answer_request
from pipeline.serving.labels import LabelProducer, NoLabels
from pipeline.serving.middleware import ModelVersionMiddleware, set_model_version
from pipeline.serving.openapi import (
    ACCEPTED,
    LABEL_ERRORS,
    NO_MODEL,
    OBJECT,
    PREDICT_ERRORS,
    PREDICTIONS,
    Operation,
    Schema,
    docs_page,
    document,
    list_body,
    responses,
)
from pipeline.serving.requests import RequestReader, parse_list, read_body
from pipeline.serving.responses import (
    HTTPError,
    error_response,
    json_bytes,
    json_response,
    service_unavailable,
)
from pipeline.serving.scoring import PredictionLog

RETRY_AFTER_S = 1
INLINE_EVENTS, INLINE_BYTES = 64, 32_768
"""A request of at most this size is answered on the event loop. It takes a fraction of a
millisecond for most models, and handing it to a thread would take as long again. A larger one is
answered on a thread, or health checks would wait for it; so is one that must be encoded."""

OnPredict = Callable[[PredictionLog], object]
Endpoint = Callable[[Request], Any]
Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


class ModelHolder:
    """The model that answers; None before the first. Swapped by assigning ``current``.

    ``failed`` counts requests for a prediction that ended in a defect, ours or the model's.
    """

    def __init__(self, current: InferenceModel | None = None) -> None:
        self.current = current
        self.failed = 0

    def version(self) -> int | None:
        """Return the version of the model."""
        current = self.current
        return None if current is None else current.version


def create_app(
    models: ModelHolder,
    recipe: Recipe | None,
    config: ServeConfig,
    name: str,
    labels: LabelProducer | NoLabels,
    record: OnPredict | None = None,
) -> Starlette:
    """Create the application that answers with the model in ``models``.

    Args:
        models: the holder of the model.
        recipe: of the model, in all its versions; None where it is not known yet, as there is no
            model: predictions are then refused as too early.
        config: limits of a request.
        name: of the job.
        labels: takes those that are posted.
        record: takes the log of each answered request, on the thread of the event loop: it must be
            cheap.
    """
    reader = None if recipe is None else RequestReader(recipe)
    endpoints = Endpoints(models, reader, config, name, labels, record)
    table = _RouteTable()
    _add_routes(table, endpoints, reader, config, labels)
    app = Starlette(
        routes=[*table.routes, *_docs_routes(name, table.operations)],
        middleware=[Middleware(ModelVersionMiddleware, newest=models.version)],
        exception_handlers={HTTPError: error_response, HTTPException: error_response},
        lifespan=_lifespan(labels),
    )
    app.router.redirect_slashes = False
    return app


class _RouteTable:
    """The routes of an application, and what the documentation says of each."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self.operations: list[Operation] = []

    def add_route(
        self,
        path: str,
        endpoint: Endpoint,
        summary: str,
        responses: dict[int, Schema],
        request_body: Schema | None = None,
    ) -> None:
        """Add a route: a POST where it has a body, else a GET."""
        method = "GET" if request_body is None else "POST"
        self.routes.append(_route(method, path, endpoint))
        self.operations.append(Operation(method, path, summary, responses, request_body))


def _add_routes(
    table: _RouteTable,
    endpoints: Endpoints,
    reader: RequestReader | None,
    config: ServeConfig,
    labels: LabelProducer | NoLabels,
) -> None:
    event: tuple[Any, Any] = (None, None)
    if reader is not None:
        event = (reader.event_schema(), {**reader.example(), reader.id_key: 1})
    table.add_route(
        "/predict",
        endpoints.predict,
        "Predict each event of a list",
        responses(200, "one entry for each event", PREDICTIONS, PREDICT_ERRORS),
        list_body(config.max_events, *event),
    )
    table.add_route(
        "/labels",
        endpoints.labels,
        "Send each label of a list to the topic that labels are learned from",
        responses(202, "the topic has all of them", ACCEPTED, LABEL_ERRORS),
        list_body(config.max_events, labels.schema(), labels.example()),
    )
    table.add_route(
        "/model",
        endpoints.model,
        "Which model answers, and what it takes",
        responses(200, "the model", OBJECT, NO_MODEL),
    )
    table.add_route(
        "/healthz",
        endpoints.health,
        "Whether there is a model",
        responses(200, "there is", OBJECT, NO_MODEL),
    )


def _docs_routes(name: str, operations: Sequence[Operation]) -> list[Route]:
    """Return the routes of the OpenAPI document, and of the page that shows it."""

    async def openapi(request: Request) -> Response:
        return json_response(json_bytes(document(name, _root_path(request), operations)))

    async def docs(request: Request) -> Response:
        return HTMLResponse(docs_page(name, f"{_root_path(request)}/openapi.json"))

    return [_route("GET", "/openapi.json", openapi), _route("GET", "/docs", docs)]


def _root_path(request: Request) -> str:
    """Return the prefix of all paths, which Ray Serve puts before an application's own."""
    path: str = request.scope.get("root_path", "")
    return path.rstrip("/")


def _route(method: str, path: str, endpoint: Endpoint) -> Route:
    route = Route(path, endpoint)
    route.methods = {method}  # without HEAD, which Starlette adds to GET
    return route


def _lifespan(labels: LabelProducer | NoLabels) -> Lifespan:
    """Return the lifespan of an application: at its end, ``labels`` is closed."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        labels.close()

    return lifespan


class Endpoints:
    """The handlers of the routes. They raise errors; ``error_response`` answers these."""

    def __init__(
        self,
        models: ModelHolder,
        reader: RequestReader | None,
        config: ServeConfig,
        name: str,
        labels: LabelProducer | NoLabels,
        record: OnPredict | None,
    ) -> None:
        self._models = models
        self._reader = reader
        self._config = config
        self._name = name
        self._labels = labels
        self._record = record
        # One thread: with it busy, small requests queue there as well, so a model answers one
        # request at a time. A user's class need not be thread-safe.
        self._worker = ThreadPoolExecutor(1, "answer")
        self._queued = 0

    async def predict(self, request: Request) -> Response:
        started = time.perf_counter()
        try:
            self._require_model(request)  # or the body need not be read
            body = await read_body(request, self._config.max_bytes)
            model, reader = self._require_model(request)  # the newest, and this one to the end
            answer = await self._answer(model, reader, body)
        except (HTTPError, ClientDisconnect):  # too early, or wrong, or nobody waits
            raise
        except Exception:
            self._models.failed += 1
            raise
        if self._record is not None:
            self._record(
                PredictionLog.of_request(
                    answer.request.batch.ids[answer.request.named],
                    answer.prediction.value[answer.request.named],
                    model.version,
                    time.time() - model.taken,
                    time.perf_counter() - started,
                )
            )
        return json_response(answer.body)

    async def labels(self, request: Request) -> Response:
        """Take labels, also before there is a model: it may wait for them."""
        body = await read_body(request, self._config.max_bytes)
        accepted = await self._labels.accept(body, self._config.max_events)
        return json_response(json_bytes({"accepted": accepted}), 202)

    async def model(self, request: Request) -> Response:
        model, reader = self._require_model(request)
        schema = model.schema
        features = [{"name": f.name, "kind": f.kind, "shape": f.shape} for f in schema.features]
        content = {
            "name": self._name,
            "model_version": model.version,
            "events_seen": model.events,
            "age_s": time.time() - model.taken,
            "kind": schema.task,
            "classes": model.classes,
            "features": features,
            "id": reader.id_key,
            "metrics": model.metrics,
        }
        return json_response(json_bytes(content))

    async def health(self, request: Request) -> Response:
        model, _ = self._require_model(request)
        content = {
            "status": "ok",
            "model_version": model.version,
            "events_seen": model.events,
            "age_s": time.time() - model.taken,
        }
        return json_response(json_bytes(content))

    def _require_model(self, request: Request) -> tuple[InferenceModel, RequestReader]:
        """Return the newest model, which the response will name, and what reads its events.

        Raises:
            HTTPError: there is none yet, or it has learned nothing.
        """
        model = self._models.current
        if model is None or self._reader is None:
            reason = "there is no model yet, the first comes with the first snapshot"
            raise service_unavailable(f"{self._name}: {reason}", RETRY_AFTER_S)
        set_model_version(request, model.version)
        if not model.version:
            reason = f"the model has learned nothing yet: no label of its {model.events:,} events"
            raise service_unavailable(f"{self._name}: {reason} has been learned", RETRY_AFTER_S)
        return model, self._reader

    async def _answer(self, model: InferenceModel, reader: RequestReader, body: bytes) -> Answer:
        small = len(body) <= INLINE_BYTES and body.count(b"{") <= INLINE_EVENTS
        if small and not self._queued and not model.encodes:
            return self._predict(model, reader, body)
        loop = asyncio.get_running_loop()
        self._queued += 1
        try:
            return await loop.run_in_executor(self._worker, self._predict, model, reader, body)
        finally:
            self._queued -= 1

    def _predict(self, model: InferenceModel, reader: RequestReader, body: bytes) -> Answer:
        request = reader.read(parse_list(body, self._config.max_events, "events"))
        return answer_request(model, request)
