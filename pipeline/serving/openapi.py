"""What the documentation of the server says of its requests and answers, in JSON schema."""

from __future__ import annotations

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
                },
                "required": ["reason"],
            },
        },
    },
    "required": ["error", "details"],
}
_NAME: Schema = {"type": ["string", "number", "boolean"]}
_SAID: Schema = {"type": ["string", "number", "boolean", "null"]}
ANSWER: Schema = {
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
ACCEPTED: Schema = {"type": "object", "properties": {"accepted": {"type": "integer"}}}
MODEL_REFUSALS = {
    400: "not JSON",
    413: "too many bytes or events",
    422: "events that cannot be read: which, and why",
    500: "the model failed",
    503: "there is no model yet: ask again after Retry-After seconds",
}
LABEL_REFUSALS = {
    400: "not JSON",
    409: "this server takes no labels: why, and where they are taken",
    413: "too many bytes or labels",
    422: "labels that cannot be read: which, and why; none was sent",
    500: "it failed, and some may have been sent: the log of the server says more",
    503: "not all were sent, but some may be: post all again after Retry-After seconds",
}


def list_of(most: int, items: Schema | None, example: dict[str, Any] | None) -> Schema:
    """What a route takes: a list of at most so many; ``items`` where it is known of what."""
    schema: Schema = {"type": "array", "maxItems": most}
    content: Schema = {"schema": schema}
    if items is not None:
        schema["items"] = items
        content["example"] = [example]
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def responses(status: int, what: str, answer: Schema, refusals: dict[int, str]) -> dict[Any, Any]:
    """What a route may answer: ``answer`` with that status, or one of the refusals."""
    found = {status: _described(what, answer)}
    return found | {refused: _described(why, _ERROR) for refused, why in refusals.items()}


def _described(what: str, schema: Schema) -> Schema:
    return {"description": what, "content": {"application/json": {"schema": schema}}}
