"""Probes by segment: held-out events with known labels, kept to measure forgetting later.

A stream without tasks is cut into *segments* by time, by count or by drift. Of each segment an
unbiased sample of probes is kept, as large as the capacity allows: those with the smallest hash
(bottom-k sampling, Cohen and Kaplan 2007; it does not depend on the order, and two samples merge
into one). At the limit of segments, neighbours are merged in pairs and new segments are twice as
long: the segments cover the whole stream in equal lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config.sections import ProbesConfig
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.hashing import mix
from streams.core.state_dict import State, pack, unpack
from streams.core.statistics.adwin import Adwin
from streams.operators.holdout import HoldOut
from streams.operators.label_join import LabelledProbes, Outcome, no_labels

_ERRORS = 8  # outcomes averaged into one value of the drift detector
_FOLD = 256  # micro-batches with probes folded at a time; one by one is several times slower
_CHOICE = 0x70726F62  # salt: independent of the hash that chooses probes


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the stream with its probes.

    Attributes:
        begin, end: events predicted before its first event, and before its end (so far, for the
            current segment).
        ended: whether the next segment has begun.
        rows: (n,) the probes as they were predicted, with ``y``; None: no probes.
        index: (n,) int64, events predicted before each probe.
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

    The result depends neither on the micro-batches nor on when ``fold`` is called. Drift is the
    exception: it is detected in outcomes, which must be reported first.

    Args:
        config: share, capacity and segments.
        seed: seed of the job.

    Attributes:
        seen: number of events predicted.
        cuts: number of segments that have ended, before merges.
    """

    def __init__(self, config: ProbesConfig, seed: int) -> None:
        self._keep = config.capacity // (config.segments + 1)  # probes per segment
        self._hold_out = HoldOut(config.share, seed)
        self._segments = config.segments
        self._seed = seed ^ _CHOICE
        self._length = float(config.cut.events or config.cut.seconds or np.inf)
        self._by_time = config.cut.seconds is not None
        self._until: float | None = None  # event time at which the current segment ends
        self._drift = Adwin(config.cut.drift) if config.cut.drift is not None else None
        self._errors: Array = np.empty(0)  # errors of outcomes, not yet averaged
        self.seen = 0
        self.cuts = 0
        self._starts = [0]
        self._kept: list[tuple[Batch | None, Ints]] = [_NO_PROBES]
        self._waiting: list[LabelledProbes] = []

    def enter(self, batch: Batch) -> None:
        """Count a micro-batch that is about to be predicted, and end segments within it."""
        n = len(batch)
        if self._by_time:
            self._cut_by_time(batch)
        elif self._drift is None:
            while self.seen + n >= self._starts[-1] + self._length:
                if not self._merged_instead():
                    self._cut(self._starts[-1] + int(self._length))
        self.seen += n

    def _cut_by_time(self, batch: Batch) -> None:
        """End segments by event time."""
        if not len(batch):
            return
        if self._until is None:
            self._until = float(batch.time[0]) + self._length
        while len(after := np.flatnonzero(batch.time >= self._until)):
            at, now = self.seen + int(after[0]), float(batch.time[after[0]])
            if (
                at > self._starts[-1] and self._merged_instead()
            ):  # it becomes as long as the merged ones
                self._until = max(self._until + self._length / 2, np.nextafter(self._until, np.inf))
                continue
            if at > self._starts[-1]:
                self._cut(at)
            passed = (now - self._until) // self._length + 1  # segments without events
            # nextafter: a segment may be too short for the precision of a large time.
            self._until = max(self._until + passed * self._length, np.nextafter(now, np.inf))

    def outcomes(self, outcome: Outcome, counts: Sequence[int], seen: Sequence[int]) -> None:
        """Look for drift in predictions whose labels have arrived; end a segment at each drift.

        Args:
            outcome: outcomes of several micro-batches.
            counts: number of outcomes by micro-batch.
            seen: ``seen`` after each micro-batch.
        """
        if self._drift is None:
            return
        wrong = (outcome.y != outcome.value).astype(np.float64)
        wrong[no_labels(outcome.value)] = 1.0
        errors = np.concatenate([self._errors, wrong])
        # Outcomes up to the end of each micro-batch.
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

    def _merged_instead(self) -> bool:
        """Merge the ended segments in pairs if their number is at its limit, and double the length.

        Returns whether they were merged: then the current segment does not end yet.
        """
        if len(self._starts) <= self._segments:
            return False
        self.fold()
        self._merge()
        self._length *= 2
        return True

    def _merge(self) -> None:
        """Merge the oldest segments, up to the limit, in pairs."""
        old = self._segments
        pairs = zip(self._kept[:old:2], self._kept[1:old:2], strict=True)
        self._kept = [self._smallest(_concat([a, b])) for a, b in pairs] + self._kept[old:]
        self._starts = [*self._starts[:old:2], *self._starts[old:]]

    def _cut(self, at: int) -> None:
        """End the current segment before event ``at``."""
        self._starts.append(at)
        self._kept.append(_NO_PROBES)
        self.cuts += 1

    def add(self, probes: LabelledProbes) -> None:
        """Add probes whose labels have arrived."""
        self._waiting.append(probes)
        if len(self._waiting) >= _FOLD and self._drift is None:
            self.fold()

    def holds(self, ids: Ints) -> NDArray[np.bool_]:
        """Return (n,) whether each id is that of a probe."""
        return self._hold_out.holds(ids)

    def correct(self, ids: Ints, y: Array) -> None:
        """Replace the labels of events by corrected ones."""
        self.fold()
        self._kept = [
            (rows if rows is None else corrected(rows, ids, y), index) for rows, index in self._kept
        ]

    def fold(self) -> None:
        """Add the waiting probes to their segments."""
        if not self._waiting:
            return
        rows = Batch.gather([(probes.batch, probes.rows) for probes in self._waiting])
        index = np.concatenate([probes.place for probes in self._waiting])
        self._waiting = []
        segment = np.searchsorted(self._starts, index, side="right") - 1
        for i in np.unique(segment).tolist():
            mine = segment == i
            old = [] if self._kept[i][0] is None else [self._kept[i]]
            self._kept[i] = self._smallest(_concat([*old, (rows.take(mine), index[mine])]))

    def _smallest(self, kept: tuple[Batch | None, Ints]) -> tuple[Batch | None, Ints]:
        """Return the probes with the smallest hash, at most ``_keep``, in stream order."""
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
        """Return the segments in stream order; the last is the current one. Their columns are never
        written to again."""
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
        rows, index = _concat(self._kept)  # few large arrays are faster to write
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
        self._kept = [_NO_PROBES] * len(self._starts)
        if kept := state["kept"]:
            rows, stop = unpack(kept["rows"], classes), 0
            for i, count in enumerate(state["counts"].tolist()):
                mine = slice(stop, stop := stop + count)
                if count:
                    self._kept[i] = rows[mine], kept["index"][mine]


_NO_PROBES: tuple[Batch | None, Ints] = (None, np.empty(0, np.int64))


def corrected(rows: Batch, ids: Ints, y: Array) -> Batch:
    """Return the rows with the labels ``y`` (m,) at those whose id is in ``ids`` (m,)."""
    assert rows.y is not None
    order = np.argsort(ids, kind="stable")
    last = order[np.searchsorted(ids[order], rows.ids, side="right") - 1]  # the newest correction
    known = ids[last] == rows.ids
    return replace(rows, y=np.where(known, y[last], rows.y)) if known.any() else rows


def _concat(parts: Sequence[tuple[Batch | None, Ints]]) -> tuple[Batch | None, Ints]:
    """Return the probes of several segments as one, (rows, index)."""
    filled = [(rows, index) for rows, index in parts if rows is not None]
    if len(filled) < 2:
        return filled[0] if filled else _NO_PROBES
    rows = Batch.gather([(rows, slice(None)) for rows, _ in filled])
    return rows, np.concatenate([index for _, index in filled])
