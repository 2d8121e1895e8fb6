"""The OpenAPI document of the server, and the page that shows it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]

OBJECT: Schema = {"type": "object"}
_ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "details": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "event": {"type": "integer", "description": "index, of an event"},
                    "label": {"type": "integer", "description": "index, of a label"},
                    "reason": {"type": "string"},
                    "hint": {"type": "string", "description": "which names of fields do not fit"},
                },
                "required": ["reason"],
            },
        },
    },
    "required": ["error", "details"],
}
_CLASS: Schema = {"type": ["string", "number", "boolean"]}
_VALUE: Schema = {"type": ["string", "number", "boolean", "null"]}
_NUMBER: Schema = {"type": ["number", "null"]}
PREDICTIONS: Schema = {
    "type": "object",
    "properties": {
        "model_version": {"type": "integer"},
        "events_seen": {"type": "integer"},
        "kind": {"enum": ["classification", "regression"]},
        "classes": {"type": "array", "items": _CLASS},
        "ids": {"type": "array", "items": {"type": ["integer", "string", "null"]}},
        "predictions": {"type": "array", "items": _VALUE},
        "probabilities": {
            "type": ["array", "null"],
            "items": {"type": ["array", "null"], "items": {"type": "number"}},
        },
        "next": {
            "type": "array",
            "description": "of event sequences: the time of the next event, in seconds",
            "items": {
                "type": "object",
                "properties": {
                    "since": _NUMBER,
                    "mean": _NUMBER,
                    "quantiles": {"type": "object", "additionalProperties": _NUMBER},
                },
            },
        },
    },
}
ACCEPTED: Schema = {"type": "object", "properties": {"accepted": {"type": "integer"}}}
NO_MODEL = {
    503: "there is no model yet, or it has learned nothing: ask again after Retry-After seconds"
}
PREDICT_ERRORS = {
    400: "not JSON",
    413: "too many bytes or events",
    422: "events that cannot be read, or predicted in finite numbers: which, and why",
    500: "the model failed",
    **NO_MODEL,
}
LABEL_ERRORS = {
    400: "not JSON",
    409: "this server takes no labels: why, and where they are taken",
    413: "too many bytes or labels",
    422: "labels that cannot be read (none was sent) or are too large: which, and why",
    500: "it failed, and some may have been sent: the log of the server says more",
    503: "not all were sent, but some may be: post all again after Retry-After seconds",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What the document says of a route.

    Attributes:
        method: GET or POST.
        path: of the route.
        summary: what it does, in a line.
        responses: status to what the document says of it, as ``responses`` makes it.
        request_body: as ``list_body`` makes it; None where there is none.
    """

    method: str
    path: str
    summary: str
    responses: Mapping[int, Schema]
    request_body: Schema | None = None


def document(title: str, root_path: str, operations: Iterable[Operation]) -> Schema:
    """Return the OpenAPI document of an application that is reached under ``root_path``."""
    paths: dict[str, Any] = {}
    for operation in operations:
        described: Schema = {
            "summary": operation.summary,
            "operationId": operation.path.strip("/"),
            "responses": {str(status): what for status, what in operation.responses.items()},
        }
        if operation.request_body is not None:
            described["requestBody"] = operation.request_body
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    made: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "description": "A model that learns from a stream while it answers.",
            "version": "0.1.0",
        },
        "paths": paths,
    }
    return made | ({"servers": [{"url": root_path}]} if root_path else {})


def list_body(max_items: int, item: Schema | None, example: dict[str, Any] | None) -> Schema:
    """Return the body of a request: a list; ``item`` is None where it is not known of what."""
    schema: Schema = {"type": "array", "maxItems": max_items}
    content: Schema = {"schema": schema}
    if item is not None:
        schema["items"] = item
        content["example"] = [example]
    return {"required": True, "content": {"application/json": content}}


def responses(
    status: int, what: str, content: Schema, errors: Mapping[int, str]
) -> dict[int, Schema]:
    """Return the responses of a route: ``content`` with that status, or one of the errors."""
    good = {status: _described(what, content)}
    return good | {status: _described(why, _ERROR) for status, why in errors.items()}


def docs_page(title: str, openapi_url: str) -> str:
    """Return the page of ``/docs``: Swagger UI from a public CDN, over the document."""
    return _PAGE.format(title=html.escape(title), url=html.escape(openapi_url))


def _described(what: str, schema: Schema) -> Schema:
    return {"description": what, "content": {"application/json": {"schema": schema}}}


_PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/swagger-ui.css">
</head>
<body>
<div id="swagger-ui" data-url="{url}"></div>
<script src="https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({{
  url: document.getElementById("swagger-ui").dataset.url,
  dom_id: "#swagger-ui",
  deepLinking: true,
}})
</script>
</body>
</html>
"""
