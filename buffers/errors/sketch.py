"""Sums over recent events by hashes of their keys: constant memory, constant work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from buffers.errors.base import ErrorMemory, Floats, Ints, Keys, LabelledKeys, Recalled, one_hot
from buffers.errors.sim_hash import SimHash

_EPOCH = 16  # half-lives after which sums are scaled down


class ErrorSketch(ErrorMemory):
    """Add each event to one bucket in each of ``tables`` tables; read the buckets of a key.

    This is the sketch of ReLoop2 (Zhu et al. 2023, KDD), on the RACE sketch (Coleman and
    Shrivastava 2020). A bucket has the number of its events, the sum of their labels, and the sum
    of what the base model predicted. The buckets of a key are pooled: their sums are added, over
    all tables. Then an event with a key at angle ``a`` counts in proportion to
    (1 - a / pi)^bits, in expectation: the mean is a kernel regression. The support is the mean
    count of a bucket.

    Deviation: the authors weigh buckets by a softmax of their counts, whose normalisation is not
    stated. Pooling has no free parameter.

    Weights by a half-life grow with time, and sums are scaled down by a power of two after 16
    half-lives, which is exact. Old events are never subtracted: without a half-life they stay until
    ``clear``.

    Args:
        width: numbers of a key.
        targets: whether labels are targets, and not class codes.
        tables: hashes of a key, K in the paper.
        bits: bits of a hash, L in the paper; a table has 2^bits buckets.
        half_life: labels after which the weight of an event is halved; None: it stays.
        keep_base: whether predictions of the base model are summed too.
        seed: of the hashes.
    """

    def __init__(
        self,
        width: int,
        targets: bool,
        tables: int = 16,
        bits: int = 12,
        half_life: float | None = None,
        keep_base: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(width, targets, half_life)
        self.keep_base = keep_base
        self._seed = seed
        self._hash = SimHash(width, bits, tables, seed)
        self._first = np.arange(tables) * self._hash.buckets
        dtype = np.float64 if targets else np.float32
        columns = 1 + self.outputs * (2 if keep_base else 1)
        self._sums = np.zeros((tables * self._hash.buckets, columns), dtype)
        self._written = 0
        self._scaled = 0  # half-lives by which the sums have been scaled down

    @property
    def events(self) -> int:
        return self._written

    def grow(self, outputs: int) -> None:
        new = outputs - self.outputs
        if new <= 0:
            return
        known = 1 + self.outputs
        parts = [np.pad(self._sums[:, :known], ((0, 0), (0, new)))]
        if self.keep_base:
            parts.append(np.pad(self._sums[:, known:], ((0, 0), (0, new))))
        self._sums = np.concatenate(parts, 1)
        self.outputs = outputs

    def _buckets(self, keys: Keys) -> Ints:
        """Return the rows (n, tables) of the buckets of keys."""
        return self._hash.hashes(keys) + self._first

    def write(self, events: LabelledKeys) -> None:
        m = len(events.ids)
        if not m:
            return
        rows = [np.ones((m, 1)), one_hot(events.labels, self.outputs, self.targets)]
        if self.keep_base:
            rows.append(events.base)
        values = np.concatenate(rows, 1) * events.weights[:, None]
        buckets = self._buckets(events.keys)
        start = 0
        while start < m:
            start = self._write_epoch(buckets, values, start)

    def _write_epoch(self, buckets: Ints, values: Floats, start: int) -> int:
        """Add events from ``start`` on, up to the next time that sums are scaled down."""
        stop = len(values)
        if self.half_life is not None:
            ages = (self._written + np.arange(stop - start)) / self.half_life - self._scaled
            if ages[0] >= _EPOCH:
                self._sums *= self._sums.dtype.type(2.0**-_EPOCH)
                self._scaled += _EPOCH
                return start
            stop = start + int(np.searchsorted(ages, _EPOCH))
            values = values.copy()
            values[start:stop] *= np.exp2(ages[: stop - start])[:, None]
        self._add(buckets[start:stop], values[start:stop].astype(self._sums.dtype))
        self._written += stop - start
        return stop

    def _add(self, buckets: Ints, values: Any) -> None:
        columns = values.shape[1]
        cells = (buckets * columns)[:, :, None] + np.arange(columns)
        tables = buckets.shape[1]
        added = np.broadcast_to(values[:, None, :], (len(values), tables, columns))
        # Flat, and of one length: ufunc.at of NumPy 2.4 reads past values that it broadcasts.
        np.add.at(self._sums.reshape(-1), cells.reshape(-1), added.reshape(-1))

    def read(self, keys: Keys) -> Recalled:
        n, outputs = len(keys), self.outputs
        pooled = self._sums.take(self._buckets(keys), 0).sum(1, dtype=np.float64)
        count = pooled[:, :1]
        means = np.divide(
            pooled[:, 1:], count, out=np.zeros((n, pooled.shape[1] - 1)), where=count > 0
        )
        base = means[:, outputs:] if self.keep_base else np.zeros((n, outputs))
        support = count[:, 0] / len(self._first)
        if self.half_life is not None:
            support = support * 2.0 ** (self._scaled - self._written / self.half_life)
        return Recalled(support, means[:, :outputs], base)

    def clear(self) -> None:
        self._sums.fill(0)
        self._written = self._scaled = 0

    def memory_bytes(self) -> int:
        return self._sums.nbytes

    def state(self) -> dict[str, Any]:
        return {
            "sums": self._sums,
            "written": self._written,
            "scaled": self._scaled,
            "outputs": self.outputs,
            "seed": self._seed,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._sums = np.array(state["sums"])
        self._written, self._scaled = int(state["written"]), int(state["scaled"])
        self.outputs = int(state["outputs"])
        if state["seed"] != self._seed:
            self._seed = int(state["seed"])
            self._hash = SimHash(self.width, self._hash.bits, self._hash.tables, self._seed)
