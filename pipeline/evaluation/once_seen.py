"""Events that are learned once and kept out of every memory, to be asked about later.

How well they are known after so many updates of the model is how fast it forgets what it has seen
once (after Orhan 2023, "Recognition, recall, and retention of few-shot memories in large language
models").
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

_CHOSEN, _STAY = 0x6F6E6365, 0x73746179  # other hashes than those of probes, and than each other
_AT_ONCE = 256  # events are folded in


@dataclass(frozen=True, slots=True)
class OnceSeenSample:
    """Once-seen events that are kept, in the order in which they were learned.

    Attributes:
        rows: (n,) as they were learned, with ``y``; None: there are none.
        place: (n,) int64, once-seen events learned before each.
        learned: (n,) int64, the learner's version just after it had learned each.
    """

    rows: Batch | None
    place: Ints
    learned: Ints

    def __len__(self) -> int:
        return len(self.place)


class OnceSeen:
    """The once-seen events of a run.

    The j-th from the end is kept with a chance of c/j, by its hash: of each power of ten of j there
    are about as many, and short times are known as well as long ones. Of N in all that keeps about
    c * (1 + ln(N / c)), and c is such that this is the capacity. As c and c/j can only fall, what
    is dropped would never have come back, and the moment when that is looked after leaves no trace.
    """

    def __init__(self, config: OnceSeenConfig, seed: int) -> None:
        self._chosen = HoldOut(config.share, seed ^ _CHOSEN)
        self._seed = seed ^ _STAY
        self._capacity = config.capacity
        self._seen = 0  # learned so far
        self._kept = _NOTHING
        self._waiting: list[tuple[Batch, Ints, Ints]] = []
        self._waits = 0  # events in there

    def holds(self, ids: Ints) -> NDArray[np.bool_]:
        """(n,) whether the event of each id is one of them, if it is learned."""
        return self._chosen.holds(ids)

    def learned(self, batch: Batch, version: int) -> None:
        """Events were learned, and the learner is at this version now."""
        chosen = np.flatnonzero(self.holds(batch.ids))
        if not (n := len(chosen)):
            return
        place = np.arange(self._seen, self._seen + n)
        self._waiting.append((batch.take(chosen), place, np.full(n, version)))
        self._seen += n
        self._waits += n
        if self._waits >= _AT_ONCE:
            self._fold()

    def correct(self, ids: Ints, y: Array) -> None:
        """Labels of events turned out to be these."""
        kept = self.kept()
        if kept.rows is not None:
            self._kept = replace(kept, rows=corrected(kept.rows, ids, y))

    def kept(self) -> OnceSeenSample:
        """Those that are kept. Their columns are never written to again."""
        self._fold()
        return self._kept

    def _fold(self) -> None:
        if not self._waiting:
            return
        parts = list(self._waiting)
        if self._kept.rows is not None:
            parts.insert(0, (self._kept.rows, self._kept.place, self._kept.learned))
        self._waiting, self._waits = [], 0
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
        self._seen, self._waiting, self._waits = state["seen"], [], 0
        rows = unpack(state["rows"], classes) if state["rows"] else None
        self._kept = OnceSeenSample(rows, state["place"], state["learned"])


_NOTHING = OnceSeenSample(None, np.empty(0, np.int64), np.empty(0, np.int64))


def dense(n: int, capacity: int) -> float:
    """The c at which c * (1 + ln(n / c)) is the capacity, for n above that."""
    c = capacity / (1 + math.log(n))
    for _ in range(30):  # by Newton from below, where it rises to c and never beyond
        step = (capacity - c * (1 + math.log(n / c))) / math.log(n / c)
        c += step
        if abs(step) <= 1e-12 * c:
            break
    return c
