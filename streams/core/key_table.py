"""Give keys rows of a table of fixed size, however many keys come."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Ints
from streams.core.errors import StreamError
from streams.core.hashing import U64, mix
from streams.core.state_dict import State

WAYS = 8
"""Rows of one set: a key may have any row of its set. Eight keys of int64 fill a line of cache."""

_FREE = np.iinfo(np.int64).min
_NEVER = np.iinfo(np.int64).min  # when a free row was last seen
# A comparison of eight ways is eight bytes, of which one at most is 1. Times this, the upper three
# bits of such a word are the number of that byte.
_WAY = U64(sum(way << (61 - 8 * way) for way in range(WAYS)))
_61, _32 = U64(61), U64(32)
_GOLDEN = U64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio


class Admitted(NamedTuple):
    """Rows that keys were given in one call.

    Attributes:
        rows: (a,) int64. What a caller keeps for these rows is of another key, or of none.
        keys: (a,) int64.
    """

    rows: Ints
    keys: Ints


_NONE = Admitted(np.zeros(0, np.int64), np.zeros(0, np.int64))


class KeyTable:
    """A bounded map from int64 keys to rows ``0..rows - 1``.

    The rows are divided into sets of eight, as in a set-associative cache, and a hash of the key
    chooses its set. So a lookup compares eight keys, and some keys stay out of a full set while
    other sets have room: twice as many rows as keys leave out 0.8 % of them.

    A key gets a row once it has come ``admit_after`` times. Until then its occurrences are counted
    in a ``CountMinSketch``, which forgets with time (TinyLFU: Einziger, Friedman and Manes 2017).
    Keys that come once get no row. A new key takes a free row of its set, else the one whose key
    was seen least recently, if that was more than ``min_age`` events ago. Else it stays out, and
    is tried again when it comes again. Among new keys of one set, the lowest comes first.

    The key -2**63 marks a free row. As a key it counts as -2**63 + 1.

    Args:
        rows: how many, rounded up to a multiple of eight.
        admit_after: occurrences before a key gets a row, 1 to 255.
        min_age: events for which a row is never taken from its key after it was seen.

    Raises:
        ValueError: an argument is out of its range.

    Attributes:
        rows: the number of rows.
    """

    def __init__(self, rows: int, admit_after: int = 2, min_age: int = 10_000) -> None:
        if rows < 1:
            raise ValueError(f"a table needs at least 1 row, not {rows}")
        if not 1 <= admit_after <= 255:
            raise ValueError(f"admit_after is from 1 to 255, not {admit_after}")
        if min_age < 0:
            raise ValueError(f"min_age is a number of events, not {min_age}")
        sets = -(-rows // WAYS)
        self.rows = sets * WAYS
        self.admit_after = admit_after
        self.min_age = min_age
        self._sets = U64(sets)
        self._keys = np.full((sets, WAYS), _FREE)
        self._seen = np.full((sets, WAYS), _NEVER)
        self._sketch = CountMinSketch(self.rows) if admit_after > 1 else None
        self._clock = 0

    def find(self, keys: Ints) -> Ints:
        """Return the row of each of the keys, of any shape; -1 where a key has no row."""
        flat = _legal(keys.reshape(-1))
        return self._find(flat, self._set(flat)).reshape(keys.shape)

    def observe(self, keys: Ints, rows: Ints | None = None) -> Admitted:
        """Count (m,) occurrences of keys, refresh their rows, and give rows to new keys.

        A key that comes several times counts as often. ``rows`` (m,) are those that ``find`` has
        returned for the keys, where it was asked since the last call.
        """
        keys = _legal(keys)
        if rows is None:
            rows = self._find(keys, self._set(keys))
        return self._observe(keys, rows)[0]

    def observe_and_find(self, keys: Ints, rows: Ints | None = None) -> tuple[Admitted, Ints]:
        """As ``observe``. Return also what ``find`` returns for the (m,) keys afterwards."""
        keys = _legal(keys)
        if rows is None:
            rows = self._find(keys, self._set(keys))
        admitted, absent = self._observe(keys, rows)
        if len(admitted.rows):
            # A key of this call keeps its row: it was seen now.
            late, rows = keys[absent], rows.copy()
            rows[absent] = self._find(late, self._set(late))
        return admitted, rows

    def observe_in_turn(self, keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Let (m,) events pass one after another, each with its key, which has a row from then on.

        The result is the same however events are cut into calls: a row may be taken from a key of
        the same call. For a table with ``admit_after`` 1 and ``min_age`` 0.

        Returns:
            (m,) the row of each event, and (m,) whether its key was given the row by it: what a
            caller keeps for the row is then of another key.
        """
        assert self._sketch is None
        assert not self.min_age
        keys = _legal(keys)
        rows = self._find(keys, self._set(keys)).copy()
        new = np.zeros(len(keys), np.bool_)
        table, seen = self._keys.reshape(-1), self._seen.reshape(-1)
        clock = self._clock + 1 + np.arange(len(keys))
        done = 0
        while len(absent := np.flatnonzero(rows[done:] < 0)):
            i = done + int(absent[0])
            seen[rows[done:i]] = clock[done:i]  # of equal rows the last stays
            first = int(self._set(keys[i : i + 1])[0]) * WAYS
            row = first + int(seen[first : first + WAYS].argmin())
            rows[i:][keys[i:] == table[row]] = -1
            rows[i:][keys[i:] == keys[i]] = row
            table[row], seen[row], new[i] = keys[i], clock[i], True
            done = i + 1
        seen[rows[done:]] = clock[done:]
        self._clock += len(keys)
        return rows, new

    def _observe(self, keys: Ints, rows: Ints) -> tuple[Admitted, Ints]:
        """As ``observe``, for keys with these rows. Return also which keys (k,) had none."""
        seen = self._seen.reshape(-1)
        absent: Ints = (rows < 0).nonzero()[0]
        if not len(absent):
            seen[rows] = self._clock
            return _NONE, absent
        seen[rows[rows >= 0]] = self._clock
        new, counts = _counted(keys[absent])
        if self._sketch is not None:
            new = new[self._sketch.add(new, counts) >= self.admit_after]
        return (self._admit(new) if len(new) else _NONE), absent

    def _admit(self, new: Ints) -> Admitted:
        """Give rows to different keys that have none, as far as their sets have rows to give."""
        sets = self._set(new)
        order = np.argsort(sets, kind="stable")
        new, sets = new[order], sets[order]
        position = np.arange(len(new))
        rank = position - np.searchsorted(sets, sets)  # among the new keys of its set
        seen = self._seen[sets]
        oldest = np.argsort(seen, axis=1, kind="stable")  # free ways first
        way = oldest[position, np.minimum(rank, WAYS - 1)]
        gets = (rank < WAYS) & (seen[position, way] < self._clock - self.min_age)
        rows, new = (sets * WAYS + way)[gets], new[gets]
        self._keys.reshape(-1)[rows] = new
        self._seen.reshape(-1)[rows] = self._clock
        return Admitted(rows, new)

    def advance(self, events: int) -> None:
        """Let a number of events pass."""
        self._clock += events

    def __len__(self) -> int:
        """Return the number of keys that have a row."""
        return int(np.count_nonzero(self._keys != _FREE))

    def memory_bytes(self) -> int:
        """Return the bytes of the table, which are the same with and without keys."""
        sketch = 0 if self._sketch is None else self._sketch.memory_bytes()
        return self._keys.nbytes + self._seen.nbytes + sketch

    def state(self) -> State:
        """Return keys and last use of the occupied rows, the clock, and the counts of others."""
        occupied = np.flatnonzero(self._keys.reshape(-1) != _FREE)
        state: State = {
            "rows": occupied.astype(np.int32),
            "keys": self._keys.reshape(-1)[occupied],
            "seen": self._seen.reshape(-1)[occupied],
            "clock": self._clock,
        }
        sketch = self._sketch.state() if self._sketch is not None else {}
        return {**state, "sketch": sketch} if sketch else state

    def load(self, state: State) -> None:
        """Restore what ``state`` returned; or what ``servable`` did: the table then only finds.

        Raises:
            StreamError: the keys of the state have other sets than here.
        """
        if "rows" not in state:
            self._keys = np.reshape(state["keys"], (-1, WAYS))
            return
        if (self._set(state["keys"]) != state["rows"] // WAYS).any():
            raise StreamError(
                "the state is of an everlearn that gave keys other places: learn anew, or resume "
                "with the everlearn that wrote it"
            )
        self._keys = np.full(self._seen.shape, _FREE)  # that before it may be a servable's
        self._seen.fill(_NEVER)
        self._keys.reshape(-1)[state["rows"]] = state["keys"]
        self._seen.reshape(-1)[state["rows"]] = state["seen"]
        self._clock = state["clock"]
        if self._sketch is not None:
            self._sketch.load(state.get("sketch", {}))

    def servable(self) -> State:
        """Return what ``find`` needs: the key of each row, in a view of the table (rows,)."""
        return {"keys": self._keys.reshape(-1)}

    def _set(self, keys: Ints) -> Ints:
        """Return the set of each of (m,) keys: the upper half of a hash, as a share of the sets.

        The hash is a product (Knuth 1998, "The Art of Computer Programming" 3, 6.4), which spreads
        hashes as well as numbers in a row.
        """
        sets: Array = keys.view(U64) * _GOLDEN
        sets >>= _32
        sets *= self._sets
        sets >>= _32
        return sets.view(np.int64)

    def _find(self, keys: Ints, sets: Ints) -> Ints:
        match = self._keys.take(sets, 0) == keys[:, None]
        word = match.view("<u8")[:, 0]
        way = word * _WAY
        way >>= _61
        rows: Ints = sets * WAYS
        rows += way.view(np.int64)
        rows[word == 0] = -1
        return rows


class CountMinSketch:
    """How often keys came lately, never too low but for forgetting, in four rows of counters.

    An occurrence raises only those of the four counters of its key that are lowest (conservative
    update; Estan and Varghese 2002). Products with odd numbers name the four (Dietzfelbinger et al.
    1997, "A Reliable Randomized Algorithm for the Closest-Pair Problem"). Counts stop at 255. All
    are halved when twice as many occurrences as ``keys`` were counted, so that old ones are
    forgotten. A key that never came is then taken for one that did with a probability below 2.5 %.

    Args:
        keys: about how many keys are counted at a time. A row has four counters for each.
    """

    HASHES = 4

    def __init__(self, keys: int) -> None:
        bits = (4 * keys - 1).bit_length()
        self._width = 1 << bits
        self._shift = U64(64 - bits)
        self._first = np.arange(self.HASHES, dtype=U64)[:, None] << U64(bits)  # of each row
        self._limit = 2 * keys
        self._counts = np.zeros((self.HASHES, self._width), np.uint8)
        self._added = 0

    def add(self, keys: Ints, counts: Ints) -> Ints:
        """Count each of (m,) different keys as often as ``counts``. Return (m,) new estimates."""
        place = keys.view(U64) * _ODDS
        place >>= self._shift
        place += self._first
        index = place.view(np.int64)
        cells = self._counts.reshape(-1)
        estimates: Ints = np.minimum(np.minimum.reduce(cells.take(index)) + counts, 255)
        # Flat, and of one length: ufunc.at of NumPy 2.4 reads past values that it broadcasts.
        raised = np.concatenate([estimates.astype(np.uint8)] * self.HASHES)
        np.maximum.at(cells, index.reshape(-1), raised)
        self._added += int(np.add.reduce(counts))
        while self._added >= self._limit:
            self._counts >>= 1
            self._added //= 2
        return estimates

    def memory_bytes(self) -> int:
        return self._counts.nbytes

    def state(self) -> State:
        """Return the counters, or nothing if nothing was counted."""
        return {"counts": self._counts.copy(), "added": self._added} if self._added else {}

    def load(self, state: State) -> None:
        self._counts = np.array(state.get("counts", np.zeros_like(self._counts)))
        self._added = state.get("added", 0)


_ODDS = mix(np.arange(CountMinSketch.HASHES), 1)[:, None] | U64(1)


def _counted(keys: Ints) -> tuple[Ints, Ints]:
    """Return each of the keys (m,) once, in order, and how often it is there: as ``np.unique``, in
    half the time for a few keys."""
    ordered = np.sort(keys)
    start = np.ones(len(keys) + 1, np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=start[1:-1])
    bounds: Ints = start.nonzero()[0]
    return ordered[bounds[:-1]], bounds[1:] - bounds[:-1]


def _legal(keys: Ints) -> Ints:
    """Return the keys, with another one in place of the one that marks a free row."""
    reserved = keys == _FREE
    return np.where(reserved, _FREE + 1, keys) if np.count_nonzero(reserved) else keys


__all__ = ["Admitted", "CountMinSketch", "KeyTable"]
