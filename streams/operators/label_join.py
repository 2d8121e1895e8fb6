"""The label join: events wait here, with their prediction, until their label is known.

There is one join for each way in which labels arrive (``labels_in_rows.py``: in the row of the
event, shown later; ``labels_by_id.py``: on their own). In all of them the first label wins, an
event is given out for learning once, and memory is bounded: an event expires after
``label_timeout_events`` later events. None of this depends on the size of the micro-batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Batch, ClassName, Floats, Ints
from streams.core.state_dict import State, pack, unpack
from streams.operators.outcomes import (
    NONE,
    Chunk,
    Outcome,
    Pieces,
    ScoredRows,
    join_wide,
    no_label,
    no_labels,
    outcome_of,
)

__all__ = [
    "NONE",
    "LabelJoin",
    "LabelledProbes",
    "Outcome",
    "PushedBatch",
    "ReadyRows",
    "Revealed",
    "ScoredRows",
    "no_label",
    "no_labels",
    "outcome_of",
]


class LabelledProbes(NamedTuple):
    """p probes whose label has become known.

    Attributes:
        batch: events, the probes among them.
        rows: (p,) the rows of the probes.
        place: (p,) the number of events pushed before each.
    """

    batch: Batch
    rows: Ints
    place: Ints


@dataclass(frozen=True, slots=True)
class Revealed:
    """m labels that have become known, in that order.

    Attributes:
        batch: (m,) the events to learn, with ``y``; without probes.
        insert_before: (m,) int64, the row of the current micro-batch just before which each label
            became known (its length: after the last row).
        corrected: ids and new labels of events that were given out earlier with another label.
        probes: probes whose label has become known; None: there are none.
    """

    batch: Batch
    insert_before: Ints
    corrected: tuple[Ints, Array] | None = None
    probes: LabelledProbes | None = None

    def __len__(self) -> int:
        return len(self.insert_before)


class ReadyRows(NamedTuple):
    """Rows of chunks whose label is known, to be given out.

    Attributes:
        pieces: the rows.
        insert_before: as in ``Revealed``, in the order in which labels became known.
        order: the permutation of the joined pieces into that order; None: as they are.
        y: labels in that order; None: those in the rows.
        corrected: as in ``Revealed``.
        wait: in that order, of events in sequences; else None. Where ``y`` is -1, it is the label
            that nothing came.
    """

    pieces: Pieces
    insert_before: Ints
    order: Ints | None = None
    y: Array | None = None
    corrected: tuple[Ints, Array] | None = None
    wait: Floats | None = None


@dataclass(frozen=True, slots=True)
class PushedBatch:
    """A micro-batch in the join whose prediction is not known yet.

    Attributes:
        revealed: the labels that have become known by the end of it.
        chunk: its rows in the join.
        scored: the rows whose prediction and label are both known once it is settled.
    """

    revealed: Revealed
    chunk: Chunk
    scored: ScoredRows

    def settle(
        self, value: Array, proba: Array | None, forecast: Array | None = None
    ) -> ScoredRows:
        """Store the prediction, and return the predictions that have met their labels.

        Args:
            value: (n,) predicted class codes or targets of the micro-batch.
            proba: (n, classes), or None.
            forecast: (n, cells, 2 or 2 + classes) of the next events, or None.
        """
        self.chunk.value, self.chunk.proba, self.chunk.forecast = value, proba, forecast
        return self.scored


class LabelJoin(ABC):
    """Gives out each event for learning when its label becomes known.

    ``push`` takes a micro-batch. What it returns holds the labels that become known by the end of
    it, and its ``settle`` takes the prediction that was made for the micro-batch. ``finish`` gives
    out what still waits at the true end of the stream.

    Args:
        label_timeout_events: an event expires after this many later events.
        segments: whether the learner may see the task or concept of an event.
        exact: whether the learner learns event by event, in step with the stream.
    """

    def __init__(
        self, label_timeout_events: int, segments: bool = False, exact: bool = False
    ) -> None:
        self.label_timeout_events = label_timeout_events
        self.segments = segments
        self.exact = exact
        self._chunks: dict[int, Chunk] = {}
        self._oldest = 0  # number of the first chunk that may have waiting rows
        self._next = 0  # number of the next chunk
        self._pushed = 0  # events pushed so far
        self._last: Array = NONE  # (1,) the last known label; empty before the first micro-batch

    @abstractmethod
    def _ready(self, chunk: Chunk, batch: Batch) -> ReadyRows | None:
        """Return the rows whose label is known by the end of ``batch``, the rows of ``chunk``."""

    @abstractmethod
    def _last_labels(self, pieces: Pieces) -> tuple[Array, Ints]:
        """Return the labels (-1 or NaN: none) of all events that wait at the end of the stream, in
        their order, and the order in which to give them out."""

    def __len__(self) -> int:
        """The number of events that wait for their label."""
        return sum(chunk.waiting for chunk in self._chunks.values())

    def push(self, batch: Batch) -> PushedBatch:
        """Take the next micro-batch. It must be settled before the outcomes of its rows are read,
        and before the state is saved."""
        n = len(batch)
        if not len(self._last):
            assert batch.y is not None, "a stream without labels in its rows gives them as arrivals"
            self._last = np.array([no_label(batch.y)], batch.y.dtype)
        index = np.arange(self._pushed, self._pushed + n)
        chunk = Chunk(self._next, batch.to_learn(self.segments), index)
        self._pushed += n
        if n:
            self._chunks[self._next] = chunk
            self._next += 1
        ready = self._ready(chunk, batch)
        pieces = self._expire()
        expired = np.concatenate([c.batch.ids[rows] for c, rows in pieces]) if pieces else NONE
        return self._reveal(chunk, ready, expired)

    def finish(self, size: int) -> Iterator[tuple[Revealed, ScoredRows]]:
        """Give out what waits at the true end of the stream, ``size`` rows at a time: labels in the
        rows, in the order in which they would become known; other events without a label."""
        for ready in self._remaining(size):
            no_rows = Chunk(-1, ready.pieces[0][0].batch[:0], NONE)
            pushed = self._reveal(no_rows, ready, NONE)
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
        rest.proba = join_wide(pieces, "proba")
        rest.forecast = join_wide(pieces, "forecast")
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield ReadyRows([(rest, rows)], np.zeros(len(rows), np.int64), None, y[rows])

    def _expire(self) -> list[tuple[Chunk, Ints]]:
        """Close and return the rows that have waited for ``label_timeout_events`` later events."""
        expired: list[tuple[Chunk, Ints]] = []
        limit = self._pushed - self.label_timeout_events
        while self._oldest < self._next:
            chunk = self._chunks.get(self._oldest)
            if chunk is not None:
                if chunk.index[0] >= limit:
                    break
                rows = chunk.open_rows()
                rows = rows[chunk.index[rows] < limit]
                if len(rows):
                    expired.append((chunk, rows))
                    self._close(chunk, rows)
                if chunk.waiting:
                    break
            self._oldest += 1
        return expired

    def _close(self, chunk: Chunk, rows: Ints) -> None:
        """Mark rows of a chunk as no longer waiting; drop the chunk with its last row."""
        chunk.close(rows)
        if not chunk.waiting:
            del self._chunks[chunk.number]

    def _reveal(self, chunk: Chunk, ready: ReadyRows | None, expired: Ints) -> PushedBatch:
        """Return the handle of a micro-batch (the rows of ``chunk``).

        Args:
            chunk: its rows.
            ready: the rows whose label has become known.
            expired: ids of the events that have expired.
        """
        corrected = None if ready is None else ready.corrected
        if ready is None or not ready.pieces:
            none = self._last[:0]
            chunk.set_baseline(self._last, NONE, none)
            revealed = Revealed(replace(chunk.batch[:0], y=none), NONE, corrected)
            fates = (NONE, NONE, NONE, expired)
            return PushedBatch(revealed, chunk, ScoredRows([], None, none, None, NONE, fates))
        batch = Batch.gather([(c.batch, rows) for c, rows in ready.pieces])
        if ready.order is not None:
            batch = batch.take(ready.order)
        if ready.y is not None:  # known now, with the classes known now
            batch = replace(batch, y=ready.y, wait=ready.wait, classes=chunk.batch.classes)
        y, insert_before = batch.y, ready.insert_before
        assert y is not None
        unlabelled, mask = NONE, None
        missing = no_labels(y) if ready.wait is None else np.zeros(len(y), np.bool_)
        if np.count_nonzero(missing):
            unlabelled, mask = batch.ids[missing], ~missing
            batch, y, insert_before = batch.take(mask), y[mask], insert_before[mask]
        chunk.set_baseline(self._last, insert_before, y)
        if len(y):
            self._last = y[-1:]
        revealed, probe = _split_probes(batch, insert_before, ready, mask, corrected)
        fates = (revealed.batch.ids, probe, unlabelled, expired)
        n = len(chunk.batch)
        lag = np.zeros_like(insert_before) if self.exact else n - insert_before
        scored = ScoredRows(ready.pieces, ready.order, y, mask, lag, fates, ready.wait)
        return PushedBatch(revealed, chunk, scored)

    def state(self) -> State:
        """Return all events that wait, with their predictions. All micro-batches are settled."""
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
            state["widths"] = _widths([c.proba for c in chunks])
            if (proba := join_wide(pieces, "proba")) is not None:
                state["proba"] = proba
            if (forecast := join_wide(pieces, "forecast")) is not None:
                state["forecast"] = forecast
                state["forecast_widths"] = _widths([c.forecast for c in chunks])
        return state

    def load(self, state: State, classes: tuple[ClassName, ...] = ()) -> None:
        """Restore what ``state`` returned; ``classes`` are the names of the class codes."""
        self._pushed, self._next = state["pushed"], state["next"]
        self._oldest, self._last = state["oldest"], state["last"]
        self._chunks = {}
        if not len(state["numbers"]):
            return
        batch = unpack(state["rows"], classes)
        none = [-1] * len(state["numbers"])
        columns = [state[name].tolist() for name in ("numbers", "lengths", "widths")]
        columns.append(state["forecast_widths"].tolist() if "forecast" in state else none)
        stop = 0
        for number, length, width, cells in zip(*columns, strict=True):
            rows = slice(stop, stop := stop + length)
            chunk = self._chunks[number] = Chunk(number, batch[rows], state["index"][rows])
            chunk.value, chunk.no_change = state["value"][rows], state["no_change"][rows]
            chunk.due = state["due"][rows] if "due" in state else None
            chunk.proba = state["proba"][rows, :width] if width >= 0 else None
            chunk.forecast = state["forecast"][rows, :, :cells] if cells >= 0 else None


def _widths(columns: Sequence[Array | None]) -> Ints:
    """Return the last axis of each column; -1 where there is none."""
    return np.array([-1 if column is None else column.shape[-1] for column in columns], np.int64)


def _split_probes(
    batch: Batch,
    insert_before: Ints,
    ready: ReadyRows,
    mask: NDArray[np.bool_] | None,
    corrected: tuple[Ints, Array] | None,
) -> tuple[Revealed, Ints]:
    """Return the revealed labels with probes apart, and the ids of the probes.

    Args:
        batch: the labelled rows, in the order in which labels became known.
        insert_before: as in ``Revealed``, for these rows.
        ready: where they come from.
        mask: the rows of ``ready`` that have a label; None: all.
        corrected: as in ``Revealed``.
    """
    if batch.probe is None or not np.count_nonzero(batch.probe):
        return Revealed(batch, insert_before, corrected), NONE
    rows, others = np.flatnonzero(batch.probe), np.flatnonzero(~batch.probe)
    probes = LabelledProbes(batch, rows, _places(ready, mask)[rows])
    learn = batch.take(others)
    return Revealed(learn, insert_before[others], corrected, probes), batch.ids[rows]


def _places(ready: ReadyRows, mask: NDArray[np.bool_] | None) -> Ints:
    """Return (m,) the number of events pushed before each row with a label."""
    index = np.concatenate([c.index[rows] for c, rows in ready.pieces])
    index = index if ready.order is None else index[ready.order]
    return index if mask is None else index[mask]
