"""The choice of probes: a share of the events, by id and seed alone."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Array, Batch, Ints
from streams.core.hashing import mix
from streams.operators.holdout import HoldOut


def chosen(ids: Ints, share: float, seed: int) -> Array:
    n = len(ids)
    zero = np.zeros(n, np.int64)
    batch = Batch(ids, zero / 1.0, zero[:, None], zero.astype(np.int32), zero)
    probe = HoldOut(share, seed).apply(batch).probe
    assert probe is not None
    return probe


def test_a_share_of_the_events() -> None:
    n = 200_000
    for ids in (np.arange(n), np.arange(n) * 1024, -np.arange(n), np.arange(n) << 40):
        for share in (0.001, 0.02, 0.5):
            spread = 5 * np.sqrt(share * (1 - share) / n)
            assert abs(chosen(ids, share, 7).mean() - share) < spread
    assert chosen(np.arange(n), 1.0, 7).all()
    assert not chosen(np.arange(n), 0.0, 7).any()


def test_by_id_and_seed_alone() -> None:
    ids = np.random.default_rng(0).permutation(10_000)
    whole = chosen(ids, 0.1, 3)
    parts = [chosen(part, 0.1, 3) for part in np.array_split(ids, 77)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(chosen(ids[::-2], 0.1, 3), whole[::-2])
    both = (whole & chosen(ids, 0.1, 4)).mean()
    assert abs(both - 0.01) < 0.005  # independent of another seed's


def test_holdout_smaller_share_is_a_subset() -> None:
    ids = np.arange(10_000)
    assert not (chosen(ids, 0.05, 1) & ~chosen(ids, 0.1, 1)).any()


def test_the_hash_stays_what_it_is() -> None:
    """Checkpoints and probes hang on it."""
    assert mix(np.array([0]), 0).tolist() == [0xE220A8397B1DCDAF]  # splitmix64's first from 0
