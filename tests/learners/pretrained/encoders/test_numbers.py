"""The encoders of vectors and images without pretrained weights, and how encoders are found."""

from __future__ import annotations

import numpy as np
import pytest

from learners.base import LearnerError
from learners.pretrained.encoders.registry import load_encoder
from streams.core.schema import Feature

PHOTO = Feature("photo", "image", (3, 4, 5))
VECTOR = Feature("v", "vector", (60,))
EVERY = [
    "identity",
    "random-features",
    {"kind": "random-features", "features": "fourier", "dimension": 70},
]


def images(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *PHOTO.shape)).astype(np.uint8)


def test_identity_returns_pixels_from_0_to_1() -> None:
    encoder = load_encoder("identity", PHOTO, 0)
    x = images(7)
    np.testing.assert_allclose(encoder.encode(x), x.reshape(7, 60) / 255, rtol=1e-6)
    assert encoder.dimension == 60
    assert encoder.unit


def test_identity_returns_the_numbers_of_a_vector() -> None:
    encoder = load_encoder("identity", VECTOR, 0)
    x = np.arange(120.0).reshape(2, 60)
    x[1, 3] = -1e300
    encoded = encoder.encode(x)
    x[1, 3] = np.finfo(np.float32).min
    np.testing.assert_array_equal(encoded, x.astype(np.float32))
    assert not encoder.unit
    assert load_encoder("identity", Feature("v", "vector", (60,), unit=True), 0).unit


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_a_row_does_not_depend_on_the_others(settings: object) -> None:
    encoder = load_encoder(settings, PHOTO, 3)  # type: ignore[arg-type]
    x = images(37)
    together = encoder.encode(x)
    assert together.dtype == np.float32
    assert together.shape == (37, encoder.dimension)
    alone = np.concatenate([encoder.encode(x[i : i + 1]) for i in range(37)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(encoder.encode(x[::-1])[::-1], together)
    assert encoder.encode(x[:0]).shape == (0, encoder.dimension)


def test_a_fingerprint_names_all_that_changes_the_numbers() -> None:
    def fingerprint(seed: int = 1, feature: Feature = PHOTO, **settings: object) -> str:
        return load_encoder({"kind": "random-features", **settings}, feature, seed).fingerprint

    different = [
        fingerprint(),
        fingerprint(seed=2),
        fingerprint(features="fourier"),
        fingerprint(features="fourier", bandwidth=3.0),
        fingerprint(dimension=10),
        fingerprint(feature=VECTOR),
        load_encoder("identity", PHOTO, 1).fingerprint,
    ]
    assert len(set(different)) == len(different)
    assert fingerprint() == fingerprint(feature=Feature("another", "image", (3, 4, 5)))
    own_seed = load_encoder({"kind": "random-features", "seed": 2}, PHOTO, 1)
    assert own_seed.fingerprint == fingerprint(seed=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("identit", "kind: 'identit': did you mean 'identity'?"),
        ("nowhere:Encoder", "kind: no module named 'nowhere'"),
        ({"dimension": 3}, "kind: name an encoder. There are: "),
        ({"kind": "identity", "size": 1}, "unknown key 'size': There are: kind"),
        ({"kind": "random-features", "dimension": 0}, "dimension: Input should be greater than 0"),
    ],
)
def test_wrong_settings_are_refused(settings: object, message: str) -> None:
    with pytest.raises(LearnerError) as error:
        load_encoder(settings, PHOTO, 0)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_a_column_of_another_kind_is_refused() -> None:
    with pytest.raises(LearnerError, match="takes columns of kind image or vector, and 'n' is of"):
        load_encoder("identity", Feature("n", "numeric"), 0)


def test_random_features_say_whether_they_are_of_unit_scale() -> None:
    assert not load_encoder("random-features", VECTOR, 0).unit
    assert load_encoder("random-features", PHOTO, 0).unit
    fourier = load_encoder({"kind": "random-features", "features": "fourier"}, VECTOR, 0)
    assert fourier.unit


@pytest.mark.parametrize("stated", EVERY[1:])
def test_random_features_of_absurd_numbers_are_finite(stated: object) -> None:
    encoder = load_encoder(stated, VECTOR, 0)  # type: ignore[arg-type]
    assert np.isfinite(encoder.encode(np.full((2, 60), 1e300))).all()
