"""Augmentation: random views of inputs, drawn anew at each presentation of an event.

Views of all rows of a tensor are drawn at once, from a generator in the state of the learner.
Stored and predicted events are never changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BeforeValidator, Discriminator, Field, NonNegativeInt, Tag, model_validator
from torch import Tensor

from streams.core.settings import Settings

Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

Augmentation = Callable[[Tensor, np.random.Generator], Tensor]
"""Return a random view of each of (n, *shape) inputs: a new tensor of that shape."""

_LUMA = (0.299, 0.587, 0.114)  # brightness of red, green and blue (Rec. 601)


class Image(Settings):
    """Views of images.

    Attributes:
        flip: whether half of the images are mirrored, left to right.
        shift: the most pixels by which an image is moved in each direction; the border is black.
        magnitude: strength of all other operations, from 0 to 1, as in RandAugment (Cubuk et al.
            2020) but with every operation at once. At 1, images are rotated by up to 30 degrees,
            and sheared and scaled by up to 0.3; brightness, contrast and saturation are multiplied
            by 0.1 to 1.9.
        erase: side of a square that is filled with the mean colour of the image, as a share of the
            shorter side (Cutout, DeVries and Taylor 2017).
    """

    kind: Literal["image"]
    flip: bool = False
    shift: NonNegativeInt = 0
    magnitude: float = Field(0.0, ge=0, le=1)
    erase: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _does_something(self) -> Image:
        if not (self.flip or self.shift or self.magnitude or self.erase):
            raise ValueError("no operation is set: set flip, shift, magnitude or erase")
        return self


class Jitter(Settings):
    """Views of vectors and of rows of a table.

    Scaled inputs have a standard deviation of 1. Indicators of categories and bags of words are
    changed as numbers are.

    Attributes:
        noise: standard deviation of Gaussian noise on each number.
        drop: share of the numbers that become 0, which is the mean where inputs are scaled.
    """

    kind: Literal["jitter"]
    noise: float = Field(0.1, ge=0)
    drop: float = Field(0.0, ge=0, lt=1)


class NamedViews(Settings):
    """Views that suit the kind of input.

    ``weak``: images are moved by up to an eighth of the shorter side. They are mirrored if they
    have three channels; mirrored digits and letters would change their meaning. Other rows get
    noise of 0.05.

    ``strong``: images get magnitude 0.5 and an erased quarter of the side in addition. Other rows
    get noise of 0.1, and a tenth of their numbers is dropped.
    """

    kind: Literal["weak", "strong"]


def _as_mapping(config: Any) -> Any:
    return {"kind": config} if isinstance(config, str) else config


def _kind(config: Any) -> str:
    return str(config.get("kind", "") if isinstance(config, dict) else getattr(config, "kind", ""))


AugmentConfig = Annotated[
    Annotated[NamedViews, Tag("weak")]
    | Annotated[NamedViews, Tag("strong")]
    | Annotated[Image, Tag("image")]
    | Annotated[Jitter, Tag("jitter")],
    Discriminator(_kind),
    BeforeValidator(_as_mapping),
]
"""A mapping with a kind, or the kind alone."""


def augmentation(
    config: NamedViews | Image | Jitter,
    shape: tuple[int, ...],
    image: bool,
    device: str = "cpu",
) -> Augmentation:
    """Return a function that draws views of inputs of this shape.

    Args:
        config: settings of a job.
        shape: of one input; (channels, height, width) of an image.
        image: whether inputs are images, with values from 0 to 1.
        device: of the inputs.

    Raises:
        ValueError: the settings do not fit such inputs.
    """
    if isinstance(config, NamedViews):
        config = _image(config.kind, shape) if image else _JITTER[config.kind]
    if isinstance(config, Jitter):
        if image:
            raise ValueError("kind 'jitter' is for rows of numbers, but these are images: 'image'")
        return _Jittered(config)
    if not image:
        raise ValueError(f"kind 'image' is for images, but these are rows {shape}: 'jitter'")
    if config.shift >= min(shape[1:]):
        raise ValueError(f"shift: by {config.shift} pixels images {shape} are moved out of sight")
    return _Images(config, shape, device)


_JITTER = {
    "weak": Jitter(kind="jitter", noise=0.05),
    "strong": Jitter(kind="jitter", noise=0.1, drop=0.1),
}


def _image(name: str, shape: tuple[int, ...]) -> Image:
    weak = Image(kind="image", flip=shape[0] == 3, shift=max(min(shape[1:]) // 8, 1))
    return weak if name == "weak" else weak.model_copy(update={"magnitude": 0.5, "erase": 0.25})


class _Jittered:
    def __init__(self, config: Jitter) -> None:
        self._noise, self._drop = config.noise, config.drop

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        if self._noise:
            noise = torch.from_numpy(rng.standard_normal(x.shape, np.float32)).to(x.device)
            x = torch.add(x, noise, alpha=self._noise)
        if self._drop:
            kept = torch.from_numpy(rng.random(x.shape, np.float32) >= self._drop)
            x = x * kept.to(x.device)
        return x


class _Images:
    def __init__(self, config: Image, shape: tuple[int, ...], device: str) -> None:
        self._config = config
        channels, self._height, self._width = shape
        self._side = round(config.erase * min(shape[1:]))
        grey = _LUMA if channels == 3 else (1 / channels,) * channels
        self._grey = torch.tensor(grey, device=device)
        self._as_is = torch.eye(channels, device=device)
        identity = torch.eye(2, 3)[None], [1, *shape]
        grid = F.affine_grid(*identity, align_corners=False).view(-1, 2)
        # (pixels, 3): the position of each pixel in the coordinates of grid_sample, and 1.
        self._pixels = torch.cat([grid, torch.ones(len(grid), 1)], 1).to(device)

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        config, n = self._config, len(x)
        reach = config.shift
        u = rng.random((3, n))
        flip = u[0] < 0.5 if config.flip else np.zeros(n, bool)
        down, right = (u[1:] * (2 * reach + 1)).astype(np.int64) - reach
        if config.magnitude:
            x = self._warped(x, flip, down, right, rng.uniform(-1, 1, (3, n)))
            x = self._coloured(x, rng.uniform(-1, 1, (3, n)))
        elif config.flip or reach:
            x = self._moved(x, flip, down, right)
        return self._erased(x, rng.random((2, n))) if self._side else x

    def _moved(self, x: Tensor, flip: Flags, down: Ints, right: Ints) -> Tensor:
        """Mirror images, then move them by whole pixels, without interpolation."""
        reach = self._config.shift
        row = np.arange(reach, reach + self._height) - down[:, None]
        column = np.arange(reach, reach + self._width) - right[:, None]
        column = np.where(flip[:, None], self._width + 2 * reach - 1 - column, column)
        # Rows and columns of the image with a border of `reach`, as one number for each pixel.
        pixel = row[:, :, None] * (self._width + 2 * reach) + column[:, None, :]
        index = torch.from_numpy(pixel.reshape(len(x), 1, -1)).to(x.device)
        bordered = F.pad(x, (reach,) * 4).flatten(2)
        return bordered.gather(2, index.expand(-1, x.shape[1], -1)).view_as(x)

    def _warped(self, x: Tensor, flip: Flags, down: Ints, right: Ints, by: Floats) -> Tensor:
        """Mirror, rotate, shear, scale and move images in one map, interpolated once."""
        by = by * self._config.magnitude
        angle, shear, scale = math.radians(30) * by[0], 0.3 * by[1], 1 + 0.3 * by[2]
        theta = affine(flip, angle, shear, scale, down, right, (self._height, self._width))
        maps = torch.from_numpy(theta).view(-1, 3).to(x.device)
        # One product for all images is ten times as fast as one for each.
        sources = (self._pixels @ maps.mT).view(-1, len(x), 2).transpose(0, 1)
        grid = sources.reshape(len(x), self._height, self._width, 2)
        return F.grid_sample(x, grid, align_corners=False)

    def _coloured(self, x: Tensor, by: Floats) -> Tensor:
        """Change saturation, contrast and brightness by one linear map of each image's channels."""
        factors = 1 + 0.9 * self._config.magnitude * by[:, :, None, None]
        brightness, contrast, saturation = torch.from_numpy(factors.astype(np.float32)).to(x.device)
        pixels = x.flatten(2)
        mean = (pixels.mean(2) @ self._grey)[:, None, None]
        mix = saturation * self._as_is + (1 - saturation) * self._grey
        out = torch.baddbmm(brightness * (1 - contrast) * mean, brightness * contrast * mix, pixels)
        return out.clamp_(0, 1).view_as(x)

    def _erased(self, x: Tensor, at: Floats) -> Tensor:
        """Fill one square of each image with its mean colour, at positions ``at`` (2, n)."""
        side = self._side
        room = np.array([[self._height], [self._width]]) - side + 1
        top, left = (at * room).astype(np.int64)[:, :, None]
        row, column = np.arange(self._height) - top, np.arange(self._width) - left
        rows, columns = (row >= 0) & (row < side), (column >= 0) & (column < side)
        inside = torch.from_numpy(rows[:, None, :, None] & columns[:, None, None, :]).to(x.device)
        return torch.where(inside, x.mean((2, 3), keepdim=True), x)


