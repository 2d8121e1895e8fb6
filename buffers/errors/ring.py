"""The last events themselves, and the nearest of them by exact search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from buffers.errors.base import ErrorMemory, Floats, Ints, Keys, LabelledKeys, Recalled
from buffers.errors.grid import RADIUS, direction_on_grid, position_on_grid, reach_of

Metric = Literal["cosine", "euclidean", "dot"]
METRICS: tuple[Metric, ...] = ("cosine", "euclidean", "dot")

_BLOCK = 4096  # stored keys compared at once
_QUERIES = 256
_LONGEST = 4.0  # deviations: a key longer than that, on the average of its numbers, is shortened


class NearestRows(NamedTuple):
    """The nearest stored events of n keys, nearest first; of equal ones the later is nearer.

    Attributes:
        places: (n, k) int64, their rows.
        similarity: (n, k) float64.
        age: (n, k) int64, events written since.
    """

    places: Ints
    similarity: Floats
    age: Ints


class ErrorRing(ErrorMemory):
    """Keep the last ``capacity`` events; a key attends to the ``neighbours`` nearest of them.

    This is the raw store of ReLoop2 (Zhu et al. 2023, "ReLoop2: Building Self-Adaptive
    Recommendation Models via Responsive Error Compensation Loop", KDD). With similarities s_i to
    the nearest k events, the weights of these are softmax(s_i / temperature), times their age's
    share by the half-life, and times the number of events that each stands for. The support is
    1 / sum of squared weights, the number of equal weights with that variance.

    Keys lie on a grid of whole numbers (``grid``), so similarities are exact: equal keys are
    equally near, and of equally near events the latest count. Neither the other keys of a call nor
    a library of linear algebra makes a difference.

    Similarities, of keys q and x of d numbers:

    - ``cosine``: q.x / (|q| |x|); 0 where one is zero,
    - ``euclidean``: -|q - x|^2 / d,
    - ``dot``: q.x / d.

    For the last two, keys longer than 4 sqrt(d) are shortened to that length.

    Args:
        width: numbers of a key.
        targets: whether labels are targets, and not class codes.
        capacity: the most events stored.
        neighbours: events that a key attends to.
        temperature: of the softmax.
        metric: how similar two keys are.
        half_life: labels after which the weight of an event is halved; None: it stays.
        keep_base: whether predictions of the base model are stored too.
    """

    def __init__(
        self,
        width: int,
        targets: bool,
        capacity: int = 2000,
        neighbours: int = 30,
        temperature: float = 0.1,
        metric: Metric = "cosine",
        half_life: float | None = None,
        keep_base: bool = False,
    ) -> None:
        super().__init__(width, targets, half_life)
        if capacity < 1:
            raise ValueError(f"capacity: {capacity} was given, at least 1 is expected")
        if neighbours < 1:
            raise ValueError(f"neighbours: {neighbours} was given, at least 1 is expected")
        if temperature <= 0:
            raise ValueError(f"temperature: {temperature} was given, a number above 0 is expected")
        if metric not in METRICS:
            raise ValueError(f"metric: {metric!r} was given, one of {', '.join(METRICS)}")
        self.capacity, self.neighbours = capacity, neighbours
        self.temperature, self.metric = temperature, metric
        self.keep_base = keep_base
        # Squared distances are up to four times the square of a length.
        self._radius = RADIUS // 2 if metric == "euclidean" else RADIUS
        self._longest = _LONGEST * float(np.sqrt(width))
        self._unit = reach_of(width, self._radius)  # of the grid, for a length of 1 or the longest
        self._keys = np.zeros((capacity, width), np.int16)
        self._squares = np.zeros(capacity, np.int32)
        self._labels: NDArray[Any] = np.zeros(capacity, np.float64 if targets else np.int32)
        self._weights = np.zeros(capacity)
        self._ids = np.zeros(capacity, np.int64)
        self._base = np.zeros((capacity, self.outputs if keep_base else 0), np.float32)
        self._written = 0

    def __len__(self) -> int:
        """Return the number of events stored."""
        return min(self._written, self.capacity)

    @property
    def events(self) -> int:
        return self._written

    def grow(self, outputs: int) -> None:
        if self.keep_base and outputs > self._base.shape[1]:
            self._base = np.pad(self._base, ((0, 0), (0, outputs - self._base.shape[1])))
        self.outputs = max(outputs, self.outputs)

    def on_grid(self, keys: Keys) -> NDArray[np.int16]:
        """Return keys (n, width) as they are stored and compared."""
        if self.metric == "cosine":
            return direction_on_grid(keys, self._radius)
        return position_on_grid(keys, self._longest, self._radius)

    def write(self, events: LabelledKeys) -> None:
        m = len(events.ids)
        kept = events.take(slice(max(m - self.capacity, 0), m))
        first = self._written + m - len(kept.ids)
        slots = (first + np.arange(len(kept.ids))) % self.capacity
        keys = self.on_grid(kept.keys)
        self._keys[slots] = keys
        self._squares[slots] = _squares(keys)
        self._labels[slots] = kept.labels
        self._weights[slots] = kept.weights
        self._ids[slots] = kept.ids
        if self.keep_base:
            self._base[slots] = kept.base
        self._written += m

    @property
    def stored(self) -> int:
        return len(self)

    def replace_keys(self, keys: Keys) -> None:
        slots = self.slots(np.arange(len(self))[::-1])
        self._keys[slots] = self.on_grid(keys)
        self._squares[slots] = _squares(self._keys[slots])

    def relabel(self, ids: Ints, labels: NDArray[Any]) -> None:
        last = dict(zip(ids.tolist(), range(len(ids)), strict=True))
        for slot in np.flatnonzero(np.isin(self._ids[: len(self)], ids)).tolist():
            self._labels[slot] = labels[last[int(self._ids[slot])]]

    def read(self, keys: Keys) -> Recalled:
        n, outputs = len(keys), self.outputs
        if not len(self):
            nothing = np.zeros((n, outputs))
            return Recalled(np.zeros(n), nothing, nothing)
        nearest = self.nearest(keys, self.neighbours)
        weights = self._attention(nearest)
        support = 1.0 / np.multiply(weights, weights).sum(1)
        places = nearest.places
        return Recalled(
            support, self._mean_labels(weights, places), self._mean_base(weights, places)
        )

    def _attention(self, nearest: NearestRows) -> Floats:
        """Return the weights (n, k) of the nearest events: of sum 1 for each key."""
        logits = (nearest.similarity - nearest.similarity[:, :1]) / self.temperature
        if self.half_life is not None:
            logits -= nearest.age * (np.log(2.0) / self.half_life)
            logits -= logits.max(1, keepdims=True)
        weights: Floats = np.exp(logits) * self._weights[nearest.places]
        weights /= weights.sum(1, keepdims=True)
        return weights

    def _mean_labels(self, weights: Floats, places: Ints) -> Floats:
        if self.targets:
            targets: Floats = weights * self._labels[places].astype(np.float64)
            return np.asarray(targets.sum(1, keepdims=True), np.float64)
        n, outputs = len(places), self.outputs
        cells = self._labels[places] + (np.arange(n) * outputs)[:, None]
        shares = np.zeros(n * outputs)
        np.add.at(shares, cells.reshape(-1), weights.reshape(-1))
        return shares.reshape(n, outputs)

    def _mean_base(self, weights: Floats, places: Ints) -> Floats:
        if not self.keep_base:
            return np.zeros((len(places), self.outputs))
        mean: Floats = (weights[:, :, None] * self._base[places]).sum(1)
        return mean

    def nearest(self, keys: Keys, k: int) -> NearestRows:
        """Return the ``k`` nearest stored events of each key (n, width); all where k is more."""
        k = min(k, len(self))
        queries = self.on_grid(keys)
        parts = [
            self._nearest(queries[start : start + _QUERIES], k)
            for start in range(0, max(len(queries), 1), _QUERIES)
        ]
        ages = np.concatenate([age for age, _ in parts])
        scores = np.concatenate([score for _, score in parts])
        return NearestRows(self.slots(ages), self._similarity(queries, scores), ages)

    def slots(self, ages: Ints) -> Ints:
        """Return the rows of the events that were written ``ages`` events before the last."""
        return (self._written - 1 - ages) % self.capacity

    def _nearest(self, queries: NDArray[np.int16], k: int) -> tuple[Ints, NDArray[np.float32]]:
        """Return the ages and the scores (n, k) of the nearest events of n queries."""
        wide = queries.astype(np.float32)
        return nearest_in_blocks(self._scores_of(wide), len(wide), len(self), k)

    def _scores_of(self, queries: NDArray[np.float32]) -> Callable[[int, int], NDArray[np.float32]]:
        """Return a function that scores the events of ages ``start`` to ``stop`` for the queries.

        Scores are whole numbers below 2^24, and rank events as similarities do.
        """

        def scores(start: int, stop: int) -> NDArray[np.float32]:
            slots = self.slots(np.arange(start, stop))
            products = queries @ self._keys.take(slots, 0).astype(np.float32).T
            if self.metric == "euclidean":
                products *= 2
                products -= self._squares.take(slots).astype(np.float32)
            return products

        return scores

    def _similarity(self, queries: NDArray[np.int16], scores: NDArray[np.float32]) -> Floats:
        exact = scores.astype(np.float64)
        if self.metric == "cosine":
            return exact / self._unit**2
        exact = exact - (_squares(queries)[:, None] if self.metric == "euclidean" else 0)
        return exact * ((self._longest / self._unit) ** 2 / self.width)

    def clear(self) -> None:
        self._written = 0
        for column in self._columns().values():
            column.fill(0)

    def _columns(self) -> dict[str, NDArray[Any]]:
        columns = {
            "keys": self._keys,
            "labels": self._labels,
            "weights": self._weights,
            "ids": self._ids,
        }
        return columns | ({"base": self._base} if self.keep_base else {})

    def memory_bytes(self) -> int:
        return sum(column.nbytes for column in self._columns().values()) + self._squares.nbytes

    def state(self) -> dict[str, Any]:
        return {**self._columns(), "written": self._written, "outputs": self.outputs}

    def load(self, state: Mapping[str, Any]) -> None:
        self._keys, self._labels, self._weights, self._ids = (
            np.array(state[name]) for name in ("keys", "labels", "weights", "ids")
        )
        if self.keep_base:
            self._base = np.array(state["base"])
        self._squares = _squares(self._keys)
        self._written, self.outputs = int(state["written"]), int(state["outputs"])


def _squares(keys: NDArray[np.int16]) -> NDArray[np.int32]:
    wide = keys.astype(np.int32)
    squares: NDArray[np.int32] = np.multiply(wide, wide).sum(1, dtype=np.int32)
    return squares


def nearest_in_blocks(
    scores: Callable[[int, int], NDArray[np.float32]], n: int, stored: int, k: int
) -> tuple[Ints, NDArray[np.float32]]:
    """Return the k columns of highest score in each of n rows, highest first; ties by column.

    Args:
        scores: returns the columns ``start`` to ``stop`` of a matrix (n, stored).
        n: rows.
        stored: columns.
        k: at most ``stored``.

    Returns:
        Columns (n, k) and their scores (n, k).
    """
    size = max(_BLOCK, k)
    best = _highest(scores(0, min(size, stored)), k)
    for start in range(size, stored, size):
        block = scores(start, min(start + size, stored))
        rows, columns = np.nonzero(block > best[1][:, -1:])  # an equal one is later: it loses
        if len(rows):
            found = block[rows, columns]
            best = _merged(best, rows, columns + start, found)
    return best


def _highest(block: NDArray[np.float32], k: int) -> tuple[Ints, NDArray[np.float32]]:
    """Return the k columns of highest score in each row of a block (n, c), c >= k."""
    n, c = block.shape
    if k == c:
        columns = np.argsort(-block, axis=1, kind="stable")
        return columns, np.take_along_axis(block, columns, 1)
    least = np.partition(block, c - k, axis=1)[:, c - k, None]
    above, equal = block > least, block == least
    short = k - np.count_nonzero(above, axis=1)
    if np.count_nonzero(equal) > n:  # ties at the edge: the first of them
        equal &= np.cumsum(equal, axis=1, dtype=np.int32) <= short[:, None]
    columns = np.nonzero(above | equal)[1].reshape(n, k)
    found = np.take_along_axis(block, columns, 1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1), np.take_along_axis(found, order, 1)


def _merged(
    best: tuple[Ints, NDArray[np.float32]], rows: Ints, columns: Ints, found: NDArray[np.float32]
) -> tuple[Ints, NDArray[np.float32]]:
    """Return the best k of each row, with more columns that are candidates for their rows."""
    n, k = best[0].shape
    all_rows = np.concatenate([np.repeat(np.arange(n), k), rows])
    all_columns = np.concatenate([best[0].reshape(-1), columns])
    all_scores = np.concatenate([best[1].reshape(-1), found])
    order = np.lexsort((all_columns, -all_scores, all_rows))
    starts = np.searchsorted(all_rows[order], np.arange(n))
    chosen = order[starts[:, None] + np.arange(k)]
    return all_columns[chosen], all_scores[chosen]
