"""The HTTP server: predictions of the newest model, and labels for the run to learn.

- ``app`` has the endpoints, ``answers`` their predictions; ``middleware`` names the model in each
  response.
- ``responses`` has bodies, errors and JSON; ``openapi`` the documentation.
- ``requests`` reads events by the format and the decoder of the stream; ``labels`` takes labels.
- ``scoring`` scores served predictions once their labels arrive.
- ``checkpoint_server`` serves a run folder; ``pipeline.runners.ray.replicas`` serves on Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.serving.answers import warm
    from pipeline.serving.app import ModelHolder, create_app
    from pipeline.serving.checkpoint_server import CheckpointServer, ServeError, serve
    from pipeline.serving.labels import LabelProducer, NoLabels, label_producer
    from pipeline.serving.requests import InvalidEventsError, PredictRequest, RequestReader
    from pipeline.serving.responses import HTTPError
    from pipeline.serving.scoring import PredictionLog, ServedPredictionScorer

__all__ = [
    "CheckpointServer",
    "HTTPError",
    "InvalidEventsError",
    "LabelProducer",
    "ModelHolder",
    "NoLabels",
    "PredictRequest",
    "PredictionLog",
    "RequestReader",
    "ServeError",
    "ServedPredictionScorer",
    "create_app",
    "label_producer",
    "serve",
    "warm",
]

_MODULES = {
    "CheckpointServer": "pipeline.serving.checkpoint_server",
    "HTTPError": "pipeline.serving.responses",
    "InvalidEventsError": "pipeline.serving.requests",
    "LabelProducer": "pipeline.serving.labels",
    "ModelHolder": "pipeline.serving.app",
    "NoLabels": "pipeline.serving.labels",
    "PredictRequest": "pipeline.serving.requests",
    "PredictionLog": "pipeline.serving.scoring",
    "RequestReader": "pipeline.serving.requests",
    "ServeError": "pipeline.serving.checkpoint_server",
    "ServedPredictionScorer": "pipeline.serving.scoring",
    "create_app": "pipeline.serving.app",
    "label_producer": "pipeline.serving.labels",
    "serve": "pipeline.serving.checkpoint_server",
    "warm": "pipeline.serving.answers",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
