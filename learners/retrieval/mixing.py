"""How far to follow a memory: weights of a few fixed rules, by their losses so far.

Each rule, an *expert*, follows the memory by its own fixed share; the first not at all. A mixture
of them is never much worse than the best expert, on any sequence whatever.

Labels come late: when an event is predicted, the losses of the last ones are not known. A mixture
that trusts each of them fully moves by all of them before it sees what came of it. So with a delay
of D events all rates are divided by D, as if D mixtures took turns (Weinberger and Ordentlich 2002,
"On Delayed Prediction of Individual Sequences"; Joulani, György and Szepesvári 2013): those of
learning, and those of forgetting too. A mixture that forgets as fast as without a delay, but learns
D times slower, never decides for the better expert.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from streams.core.state_dict import State

Floats = NDArray[np.float64]

LEAST = 1e-6
"""The least probability whose logarithm is a loss: one event must not decide for ever."""


class Mixture(ABC):
    """Weights of experts, learned from their losses.

    Args:
        experts: how many, at least 2.
        first: the weight of the first expert before any loss; the others share the rest.

    Attributes:
        weights: (experts,) of sum 1.
    """

    def __init__(self, experts: int, first: float) -> None:
        self.weights: Floats = np.full(experts, (1.0 - first) / (experts - 1))
        self.weights[0] = first

    @abstractmethod
    def update(self, losses: Floats, delays: Floats) -> None:
        """Learn the losses of m events, one event after another.

        Args:
            losses: (m, experts).
            delays: (m,) >= 1: how many events were predicted from each of them on.
        """

    def state(self) -> State:
        return {"weights": self.weights}

    def load(self, state: State) -> None:
        self.weights = np.array(state["weights"])


class FixedShare(Mixture):
    """The mixture of probabilities, with a prior over sequences of experts.

    Herbster and Warmuth 1998, "Tracking the Best Expert", with the learning rate 1 / delay: 1 suits
    the log-loss where labels come at once. After each event the weights are multiplied by the
    probabilities that the experts gave to what happened, to the power of the rate. Then each expert
    passes on a share of its weight, to all by their first weights w: ``switch`` / delay of it.

    Without delay, the log-loss of the mixed probabilities over T events exceeds that of expert i by
    at most ln(1 / w_i) - (T - 1) ln(1 - switch); with ``switch`` 0 by ln(1 / w_i), however many
    events there are. Against the best sequence that changes its expert k times, from i_0 to i_1
    and so on, it exceeds it by at most ln(1 / w_i_0) + sum_j ln(1 / (w_i_j switch))
    - (T - 1 - k) ln(1 - switch).

    Args:
        experts: how many, at least 2.
        switch: the share, 0 to 1.
        first: the weight of the first expert, w_0, 0 to 1. What others cost it is ln(1 / w_0).
    """

    def __init__(self, experts: int, switch: float, first: float = 0.5) -> None:
        super().__init__(experts, first)
        self._switch = switch
        self._start = self.weights.copy()

    def update(self, losses: Floats, delays: Floats) -> None:
        likelihoods = np.exp((losses.min(1, keepdims=True) - losses) / delays[:, None])
        passed = self._switch / delays
        weights = self.weights
        for likelihood, share in zip(likelihoods, passed.tolist(), strict=True):
            weights = weights * likelihood
            weights *= (1.0 - share) / weights.sum()
            weights += share * self._start
        self.weights = weights


class AdaHedge(Mixture):
    """Weights by exponentials of losses, at a rate that the losses themselves set.

    De Rooij, van Erven, Grünwald and Koolen 2014, "Follow the Leader If You Can, Hedge If You
    Must". It needs to know neither the range of losses nor their number. With d_t the spread of the
    losses of event t, the weighted loss exceeds that of the best of G experts by at most
    sqrt(ln(G) sum_t d_t^2) + max_t d_t (4/3 ln(G) + 2) without a half-life. A loss that is convex
    in the prediction, as squared error, is at most that for the weighted prediction.

    Deviation: with a half-life, old losses and the sum that sets the rate fade. Then it follows
    the expert that is best of late, and the bound is not proven.

    Args:
        experts: how many, at least 2.
        half_life: events after which a loss counts half, times the delay; None: all count alike.
    """

    def __init__(self, experts: int, half_life: float | None) -> None:
        super().__init__(experts, 1.0 / experts)
        self._fading = 0.0 if half_life is None else math.log(2.0) / half_life
        self._losses: Floats = np.zeros(experts)
        self._gap = 0.0  # the sum of what mixing at the present rate has cost
        self._delay = 1.0  # of the last label

    def update(self, losses: Floats, delays: Floats) -> None:
        for loss, delay in zip(losses, delays.tolist(), strict=True):
            mean = float(self.weights @ loss)
            least = float(loss.min())
            if self._gap > 0:
                rate = self._rate()
                inner = float(self.weights @ np.exp(-rate * (loss - least)))
                mixed = least - math.log(max(inner, 1e-300)) / rate
            else:  # an infinite rate: the least loss by now, against that before, which is 0
                mixed = float((self._losses + loss).min())
            kept = math.exp(-self._fading / delay)
            self._gap = kept * self._gap + max(mean - mixed, 0.0)
            self._losses = kept * self._losses + loss
            self._losses -= self._losses.min()
            self._delay = delay
            self._weigh()

    def _rate(self) -> float:
        return math.log(len(self._losses)) / (self._gap * self._delay)

    def _weigh(self) -> None:
        if self._gap > 0:
            weights = np.exp(-self._rate() * self._losses)
        else:
            weights = (self._losses == 0).astype(np.float64)
        self.weights = weights / weights.sum()

    def state(self) -> State:
        return {**super().state(), "losses": self._losses, "gap": self._gap, "delay": self._delay}

    def load(self, state: State) -> None:
        super().load(state)
        self._losses, self._gap = np.array(state["losses"]), float(state["gap"])
        self._delay = float(state["delay"])


def log_losses(shares: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return the log-loss (m, experts) of probabilities (experts, m, classes) for labels (m,)."""
    truth = shares[:, np.arange(len(labels)), labels]
    losses: Floats = -np.log(np.maximum(truth, LEAST)).T
    return losses
