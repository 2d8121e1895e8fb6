"""Choose the network of a click model by its kind."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from learners.recommenders.networks.dcn_v2 import DcnV2
from learners.recommenders.networks.deepfm import DeepFm
from learners.recommenders.networks.dnn import Dnn
from learners.recommenders.networks.fm import Fm


def _kind(model: Any) -> str:
    kind = model.get("kind", "deepfm") if isinstance(model, dict) else getattr(model, "kind", "")
    return str(kind)


ClickNetworkConfig = Annotated[
    Annotated[Fm, Tag("fm")]
    | Annotated[Dnn, Tag("dnn")]
    | Annotated[DeepFm, Tag("deepfm")]
    | Annotated[DcnV2, Tag("dcn-v2")],
    Discriminator(_kind),
]