def affine(
    flip: Flags,
    angle: Floats,
    shear: Floats,
    scale: Floats,
    down: Ints,
    right: Ints,
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Return the maps (n, 2, 3) float32 of n images for ``grid_sample``.

    Images are mirrored, then sheared, scaled, rotated and moved. A map goes from the position of a
    pixel to its source, so it undoes these in reverse order.

    Args:
        flip: (n,) whether an image is mirrored, left to right.
        angle: (n,) clockwise about the centre, in radians.
        shear: (n,) as a share.
        scale: (n,) as a factor.
        down: (n,) pixels.
        right: (n,) pixels.
        size: height and width of the images, in pixels.
    """
    height, width = size
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    side = np.where(flip, -1, 1)
    # From (x, y) in pixels from the centre: undo rotation and scale, then shear.
    y_of_x, y_of_y = -sin, cos
    x_of_x, x_of_y = side * (cos + shear * sin), side * (sin - shear * cos)
    theta = np.empty((len(flip), 2, 3), np.float32)
    # The coordinates of grid_sample go from -1 to 1 across the image, at any size.
    theta[:, 0, 0], theta[:, 0, 1] = x_of_x, x_of_y * height / width
    theta[:, 1, 0], theta[:, 1, 1] = y_of_x * width / height, y_of_y
    theta[:, 0, 2] = -(x_of_x * right + x_of_y * down) * 2 / width
    theta[:, 1, 2] = -(y_of_x * right + y_of_y * down) * 2 / height
    return theta
