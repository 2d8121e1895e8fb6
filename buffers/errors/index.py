"""The last events, and about the nearest of them: an inverted file of FAISS over the ring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffers.errors.base import Ints, Keys, LabelledKeys
from buffers.errors.ring import ErrorRing

_LEAST = 4096
"""Stored events from which the index is used. Fewer are searched exactly in less time."""
_ROUNDS = 8  # of k-means
_SAMPLE = 40  # rows for each list that k-means learns from


class IndexedErrorRing(ErrorRing):
    """An ``ErrorRing`` that looks for neighbours only in the ``probes`` nearest of ``lists`` lists.

    Lists are those of an inverted file (Jégou, Douze and Schmid 2011), in FAISS: each event is in
    the list of its nearest centroid. Centroids are learned anew after every ``capacity`` / 2
    events, from the events stored by then, and lie on the grid. So all products are exact, a list
    has the same events after a resume, and the result does not depend on the cuts of the stream.
    Events that have left the ring are passed over.

    The metric is the cosine. The index is not in the state: it follows from the ring and the
    centroids.

    Args:
        width: numbers of a key.
        targets: whether labels are targets, and not class codes.
        lists: number of lists; None: the root of ``capacity``.
        probes: lists that are searched for a key.
        settings: the others, as of ``ErrorRing``.

    Raises:
        ImportError: FAISS is not installed.
    """

    def __init__(
        self,
        width: int,
        targets: bool,
        lists: int | None = None,
        probes: int = 16,
        **settings: Any,
    ) -> None:
        super().__init__(width, targets, **settings)
        if self.metric != "cosine":
            raise ValueError(f"metric: {self.metric!r} was given, and the index knows only cosine")
        import faiss

        self._faiss = faiss
        self._lists = lists or max(int(np.sqrt(self.capacity)), 1)
        self._probes = min(probes, self._lists)
        self._period = max(self.capacity // 2, 1)
        self._centroids: NDArray[np.int16] = np.zeros((self._lists, width), np.int16)
        self._index: Any = None

    def write(self, events: LabelledKeys) -> None:
        start, m = 0, len(events.ids)
        while start < m:  # up to the next time that centroids are learned
            stop = min(m, start + self._period - self._written % self._period)
            super().write(events.take(slice(start, stop)))
            self._add(stop - start)
            start = stop

    def _add(self, m: int) -> None:
        """Add the last m events to the index, or make it anew after each period."""
        if len(self) < max(_LEAST, 4 * self._lists):
            return
        if self._written % self._period == 0:
            self._learn_centroids()
            self._build()
        elif self._index is not None:
            self._insert(np.arange(min(m, len(self)))[::-1])

    def _learn_centroids(self) -> None:
        """Cluster the events stored now, by cosine."""
        ages = np.linspace(0, len(self) - 1, min(len(self), _SAMPLE * self._lists)).astype(np.int64)
        rows = self._keys[self.slots(ages)].astype(np.float32)
        first = np.linspace(0, len(rows) - 1, self._lists).astype(np.int64)
        centroids = self.on_grid(rows[first])
        for _ in range(_ROUNDS):
            nearest = self._nearest_centroid(rows, centroids)
            sums = np.zeros((self._lists, self.width))
            np.add.at(sums, nearest, rows)  # whole numbers: exact
            new = self.on_grid(sums)
            centroids = np.where(new.any(1, keepdims=True), new, centroids)
        self._centroids = centroids

    def _nearest_centroid(self, rows: NDArray[np.float32], centroids: NDArray[np.int16]) -> Ints:
        table = centroids.astype(np.float32).T
        parts = [
            (rows[start : start + 8192] @ table).argmax(1) for start in range(0, len(rows), 8192)
        ]
        return np.concatenate(parts)

    def _build(self) -> None:
        """Make the index of the stored events by the centroids."""
        faiss = self._faiss
        quantiser = faiss.IndexFlatIP(self.width)
        quantiser.add(self._centroids.astype(np.float32))
        metric = faiss.METRIC_INNER_PRODUCT
        self._index = faiss.IndexIVFFlat(quantiser, self.width, self._lists, metric)
        self._quantiser = quantiser  # FAISS does not keep it alive
        self._index.is_trained = True
        self._insert(np.arange(len(self))[::-1])

    def _insert(self, ages: Ints) -> None:
        """Add events of these ages, oldest first, under the numbers of their writes."""
        rows = self._keys[self.slots(ages)].astype(np.float32)
        self._index.add_with_ids(rows, self._written - 1 - ages)

    def _nearest(self, queries: NDArray[np.int16], k: int) -> tuple[Ints, NDArray[np.float32]]:
        if self._index is None or not len(queries):
            return super()._nearest(queries, k)
        faiss = self._faiss
        stored = faiss.IDSelectorRange(self._written - len(self), self._written)
        search = faiss.SearchParametersIVF(sel=stored, nprobe=self._probes)
        wide = queries.astype(np.float32)
        scores, numbers = self._index.search(wide, k, params=search)
        short = (numbers < 0).any(1)  # its lists have too few events
        ages = self._written - 1 - numbers
        if short.any():
            ages[short], scores[short] = super()._nearest(queries[short], k)
        order = np.lexsort((ages, -scores), axis=1)
        return np.take_along_axis(ages, order, 1), np.take_along_axis(scores, order, 1)

    def replace_keys(self, keys: Keys) -> None:
        super().replace_keys(keys)
        if self._index is not None:
            self._learn_centroids()
            self._build()

    def clear(self) -> None:
        super().clear()
        self._centroids.fill(0)
        self._index = None

    def memory_bytes(self) -> int:
        """Return the bytes of ring, centroids and the lists when they are longest."""
        listed = (self.capacity + self._period) * (4 * self.width + 8)
        return super().memory_bytes() + self._centroids.nbytes + listed

    def state(self) -> dict[str, Any]:
        return {**super().state(), "centroids": self._centroids, "indexed": self._index is not None}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._centroids, self._index = np.array(state["centroids"]), None
        if state["indexed"]:
            self._build()
