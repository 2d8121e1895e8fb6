"""Find a backbone by its kind in a job, or by its import path, and share it."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

from pydantic import ValidationError

from learners.base import LearnerError
from learners.pretrained.backbones.base import Backbone, BackboneConfig
from learners.pretrained.encoders.registry import first_line
from learners.registry import UnknownKindError, find
from streams.core.schema import Feature

KINDS: dict[str, str] = {
    "minilm": "learners.pretrained.backbones.texts:MiniLmBackbone",
    "random-transformer": (
        "learners.pretrained.backbones.random_transformer:RandomTransformerBackbone"
    ),
    "timm": "learners.pretrained.backbones.vit:TimmBackbone",
    "transformers": "learners.pretrained.backbones.texts:TransformersBackbone",
}
"""The import path of each kind of backbone that a job may name."""

_LOADED: WeakValueDictionary[tuple[str, ...], Backbone] = WeakValueDictionary()
_LOADING = Lock()


def backbone_class(kind: str) -> type[Backbone]:
    """Return the class of a backbone. Raises ``UnknownKindError``."""
    return find(KINDS, Backbone, kind)  # type: ignore[type-abstract]


def backbone_config(settings: str | Mapping[str, Any] | BackboneConfig) -> BackboneConfig:
    """Return checked settings.

    Args:
        settings: the kind or import path of a backbone; a mapping with that as ``kind``, and its
            settings; or such settings, already checked.

    Raises:
        LearnerError: there is no such backbone, or its settings are wrong. The message names the
            remedy, and not the place.
    """
    if isinstance(settings, BackboneConfig):
        return settings
    given = {"kind": settings} if isinstance(settings, str) else settings
    if not isinstance(given, Mapping) or "kind" not in given:
        raise LearnerError(f"kind: name a backbone. There are: {', '.join(sorted(KINDS))}")
    try:
        return backbone_class(str(given["kind"])).Config.model_validate(given)
    except UnknownKindError as error:
        raise LearnerError(f"kind: {error}") from None
    except ValidationError as error:
        raise LearnerError(first_line(error)) from None


def load_backbone(
    settings: str | Mapping[str, Any] | BackboneConfig, feature: Feature, device: str = "cpu"
) -> Backbone:
    """Return the backbone of a column. Learners with equal settings share one while any uses it.

    Args:
        settings: as ``backbone_config`` takes them.
        feature: the column.
        device: of torch.

    Raises:
        LearnerError: there is no such backbone, its settings are wrong, it does not take this
            column, or it cannot be loaded. The message names the remedy, and not the place.
    """
    config = backbone_config(settings)
    cls = backbone_class(config.kind)
    key = (config.kind, config.model_dump_json(), feature.kind, str(feature.shape), device)
    with _LOADING:
        backbone = _LOADED.get(key)
        if backbone is None:
            backbone = cls(config, feature)
            if device != backbone.device:
                backbone.move_to(device)
            _LOADED[key] = backbone
        return backbone
