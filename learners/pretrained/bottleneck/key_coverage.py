"""Whether keys that never change still cover the events that come."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Ints
from streams.core.state_dict import State

POOR = 1.5
"""Distance of new events to their keys, by that of the sample, from which coverage is poor."""
_HALF_LIFE = 1000.0  # events
_ENOUGH = 200.0  # events, before coverage is judged


class KeyCoverage:
    """Compare events with the sample that keys were fitted to.

    Means over new events fade with a half-life of 1,000 events.

    Attributes:
        used: (codes,) bool, the keys that the sample fetches.
    """

    def __init__(self) -> None:
        self.used: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._sample_error = 0.0
        self._events = self._error = self._unused = 0.0  # fading sums

    def start(self, codes: Ints, errors: Array, keys: int) -> None:
        """Take the sample as the standard.

        Args:
            codes: (codebooks, n), the nearest keys.
            errors: (n,), mean squared distances to these.
            keys: of all codebooks.
        """
        self.used = np.zeros(keys, np.bool_)
        self.used[codes.ravel()] = True
        self._sample_error = float(errors.mean())

    def update(self, codes: Ints, errors: Array) -> None:
        """Add n >= 1 events; the arguments are as those of ``start``."""
        n = len(errors)
        kept = 0.5 ** (n / _HALF_LIFE)
        self._events = kept * self._events + n
        self._error = kept * self._error + float(errors.sum())
        self._unused = kept * self._unused + n * float((~self.used[codes]).mean())

    @property
    def poor(self) -> bool:
        """Whether the events of late are far from the keys."""
        far = self._error > POOR * self._sample_error * self._events
        return self._events >= _ENOUGH and far

    def metrics(self) -> dict[str, float]:
        """Return what was found; empty before the first event."""
        if not self._events:
            return {}
        metrics = {"unused_keys_fetched": self._unused / self._events}
        if self._sample_error:
            metrics["key_error_ratio"] = self._error / self._events / self._sample_error
        return metrics

    def state(self) -> State:
        return {
            "used": self.used,
            "sample_error": self._sample_error,
            "events": self._events,
            "error": self._error,
            "unused": self._unused,
        }

    def load(self, state: State) -> None:
        self.used = np.array(state["used"])
        self._sample_error = state["sample_error"]
        self._events, self._error = state["events"], state["error"]
        self._unused = state["unused"]
