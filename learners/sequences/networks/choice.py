"""Which network a learner of sequences has."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from learners.sequences.networks.attentive import Attentive, AttentiveConfig
from learners.sequences.networks.base import SequenceNet
from learners.sequences.networks.log_normal_mixture import LogNormalMixture, LogNormalMixtureConfig
from learners.sequences.networks.point import Point, PointConfig
from learners.sequences.networks.rmtpp import Rmtpp, RmtppConfig


def _kind(model: Any) -> str:
    kind = model.get("kind", "attentive") if isinstance(model, dict) else getattr(model, "kind", "")
    return str(kind)


SequenceNetConfig = Annotated[
    Annotated[AttentiveConfig, Tag("attentive")]
    | Annotated[LogNormalMixtureConfig, Tag("log-normal-mixture")]
    | Annotated[RmtppConfig, Tag("rmtpp")]
    | Annotated[PointConfig, Tag("point")],
    Discriminator(_kind),
]


def network(config: SequenceNetConfig, types: int, seed: int) -> SequenceNet:
    """Return a new network of these settings for ``types`` types."""
    match config:
        case AttentiveConfig():
            return Attentive(config, types, seed)
        case LogNormalMixtureConfig():
            return LogNormalMixture(config, types, seed)
        case RmtppConfig():
            return Rmtpp(config, types, seed)
        case PointConfig():
            return Point(config, types, seed)
