"""Reservoir sampling: keep every row with the same probability (Vitter 1985)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from buffers.admission.base import NOTHING_PLACED, Admission, Array, Placed, arrays


class Reservoir(Admission):
    """Keep a uniform sample of all rows ever offered: Algorithm R.

    Vitter 1985, "Random Sampling with a Reservoir". The row after ``seen`` others draws an integer
    from 0 .. seen. Where that is a slot, the row replaces the one in it.

    A deleted row leaves a hole, which is drawn as the row was. So the rows in use stay a uniform
    sample of the rows that were not deleted. In return, holes fill no faster than rows are
    replaced.
    """

    name = "reservoir"

    def place(self, columns: Mapping[str, Array], n: int, rng: np.random.Generator) -> Placed:
        grown = min(n, max(0, self.capacity - self.seen))
        drawn = rng.random(n - grown) * np.arange(self.seen + grown + 1, self.seen + n + 1)
        hits = (drawn < self.capacity).nonzero()[0]
        first = self.filled
        self.seen += n
        self.filled += grown
        if not len(hits):
            return (np.arange(grown), np.arange(first, first + grown)) if grown else NOTHING_PLACED
        placed = dict(zip(range(first, first + grown), range(grown), strict=True))
        for slot, row in zip(drawn[hits].astype(np.int64).tolist(), hits.tolist(), strict=True):
            if slot < self.filled:
                placed[slot] = grown + row
            else:
                placed[self.filled] = grown + row
                self.filled += 1
        return arrays(placed)
