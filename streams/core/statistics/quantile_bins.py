"""Numbers as categories: bins of about equal frequency, from the first numbers of each column."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Floats, Ints
from streams.core.state_dict import State

_SHARE = 5
"""One in five of the first ``after`` rows must have a number of a column, or it waits for more."""

_MOST = 2.0**53
"""From here on every float64 is a whole number."""


class QuantileBins:
    """Bins of numeric columns, with edges that never move once they are known.

    The edges of a column come from its numbers in the first ``after`` rows. A column that has less
    than a fifth of ``after`` numbers there waits until it has as many. Until then all its numbers
    are in bin 0. The edges depend on the rows and their order, not on how they are cut into
    batches.

    A column of at most ``bins`` different numbers gets a bin for each. In other columns bins are
    filled from below, each with an equal share of what is left. So a frequent number takes one bin,
    and the others are shared out to the rest.

    Args:
        columns: number of columns.
        bins: number of bins of a column, 2 to 255.
        after: rows that the edges come from.

    Attributes:
        known: (columns,) bool, the columns whose edges are known.
        whole: (columns,) bool, those of them whose first numbers were all integers.
    """

    def __init__(self, columns: int, bins: int = 16, after: int = 500) -> None:
        assert 2 <= bins <= 255, "codes are counted in uint8"
        self.columns = columns
        self.bins = bins
        self.after = after
        self.known: NDArray[np.bool_] = np.zeros(columns, np.bool_)
        self.whole: NDArray[np.bool_] = np.zeros(columns, np.bool_)
        self._edges: Floats = np.full((bins - 1, columns), np.inf)
        self._least = max(after // _SHARE, 1)  # numbers that give edges
        self._rows = 0  # observed so far, up to ``after``
        self._sample: Floats = np.empty((0, columns))  # the first of them
        self._late: dict[int, Floats] = {}  # numbers of columns that were missing in most of them

    def codes(self, rows: Array) -> Ints:
        """Return (n, columns) int64, the bin of each of the (n, columns) numbers; ``bins`` for NaN.
        Pure."""
        numbers = np.ascontiguousarray(rows.T)
        # Comparisons of whole columns: a binary search of each number mispredicts its branches.
        reached = self._edges[:, :, None] <= numbers
        codes = np.add.reduce(reached.view(np.uint8), 0, dtype=np.uint8)
        codes[np.isnan(numbers)] = self.bins
        bins: Ints = codes.T.astype(np.int64)
        return bins

    def observe(self, rows: Array) -> Ints:
        """Take the next (n, columns) rows of the stream, where edges are still to be found.

        Returns:
            (columns,) how many of the rows it took until the edges of a column were known: 0 where
            they were known before, n where they are not known.
        """
        taken = np.where(self.known, 0, len(rows))
        start = 0
        if self._rows < self.after:
            start = min(self.after - self._rows, len(rows))
            self._sample = np.concatenate([self._sample, rows[:start].astype(np.float64)])
            self._rows += start
            if self._rows < self.after:
                return taken
            for column, numbers in enumerate(self._sample.T):
                self._late[column] = numbers[~np.isnan(numbers)]
                if self._find(column):
                    taken[column] = start
            self._sample = np.empty((0, self.columns))
        present = ~np.isnan(rows[start:])
        for column in np.flatnonzero(present.any(0) & ~self.known).tolist():
            late = self._late[column]
            wanted = np.flatnonzero(present[:, column])[: self._least - len(late)] + start
            self._late[column] = np.concatenate([late, rows[wanted, column].astype(np.float64)])
            if self._find(column):
                taken[column] = wanted[-1] + 1
        return taken

    def _find(self, column: int) -> bool:
        """Find the edges of a column, if its sample suffices; return whether it does."""
        sample = self._late[column]
        if len(sample) < self._least:
            return False
        edges = _edges(sample, self.bins)
        self._edges[: len(edges), column] = edges
        self.known[column] = True
        whole = (np.trunc(sample) == sample) & (np.abs(sample) < _MOST)
        self.whole[column] = bool(whole.all())
        del self._late[column]
        return True

    def memory_bytes(self) -> int:
        """Return the bytes of the edges and samples."""
        late = sum(sample.nbytes for sample in self._late.values())
        return self._edges.nbytes + self.known.nbytes + self._sample.nbytes + late

    def state(self) -> State:
        return {
            "edges": self._edges,
            "known": self.known,
            "whole": self.whole,
            "rows": self._rows,
            "sample": self._sample,
            "late": {str(column): sample for column, sample in self._late.items()},
        }

    def load(self, state: State) -> None:
        self._edges, self.known = np.array(state["edges"]), np.array(state["known"])
        self.whole = np.array(state["whole"])
        self._rows, self._sample = state["rows"], state["sample"]
        self._late = {int(column): sample for column, sample in state["late"].items()}


def _edges(sample: Floats, bins: int) -> Floats:
    """Return the lowest number of each bin but the first: at most ``bins`` - 1, in order."""
    values, counts = np.unique(sample, return_counts=True)
    if len(values) <= bins:
        return values[1:]
    frequent = _frequent(counts, bins)
    left = int(counts[~frequent].sum())  # other numbers in no full bin
    few = int(np.count_nonzero(frequent))  # frequent numbers ahead
    starts: list[int] = []  # of the next bins, as indices of values
    inside = 0  # numbers in the current bin
    for i, (count, alone) in enumerate(zip(counts.tolist(), frequent.tolist(), strict=True)):
        free = bins - len(starts) - few  # bins for other numbers, with the current one
        share = left / max(free, 1)
        # A number belongs to the bin whose share it then misses by less.
        full = free > 1 and inside + count - share > share - inside
        apart = alone or frequent[i - 1]
        if i and (apart or full) and len(starts) < bins - 1:
            starts.append(i)
            left -= 0 if frequent[i - 1] else inside
            inside = 0
        inside += count
        few -= alone
    return values[starts]


def _frequent(counts: Ints, bins: int) -> NDArray[np.bool_]:
    """Return which values are more frequent than an equal share of the bins that others leave."""
    frequent = np.zeros(len(counts), np.bool_)
    while (free := bins - int(np.count_nonzero(frequent))) > 1:
        more = ~frequent & (counts > counts[~frequent].sum() / free)
        if not more.any():
            break
        frequent |= more
    return frequent
