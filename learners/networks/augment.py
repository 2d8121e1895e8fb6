"""Views: random variants of inputs, drawn anew each time that an event is presented.

A view is drawn for each row of a tensor, with no loop over rows, from a generator that the learner
owns and keeps in its state. Nothing that is stored or predicted is ever changed.
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
"""A random view of each of (n, *shape) inputs: a new tensor of that shape."""

_LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue look (Rec. 601)


class Image(Settings):
    """Views of images.

    Attributes:
        flip: whether half of them are mirrored, left to right.
        shift: the most pixels that they are moved by, each way; what comes in is black.
        magnitude: how much else is done, from 0 to 1, in the manner of RandAugment (Cubuk et al.
            2020) with every operation at once: rotated by up to 30 degrees, sheared and scaled by
            up to 0.3, brightness, contrast and saturation times 1 to 1.9 or 0.1, all at 1.
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
            raise ValueError("nothing is done: set flip, shift, magnitude or erase")
        return self


class Jitter(Settings):
    """Views of vectors and of rows of a table.

    Inputs that are scaled have a standard deviation of 1. Indicators of categories and bags of
    words are changed as numbers are.

    Attributes:
        noise: standard deviation of Gaussian noise on each number.
        drop: share of the numbers that become 0, which is the mean where inputs are scaled.
    """

    kind: Literal["jitter"]
    noise: float = Field(0.1, ge=0)
    drop: float = Field(0.0, ge=0, lt=1)


class Named(Settings):
    """Views that suit the kind of input.

    ``weak``: images are moved by up to an eighth of the shorter side, and mirrored if they have
    three channels (digits and letters would not stay what they are); other rows get noise of 0.05.
    ``strong``: besides, magnitude 0.5 and a quarter of the side erased; noise of 0.1, and a tenth
    dropped.
    """

    kind: Literal["weak", "strong"]


def _spelt_out(given: Any) -> Any:
    return {"kind": given} if isinstance(given, str) else given


def _which(given: Any) -> str:
    return str(given.get("kind", "") if isinstance(given, dict) else getattr(given, "kind", ""))


AugmentConfig = Annotated[
    Annotated[Named, Tag("weak")]
    | Annotated[Named, Tag("strong")]
    | Annotated[Image, Tag("image")]
    | Annotated[Jitter, Tag("jitter")],
    Discriminator(_which),
    BeforeValidator(_spelt_out),
]
"""A mapping with a kind, or the kind alone."""


def augmentation(
    config: Named | Image | Jitter,
    shape: tuple[int, ...],
    image: bool,
    device: str = "cpu",
) -> Augmentation:
    """What draws views of inputs of this shape.

    Args:
        config: as a job has it.
        shape: of one input; (channels, height, width) of an image.
        image: whether inputs are images, with values from 0 to 1.
        device: where they lie.

    Raises:
        ValueError: settings that do not fit such inputs.
    """
    if isinstance(config, Named):
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
        whole = torch.eye(2, 3)[None], [1, *shape]
        grid = F.affine_grid(*whole, align_corners=False).view(-1, 2)
        # (pixels, 3): where each pixel is, in the coordinates of grid_sample, and 1.
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
        """Mirrored, then moved by whole pixels: no value is interpolated."""
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
        """Mirrored, turned, sheared, scaled and moved, all in one: interpolated only once."""
        by = by * self._config.magnitude
        angle, shear, scale = math.radians(30) * by[0], 0.3 * by[1], 1 + 0.3 * by[2]
        theta = affine(flip, angle, shear, scale, down, right, (self._height, self._width))
        maps = torch.from_numpy(theta).view(-1, 3).to(x.device)
        # One product for all images: ten times as fast as one for each.
        comes_from = (self._pixels @ maps.mT).view(-1, len(x), 2).transpose(0, 1)
        grid = comes_from.reshape(len(x), self._height, self._width, 2)
        return F.grid_sample(x, grid, align_corners=False)

    def _coloured(self, x: Tensor, by: Floats) -> Tensor:
        """Saturation, contrast and brightness as one linear map of the channels of each image."""
        factors = 1 + 0.9 * self._config.magnitude * by[:, :, None, None]
        brightness, contrast, saturation = torch.from_numpy(factors.astype(np.float32)).to(x.device)
        pixels = x.flatten(2)
        mean = (pixels.mean(2) @ self._grey)[:, None, None]
        mix = saturation * self._as_is + (1 - saturation) * self._grey
        out = torch.baddbmm(brightness * (1 - contrast) * mean, brightness * contrast * mix, pixels)
        return out.clamp_(0, 1).view_as(x)

    def _erased(self, x: Tensor, at: Floats) -> Tensor:
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
    """(n, 2, 3) maps, as ``grid_sample`` wants them, that give n images of ``size`` (height, width)
    mirrored, then sheared, scaled, turned clockwise by ``angle`` (in radians) about the centre, and
    moved by ``down`` and ``right`` pixels.

    A map goes from where a pixel is to where it comes from, so it undoes these, the last one first.
    """
    height, width = size
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    side = np.where(flip, -1, 1)
    # From (x, y) in pixels from the centre: turned back and scaled back, then sheared back.
    y_of_x, y_of_y = -sin, cos
    x_of_x, x_of_y = side * (cos + shear * sin), side * (sin - shear * cos)
    theta = np.empty((len(flip), 2, 3), np.float32)
    # The coordinates of grid_sample go from -1 to 1 across the image, whatever its sides.
    theta[:, 0, 0], theta[:, 0, 1] = x_of_x, x_of_y * height / width
    theta[:, 1, 0], theta[:, 1, 1] = y_of_x * width / height, y_of_y
    theta[:, 0, 2] = -(x_of_x * right + x_of_y * down) * 2 / width
    theta[:, 1, 2] = -(y_of_x * right + y_of_y * down) * 2 / height
    return theta
