"""Views by hand: which pixel comes from where, what stays as it was, and how often."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from learners.networks.augment import AugmentConfig, _Images, affine, augmentation

torch.set_num_threads(1)
GIVEN: TypeAdapter[Any] = TypeAdapter(AugmentConfig)
CAT = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]) / 10


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def drawn(x: Tensor, seed: int = 0, image: bool = True, **settings: Any) -> Tensor:
    kind = {"kind": "image" if image else "jitter"}
    config = GIVEN.validate_python(kind | settings)
    return augmentation(config, tuple(x.shape[1:]), image)(x, rng(seed))


def pictures(n: int, channels: int = 3, size: int = 12) -> Tensor:
    return torch.from_numpy(rng(9).random((n, channels, size, size), np.float32))


def shares(views: Tensor, variants: list[list[list[float]]]) -> list[float]:
    """How many of (n, 1, h, w) views are each of the variants, as shares of n."""
    return [(views[:, 0] == torch.tensor(v)).all((1, 2)).float().mean().item() for v in variants]


def test_shift_by_one_pixel_worked_by_hand() -> None:
    views = drawn(CAT.expand(9000, 1, 3, 3), shift=1) * 10
    variants = [
        [[0, 0, 0], [0, 1, 2], [0, 4, 5]],  # down and to the right
        [[0, 0, 0], [1, 2, 3], [4, 5, 6]],
        [[0, 0, 0], [2, 3, 0], [5, 6, 0]],
        [[0, 1, 2], [0, 4, 5], [0, 7, 8]],
        [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        [[2, 3, 0], [5, 6, 0], [8, 9, 0]],
        [[0, 4, 5], [0, 7, 8], [0, 0, 0]],
        [[4, 5, 6], [7, 8, 9], [0, 0, 0]],
        [[5, 6, 0], [8, 9, 0], [0, 0, 0]],
    ]
    found = shares(views.round(), [[list(map(float, row)) for row in v] for v in variants])
    assert sum(found) == pytest.approx(1)
    assert all(abs(share - 1 / 9) < 0.015 for share in found), "each with the same chance"


def test_flip_mirrors_half_and_changes_nothing_else() -> None:
    x = pictures(2000)
    views = drawn(x, flip=True)
    mirrored = (views == x.flip(3)).all(3).all(2).all(1)
    as_it_was = (views == x).all(3).all(2).all(1)
    assert bool((mirrored ^ as_it_was).all())
    assert abs(float(mirrored.float().mean()) - 0.5) < 0.04
    assert torch.equal(drawn(views, flip=True), x), "mirrored twice by the same draws"


def test_flip_and_shift_combine() -> None:
    views = drawn(CAT.expand(500, 1, 3, 3), flip=True, shift=1)
    plain, mirror = F.pad(CAT, (1,) * 4), F.pad(CAT.flip(1), (1,) * 4)
    windows = [p[i : i + 3, j : j + 3] for p in (plain, mirror) for i in range(3) for j in range(3)]
    found = shares(views, [w.tolist() for w in windows])
    assert sum(found) == pytest.approx(1)
    assert min(found) > 0


def test_jitter_of_zero_changes_nothing() -> None:
    rows = torch.rand(7, 5)
    assert torch.equal(drawn(rows, image=False, noise=0, drop=0), rows)


def warped(x: Tensor, **by: Any) -> Tensor:
    """An image (h, w) under one affine map."""
    given: dict[str, Any] = {"flip": 0, "angle": 0, "shear": 0, "scale": 1, "down": 0, "right": 0}
    arrays = {name: np.array([value]) for name, value in (given | by).items()}
    theta = affine(size=tuple(x.shape), **arrays)  # type: ignore[arg-type]
    grid = F.affine_grid(torch.from_numpy(theta), [1, 1, *x.shape], align_corners=False)
    return F.grid_sample(x[None, None], grid, align_corners=False)[0, 0]


SQUARE = torch.arange(1.0, 10).view(3, 3)
WIDE = torch.arange(1.0, 9).view(2, 4)


@pytest.mark.parametrize(
    ("x", "by", "expected"),
    [
        (SQUARE, {}, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        (SQUARE, {"angle": math.pi / 2}, [[7, 4, 1], [8, 5, 2], [9, 6, 3]]),
        (SQUARE, {"flip": 1}, [[3, 2, 1], [6, 5, 4], [9, 8, 7]]),
        (SQUARE, {"shear": 1.0}, [[2, 3, 0], [4, 5, 6], [0, 7, 8]]),
        (SQUARE, {"down": 1}, [[0, 0, 0], [1, 2, 3], [4, 5, 6]]),
        (SQUARE, {"right": -1}, [[2, 3, 0], [5, 6, 0], [8, 9, 0]]),
        (SQUARE, {"scale": 2.0}, [[3, 3.5, 4], [4.5, 5, 5.5], [6, 6.5, 7]]),
        # Mirrored, then turned, then moved.
        (SQUARE, {"flip": 1, "angle": math.pi / 2}, [[9, 6, 3], [8, 5, 2], [7, 4, 1]]),
        (SQUARE, {"angle": math.pi / 2, "down": 1}, [[0, 0, 0], [7, 4, 1], [8, 5, 2]]),
        (SQUARE, {"angle": math.pi / 2, "shear": 1.0}, [[0, 4, 2], [7, 5, 3], [8, 6, 0]]),
        (WIDE, {"angle": math.pi}, [[8, 7, 6, 5], [4, 3, 2, 1]]),
        (WIDE, {"right": 1}, [[0, 1, 2, 3], [0, 5, 6, 7]]),
        (WIDE, {"flip": 1, "right": 2}, [[0, 0, 4, 3], [0, 0, 8, 7]]),
        (WIDE, {"angle": math.pi / 2}, [[0, 6, 2, 0], [0, 7, 3, 0]]),
    ],
)
def test_affine_maps_worked_by_hand(
    x: Tensor, by: dict[str, Any], expected: list[list[float]]
) -> None:
    assert torch.allclose(warped(x, **by), torch.tensor(expected, dtype=torch.float32), atol=1e-5)


def test_strong_view_shifts_as_weak_view() -> None:
    x = pictures(64, 1)
    weak = drawn(x, flip=True, shift=2)
    hardly = drawn(x, flip=True, shift=2, magnitude=1e-6)
    assert torch.allclose(weak, hardly, atol=1e-4)


def test_colours_worked_by_hand() -> None:
    x = torch.tensor([[0.2, 0.6], [0.4, 0.4], [0.8, 0.0]]).view(1, 3, 1, 2)
    views = _Images(GIVEN.validate_python({"kind": "image", "magnitude": 1.0}), (3, 1, 2), "cpu")
    luma = np.array([0.299, 0.587, 0.114])
    for by in np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, -0.5], [0.2, -0.4, 0.9]]):
        brightness, contrast, saturation = 1 + 0.9 * by
        pixels = x[0, :, 0].numpy().T.astype(np.float64)  # (2, 3)
        grey = (pixels @ luma)[:, None]
        pixels = grey + saturation * (pixels - grey)
        pixels = grey.mean() + contrast * (pixels - grey.mean())
        expected = np.clip(brightness * pixels, 0, 1).T
        found = views._coloured(x, by[:, None])[0, :, 0].numpy()
        assert np.allclose(found, expected, atol=1e-6)


def test_erase_fills_square_at_any_position() -> None:
    x = pictures(400, 3, 4)
    views = drawn(x, erase=0.5)
    erased = views != x
    assert bool((erased.sum((1, 2, 3)) == 3 * 2 * 2).all()), "a side of 2 pixels, in all channels"
    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    assert torch.equal(views[erased], mean[erased])
    assert torch.equal(erased[:, 0], erased[:, 1])
    corners = erased[:, 0, :3, :3] & erased[:, 0, 1:, 1:]  # both ends of the diagonal
    assert np.allclose(corners.float().mean(0), 1 / 9, atol=0.06)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_strong_views_stay_within_0_and_1(channels: int) -> None:
    x = pictures(200, channels)
    x[:50], x[50:100] = 0, 1
    before = x.clone()
    views = drawn(x, flip=True, shift=3, magnitude=1.0, erase=0.5)
    assert views.shape == x.shape
    assert views.dtype == torch.float32
    assert bool(torch.isfinite(views).all())
    assert float(views.min()) >= 0
    assert float(views.max()) <= 1
    assert torch.equal(x, before), "what is given stays as it is"
    assert bool((views[100:] != x[100:]).any((1, 2, 3)).all())


@pytest.mark.parametrize("config", ["weak", "strong"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (20,)])
def test_views_differ_by_row_and_follow_the_generator(config: Any, shape: tuple[int, ...]) -> None:
    views = augmentation(GIVEN.validate_python(config), shape, len(shape) == 3)
    x = torch.from_numpy(rng(1).random(shape, np.float32)).expand(6, *shape)
    first, again, other = views(x, rng(5)), views(x, rng(5)), views(x, rng(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(torch.unique(first.flatten(1), dim=0)) >= 5, "of 162 weak ones two may agree"


def test_jitter_adds_noise_and_drops_numbers() -> None:
    zero, one = torch.zeros(2000, 50), torch.ones(2000, 50)
    noise = drawn(zero, image=False, noise=0.2)
    assert float(noise.mean()) == pytest.approx(0, abs=0.003)
    assert float(noise.std()) == pytest.approx(0.2, rel=0.01)
    dropped = drawn(one, image=False, noise=0, drop=0.3)
    assert set(dropped.unique().tolist()) == {0, 1}
    assert float(dropped.mean()) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    ("name", "shape", "spelt_out"),
    [
        ("weak", (3, 32, 32), {"kind": "image", "flip": True, "shift": 4}),
        ("weak", (1, 28, 28), {"kind": "image", "shift": 3}),
        (
            "strong",
            (3, 32, 32),
            {"kind": "image", "flip": True, "shift": 4, "magnitude": 0.5, "erase": 0.25},
        ),
        ("strong", (1, 8, 8), {"kind": "image", "shift": 1, "magnitude": 0.5, "erase": 0.25}),
        ("weak", (1, 7, 7), {"kind": "image", "shift": 1}),
        ("weak", (6,), {"kind": "jitter", "noise": 0.05}),
        ("strong", (6,), {"kind": "jitter", "noise": 0.1, "drop": 0.1}),
    ],
)
def test_named_views_expand_to_settings(
    name: Any, shape: tuple[int, ...], spelt_out: dict[str, Any]
) -> None:
    x = torch.from_numpy(rng(2).random((40, *shape), np.float32))
    image = len(shape) == 3
    named = augmentation(GIVEN.validate_python(name), shape, image)(x, rng())
    assert torch.equal(
        named, augmentation(GIVEN.validate_python(spelt_out), shape, image)(x, rng())
    )


@pytest.mark.parametrize(
    ("settings", "shape", "image", "says"),
    [
        ({"kind": "jitter"}, (3, 8, 8), True, "these are images: 'image'"),
        ({"kind": "image", "flip": True}, (6,), False, r"these are rows \(6,\): 'jitter'"),
        ({"kind": "image", "shift": 8}, (3, 8, 9), True, "shift: by 8 pixels"),
    ],
)
def test_settings_unfit_for_inputs_raise(
    settings: dict[str, Any], shape: tuple[int, ...], image: bool, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        augmentation(GIVEN.validate_python(settings), shape, image)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("wek", "'weak', 'strong', 'image', 'jitter'"),
        ({"kind": "imag"}, "'weak', 'strong', 'image', 'jitter'"),
        ("image", "no operation is set: set flip, shift, magnitude or erase"),
        ({"kind": "image", "flp": True}, "did you mean 'flip'"),
        ({"kind": "image", "shift": -1}, "greater than or equal to 0"),
        ({"kind": "image", "magnitude": 2}, "less than or equal to 1"),
        ({"kind": "jitter", "drop": 1}, "less than 1"),
        ({"kind": "jitter", "noise": True}, "a number"),
        (3, "'weak', 'strong', 'image', 'jitter'"),
    ],
)
def test_wrong_settings_raise_with_name(given: Any, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        GIVEN.validate_python(given)
