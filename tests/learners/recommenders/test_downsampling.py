"""What is left out of negative events does not depend on batches, and probabilities say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learners.recommenders.downsampling import NegativeDownsampling


def test_share_of_negative_events_is_kept_and_every_click() -> None:
    ids, y = np.arange(100_000), np.arange(100_000) % 2
    kept = NegativeDownsampling(0.1, seed=3).kept(ids, y)
    assert kept[y == 1].all()
    assert abs(kept[y == 0].mean() - 0.1) < 0.006  # four deviations


def test_choice_does_not_depend_on_batches() -> None:
    ids, y = np.arange(1000), np.zeros(1000, np.int64)
    sampling = NegativeDownsampling(0.3, seed=1)
    parts = [sampling.kept(ids[i : i + 7], y[i : i + 7]) for i in range(0, 1000, 7)]
    assert np.array_equal(np.concatenate(parts), sampling.kept(ids, y))
    assert not np.array_equal(NegativeDownsampling(0.3, seed=2).kept(ids, y), sampling.kept(ids, y))


def test_rate_of_one_keeps_all() -> None:
    y = np.zeros(1000, np.int64)
    assert NegativeDownsampling(1.0, seed=0).kept(np.arange(1000), y).all()


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.01])
def test_correction_is_the_formula_of_he_et_al(rate: float) -> None:
    out = torch.randn(20, 2, dtype=torch.float64)
    p = torch.softmax(out, 1)[:, 1]
    corrected = torch.softmax(NegativeDownsampling(rate, 0).correct(out), 1)[:, 1]
    torch.testing.assert_close(corrected, p / (p + (1 - p) / rate))


def test_correction_is_unbiased() -> None:
    """Counts by value are the best model of a column: theirs of what is kept, corrected, are the
    rates of the whole stream."""
    rng = np.random.default_rng(0)
    value, n, rate = rng.integers(0, 3, 300_000), 300_000, 0.2
    y = (rng.random(n) < np.array([0.02, 0.1, 0.4])[value]).astype(np.int64)
    sampling = NegativeDownsampling(rate, seed=5)
    kept = sampling.kept(np.arange(n), y)
    assert kept.mean() < 0.4
    for v in range(3):
        p = y[kept & (value == v)].mean()
        out = torch.tensor([[0.0, np.log(p / (1 - p))]])
        corrected = float(torch.softmax(sampling.correct(out), 1)[0, 1])
        assert corrected == pytest.approx(y[value == v].mean(), rel=0.05)
