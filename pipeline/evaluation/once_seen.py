"""Once-seen events: learned once, kept out of every replay buffer, and evaluated again later.

The accuracy on them against the number of updates since shows how fast the model forgets an event
that it has seen once (after Orhan 2023, "Recognition, recall, and retention of few-shot memories in
large language models").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config.sections import OnceSeenConfig
from pipeline.evaluation.probes import corrected
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.hashing import mix
from streams.core.state_dict import State, pack, unpack
from streams.operators.holdout import HoldOut

_CHOSEN, _STAY = 0x6F6E6365, 0x73746179  # salts: independent of the probes, and of each other
_FOLD = 256  # events that are added to the sample at a time


@dataclass(frozen=True, slots=True)
class OnceSeenSample:
    """A sample of the once-seen events, in the order in which they were learned.

    Attributes:
        rows: (n,) the events as they were learned, with ``y``; None: the sample is empty.
        place: (n,) int64, number of once-seen events learned before each.
        learned: (n,) int64, version of the learner just after it learned each.
    """

    rows: Batch | None
    place: Ints
    learned: Ints

    def __len__(self) -> int:
        return len(self.place)


class OnceSeen:
    """The once-seen events of a run, as a bounded sample.

    The j-th newest is kept with probability c/j, by its hash, so each power of ten of j has about
    as many events, and short ages are measured as well as long ones. Of N events that keeps about
    c * (1 + ln(N / c)); c is chosen so that this equals the capacity. c and c/j only ever fall, so
    a dropped event is never wanted again, and the result does not depend on when events are
    dropped.

    Args:
        config: share and capacity.
        seed: seed of the job.
    """

    def __init__(self, config: OnceSeenConfig, seed: int) -> None:
        self._chosen = HoldOut(config.share, seed ^ _CHOSEN)
        self._seed = seed ^ _STAY
        self._capacity = config.capacity
        self._seen = 0  # once-seen events learned so far
        self._kept = _NOTHING
        self._waiting: list[tuple[Batch, Ints, Ints]] = []
        self._pending = 0  # events in _waiting

    def holds(self, ids: Ints) -> NDArray[np.bool_]:
        """Return (n,) whether each id is that of a once-seen event."""
        return self._chosen.holds(ids)

    def learned(self, batch: Batch, version: int) -> None:
        """Add those of the events that were just learned, with the version of the learner now."""
        chosen = np.flatnonzero(self.holds(batch.ids))
        if not (n := len(chosen)):
            return
        place = np.arange(self._seen, self._seen + n)
        self._waiting.append((batch.take(chosen), place, np.full(n, version)))
        self._seen += n
        self._pending += n
        if self._pending >= _FOLD:
            self._fold()

    def correct(self, ids: Ints, y: Array) -> None:
        """Replace the labels of events by corrected ones."""
        kept = self.kept()
        if kept.rows is not None:
            self._kept = replace(kept, rows=corrected(kept.rows, ids, y))

    def kept(self) -> OnceSeenSample:
        """Return the sample. Its columns are never written to again."""
        self._fold()
        return self._kept

    def _fold(self) -> None:
        """Add the waiting events to the sample, and drop what exceeds its capacity."""
        if not self._waiting:
            return
        parts = list(self._waiting)
        if self._kept.rows is not None:
            parts.insert(0, (self._kept.rows, self._kept.place, self._kept.learned))
        self._waiting, self._pending = [], 0
        place = np.concatenate([place for _, place, _ in parts])
        learned = np.concatenate([learned for _, _, learned in parts])
        rows = Batch.gather([(rows, slice(None)) for rows, _, _ in parts])
        if self._seen > self._capacity:
            chance = mix(place, self._seed) / 2.0**64
            stay = chance * (self._seen - place) < dense(self._seen, self._capacity)
            rows, place, learned = rows.take(stay), place[stay], learned[stay]
        self._kept = OnceSeenSample(rows, place, learned)

    def state(self) -> State:
        kept = self.kept()
        return {
            "seen": self._seen,
            "place": kept.place,
            "learned": kept.learned,
            "rows": {} if kept.rows is None else pack(kept.rows),
        }

    def load(self, state: State, classes: tuple[ClassName, ...]) -> None:
        self._seen, self._waiting, self._pending = state["seen"], [], 0
        rows = unpack(state["rows"], classes) if state["rows"] else None
        self._kept = OnceSeenSample(rows, state["place"], state["learned"])


_NOTHING = OnceSeenSample(None, np.empty(0, np.int64), np.empty(0, np.int64))


def dense(n: int, capacity: int) -> float:
    """Return the c for which c * (1 + ln(n / c)) is the capacity; n is above the capacity."""
    c = capacity / (1 + math.log(n))
    for _ in range(30):  # Newton's method; from below it rises to c and never beyond
        step = (capacity - c * (1 + math.log(n / c))) / math.log(n / c)
        c += step
        if abs(step) <= 1e-12 * c:
            break
    return c
