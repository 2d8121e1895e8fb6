"""Images by a pretrained network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from learners.base import LearnerError
from learners.pretrained.encoders.base import Encoder, EncoderConfig, fingerprint_of
from learners.pretrained.encoders.row_batches import RowBatches, move_network
from streams.core.batch import Array, Column
from streams.core.errors import one_line
from streams.core.schema import Feature

_ROWS = 8  # of a batch: on one core more are slower, as their maps leave its cache
_ROWS_ON_GPU = 64
_CHANNELS = (1, 3, 4)


class ImageConfig(EncoderConfig):
    """Settings of an encoder of images.

    Attributes:
        size: height and width that images are scaled to.
    """

    size: PositiveInt = Field(224, ge=16, le=1024)


class PretrainedBody(NamedTuple):
    """A network without its classifier.

    Attributes:
        module: maps (n, 3, size, size) float32 to (n, features), or to (n, features, ...) of which
            the mean over places is taken.
        mean: (3,) of pixels from 0 to 1.
        deviation: (3,).
        contents: what its weights are, for the fingerprint.
    """

    module: nn.Module
    mean: Sequence[float]
    deviation: Sequence[float]
    contents: Iterable[bytes | memoryview]


class ImageEncoder(Encoder):
    """The features before the classifier of a network.

    An image is scaled to a square by bilinear interpolation, with a filter where it becomes
    smaller; its sides may change their ratio, so that nothing is cut. A gray image has three equal
    channels; the fourth channel of an image is left out. A subclass implements ``_body``.
    """

    kinds = frozenset({"image"})
    Config: ClassVar[type[ImageConfig]] = ImageConfig
    unit = True

    def __init__(self, config: Any, feature: Feature, seed: int) -> None:
        super().__init__(config, feature, seed)
        check_channels(feature)
        body = self._body(config)
        self._network = _ImageNetwork(body, config.size).eval().requires_grad_(False)
        self._batches = RowBatches(self._network, _ROWS)
        self.dimension = self._probe(feature.shape)
        settings = (config.size, tuple(body.mean), tuple(body.deviation), *self._names(config))
        self.fingerprint = fingerprint_of(self.kind, settings, body.contents)

    @abstractmethod
    def _body(self, config: Any) -> PretrainedBody:
        """Return the network. Raises ``LearnerError``."""

    def _names(self, config: Any) -> tuple[str, ...]:
        """Return what else tells networks of equal weights apart, as the name of a model."""
        return ()

    def _probe(self, shape: tuple[int, ...]) -> int:
        """Encode an image. Return the dimension."""
        try:
            features = self._batches(torch.zeros((1, *shape), dtype=torch.uint8))
        except Exception as error:  # a network may demand other sizes
            raise LearnerError(
                f"size: the network does not take these images: {one_line(error)}"
            ) from error
        return features.shape[1]

    def encode(self, values: Column) -> Array:
        if not len(values):
            return np.empty((0, self.dimension), np.float32)
        images = torch.from_numpy(np.ascontiguousarray(values))
        return self._batches(images).cpu().numpy()

    def move_to(self, device: str) -> None:
        move_network(self._network, device)
        self.device = device
        rows = _ROWS if torch.device(device).type == "cpu" else _ROWS_ON_GPU
        self._batches = RowBatches(self._network, rows)


def check_channels(feature: Feature) -> None:
    """Raise ``LearnerError`` where images have channels that no network takes."""
    if feature.shape[0] not in _CHANNELS:
        raise LearnerError(
            f"pretrained networks take images of 1, 3 or 4 channels, and {feature.name!r} has "
            f"{feature.shape[0]}"
        )


class Pixels(nn.Module):
    """Scale images to what a network takes.

    Args:
        mean: (3,) of pixels from 0 to 1.
        deviation: (3,).
        size: height and width.
    """

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], size: int) -> None:
        super().__init__()
        self.size = (size, size)
        white = 255 * torch.ones(3, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * white)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1) * white)

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, 3, size, size) float32 of images (n, channels, height, width) uint8."""
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.deviation, Tensor)
        x = images.to(self.mean.device)[:, :3].float()
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True)
        return (x - self.mean) / self.deviation


class _ImageNetwork(nn.Module):
    """Scale images, and apply a network."""

    def __init__(self, body: PretrainedBody, size: int) -> None:
        super().__init__()
        self.module = body.module
        self.pixels = Pixels(body.mean, body.deviation, size)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (n, dimension) of images (n, channels, height, width) uint8."""
        features: Tensor = self.module(self.pixels(images))
        return features.flatten(2).mean(2) if features.ndim > 2 else features


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the weights in a file of safetensors or of ``torch.save``. No code in it is run.

    Raises:
        LearnerError: it cannot be read.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return weights
    except Exception as error:  # whatever a damaged file makes the libraries raise
        raise LearnerError(f"weights: {file} cannot be read: {one_line(error)}") from error
