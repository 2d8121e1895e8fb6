"""Find an encoder by its kind in a job, or by its import path, and load it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from learners.base import LearnerError
from learners.pretrained.encoders.base import Encoder
from learners.registry import UnknownKindError, find
from streams.core.schema import Feature

KINDS: dict[str, str] = {
    "efficientnet-lite0": (
        "learners.pretrained.encoders.images.efficientnet_lite:EfficientNetLiteEncoder"
    ),
    "identity": "learners.pretrained.encoders.identity:IdentityEncoder",
    "minilm": "learners.pretrained.encoders.texts.minilm:MiniLmEncoder",
    "random-features": "learners.pretrained.encoders.random_features:RandomFeatureEncoder",
    "timm": "learners.pretrained.encoders.images.timm_models:TimmEncoder",
    "torchvision": "learners.pretrained.encoders.images.torchvision_models:TorchvisionEncoder",
    "transformers": "learners.pretrained.encoders.texts.transformer:TransformerEncoder",
}
"""The import path of each kind of encoder that a job may name."""


def encoder_class(kind: str) -> type[Encoder]:
    """Return the class of an encoder. Raises ``UnknownKindError``."""
    return find(KINDS, Encoder, kind)  # type: ignore[type-abstract]


def load_encoder(settings: str | Mapping[str, Any], feature: Feature, seed: int) -> Encoder:
    """Return the encoder of a column, ready for use.

    Args:
        settings: its kind or import path; or a mapping with that as ``kind``, and its settings.
        feature: the column.
        seed: of random weights.

    Raises:
        LearnerError: there is no such encoder, its settings are wrong, it does not take this
            column, or it cannot be loaded. The message names the remedy, and not the place.
    """
    given = {"kind": settings} if isinstance(settings, str) else dict(settings)
    if "kind" not in given:
        raise LearnerError(f"kind: name an encoder. There are: {', '.join(sorted(KINDS))}")
    try:
        cls = encoder_class(str(given["kind"]))
        config = cls.Config.model_validate(given)
    except UnknownKindError as error:
        raise LearnerError(f"kind: {error}") from None
    except ValidationError as error:
        raise LearnerError(first_line(error)) from None
    return cls(config, feature, seed)


def located(settings: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return settings with the paths of files made absolute; as they are where they are wrong."""
    try:
        config = encoder_class(str(settings.get("kind"))).Config.model_validate(settings)
    except (UnknownKindError, ValidationError):
        return settings  # ``load_encoder`` says what is wrong
    paths = config.located(folder).model_dump(mode="json", include=set(config.location_keys))
    return {**settings, **paths}


def first_line(error: ValidationError) -> str:
    """Return the first mistake of settings as ``key: message``."""
    first = error.errors(include_url=False)[0]
    keys = map(str, first["loc"])  # among them the branches of a union, as constrained-float
    place = ".".join(key for key in keys if key.isidentifier() or key.isdigit())
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
