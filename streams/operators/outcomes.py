"""Events that wait for their label, and predictions that have met theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Batch, Floats, Ints
from streams.core.hashing import category_keys

NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Outcome:
    """m predictions that have met their labels, in the order in which the labels became known.

    Attributes:
        ids: (m,) int64.
        y: (m,) class codes or targets, all of them known.
        value: (m,) predicted class codes (-1: none) or targets (NaN: none).
        proba: (m, classes), or None.
        no_change: (m,) the last known label when the event was predicted.
        lag: (m,) int64, events predicted after the label was known and before it was learned.
        learned, probe, unlabelled, expired: ids of the events with that fate.
        group: (m,) int64 keys of the groups of the events; None: they have none.
        wait: (m,) seconds until the next event of the key, of events in sequences; else None. Where
            ``y`` is -1, nothing came for so long.
        forecast: (m, cells, 2 or 2 + classes) as in ``Prediction``, or None.
    """

    ids: Ints
    y: Array
    value: Array
    proba: Array | None
    no_change: Array
    lag: Ints
    learned: Ints
    probe: Ints
    unlabelled: Ints
    expired: Ints
    group: Ints | None = None
    wait: Floats | None = None
    forecast: Array | None = None


class Chunk:
    """n events of one micro-batch that wait for their labels, and their predictions.

    Attributes:
        number: chunks are numbered in the order of the stream.
        batch: the events.
        index: (n,) int64, the number of events pushed before each.
        waiting: how many of them still wait.
        open: (n,) whether each still waits; None: the last ``waiting`` do.
        due: (n,) event times at which the labels become known, where the join needs them.
        value: (n,) predicted class codes or targets.
        proba: (n, classes), or None.
        forecast: (n, cells, 2 or 2 + classes), or None.
    """

    __slots__ = (
        "_baseline",
        "_no_change",
        "batch",
        "due",
        "forecast",
        "index",
        "number",
        "open",
        "proba",
        "value",
        "waiting",
    )

    def __init__(self, number: int, batch: Batch, index: Ints) -> None:
        self.number = number
        self.batch = batch
        self.index = index
        self.waiting = len(batch)
        self.open: Array | None = None
        self.due: Array | None = None
        self.value: Array = NONE
        self.proba: Array | None = None
        self.forecast: Array | None = None
        self._no_change: Array | None = None
        self._baseline: tuple[Array, Ints, Array] | None = None

    def set_baseline(self, last: Array, insert_before: Ints, y: Array) -> None:
        """Set what ``no_change`` follows from.

        Args:
            last: (1,) the last label known before these rows.
            insert_before: (k,) the row just before which each later label became known, ascending.
            y: (k,) those labels.
        """
        self._baseline = (last, insert_before, y)

    @property
    def no_change(self) -> Array:
        """(n,) the last label known when each row was predicted; -1 or NaN before the first."""
        if self._no_change is None:
            assert self._baseline is not None
            last, insert_before, y = self._baseline
            rows = np.arange(len(self.index))
            known = np.searchsorted(insert_before, rows, side="right")
            self._no_change = np.concatenate([last, y])[known]
            self._baseline = None
        return self._no_change

    @no_change.setter
    def no_change(self, column: Array) -> None:
        self._no_change = column

    def close(self, rows: Ints) -> None:
        """Mark rows as no longer waiting."""
        if self.open is None:
            self.open = np.ones(len(self.batch), np.bool_)
        self.open[rows] = False
        self.waiting -= len(rows)

    def open_rows(self) -> Ints:
        """Return the rows that still wait."""
        if self.open is None:
            return np.arange(len(self.batch) - self.waiting, len(self.batch))
        return np.flatnonzero(self.open)


Pieces = list[tuple[Chunk, slice | Ints]]
"""Rows of chunks, in order."""


class ScoredRows(NamedTuple):
    """The rows of one micro-batch's settlement, by reference to their chunks. Many of them are
    joined into an ``Outcome`` at once, which costs far less than one by one.

    Attributes:
        pieces: the rows.
        order: the permutation of the joined pieces; None: as they are.
        y: their labels, without missing ones.
        mask: of the ordered rows, those with a label; None: all.
        lag: as in ``Outcome``, for the rows with a label.
        fates: ids that were learned, probes, unlabelled, expired.
        wait: as in ``Outcome``, in the order of ``y``.
    """

    pieces: Pieces
    order: Ints | None
    y: Array
    mask: NDArray[np.bool_] | None
    lag: Ints
    fates: tuple[Ints, Ints, Ints, Ints]
    wait: Floats | None = None

    def outcome(self) -> Outcome:
        """Return the outcome of this micro-batch alone."""
        return outcome_of([self])


def outcome_of(scored: Sequence[ScoredRows], group_by: str | None = None) -> Outcome:
    """Join the scored rows of one or more micro-batches, in their order.

    Their groups are the values of the categorical column ``group_by``.
    """
    lag = np.concatenate([s.lag for s in scored])
    y = np.concatenate([s.y for s in scored])
    learned, probe, unlabelled, expired = (
        _join_ids([s.fates[i] for s in scored]) for i in range(4)
    )
    fates = (learned, probe, unlabelled, expired)
    pieces = [piece for s in scored for piece in s.pieces]
    if not pieces:
        return Outcome(NONE, y, y, None, y, lag, *fates, None if group_by is None else NONE)
    ids = np.concatenate([c.batch.ids[rows] for c, rows in pieces])
    value = np.concatenate([c.value[rows] for c, rows in pieces])
    no_change = np.concatenate([c.no_change[rows] for c, rows in pieces])
    proba, forecast = join_wide(pieces, "proba"), join_wide(pieces, "forecast")
    group = None if group_by is None else _groups(pieces, group_by)
    waits = [s.wait for s in scored if s.wait is not None]
    wait = np.concatenate(waits) if waits else None
    select = _selection(scored)
    if select is not None:
        ids, value, no_change = ids[select], value[select], no_change[select]
        proba = None if proba is None else proba[select]
        group = None if group is None else group[select]
        forecast = None if forecast is None else forecast[select]
    return Outcome(ids, y, value, proba, no_change, lag, *fates, group, wait, forecast)


def _groups(pieces: Pieces, group_by: str) -> Ints:
    """Return the keys of the values of a column, (m,)."""
    keys = []
    for chunk, rows in pieces:
        x = chunk.batch[rows].x if isinstance(rows, slice) else chunk.batch.take(rows).x
        assert not isinstance(x, np.ndarray)
        keys.append(category_keys(x[group_by]))
    return np.concatenate(keys)


def _selection(scored: Sequence[ScoredRows]) -> Ints | None:
    """Return the joined rows with a label, in their order; None: all of them, as they are."""
    if all(s.order is None and s.mask is None for s in scored):
        return None
    parts, start = [], 0
    for s in scored:
        n = sum(len(c.batch.ids[rows]) for c, rows in s.pieces)
        part = np.arange(n) if s.order is None else s.order
        parts.append(start + (part if s.mask is None else part[s.mask]))
        start += n
    return np.concatenate(parts)


def _join_ids(columns: Sequence[Ints]) -> Ints:
    filled = [column for column in columns if len(column)]
    return np.concatenate(filled) if filled else NONE


def join_wide(pieces: Pieces, name: Literal["proba", "forecast"]) -> Array | None:
    """Join the probabilities, or the forecasts, of pieces.

    Returns:
        (m, ..., width): 0 for classes that were not known yet, NaN for chunks without any.
        None: no chunk has any.
    """
    parts = [(getattr(c, name), rows) for c, rows in pieces]
    known = [part[rows] for part, rows in parts if part is not None]
    if not known:
        return None
    width = max(part.shape[-1] for part in known)
    if len(known) == len(parts) and all(part.shape[-1] == width for part in known):
        return np.concatenate(known)
    joined = []
    for chunk, rows in pieces:
        part = getattr(chunk, name)
        m = len(chunk.value[rows])
        wide = np.zeros((m, *known[0].shape[1:-1], width), known[0].dtype)
        if part is None:
            wide[:] = np.nan
        else:
            wide[..., : part.shape[-1]] = part[rows]
        joined.append(wide)
    return np.concatenate(joined)


def no_label(y: Array) -> float:
    """Return what stands for "no label" in a column like ``y``: -1 for codes, NaN for targets."""
    return np.nan if y.dtype.kind == "f" else -1


def no_labels(y: Array) -> NDArray[np.bool_]:
    """Return (m,) where a column of labels or predictions holds none."""
    missing: NDArray[np.bool_] = np.isnan(y) if y.dtype.kind == "f" else y < 0
    return missing
