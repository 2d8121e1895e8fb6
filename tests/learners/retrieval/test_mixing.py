"""Mixtures of experts: their bounds on adversarial and random sequences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from learners.retrieval.mixing import AdaHedge, FixedShare, Mixture, log_losses

EVENTS, EXPERTS = 2000, 5


Draw = Callable[[np.ndarray, int], tuple[np.ndarray, int]]


def log_loss_of(mixture: Mixture, draw: Draw) -> tuple[float, np.ndarray]:
    """Return the total loss of the mixed probabilities, and the losses of all experts."""
    total, losses = 0.0, []
    for t in range(EVENTS):
        shares, y = draw(mixture.weights, t)
        mixed = mixture.weights @ shares
        total -= float(np.log(mixed if y else 1 - mixed))
        pair = np.stack([1 - shares, shares], -1)[:, None]
        loss = log_losses(pair, np.array([y]))
        mixture.update(loss, np.ones(1))
        losses.append(loss[0])
    return total, np.array(losses)


def against_the_mixture(weights: np.ndarray, t: int) -> tuple[np.ndarray, int]:
    """What happens is what the mixture holds for less likely; experts take turns."""
    shares = 0.5 + 0.45 * np.sin(t / 50 + np.arange(EXPERTS))
    return shares, int(weights @ shares < 0.5)


def in_blocks(weights: np.ndarray, t: int) -> tuple[np.ndarray, int]:
    """One expert is right for 100 events, and wrong after that."""
    shares = np.full(EXPERTS, 0.05)
    shares[t // 100 % EXPERTS] = 0.95
    return shares, 1


@pytest.mark.parametrize("draw", [against_the_mixture, in_blocks])
@pytest.mark.parametrize("switch", [0.0, 0.01])
@pytest.mark.parametrize("first", [1 / EXPERTS, 0.5])
def test_fixed_share_keeps_its_bounds_on_adversaries(
    first: float, switch: float, draw: Draw
) -> None:
    """The regret is below ln(1/w) + (T-1) ln(1/(1-a)), and by switches below its own bound."""
    mixture = FixedShare(EXPERTS, switch, first)
    price = -np.log(mixture.weights)  # of each expert
    total, losses = log_loss_of(mixture, draw)
    stay = -np.log(1 - switch)
    assert total - (losses.sum(0) + price).min() <= (EVENTS - 1) * stay + 1e-9
    if not switch:
        return
    blocks = losses.reshape(20, 100, EXPERTS).sum(1) + price
    best = blocks.min(1).sum()  # of the sequences that switch after each 100 events
    bound = 19 * np.log(1 / switch) + (EVENTS - 20) * stay
    assert total - best <= bound + 1e-9


@pytest.mark.parametrize("kind", ["random", "leader loses", "drift", "huge"])
def test_adahedge_keeps_its_bound_on_adversaries(kind: str) -> None:
    """The regret of the weighted loss is below that of de Rooij et al., at any range of losses."""
    rng = np.random.default_rng(4)
    mixture, total, losses = AdaHedge(EXPERTS, None), 0.0, []
    for t in range(EVENTS):
        loss = {
            "random": rng.random(EXPERTS),
            "leader loses": np.eye(EXPERTS)[mixture.weights.argmax()],
            "drift": (np.arange(EXPERTS) - t / EVENTS * 4) ** 2,
            "huge": rng.random(EXPERTS) * 10.0 ** (t % 7),
        }[kind]
        total += float(mixture.weights @ loss)
        losses.append(loss)
        mixture.update(loss[None], np.ones(1))
    array = np.array(losses)
    spread = np.ptp(array, axis=1)
    log = np.log(EXPERTS)
    bound = np.sqrt(log * (spread**2).sum()) + spread.max() * (4 / 3 * log + 2)
    assert total - array.sum(0).min() <= bound


@pytest.mark.parametrize("make", [lambda: FixedShare(3, 0.01), lambda: AdaHedge(3, 50.0)])
def test_one_update_of_many_events_equals_many_of_one(make: Callable[[], Mixture]) -> None:
    """Cuts make no difference to a bit, and a state continues."""
    losses = np.random.default_rng(5).random((60, 3))
    whole, parts = make(), make()
    whole.update(losses, np.ones(60))
    for loss in losses:
        heir = make()
        heir.load(parts.state())
        heir.update(loss[None], np.ones(1))
        parts = heir
    assert np.array_equal(whole.weights, parts.weights)


@pytest.mark.parametrize("make", [lambda: FixedShare(2, 1 / 500), lambda: AdaHedge(2, 200.0)])
def test_mixture_recovers_after_the_better_expert_changes(make: Callable[[], Mixture]) -> None:
    """After 3,000 events for one expert, 300 for the other are enough."""
    mixture = make()
    mixture.update(np.tile([0.1, 0.9], (3000, 1)), np.ones(3000))
    assert mixture.weights[0] > 0.95
    mixture.update(np.tile([0.9, 0.1], (400, 1)), np.ones(400))
    assert mixture.weights[1] > 0.9


def test_late_labels_cost_less_with_rates_by_their_delay() -> None:
    """Where the better expert changes within the delay, trusting each label fully costs much."""
    delay, losses = 40, np.tile(np.repeat([[0.0, 1.0], [1.0, 0.0]], 40, 0), (25, 1))
    regrets = []
    for stated in (1.0, float(delay)):
        mixture, total = FixedShare(2, 0.0), 0.0
        for t, loss in enumerate(losses):
            total -= float(np.log(mixture.weights @ np.exp(-loss)))
            if t >= delay - 1:
                mixture.update(losses[t - delay + 1, None], np.full(1, stated))
        regrets.append(total - losses.sum(0).min())
    assert regrets[1] < delay * np.log(2)
    assert regrets[0] > 4 * regrets[1]


def late(mixture: Mixture, losses: np.ndarray, delay: int) -> tuple[float, np.ndarray]:
    """Return the log-loss of mixed probabilities whose labels come late, and the last weights."""
    total, block = 0.0, 50
    for start in range(0, len(losses), block):
        now = losses[start : start + block]
        total -= float(np.log(np.exp(-now) @ mixture.weights).sum())
        if known := max(start + 2 * block - delay, 0):
            mixture.update(losses[known - block : known], np.full(block, float(delay)))
    return total, mixture.weights


@pytest.mark.parametrize("best", [0, 3])
def test_mixture_decides_where_labels_are_late(best: int) -> None:
    """It comes to the better expert, and costs what as many mixtures in turns do at most."""
    rng, delay, events, switch = np.random.default_rng(6), 100, 30_000, 1 / 2000
    right = rng.random((events, 1)) < 0.6  # each says .6 or less of what happens in 6 of 10 cases
    stated = np.full((events, EXPERTS), 0.5)
    stated[:, best] = 0.6
    losses = -np.log(np.where(right, stated, 1 - stated))
    mixture = FixedShare(EXPERTS, switch)
    price = -np.log(mixture.weights[best])
    total, weights = late(mixture, losses, delay)
    assert weights[best] > 0.9
    assert total - losses[:, best].sum() <= delay * price - events * np.log(1 - switch)
    assert late(AdaHedge(EXPERTS, 2000), losses, delay)[1][best] > 0.9


def test_mixture_of_late_labels_still_changes_its_mind() -> None:
    """After the better expert changes, as many labels as delays and a few thousand are enough."""
    losses = np.repeat([[0.2, 0.9], [0.9, 0.2]], [20_000, 4000], 0)
    _, weights = late(FixedShare(2, 1 / 2000), losses, 100)
    assert weights[1] > 0.9
