"""What all endpoints share: bodies and their limits, JSON, and errors.

``error_response`` is the one place where an exception becomes a status and a reason.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from streams.core.errors import one_line

log = logging.getLogger(__name__)

Headers = dict[str, str]
Details = Sequence[Mapping[str, Any]]
ROUTES = "POST /predict, POST /labels, GET /model, GET /healthz and GET /docs"
MAX_DETAILS = 10
"""Items of a request whose reasons are in the response; the others are only counted."""


class HTTPError(Exception):
    """A request is refused: status, reason, details and headers of the response."""

    def __init__(
        self, status: int, reason: str, details: Details = (), headers: Headers | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.details = details
        self.headers = headers


class InvalidItemsError(HTTPError):
    """Some items of the list in a request cannot be read, and the whole request is refused.

    ``details`` has ``{item: index, "reason": text}`` of the first of them, in order; with
    ``"hint": text`` where the names of fields do not fit.

    Args:
        reasons: index to reason, of all of them.
        hints: index to hint, of some of them.
        count: items in the request.
        problem: what is wrong with them.
    """

    item: ClassVar[str]

    def __init__(
        self,
        reasons: Mapping[int, str],
        hints: Mapping[int, str],
        count: int,
        problem: str = "cannot be read",
    ) -> None:
        first = sorted(reasons)[:MAX_DETAILS]
        listed = f"; the first {len(first)} are listed" if len(first) < len(reasons) else ""
        details = [
            {self.item: row, "reason": reasons[row]}
            | ({"hint": hints[row]} if row in hints else {})
            for row in first
        ]
        message = f"{len(reasons)} of {count} {self.item}s {problem}{listed}"
        super().__init__(422, message, details)


def service_unavailable(reason: str, retry_after_s: int) -> HTTPError:
    """Return the error of a request that is worth repeating after ``retry_after_s`` seconds."""
    return HTTPError(503, reason, headers={"Retry-After": str(retry_after_s)})


def json_bytes(content: Any) -> bytes:
    """Return ``content`` as JSON; NaN and infinities are null."""
    return to_json(content, inf_nan_mode="null")


def json_response(content: bytes, status: int = 200, headers: Headers | None = None) -> Response:
    """Return the response of a body that is JSON already."""
    return Response(content, status, headers, "application/json")


async def error_response(request: Request, error: Exception) -> Response:
    """Return the response for whatever a request has raised."""
    details: Details = ()
    if isinstance(error, HTTPError):
        status, reason, details = error.status, str(error), error.details
        headers = error.headers
    elif isinstance(error, HTTPException):  # 404 and 405 of the routing
        status, headers = error.status_code, dict(error.headers or {})
        reason = _routing_reason(request, error, headers)
    else:  # a defect, of ours or of a user's class
        log.error("a request failed", exc_info=error)
        status, headers = 500, None
        reason = f"{type(error).__name__}: the log of the server says more"
    return json_response(json_bytes({"error": reason, "details": details}), status, headers)


def _routing_reason(request: Request, error: HTTPException, headers: Headers) -> str:
    asked = one_line(f"{request.method} {request.url.path}")
    if error.status_code == 404:
        return f"{asked}: there are {ROUTES}"
    if error.status_code == 405:
        return f"{asked}: {headers.get('Allow', 'another method')} is wanted"
    return error.detail
