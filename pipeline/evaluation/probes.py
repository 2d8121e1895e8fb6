"""Probes by segment: held-out events whose label is known, kept to see later what is forgotten.

A stream without tasks is cut into *segments* by time, by count or by drift. Of each, so many probes
are kept as the memory allows, each with the same chance: those whose hash is smallest (bottom-k
sampling, Cohen and Kaplan 2007: a reservoir that hangs on no order and of which two make one).
Where there would be more segments than wanted, neighbours are merged two by two, and new ones are
twice as long: all of the stream stays in sight, in segments of equal length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config.sections import ProbesConfig
from pipeline.evaluation.adwin import Adwin
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.hashing import mix
from streams.core.state_dict import State, pack, unpack
from streams.operators.holdout import HoldOut
from streams.operators.label_join import LabelledProbes, Outcome, no_labels

_ERRORS = 8  # outcomes that are averaged into one value for the drift detector
_AT_ONCE = 256  # micro-batches with probes are folded in; one by one costs several times as much
_CHOICE = 0x70726F62  # another hash than that by which probes are chosen


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the stream, and its probes.

    Attributes:
        begin, end: events predicted before its first, and by its end (so far, while it runs).
        ended: whether the next one has begun.
        rows: (n,) its probes, as they were predicted, with ``y``; None: there are none.
        index: (n,) int64, events predicted before each.
    """

    begin: int
    end: int
    ended: bool
    rows: Batch | None
    index: Ints

    def __len__(self) -> int:
        return len(self.index)


