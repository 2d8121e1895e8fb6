"""Numbers, each beside the quantile bin that it lies in."""

from __future__ import annotations

import numpy as np

from learners.networks.encoders.base import ColumnEncoder, Rows
from learners.results import Encoding
from streams.core.batch import Array, Batch, Ints
from streams.core.schema import Feature
from streams.core.state_dict import State
from streams.core.statistics.quantile_bins import QuantileBins
from streams.core.statistics.running_moments import RunningMoments

_MAX = float(np.finfo(np.float32).max)


class Numbers(ColumnEncoder):
    """Scaled numbers, and the quantile bin of each as its code.

    A bin lets a network, and the linear part beside it, learn any step of a number, as a tree
    does. A missing number counts as the running mean, and has a bin of its own. Without bins it has
    an indicator.

    A column whose first numbers are all integers has its exact numbers as keys: in numbers of
    places, of hours or of flights, neighbours may have little in common.

    Args:
        features: of kind numeric.
        scale: whether numbers are scaled by their running mean and deviation.
        bins: how many quantile bins a number has; 0: none.
    """

    name = "numbers"

    def __init__(self, features: tuple[Feature, ...], scale: bool, bins: int) -> None:
        super().__init__(features)
        k = len(features)
        self.scale = scale
        self.moments = RunningMoments((k,))
        self.bins = QuantileBins(k, bins) if bins else None
        self._keyed = np.empty(0, np.int64)
        if self.bins is None:
            self.width = 2 * k
        else:
            self.width, self.places = k, k
            self.embeddings = k * (bins + 1)
            self._first = np.arange(k) * (bins + 1)  # of the codes of each number

    def rows(self, batch: Batch) -> dict[str, Array]:
        """Return (n, k) float64: large numbers that vary little lose nothing when scaled."""
        x = batch.x
        if isinstance(x, np.ndarray):
            return {self.name: np.asarray(x.reshape(len(x), -1), np.float64, order="C")}
        numbers = np.array([x[feature.name] for feature in self.features], np.float64)
        return {self.name: np.ascontiguousarray(numbers.T)}

    def observe(self, rows: Rows) -> None:
        numbers = rows[self.name]
        self.moments.update(numbers)
        if self.bins is not None and not self.bins.known.all():
            self.bins.observe(numbers)
            self._keyed = np.flatnonzero(self.bins.whole)

    def dense(self, rows: Rows, out: Array) -> None:
        numbers, k = rows[self.name], len(self.features)
        missing = np.isnan(numbers)
        if self.scale:
            out[:, :k] = np.where(missing, 0, self.moments.scale(numbers))
        else:
            known = np.where(missing, self.moments.mean, numbers)
            out[:, :k] = np.minimum(np.maximum(known, -_MAX), _MAX)
        if self.bins is None:
            out[:, k:] = missing

    def codes(self, rows: Rows) -> Array:
        if self.bins is None:
            return super().codes(rows)
        return self.bins.codes(rows[self.name]) + self._first

    def keyed(self) -> Ints:
        return self._keyed

    def keys(self, rows: Rows) -> Ints:
        numbers = rows[self.name].take(self._keyed, 1) + 0.0  # so that -0 is 0
        return numbers.view(np.int64)

    def encoding(self, feature: Feature) -> Encoding:
        if self.bins is None:
            how = "scaled by its running mean and deviation" if self.scale else "as it is"
            return Encoding(how)
        return Encoding(f"{'scaled' if self.scale else 'as it is'}, {self.bins.bins} bins")

    def state(self) -> State:
        if self.bins is None:
            return self.moments.state()
        return {**self.moments.state(), "bins": self.bins.state()}

    def load(self, state: State) -> None:
        self.moments.load(state)
        if self.bins is not None:
            self.bins.load(state["bins"])
            self._keyed = np.flatnonzero(self.bins.whole)
