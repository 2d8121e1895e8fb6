"""The AUC within groups of events, as of one user's impressions (Zhou et al. 2018, "Deep Interest
Network for Click-Through Rate Prediction", equation 7; Zhu et al. 2017)."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Array, Ints
from streams.core.key_table import KeyTable
from streams.core.state_dict import State

GROUPS = 4096
"""Groups whose scores are counted at once."""
_BINS = 128
_REACH = 8.0  # log-odds of the outermost bins
_FOLD = 512  # rows per block; independent of micro-batches


class GroupedAuc:
    """The mean over groups of their AUC, each weighted by its number of events:

    gAUC = sum_g n_g AUC_g / sum_g n_g

    over the groups g with events of both classes. Without any it is not defined.

    Over the window it is exact. Over the whole stream each group has a histogram of 128 bins of the
    log-odds from -8 to 8, in which scores of one bin are ties: the error of AUC_g is at most half
    the share of the pairs of the group within one bin. ``GROUPS`` groups have one, in 4 MB. Where
    there is no room, a new group takes the histogram of one of those not seen for longest. That one
    has counted by then; if it comes back, it begins anew.

    The state does not depend on how rows are batched: they are folded 512 at a time.

    Args:
        window: length of the sliding window, in events.
        groups: with a histogram at once.
    """

    def __init__(self, window: int, groups: int = GROUPS) -> None:
        self.window = window
        self._table = KeyTable(groups, admit_after=1, min_age=0)
        self._counts = np.zeros((self._table.rows, 2, _BINS), np.uint32)
        self._sums = np.zeros(2)  # of groups without a histogram: weighted AUC, weights
        self._left = _NO_ROWS
        self._recent = _NO_ROWS  # the last ``window`` of those folded, or more

    def add(self, group: Ints, y: Ints, score: Array) -> None:
        """Add rows: the keys of their groups, classes and scores of class 1, each (m,).

        Rows without a score, or of a third class, are left out.
        """
        used = ~np.isnan(score) & (y < 2)
        rows = np.empty(int(used.sum()), _ROW)
        rows["group"], rows["y"], rows["score"] = group[used], y[used], score[used]
        self._left = np.concatenate([self._left, rows])
        whole = len(self._left) // _FOLD * _FOLD
        for start in range(0, whole, _FOLD):
            self._fold(self._left[start : start + _FOLD])
        if whole:
            recent = np.concatenate([self._recent, self._left[:whole]])
            self._recent, self._left = recent[-self.window :], self._left[whole:]

    def _fold(self, rows: Array) -> None:
        """Count at most 512 rows in the histograms of their groups."""
        bins = _bins_of(rows["score"])
        while len(rows):
            admitted, found = self._table.observe_and_find(rows["group"])
            self._retire(admitted.rows)
            counted = found >= 0
            np.add.at(self._counts, (found[counted], rows["y"][counted], bins[counted]), 1)
            # A set of the table takes as many new groups at once as it has rows.
            self._table.advance(int(counted.sum()) + 1)
            rows, bins = rows[~counted], bins[~counted]

    def _retire(self, rows: Ints) -> None:
        """Count the groups at these rows of the table for good, and clear their histograms."""
        counts = self._counts[rows]
        self._sums += _weighted(*_of_histograms(counts))
        self._counts[rows] = 0

    def results(self) -> dict[str, float]:
        """Return ``gauc`` and ``gauc_window`` where they are defined. Pure."""
        whole = GroupedAuc(self.window, self._table.rows)
        whole.load(self.state())
        whole._fold(whole._left)
        sums = whole._sums + _weighted(*_of_histograms(whole._counts))
        recent = np.concatenate([self._recent, self._left])[-self.window :]
        of_window = _weighted(*_of_rows(recent))
        means = {"gauc": sums, "gauc_window": of_window}
        return {name: total / weight for name, (total, weight) in means.items() if weight}

    def state(self) -> State:
        used = np.flatnonzero(self._counts.any(axis=(1, 2)))
        return {
            "table": self._table.state(),
            "used": used,
            "counts": self._counts[used],
            "sums": self._sums,
            "left": {name: self._left[name].copy() for name in _ROW.names or ()},
            "recent": {name: self._recent[name].copy() for name in _ROW.names or ()},
        }

    def load(self, state: State) -> None:
        self._table.load(state["table"])
        self._counts = np.zeros_like(self._counts)
        self._counts[state["used"]] = state["counts"]
        self._sums = np.array(state["sums"])
        self._left, self._recent = _rows_of(state["left"]), _rows_of(state["recent"])


_ROW = np.dtype([("group", np.int64), ("y", np.int64), ("score", np.float64)])
_NO_ROWS = np.empty(0, _ROW)


def _rows_of(state: State) -> Array:
    rows = np.empty(len(state["y"]), _ROW)
    for name in _ROW.names or ():
        rows[name] = state[name]
    return rows


def _bins_of(score: Array) -> Ints:
    """Return the bins (m,) of scores (m,) by their log-odds."""
    with np.errstate(divide="ignore"):
        odds = np.log(score) - np.log1p(-score)
    places = (np.clip(odds, -_REACH, _REACH) + _REACH) * (_BINS / (2 * _REACH))
    bins: Ints = np.minimum(places.astype(np.int64), _BINS - 1)
    return bins


def _of_histograms(counts: Array) -> tuple[Array, Array]:
    """Return the AUC (g,) and the number of events (g,) of groups, from histograms (g, 2, bins).
    The AUC is NaN where a group has one class only."""
    negative, positive = counts[:, 0].astype(np.float64), counts[:, 1].astype(np.float64)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + negative / 2)).sum(1)
    pairs = negative.sum(1) * positive.sum(1)
    auc = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return auc, counts.sum((1, 2)).astype(np.float64)


def _of_rows(rows: Array) -> tuple[Array, Array]:
    """Return the same from rows (m,), exactly: scores that are equal count half."""
    _, group = np.unique(rows["group"], return_inverse=True)
    order = np.lexsort((rows["score"], group))
    group, rows = group[order], rows[order]
    score, y = rows["score"], rows["y"].astype(np.float64)
    first = np.ones(len(rows), np.bool_)
    first[1:] = (np.diff(group) > 0) | (np.diff(score) > 0)
    cell = np.cumsum(first) - 1  # rows of one group and one score
    of_cell = group[first]
    positive, negative = np.bincount(cell, y), np.bincount(cell, 1 - y)
    p, n = np.bincount(group, y), np.bincount(group, 1 - y)
    before = np.cumsum(negative) - negative  # in this group and in those before it
    below = before - (np.cumsum(n) - n)[of_cell]
    wins = np.bincount(of_cell, positive * (below + negative / 2), len(p))
    pairs = p * n
    return np.divide(wins, pairs, out=np.full(len(p), np.nan), where=pairs > 0), p + n


def _weighted(auc: Array, weight: Array) -> Array:
    """Return the sum of the AUC (g,) by weight, and the sum of the weights, where it is defined."""
    defined = ~np.isnan(auc)
    return np.array([(auc[defined] * weight[defined]).sum(), weight[defined].sum()])
