"""Images by a model of timm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt
from torch import nn

from learners.base import LearnerError
from learners.pretrained.encoders.images.base import ImageConfig, ImageEncoder, PretrainedBody
from learners.pretrained.encoders.libraries import import_extra
from streams.core.errors import one_line


class TimmConfig(ImageConfig):
    """Settings of a model of timm.

    Attributes:
        model: its name in timm, as ``vit_small_patch16_224``.
        weights: a file of weights; None: those that timm loads from the Hugging Face hub.
        size: height and width that images are scaled to. A vision transformer takes only the one
            in its name.
    """

    location_keys = frozenset({"weights"})

    model: str
    weights: Path | None = None
    size: PositiveInt = Field(224, ge=16, le=1024)


class TimmEncoder(ImageEncoder):
    """A model for images of timm, without its classifier.

    Pixels are scaled by the mean and deviation that timm states for the model.
    """

    kind = "timm"
    Config = TimmConfig
    libraries = ("numpy", "torch", "timm")

    def _body(self, config: TimmConfig) -> PretrainedBody:
        return load_timm(config.model, config.weights, self.kind)

    def _names(self, config: TimmConfig) -> tuple[str, ...]:
        return (config.model,)


def load_timm(model: str, weights: Path | None, kind: str) -> PretrainedBody:
    """Return a model of timm, for prediction, without its classifier.

    Args:
        model: its name in timm.
        weights: a file of weights; None: those that timm loads from the Hugging Face hub.
        kind: of the encoder, for messages.

    Raises:
        LearnerError: it cannot be loaded.
    """
    timm = import_extra("timm", "timm", kind)
    if weights is not None and not Path(weights).is_file():
        raise LearnerError(f"weights: there is no file '{weights}': state a file of {model!r}")
    try:
        network = timm.create_model(
            model,
            pretrained=weights is None,
            checkpoint_path="" if weights is None else str(weights),
        )
        network.reset_classifier(0)
        stated = timm.data.resolve_model_data_config(network)
    except Exception as error:  # an unknown name, no network, or weights of another model
        raise LearnerError(f"model: {model!r}: {one_line(error)}") from error
    network = network.eval().requires_grad_(False)
    return PretrainedBody(network, stated["mean"], stated["std"], _contents(network))


def _contents(network: nn.Module) -> Iterator[Any]:
    """Yield the names and bytes of all weights: timm keeps no file of them where we know it."""
    for name, weights in sorted(network.state_dict().items()):
        yield name.encode()
        yield weights.numpy().tobytes()
