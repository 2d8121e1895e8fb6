"""Requests and replies of the server, whatever they are about: bodies, limits, JSON, errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import Request, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from streams.core.errors import one_line

Headers = dict[str, str]
Details = Sequence[Mapping[str, Any]]
ROUTES = "POST /predict, POST /labels, GET /model, GET /healthz and GET /docs"


class HTTPError(Exception):
    """A request that is not answered: status, reason, and details of it."""

    def __init__(
        self, status: int, reason: str, details: Details = (), headers: Headers | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.details = details
        self.headers = headers


def later(reason: str, seconds: int, status: int = 503) -> HTTPError:
    """It is worth while to ask again after so many seconds."""
    return HTTPError(status, reason, headers={"Retry-After": str(seconds)})


async def body_of(request: Request, most: int) -> bytes:
    """The body, of at most so many bytes. Raises ``HTTPError``."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise HTTPError(413, f"{length[:20]} bytes given; at most {most:,} in one request")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:  # it may go on for ever: the rest is not waited for
            close = {"Connection": "close"}
            raise HTTPError(413, f"at most {most:,} bytes in one request", headers=close)
        chunks.append(chunk)
    return b"".join(chunks)


def listed(body: bytes, most: int, what: str, parse: Callable[[bytes], Any]) -> list[Any]:
    """The list in a body, of at most so many items. Raises ``HTTPError``."""
    try:
        found = parse(body)
    except ValueError as error:  # nesting beyond what it reads is one as well
        raise HTTPError(400, f"not JSON: {one_line(error)}") from None
    if not isinstance(found, list):
        raise HTTPError(422, f"a JSON list of {what} is wanted: [{{...}}, ...]")
    if len(found) > most:
        raise HTTPError(413, f"{len(found):,} {what} given; at most {most:,} in one request")
    return found


def json_bytes(said: Any) -> bytes:
    return to_json(said, inf_nan_mode="null")


def reply(content: bytes, status: int = 200, headers: Headers | None = None) -> Response:
    """``content`` is JSON."""
    return Response(content, status, headers, "application/json")


def error(
    status: int, reason: str, details: Details = (), headers: Headers | None = None
) -> Response:
    return reply(json_bytes({"error": reason, "details": details}), status, headers)


async def refused(request: Request, error_: Exception) -> Response:
    assert isinstance(error_, HTTPError)
    return error(error_.status, str(error_), error_.details, error_.headers)


async def http_error(request: Request, error_: Exception) -> Response:
    """404 and 405 of the routing, and whatever else comes as such."""
    assert isinstance(error_, HTTPException)
    headers = dict(error_.headers or {})
    reason, asked = error_.detail, one_line(f"{request.method} {request.url.path}")
    if error_.status_code == 404:
        reason = f"{asked}: there are {ROUTES}"
    if error_.status_code == 405:
        reason = f"{asked}: {headers.get('Allow', 'another method')} is wanted"
    return error(error_.status_code, reason, headers=headers)
