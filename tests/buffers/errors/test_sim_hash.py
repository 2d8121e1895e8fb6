"""SimHash: collision rates, exactness of each row, odd vectors."""

from __future__ import annotations

import numpy as np
import pytest

from buffers.errors.grid import RADIUS, direction_on_grid, lengths, position_on_grid
from buffers.errors.sim_hash import SimHash, collision_rate


@pytest.mark.parametrize("bits", [1, 4, 12])
@pytest.mark.parametrize("cosine", [-0.5, 0.0, 0.6, 0.95])
def test_vectors_collide_at_the_rate_of_the_paper(bits: int, cosine: float) -> None:
    """Of 40,000 tables, the share in which two vectors collide is (1 - angle / pi)^bits."""
    pair = np.zeros((2, 8))
    pair[0, 0] = 3.0
    pair[1, :2] = cosine, np.sqrt(1 - cosine**2)
    tables = 40_000
    first, second = SimHash(8, bits, tables, seed=bits).hashes(pair)
    expected = float(collision_rate(np.array(cosine), bits))
    deviation = np.sqrt(expected * (1 - expected) / tables)
    assert abs((first == second).mean() - expected) < 4.5 * deviation + 1e-3


def test_hashes_of_a_vector_do_not_depend_on_those_beside_it() -> None:
    """One vector alone, in a batch and in another precision has the same hashes."""
    vectors = np.random.default_rng(0).standard_normal((97, 33)).astype(np.float32)
    hasher = SimHash(33, bits=11, tables=5, seed=3)
    together = hasher.hashes(vectors)
    assert np.array_equal(together, np.concatenate([hasher.hashes(v[None]) for v in vectors]))
    assert np.array_equal(together, hasher.hashes(np.asfortranarray(vectors)))
    assert together.min() >= 0
    assert together.max() < hasher.buckets
    assert np.array_equal(together, SimHash(33, 11, 5, seed=3).hashes(vectors))
    assert not np.array_equal(together, SimHash(33, 11, 5, seed=4).hashes(vectors))


def test_hash_ignores_the_length_of_a_vector() -> None:
    """A hash is of a direction; a vector of zeros has hash 0."""
    vectors = np.random.default_rng(1).standard_normal((50, 16))
    hasher = SimHash(16, bits=24, tables=3)
    assert np.array_equal(hasher.hashes(vectors), hasher.hashes(vectors * 2.0**40))
    assert not hasher.hashes(np.zeros((2, 16))).any()


@pytest.mark.parametrize("width", [1, 7, 64, 768])
def test_products_on_the_grid_are_exact_in_float32(width: int) -> None:
    """A product in float32 equals the one in whole numbers; lengths are at most RADIUS."""
    vectors = np.random.default_rng(width).standard_normal((300, width)) * 1e3
    for grid in (direction_on_grid(vectors), position_on_grid(vectors, longest=500.0)):
        assert lengths(grid.astype(np.float64)).max() <= RADIUS
        whole = grid.astype(np.int64) @ grid.T.astype(np.int64)
        assert np.array_equal(grid.astype(np.float32) @ grid.T.astype(np.float32), whole)


def test_position_on_the_grid_is_within_its_radius() -> None:
    """Half of the longest is half the radius; what is longer is shortened."""
    grid = position_on_grid(np.array([[1.0, 0.0], [0.0, -2.0], [0.0, 50.0]]), longest=2.0)
    assert np.abs(grid - np.array([[2047, 0], [0, -4094], [0, 4094]])).max() <= 1


@pytest.mark.parametrize(
    ("name", "value"), [("width", 0), ("bits", 0), ("bits", 25), ("tables", 0)]
)
def test_sizes_out_of_range_are_refused(name: str, value: int) -> None:
    """An impossible size is named."""
    with pytest.raises(ValueError, match=f"{name}: {value} was given"):
        SimHash(**({"width": 4, "bits": 4, "tables": 2} | {name: value}))
