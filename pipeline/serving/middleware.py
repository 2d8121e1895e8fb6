"""The middleware of the application: every response names the model, and a defect is answered."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serving.responses import error_response

VERSION_HEADER = "X-Model-Version"
_SCOPE_KEY = "everlearn.model_version"


def set_model_version(request: Request, version: int) -> None:
    """Note which model answers a request."""
    request.scope[_SCOPE_KEY] = version


class ModelVersionMiddleware:
    """Add the version of the model to each response, and answer a defect too.

    Args:
        app: the application.
        newest: returns the version of the newest model, None where there is none. It is what a
            response names whose endpoint took no model.
    """

    def __init__(self, app: ASGIApp, newest: Callable[[], int | None]) -> None:
        self._app = app
        self._newest = newest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_version(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                version = scope.get(_SCOPE_KEY, self._newest())
                if version is not None:
                    MutableHeaders(scope=message)[VERSION_HEADER] = str(version)
            await send(message)

        try:
            await self._app(scope, receive, send_with_version)
        except ClientDisconnect:
            pass
        except Exception as error:
            response = await error_response(Request(scope), error)
            if started:
                raise
            await response(scope, receive, send_with_version)
