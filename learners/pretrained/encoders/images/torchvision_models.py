"""Images by a model of torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from learners.base import LearnerError
from learners.pretrained.encoders.images.base import (
    ImageConfig,
    ImageEncoder,
    PretrainedBody,
    read_weights,
)
from learners.pretrained.encoders.libraries import import_extra
from streams.core.errors import one_line
from streams.core.settings import unknown

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_CLASSIFIERS = ("fc", "classifier", "heads", "head")


class TorchvisionConfig(ImageConfig):
    """Settings of a model of torchvision.

    Attributes:
        model: its name in ``torchvision.models``, as ``resnet18``.
        weights: a file with its ``state_dict``, of ``torch.save`` or safetensors.
    """

    location_keys = frozenset({"weights"})

    model: str
    weights: Path | None = None


class TorchvisionEncoder(ImageEncoder):
    """A model for images of torchvision, without its classifier.

    Pixels are scaled by the mean and deviation of ImageNet, as in the training of its weights.
    """

    kind = "torchvision"
    Config = TorchvisionConfig
    libraries = ("numpy", "torch", "torchvision")

    def _body(self, config: TorchvisionConfig) -> PretrainedBody:
        models = import_extra("torchvision.models", "vision", self.kind)
        if config.model not in (names := models.list_models(module=models)):
            raise LearnerError(f"model: {unknown(config.model, names)}")
        if config.weights is None:
            raise LearnerError(
                f"weights: state a file of weights; torchvision saves its own by: "
                f'python -c "import torch, torchvision; torch.save(torchvision.models.get_model('
                f"'{config.model}', weights='DEFAULT').state_dict(), '{config.model}.pt')\""
            )
        weights = read_weights(config.weights)
        network = _network(models, config.model, weights)
        return PretrainedBody(network, _MEAN, _DEVIATION, [config.weights.read_bytes()])

    def _names(self, config: TorchvisionConfig) -> tuple[str, ...]:
        return (config.model,)


def _network(models: Any, name: str, weights: dict[str, torch.Tensor]) -> nn.Module:
    """Return a network with these weights, and without its classifier."""
    try:
        network: nn.Module = models.get_model(name, weights=None)
        network.load_state_dict(weights)
    except Exception as error:  # keys or shapes of another model
        raise LearnerError(f"weights: these are not of {name}: {one_line(error)}") from error
    for classifier in _CLASSIFIERS:
        if hasattr(network, classifier):
            setattr(network, classifier, nn.Identity())
            return network
    raise LearnerError(f"model: {name} has no classifier at its end that could be left out")
