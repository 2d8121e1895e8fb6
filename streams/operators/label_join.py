"""The label join: events wait here, with the prediction made for them, until their label is known.

However a label comes (``in_rows.py``: in the row of its event, shown later; ``arrivals.py``: on its
own), the first one wins, an event is given out for learning once, and memory is bounded: an event
that has waited for ``wait`` later events expires, just there, wherever the micro-batches are cut.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.state_dict import State, pack, unpack

NONE = np.empty(0, np.int64)


class LabelledProbes(NamedTuple):
    """Probes whose label has become known: ``rows`` (p,) of a ``batch``, and ``place`` (p,), how
    many events had been pushed before each."""

    batch: Batch
    rows: Ints
    place: Ints


@dataclass(frozen=True, slots=True)
class Revealed:
    """Labels that have become known, in the order in which they did.

    Attributes:
        batch: (m,) the events to learn, with ``y``; probes are not among them.
        before: (m,) int64, the row of the current micro-batch just before which each became known
            (its length where that is after the last row).
        corrected: ids and labels of events that were given out earlier with another label.
        probes: those whose label has become known; None: there are none.
    """

    batch: Batch
    insert_before: Ints
    corrected: tuple[Ints, Array] | None = None
    probes: LabelledProbes | None = None

    def __len__(self) -> int:
        return len(self.insert_before)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Predictions that have met their labels, in the order in which the labels became known.

    Attributes:
        ids: (m,) int64. y: (m,) class codes or targets, all of them known.
        value: (m,) predicted class code (-1: none) or target (NaN: none).
        proba: (m, classes), or None.
        no_change: (m,) the label that was the last known when the event was predicted.
        lag: (m,) int64, events predicted after the label was known and before it was learned.
        learned, probe, unlabelled, expired: ids of the events that have met that fate.
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


class Chunk:
    """One micro-batch of events that wait, and what was predicted for them."""

    __slots__ = (
        "_known",
        "_no_change",
        "batch",
        "due",
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
        self.index = index  # events pushed before each row
        self.waiting = len(batch)
        self.open: Array | None = None  # (n,) bool once rows have left out of order
        self.due: Array | None = None
        self.value: Array = NONE
        self.proba: Array | None = None
        self._no_change: Array | None = None
        self._known: tuple[Array, Ints, Array] | None = None

    def set_baseline(self, last: Array, before: Ints, y: Array) -> None:
        """What ``no_change`` follows from: the last label known earlier (1,), and those that became
        known among these rows, each just before a row."""
        self._known = (last, before, y)

    @property
    def no_change(self) -> Array:
        """(n,) the last label known when each row was predicted; -1 or NaN before the first."""
        if self._no_change is None:
            assert self._known is not None
            last, before, y = self._known
            row = np.arange(len(self.index))
            self._no_change = np.concatenate([last, y])[np.searchsorted(before, row, side="right")]
            self._known = None
        return self._no_change

    @no_change.setter
    def no_change(self, column: Array) -> None:
        self._no_change = column

    def close(self, rows: Ints) -> None:
        if self.open is None:
            self.open = np.ones(len(self.batch), np.bool_)
        self.open[rows] = False
        self.waiting -= len(rows)

    def open_rows(self) -> Ints:
        if self.open is None:
            return np.arange(len(self.batch) - self.waiting, len(self.batch))
        return np.flatnonzero(self.open)


Pieces = list[tuple[Chunk, slice | Ints]]


class ReadyRows(NamedTuple):
    """Rows of chunks that leave, piece by piece, and the order in which they do."""

    pieces: Pieces
    insert_before: Ints
    order: Ints | None = None  # permutation of the joined pieces; None: as they stand
    y: Array | None = None  # labels in that order; None: those in the rows
    corrected: tuple[Ints, Array] | None = None


class ScoredRows(NamedTuple):
    """What one micro-batch settled, by reference: many are made into an ``Outcome`` at once, which
    costs far less than one by one."""

    pieces: Pieces
    order: Ints | None
    y: Array
    mask: NDArray[np.bool_] | None  # of rows in that order: those with a label; None: all
    lag: Ints
    fates: tuple[Ints, Ints, Ints, Ints]

    def outcome(self) -> Outcome:
        return outcome_of([self])


def outcome_of(settled: Sequence[ScoredRows]) -> Outcome:
    """The outcomes of one or more micro-batches, in their order."""
    lag = np.concatenate([s.lag for s in settled])
    y = np.concatenate([s.y for s in settled])
    fates = [_joined([s.fates[i] for s in settled]) for i in range(4)]
    pieces = [piece for s in settled for piece in s.pieces]
    if not pieces:
        return Outcome(NONE, y, y, None, y, lag, *fates)
    ids = np.concatenate([c.batch.ids[rows] for c, rows in pieces])
    value = np.concatenate([c.value[rows] for c, rows in pieces])
    no_change = np.concatenate([c.no_change[rows] for c, rows in pieces])
    proba = _join_proba(pieces)
    select = _selection(settled)
    if select is not None:
        ids, value, no_change = ids[select], value[select], no_change[select]
        proba = None if proba is None else proba[select]
    return Outcome(ids, y, value, proba, no_change, lag, *fates)


def _selection(settled: Sequence[ScoredRows]) -> Ints | None:
    """Which of the joined rows stay, in which order; None: all, as they stand."""
    if all(s.order is None and s.mask is None for s in settled):
        return None
    parts, start = [], 0
    for s in settled:
        n = sum(len(c.batch.ids[rows]) for c, rows in s.pieces)
        part = np.arange(n) if s.order is None else s.order
        parts.append(start + (part if s.mask is None else part[s.mask]))
        start += n
    return np.concatenate(parts)


def _joined(columns: Sequence[Ints]) -> Ints:
    filled = [column for column in columns if len(column)]
    return np.concatenate(filled) if filled else NONE


@dataclass(frozen=True, slots=True)
class PushedBatch:
    """A micro-batch in the join whose prediction is still to come.

    Attributes:
        revealed: the labels that have become known by the end of it.
        chunk: its rows in the join.
        scored: the rows whose prediction and label are both known once it is settled.
    """

    revealed: Revealed
    chunk: Chunk
    scored: ScoredRows

    def settle(self, value: Array, proba: Array | None) -> ScoredRows:
        """Store the prediction, and return the predictions that have met their labels.

        Args:
            value: (n,) predicted class codes or targets of the micro-batch.
            proba: (n, classes), or None.
        """
        self.chunk.value, self.chunk.proba = value, proba
        return self.scored


class LabelJoin(ABC):
    """Gives out each event for learning when its label becomes known.

    ``push`` takes a micro-batch. What it returns holds the labels that become known by the end of
    it, and its ``settle`` takes the prediction that was made for the micro-batch. ``finish`` gives
    out what still waits at the true end of the stream.

    Args:
        wait: an event that has waited for so many later events expires.
        segments: whether the task or concept of an event may be shown to the learner.
        exact: the learner learns event by event, in step with the stream.
    """

    def __init__(self, wait: int, segments: bool = False, exact: bool = False) -> None:
        self.wait = wait
        self.segments = segments
        self.exact = exact
        self._chunks: dict[int, Chunk] = {}
        self._oldest = 0  # number of the first chunk that may still hold waiting rows
        self._next = 0  # number of the next chunk
        self._pushed = 0  # events pushed so far
        self._last: Array = NONE  # (1,) the last label known; empty before the first micro-batch

    @abstractmethod
    def _pick(self, chunk: Chunk, batch: Batch) -> ReadyRows | None:
        """The rows whose label is known by the end of ``batch``, which ``chunk`` holds."""

    def __len__(self) -> int:
        """Events that wait for their label."""
        return sum(chunk.waiting for chunk in self._chunks.values())

    def push(self, batch: Batch) -> PushedBatch:
        """Take the next micro-batch. It must be settled before the outcomes of its rows are read,
        and before the state is saved."""
        n = len(batch)
        if not len(self._last):
            assert batch.y is not None, "a stream without labels in its rows gives them as arrivals"
            self._last = np.array([no_label(batch.y)], batch.y.dtype)
        chunk = Chunk(
            self._next, batch.to_learn(self.segments), np.arange(self._pushed, self._pushed + n)
        )
        self._pushed += n
        if n:
            self._chunks[self._next] = chunk
            self._next += 1
        picked = self._pick(chunk, batch)
        gone = self._expire()
        expired = np.concatenate([c.batch.ids[rows] for c, rows in gone]) if gone else NONE
        return self._reveal(chunk, picked, expired)

    def finish(self, size: int) -> Iterator[tuple[Revealed, ScoredRows]]:
        """What waits at the true end of the stream: labels in the rows are known now, in their
        order, ``size`` rows at a time; the other events have none."""
        for picked in self._remaining(size):
            nothing = Chunk(-1, picked.pieces[0][0].batch[:0], NONE)
            pushed = self._reveal(nothing, picked, NONE)
            yield pushed.revealed, pushed.settle(NONE, None)

    def _remaining(self, size: int) -> Iterator[ReadyRows]:
        chunks = [*self._chunks.values()]
        self._chunks.clear()
        if not chunks:
            return
        pieces: Pieces = [(c, c.open_rows()) for c in chunks]
        y, order = self._last_labels(pieces)
        index = np.concatenate([c.index[rows] for c, rows in pieces])
        rest = Chunk(-1, Batch.gather([(c.batch, rows) for c, rows in pieces]), index)
        rest.value = np.concatenate([c.value[r] for c, r in pieces])
        rest.no_change = np.concatenate([c.no_change[r] for c, r in pieces])
        rest.proba = _join_proba(pieces)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield ReadyRows([(rest, rows)], np.zeros(len(rows), np.int64), None, y[rows])

    @abstractmethod
    def _last_labels(self, pieces: Pieces) -> tuple[Array, Ints]:
        """Labels of the events that still wait at the end (-1 or NaN: none), in the order of the
        stream, and the order in which to give them out."""

    def _expire(self) -> list[tuple[Chunk, Ints]]:
        """The rows that have now waited for ``wait`` later events; they wait no more."""
        gone = []
        limit = self._pushed - self.wait
        while self._oldest < self._next:
            chunk = self._chunks.get(self._oldest)
            if chunk is not None:
                if chunk.index[0] >= limit:
                    break
                rows = chunk.open_rows()
                rows = rows[chunk.index[rows] < limit]
                if len(rows):
                    gone.append((chunk, rows))
                    self._close(chunk, rows)
                if chunk.waiting:
                    break
            self._oldest += 1
        return gone

    def _close(self, chunk: Chunk, rows: Ints) -> None:
        """These rows of a chunk wait no more; with its last row a chunk is let go."""
        chunk.close(rows)
        if not chunk.waiting:
            del self._chunks[chunk.number]

    def _reveal(self, chunk: Chunk, picked: ReadyRows | None, expired: Ints) -> PushedBatch:
        n = len(chunk.batch)
        corrected = None if picked is None else picked.corrected
        if picked is None or not picked.pieces:
            none = self._last[:0]
            chunk.set_baseline(self._last, NONE, none)
            fates = (NONE, NONE, NONE, expired)
            revealed = Revealed(replace(chunk.batch[:0], y=none), NONE, corrected)
            return PushedBatch(revealed, chunk, ScoredRows([], None, none, None, NONE, fates))
        batch = Batch.gather([(c.batch, rows) for c, rows in picked.pieces])
        if picked.order is not None:
            batch = batch.take(picked.order)
        if picked.y is not None:  # known now, with the classes known now
            batch = replace(batch, y=picked.y, classes=chunk.batch.classes)
        y, before = batch.y, picked.insert_before
        assert y is not None
        unlabelled, mask = NONE, None
        missing = no_labels(y)
        if np.count_nonzero(missing):
            unlabelled, mask = batch.ids[missing], ~missing
            batch, y, before = batch.take(mask), y[mask], before[mask]
        chunk.set_baseline(self._last, before, y)
        if len(y):
            self._last = y[-1:]
        probe = NONE
        learn, learn_before, probes = batch, before, None
        if batch.probe is not None and np.count_nonzero(batch.probe):
            rows = np.flatnonzero(batch.probe)
            others = np.flatnonzero(~batch.probe)
            learn, learn_before = batch.take(others), before[others]
            probes = LabelledProbes(batch, rows, _arrived(picked, mask)[rows])
            probe = batch.ids[rows]
        fates = (learn.ids, probe, unlabelled, expired)
        lag = np.zeros_like(before) if self.exact else n - before
        revealed = Revealed(learn, learn_before, corrected, probes)
        scored = ScoredRows(picked.pieces, picked.order, y, mask, lag, fates)
        return PushedBatch(revealed, chunk, scored)

    def state(self) -> State:
        chunks = list(self._chunks.values())
        state: State = {
            "pushed": self._pushed,
            "next": self._next,
            "oldest": self._oldest,
            "last": self._last,
            "numbers": np.array([c.number for c in chunks], np.int64),
            "lengths": np.array([c.waiting for c in chunks], np.int64),
        }
        if chunks:
            pieces: Pieces = [(c, c.open_rows()) for c in chunks]
            state["rows"] = pack(Batch.gather([(c.batch, rows) for c, rows in pieces]))
            for name in ("index", "value", "no_change"):
                state[name] = np.concatenate([getattr(c, name)[r] for c, r in pieces])
            if chunks[0].due is not None:
                state["due"] = np.concatenate([c.due[r] for c, r in pieces if c.due is not None])
            widths = [-1 if c.proba is None else c.proba.shape[1] for c in chunks]
            state["widths"] = np.array(widths, np.int64)  # of proba, where there is one
            if (proba := _join_proba(pieces)) is not None:
                state["proba"] = proba
        return state

    def load(self, state: State, classes: tuple[ClassName, ...] = ()) -> None:
        self._pushed, self._next = state["pushed"], state["next"]
        self._oldest, self._last = state["oldest"], state["last"]
        self._chunks = {}
        if not len(state["numbers"]):
            return
        rows = unpack(state["rows"], classes)
        stop = 0
        for number, length, width in zip(
            *(state[name].tolist() for name in ("numbers", "lengths", "widths")), strict=True
        ):
            cut = slice(stop, stop := stop + length)
            chunk = self._chunks[number] = Chunk(number, rows[cut], state["index"][cut])
            chunk.value, chunk.no_change = state["value"][cut], state["no_change"][cut]
            chunk.due = state["due"][cut] if "due" in state else None
            chunk.proba = state["proba"][cut, :width] if width >= 0 else None


def _arrived(picked: ReadyRows, mask: NDArray[np.bool_] | None) -> Ints:
    """(m,) events pushed before each of those that are revealed."""
    index = np.concatenate([c.index[rows] for c, rows in picked.pieces])
    index = index if picked.order is None else index[picked.order]
    return index if mask is None else index[mask]


def no_label(y: Array) -> float:
    """What stands for "no label" in a column like ``y``: -1 among codes, NaN among targets."""
    return np.nan if y.dtype.kind == "f" else -1


def no_labels(y: Array) -> NDArray[np.bool_]:
    """(m,) where a column of labels, or of predictions, holds none."""
    missing: NDArray[np.bool_] = np.isnan(y) if y.dtype.kind == "f" else y < 0
    return missing


def _join_proba(pieces: Pieces) -> Array | None:
    """(m, classes), 0 for classes that were not known yet, NaN in the rows of chunks without;
    None where no chunk has any."""
    probas = [c.proba[rows] for c, rows in pieces if c.proba is not None]
    if not probas:
        return None
    width = max(p.shape[1] for p in probas)
    if len(probas) == len(pieces) and all(p.shape[1] == width for p in probas):
        return np.concatenate(probas)
    joined = []
    for chunk, rows in pieces:
        wide = np.zeros((len(chunk.value[rows]), width), probas[0].dtype)
        if chunk.proba is None:
            wide[:] = np.nan
        else:
            wide[:, : chunk.proba.shape[1]] = chunk.proba[rows]
        joined.append(wide)
    return np.concatenate(joined)
