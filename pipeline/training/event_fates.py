"""Prove that every event of the stream has met exactly one fate."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streams.core.batch import Array, Batch
from streams.core.hashing import mix
from streams.core.state_dict import State
from streams.core.stream import Cursor
from streams.operators.label_join import Outcome

FATES = ("learned", "probe", "expired", "dead", "unlabelled")

_FOLD = 4096  # events


class LedgerError(Exception):
    """Events were lost or repeated."""


@dataclass
class _Tally:
    """A count of ids and a 128-bit hash of their multiset: the sums, modulo 2^64, of two hashes of
    each id (Clarke et al. 2003, MSet-Add-Hash). Order and grouping make no difference."""

    count: int = 0
    low: int = 0
    high: int = 0

    def add(self, ids: Array) -> None:
        self.count += len(ids)
        self.low = (self.low + int(mix(ids, 3).sum())) % 2**64
        self.high = (self.high + int(mix(ids, 4).sum())) % 2**64

    def __add__(self, other: _Tally) -> _Tally:
        return _Tally(
            self.count + other.count,
            (self.low + other.low) % 2**64,
            (self.high + other.high) % 2**64,
        )

    def state(self) -> State:
        return {"count": self.count, "hash": f"{self.high:016x}{self.low:016x}"}

    @classmethod
    def of(cls, state: State) -> _Tally:
        return cls(state["count"], int(state["hash"][16:], 16), int(state["hash"][:16], 16))


@dataclass
class _Span:
    """Positions [first, next) of one partition that have been read, ``count`` of them."""

    first: int
    next: int
    count: int


@dataclass
class Ledger:
    """Keep a range of positions for each partition, and a count and hash of ids for each fate.

    The state is a few bytes however long the stream. Additions wait and are folded in blocks.

    Attributes:
        gapless: positions that were skipped are an error. The first position of a partition may be
            any, and labels may skip some.
        events: events that have come in, the dead ones among them.
    """

    gapless: bool = True
    _spans: dict[str, _Span] = field(default_factory=dict)
    _entered: _Tally = field(default_factory=_Tally)
    _fates: dict[str, _Tally] = field(default_factory=lambda: {fate: _Tally() for fate in FATES})
    _batches: list[Batch] = field(default_factory=list)
    _outcomes: list[Outcome] = field(default_factory=list)
    _folded: int = 0  # events, when it was last folded
    events: int = 0
    _tombstones: dict[str, int] = field(default_factory=lambda: {"events": 0, "labels": 0})

    def begin(self, cursor: Cursor) -> None:
        """Set where reading begins: the first position of these partitions must be this one."""
        for partition, position in cursor.items():
            self._spans.setdefault(partition, _Span(position, position, 0))

    def enter(self, batch: Batch) -> None:
        """Add the events of a micro-batch; those that are dead have met their fate."""
        self._batches.append(batch)
        self.events += batch.events

    def settle(self, outcome: Outcome) -> None:
        """Add the fates of events."""
        self._outcomes.append(outcome)
        if self.events - self._folded >= _FOLD:  # however few of them have met their label
            self.fold()

    def fold(self) -> None:
        """Add what waits to positions, counts and hashes. Raise ``LedgerError``."""
        self._folded = self.events
        outcomes, self._outcomes = self._outcomes, []
        for fate in ("learned", "probe", "unlabelled", "expired"):
            ids = [column for o in outcomes if len(column := getattr(o, fate))]
            if ids:
                self._fates[fate].add(np.concatenate(ids))
        batches, self._batches = self._batches, []
        if not batches:
            return
        self._entered.add(np.concatenate([b.ids for b in batches]))
        partition = [b.partition for b in batches]
        offset = [b.offset for b in batches]
        dead = [d for b in batches for d in b.dead if not d.label]
        if dead:
            dead_ids = np.array([d.id for d in dead], np.int64)
            self._entered.add(dead_ids)
            self._fates["dead"].add(dead_ids)
            partition.append(np.array([d.partition for d in dead]))
            offset.append(np.array([d.offset for d in dead]))
        deleted = [b.tombstones for b in batches if b.tombstones]
        for t in deleted:
            partition.append(t.partition[~t.label])
            offset.append(t.offset[~t.label])
            self._tombstones["events"] += int((~t.label).sum())
        self._extend("", np.concatenate(partition), np.concatenate(offset))
        labels = [(b.arrivals.partition, b.arrivals.offset) for b in batches if b.arrivals]
        if bad := [d for b in batches for d in b.dead if d.label]:
            labels.append((np.array([d.partition for d in bad]), np.array([d.offset for d in bad])))
        labels += [(t.partition[t.label], t.offset[t.label]) for t in deleted]
        self._tombstones["labels"] += sum(int(t.label.sum()) for t in deleted) + sum(
            int(b.arrivals.withdrawals.sum()) for b in batches if b.arrivals
        )
        if labels:
            partitions, offsets = zip(*labels, strict=True)
            self._extend("labels/", np.concatenate(partitions), np.concatenate(offsets))

    def _extend(self, prefix: str, partition: Array, offset: Array) -> None:
        if not len(partition):
            return
        parts = partition[:1] if (partition == partition[0]).all() else np.unique(partition)
        for part in parts.tolist():
            offsets = np.sort(offset if len(parts) == 1 else offset[partition == part])
            low, high, n = int(offsets[0]), int(offsets[-1]), len(offsets)
            span = self._spans.setdefault(f"{prefix}{part}", _Span(low, low, 0))
            again = offsets[1:][offsets[1:] == offsets[:-1]]
            if low < span.next or len(again):
                position = low if low < span.next else again[0]
                raise LedgerError(
                    f"partition {prefix}{part}: position {position} was read a second time (the "
                    f"stream had been read up to {span.next}); a stream must go on from its cursor"
                )
            if self.gapless and not prefix and high + 1 - span.next > n:
                after = np.append(span.next - 1, offsets)
                gap = int(np.argmax(np.diff(after) > 1))
                raise LedgerError(
                    f"partition {part}: positions {after[gap] + 1} to {after[gap + 1] - 1} were "
                    "passed over: they were lost, or never were. A stream that has gaps between "
                    "its positions says so (Kafka: without stream.gaps: refuse; a class: "
                    "gapless = False)"
                )
            span.next, span.count = high + 1, span.count + n

    def cursor(self) -> Cursor:
        """Return where reading goes on."""
        self.fold()
        return {partition: span.next for partition, span in sorted(self._spans.items())}

    @staticmethod
    def cursor_of(state: State) -> Cursor:
        """Return the cursor of a ledger of this state."""
        return {name: after for name, _, after, _ in state["positions"]}

    def fates(self) -> dict[str, int]:
        """Return the number of events of each fate."""
        self.fold()
        return {fate: tally.count for fate, tally in self._fates.items()}

    def tombstones(self) -> dict[str, int]:
        """Return the number of records without a value, of ``events`` and of ``labels``."""
        self.fold()
        return dict(self._tombstones)

    def verify(self) -> None:
        """Check, at the true end of a stream, that the fates add up to what came in, in number and
        in hash. Raise ``LedgerError``.
        """
        self.fold()
        settled = _Tally()
        for tally in self._fates.values():
            settled = settled + tally
        if settled != self._entered:
            raise LedgerError(
                f"{self._entered.count} events came in and {settled.count} met a fate, or not the "
                f"same ones: {self.fates()}. This is a defect: please report it with the job file"
            )

    def state(self) -> State:
        self.fold()
        # As it was before tombstones were counted, where there is none.
        counted = any(self._tombstones.values())
        tombstones = {"tombstones": dict(self._tombstones)} if counted else {}
        return tombstones | {
            "events": self.events,
            "entered": self._entered.state(),
            "fates": {fate: tally.state() for fate, tally in self._fates.items()},
            "positions": [
                [name, s.first, s.next, s.count] for name, s in sorted(self._spans.items())
            ],
        }

    def load(self, state: State) -> None:
        self.events = state["events"]
        self._entered = _Tally.of(state["entered"])
        self._fates = {fate: _Tally.of(state["fates"][fate]) for fate in FATES}
        self._spans = {name: _Span(*span) for name, *span in state["positions"]}
        self._tombstones = dict(state.get("tombstones", {"events": 0, "labels": 0}))
        self._batches, self._outcomes, self._folded = [], [], self.events
