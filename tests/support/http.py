"""A server in a thread, a client that asks it, and a model that needs no run."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import numpy as np
import pytest
import uvicorn

from learners.results import Prediction
from pipeline.models.recipe import Recipe
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema

PATIENCE_S = 60.0


class Reply(NamedTuple):
    """What came back: status, headers in lower case, the body, read where it is JSON, and how long
    it took."""

    status: int
    headers: dict[str, str]
    body: Any
    seconds: float


class Client:
    """Requests over one connection, which is taken up anew where the server has closed it."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        began = time.perf_counter()
        self._connection.request(method, path, body, headers, encode_chunked=False)
        response = self._connection.getresponse()
        raw = response.read()
        told = {name.lower(): value for name, value in response.getheaders()}
        body = json.loads(raw, parse_constant=pytest.fail) if _is_json(told) else raw
        return Reply(response.status, told, body, time.perf_counter() - began)

    def predict(self, events: Any) -> Reply:
        body = events if isinstance(events, bytes) else json.dumps(events).encode()
        return self.ask("POST", "/predict", body)

    def answer(self, events: Any) -> Any:
        reply = self.predict(events)
        assert reply.status == 200, reply
        return reply.body

    def close(self) -> None:
        self._connection.close()


def ask(port: int, path: str, body: Any = None) -> Reply:
    """Asks once, over a connection of its own: a GET, or a POST of a body."""
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    with closing(Client(port)) as client:
        return client.ask("GET" if body is None else "POST", path, raw)


def _is_json(headers: dict[str, str]) -> bool:
    return headers.get("content-type", "").startswith("application/json")


@contextmanager
def listening(app: Any, lifespan: str = "off") -> Iterator[int]:
    """A port at which the application answers."""
    config = uvicorn.Config(app, lifespan=lifespan, ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [found]})
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def served(app: Any) -> Iterator[Client]:
    with listening(app) as port, closing(Client(port)) as client:
        yield client


@contextmanager
def receiver(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A real HTTP server on this machine, which answers each request as told; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer(self)

        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Stub:
    """What the application needs of a servable, for a numeric feature ``x`` and classes a and b."""

    schema = Schema((Feature("x", "numeric"),), "classification")
    classes = ("a", "b")
    metrics = {"online/accuracy": float("nan")}
    events = 10

    def __init__(self, version: int = 1, does: Callable[[], None] = lambda: None) -> None:
        self.version = version
        self.encodes = False
        self.taken = time.time()
        self.does = does

    def answer(self, batch: Batch) -> Prediction:
        self.does()
        n = len(batch)
        value = np.full(n, self.version % 2)
        return Prediction(batch.ids, "classification", value, None, self.classes, self.version)


STUB: Recipe = {
    "features": [["x", "numeric", []]],
    "task": "classification",
    "classes": [],
    "id_type": "int",
    "dtype": "float64",
}