class Probes:
    """The probes of a run, by segment.

    Where micro-batches are cut leaves no trace, and neither does the moment of ``fold``: but for
    drift, which is seen in outcomes, and for which they must have been told of before.
    """

    def __init__(self, config: ProbesConfig, seed: int) -> None:
        self._keep = config.capacity // (config.segments + 1)  # of each segment
        self._hold_out = HoldOut(config.share, seed)
        self._segments = config.segments
        self._seed = seed ^ _CHOICE
        self._length = float(config.cut.events or config.cut.seconds or np.inf)
        self._by_time = config.cut.seconds is not None
        self._until: float | None = None  # when the running segment ends, by event time
        self._drift = Adwin(config.cut.drift) if config.cut.drift is not None else None
        self._errors: Array = np.empty(0)  # of outcomes, not yet averaged
        self.seen = 0  # events predicted
        self.cuts = 0  # segments that have ended, those merged since among them
        self._starts = [0]
        self._kept: list[tuple[Batch | None, Ints]] = [_NOTHING]
        self._waiting: list[LabelledProbes] = []

    def enter(self, batch: Batch) -> None:
        """A micro-batch is about to be predicted: segments end where they are to end."""
        n = len(batch)
        if self._by_time:
            self._by_clock(batch)
        elif self._drift is None:
            while self.seen + n >= self._starts[-1] + self._length:
                if not self._grown():
                    self._cut(self._starts[-1] + int(self._length))
        self.seen += n

    def _by_clock(self, batch: Batch) -> None:
        if not len(batch):
            return
        if self._until is None:
            self._until = float(batch.time[0]) + self._length
        while len(after := np.flatnonzero(batch.time >= self._until)):
            at, now = self.seen + int(after[0]), float(batch.time[after[0]])
            if at > self._starts[-1] and self._grown():  # it runs on, as long as those before it
                self._until = max(self._until + self._length / 2, np.nextafter(self._until, np.inf))
                continue
            if at > self._starts[-1]:
                self._cut(at)
            passed = (now - self._until) // self._length + 1  # segments, in which nothing came
            # A time so large, or a segment so short, that one is lost in the rounding of the other.
            self._until = max(self._until + passed * self._length, np.nextafter(now, np.inf))

    def outcomes(self, outcome: Outcome, counts: Sequence[int], seen: Sequence[int]) -> None:
        """Predictions that have met their labels: where their error changes, a segment ends.

        Args:
            outcome: of several micro-batches.
            counts: how many of its rows each of them gave.
            seen: ``seen`` after each.
        """
        if self._drift is None:
            return
        wrong = (outcome.y != outcome.value).astype(np.float64)
        wrong[no_labels(outcome.value)] = 1.0
        errors = np.concatenate([self._errors, wrong])
        # The micro-batch that each outcome came with, found by what had come before it.
        until = len(self._errors) + np.cumsum(counts)
        whole = len(errors) // _ERRORS
        for i, mean in enumerate(errors[: whole * _ERRORS].reshape(-1, _ERRORS).mean(1).tolist()):
            if self._drift.add(mean):
                at = seen[int(np.searchsorted(until, (i + 1) * _ERRORS))]
                if at > self._starts[-1]:
                    self._cut(at)
        self._errors = errors[whole * _ERRORS :]
        self.fold()
        while len(self._starts) > self._segments + 1:
            self._merge()

    def _grown(self) -> bool:
        """Whether there are as many segments as there may be, and so, in place of an end of the
        running one, those before it have been merged, and all are to be twice as long."""
        if len(self._starts) <= self._segments:
            return False
        self.fold()
        self._merge()
        self._length *= 2
        return True

    def _merge(self) -> None:
        """Of the oldest segments, so many as there may be, each two become one."""
        old = self._segments
        pairs = zip(self._kept[:old:2], self._kept[1:old:2], strict=True)
        self._kept = [self._smallest(_joined([a, b])) for a, b in pairs] + self._kept[old:]
        self._starts = [*self._starts[:old:2], *self._starts[old:]]

    def _cut(self, at: int) -> None:
        self._starts.append(at)
        self._kept.append(_NOTHING)
        self.cuts += 1

    def add(self, held: LabelledProbes) -> None:
        """Takes in probes whose label has come."""
        self._waiting.append(held)
        if len(self._waiting) >= _AT_ONCE and self._drift is None:
            self.fold()

    def holds(self, ids: Ints) -> NDArray[np.bool_]:
        """(n,) whether the event of each id is a probe."""
        return self._hold_out.holds(ids)

    def correct(self, ids: Ints, y: Array) -> None:
        """Labels of events turned out to be these."""
        self.fold()
        self._kept = [
            (rows if rows is None else corrected(rows, ids, y), index) for rows, index in self._kept
        ]

    def fold(self) -> None:
        """Takes the probes that have come since into their segments."""
        if not self._waiting:
            return
        rows = Batch.gather([(held.batch, held.rows) for held in self._waiting])
        index = np.concatenate([held.place for held in self._waiting])
        self._waiting = []
        home = np.searchsorted(self._starts, index, side="right") - 1
        for i in np.unique(home).tolist():
            mine = home == i
            old = [] if self._kept[i][0] is None else [self._kept[i]]
            self._kept[i] = self._smallest(_joined([*old, (rows.take(mine), index[mine])]))

    def _smallest(self, kept: tuple[Batch | None, Ints]) -> tuple[Batch | None, Ints]:
        """Those that stay, in the order of the stream."""
        rows, index = kept
        if rows is None:
            return kept
        if len(index) > self._keep:
            chance = mix(index, self._seed)
            stay = np.argpartition(chance, self._keep)[: self._keep]
            stay = stay[np.argsort(index[stay])]
        elif np.all(index[1:] > index[:-1]):
            return kept
        else:
            stay = np.argsort(index)
        return rows.take(stay), index[stay]

    def segments(self) -> tuple[Segment, ...]:
        """The segments, in the order of the stream; the last one is running. Their columns are
        never written to again."""
        self.fold()
        ends = [*self._starts[1:], self.seen]
        last = len(ends) - 1
        return tuple(
            Segment(begin, end, i < last, rows, index)
            for i, (begin, end, (rows, index)) in enumerate(
                zip(self._starts, ends, self._kept, strict=True)
            )
        )

    def state(self) -> State:
        self.fold()
        rows, index = _joined(self._kept)  # a checkpoint of few large arrays is written sooner
        return {
            "seen": self.seen,
            "cuts": self.cuts,
            "length": None if np.isinf(self._length) else self._length,
            "until": self._until,
            "starts": np.array(self._starts, np.int64),
            "errors": self._errors,
            "drift": {} if self._drift is None else self._drift.state(),
            "counts": np.array([len(index) for _, index in self._kept], np.int64),
            "kept": {} if rows is None else {"rows": pack(rows), "index": index},
        }

    def load(self, state: State, classes: tuple[ClassName, ...]) -> None:
        self.seen, self.cuts, self._until = state["seen"], state["cuts"], state["until"]
        self._length = np.inf if state["length"] is None else state["length"]
        self._starts = state["starts"].tolist()
        self._errors = state["errors"]
        if self._drift is not None:
            self._drift.load(state["drift"])
        self._waiting = []
        self._kept = [_NOTHING] * len(self._starts)
        if kept := state["kept"]:
            rows, stop = unpack(kept["rows"], classes), 0
            for i, count in enumerate(state["counts"].tolist()):
                mine = slice(stop, stop := stop + count)
                if count:
                    self._kept[i] = rows[mine], kept["index"][mine]


_NOTHING: tuple[Batch | None, Ints] = (None, np.empty(0, np.int64))


def corrected(rows: Batch, ids: Ints, y: Array) -> Batch:
    """The rows, those with one of ``ids`` (m,) with its label out of ``y`` (m,)."""
    assert rows.y is not None
    place = np.argsort(ids, kind="stable")
    at = np.searchsorted(ids[place], rows.ids, side="right") - 1
    known = ids[place[at]] == rows.ids
    return replace(rows, y=np.where(known, y[place[at]], rows.y)) if known.any() else rows


def _joined(parts: Sequence[tuple[Batch | None, Ints]]) -> tuple[Batch | None, Ints]:
    filled = [(rows, index) for rows, index in parts if rows is not None]
    if len(filled) < 2:
        return filled[0] if filled else _NOTHING
    rows = Batch.gather([(rows, slice(None)) for rows, _ in filled])
    return rows, np.concatenate([index for _, index in filled])
