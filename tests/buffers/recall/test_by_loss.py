import numpy as np
import pytest

from buffers.buffer import Buffer
from buffers.recall.by_loss import Candidates, HighestLoss, MaximalInterference


@pytest.mark.parametrize("rule", [HighestLoss, MaximalInterference])
def test_draw_returns_pool_of_candidates(rule: type[Candidates]) -> None:
    buffer = Buffer(100, "ring", rule(100, views=2, pool=4), seed=1)
    buffer.add(np.arange(100), y=np.zeros(100, np.int64))
    assert buffer.recall.criterion in ("loss", "interference")
    sample = buffer.sample(5)
    assert len(set(sample.slots.tolist())) == 20
    assert buffer.recall.clock == 0  # looking is not rehearsing
    chosen = buffer.choose(sample, np.array([3, 0, 7, 19, 4]))
    assert chosen.slots.tolist() == sample.slots[[3, 0, 7, 19, 4]].tolist()
    np.testing.assert_array_equal(chosen.columns["ids"], chosen.slots)
    assert buffer.recall.clock == 10
    assert np.flatnonzero(buffer.recall.last == 10).tolist() == sorted(chosen.slots.tolist())
    assert len(buffer.sample(40).slots) == 100


def test_candidates_are_equally_likely() -> None:
    rule, rng = HighestLoss(60), np.random.default_rng(0)
    runs = 4000
    counts = np.bincount(np.concatenate([rule.draw(2, 60, rng) for _ in range(runs)]))
    # 59 degrees of freedom: 99.9% of flat counts are below 98.3.
    assert ((counts - runs / 6) ** 2 / (runs / 6)).sum() < 98.3


def test_pool_of_one_raises() -> None:
    with pytest.raises(ValueError, match="pool: 1 was given, 2 to 1000 is expected"):
        HighestLoss(10, pool=1)
