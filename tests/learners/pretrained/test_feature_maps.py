"""Random features approximate their kernels, and depend on a row and a seed alone."""

import math
import pickle

import numpy as np
import pytest
from pydantic import ValidationError

from learners.pretrained.feature_maps import SAMPLE, RandomFeatures, RandomFeaturesConfig
from streams.core.batch import Array


def features(kind: str, width: int = 6, dimension: int = 500, seed: int = 3) -> RandomFeatures:
    settings = {"kind": kind, "dimension": dimension}
    return RandomFeatures(RandomFeaturesConfig.model_validate(settings), width, seed)


def rows(n: int, width: int = 6, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(n, width))


def test_fourier_features_approximate_the_gaussian_kernel() -> None:
    x = rows(30)
    mapped = features("fourier", dimension=20_000)
    mapped.fit(x)
    h = mapped(x)
    distance = ((x[:, None] - x) ** 2).sum(2)
    kernel = np.exp(-distance / (2 * mapped.bandwidth**2))
    assert np.abs(h @ h.T / mapped.dimension - kernel).max() < 0.04


def test_relu_features_approximate_the_arc_cosine_kernel() -> None:
    x = rows(30)
    h = features("relu", dimension=20_000)(x)
    length = np.linalg.norm(x, axis=1)
    cosine = np.clip(x @ x.T / np.outer(length, length), -1, 1)
    angle = np.arccos(cosine)
    shape = np.sin(angle) + (np.pi - angle) * cosine
    kernel = np.outer(length, length) * shape / (np.pi * x.shape[1])
    assert np.abs(h @ h.T / 20_000 - kernel).max() < 0.06 * kernel.max()


@pytest.mark.parametrize("kind", ["relu", "fourier"])
def test_features_of_unit_rows_have_mean_square_one(kind: str) -> None:
    h = features(kind, 50)(rows(400, 50))
    assert float((h * h).mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", ["relu", "fourier"])
@pytest.mark.parametrize(("width", "dimension"), [(1, 1), (6, 7), (96, 500), (384, 129)])
def test_a_row_alone_has_the_features_that_it_has_among_others(
    kind: str, width: int, dimension: int
) -> None:
    mapped, x = features(kind, width, dimension), rows(70, width)
    together = mapped(x)
    for size in (1, 2, 3, 15, 16, 17, 33):
        parts = [mapped(x[start : start + size]) for start in range(0, len(x), size)]
        assert np.array_equal(np.concatenate(parts), together)
    order = np.random.default_rng(1).permutation(len(x))
    assert np.array_equal(mapped(x[order]), together[order])
    assert mapped(x[:0]).shape == (0, dimension)


def test_weights_follow_from_the_seed_the_kind_and_the_widths() -> None:
    x = rows(5)
    first = features("relu")(x)
    assert np.array_equal(features("relu")(x), first)
    assert np.array_equal(pickle.loads(pickle.dumps(features("relu")))(x), first)
    assert not np.array_equal(features("relu", seed=4)(x), first)
    assert not np.array_equal(features("relu", dimension=501)(x)[:, :500], first)
    assert first[0, :4] == pytest.approx([0, 1.20153, 0.87863, 0.11929], abs=1e-4)


def test_bandwidth_follows_the_median_distance_of_the_sample() -> None:
    x, mapped = rows(SAMPLE), features("fourier")
    assert not mapped.fitted
    assert mapped.bandwidth == pytest.approx(math.sqrt(12))
    mapped.fit(np.concatenate([x, 1000 + x]))  # rows beyond the sample do not count
    distance = np.linalg.norm(x[:, None] - x, axis=2)[np.triu_indices(SAMPLE, 1)]
    assert mapped.fitted
    assert mapped.bandwidth == pytest.approx(1.5 * float(np.median(distance)), rel=1e-6)
    again = features("fourier")
    again.load(mapped.state())
    assert np.array_equal(again(x), mapped(x))


def test_bandwidth_stays_where_rows_are_equal() -> None:
    for sample in (np.ones((9, 6)), np.zeros((9, 6)), rows(1)):
        mapped = features("fourier")
        mapped.fit(sample)
        assert mapped.fitted
        assert mapped.bandwidth == pytest.approx(math.sqrt(12))


def test_stated_bandwidth_needs_no_sample() -> None:
    stated = RandomFeatures(RandomFeaturesConfig(kind="fourier", bandwidth=2.5), 6, 0)
    assert (stated.fitted, stated.bandwidth) == (True, 2.5)
    assert features("relu").fitted


def test_settings_out_of_range_are_refused() -> None:
    fourier = {"kind": "fourier", "bandwidth": 0}
    for wrong in ({"kind": "sine"}, {"kind": "relu", "dimension": 0}, fourier, {"bandwidth": 2}):
        with pytest.raises(ValidationError):
            RandomFeaturesConfig.model_validate(wrong)
