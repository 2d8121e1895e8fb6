"""Fading counts and means of events by key, and the time since the last event of a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.core.batch import Array, Floats, Ints
from streams.core.key_table import KeyTable
from streams.core.state_dict import State
from streams.operators.features.label_means import decay_logs

PRIOR = 1.0
"""Numbers that the overall mean counts as, in the mean of a key."""
_LIMIT = 10.0  # of a difference of means, in standard deviations of the numbers
_HUGE = 1e100  # numbers are clipped here, so that sums and squares stay finite


class _Walk(NamedTuple):
    """The e entries of a micro-batch that count: events with one of their keys each.

    They come by their rank among the entries of their row. Rows are ordered by the number of their
    entries, most first, so that those with an entry of rank r are the first ``widths[r]``.

    Attributes:
        entries: (e,) numbers of the entries.
        rows: (g,) the rows that have entries.
        clock: (e,) the clock after the entry before of the row; -1 where there is none.
        widths: how many entries there are of each rank.
    """

    entries: Ints
    rows: Ints
    clock: Ints
    widths: list[int]


class EventAggregates:
    """Sums of numbers and counts by key, which fade with every event, and times of last events.

    What an event sees is what the events before it have left: also those of its own micro-batch.
    So the result is the same at any size of micro-batches, as long as the table has room.

    With every event of the stream, sums and counts are multiplied by 1 - 1/scale. An event has, for
    the sum S and the count K of a key, and the mean m and the standard deviation s of all numbers
    before it,

        ((S + m) / (K + 1) - m) / s,  log(1 + K) / 5,

    and for the time since the last event of the key log(1 + seconds) / 5 and 1; 0 and 0 without
    one. Time that goes backwards counts as none.

    Args:
        keys: keys of one event.
        scales: in events; None: no fading.
        rows: of the table.
    """

    def __init__(self, keys: int, scales: Sequence[float | None], rows: int) -> None:
        self.keys = keys
        self._logs = decay_logs(scales)
        self._table = KeyTable(rows, admit_after=1)
        # The last row has no key: an entry without a row reads zeros there.
        self._values = np.zeros((self._table.rows + 1, len(scales), 2))  # S and K
        self._clock = np.zeros(self._table.rows + 1)
        self._last = np.full(self._table.rows + 1, np.nan)  # event time
        self._events = 0
        self._now = -np.inf  # the latest event time
        self._origin = np.full(keys, np.nan)  # the first number: sums of differences lose less
        self._moments = np.zeros((3, keys))  # count, sum and sum of squares of all numbers

    @property
    def width(self) -> int:
        """The number of features of one key."""
        return 2 * len(self._logs) + 2

    def apply(self, keys: Ints, numbers: Floats, time: Floats, probe: Array | None) -> Floats:
        """Return the features of n events, and count them.

        Args:
            keys: (n, keys).
            numbers: (n, keys) what is averaged; NaN counts nowhere.
            time: (n,) event time.
            probe: (n,) events that are not counted; None: there are none.

        Returns:
            (n, keys, width): differences of means, counts, the time, and whether there is one.
        """
        n = len(keys)
        counts = np.ones(n, np.bool_) if probe is None else ~probe
        position = self._events + np.cumsum(counts) - counts
        numbers, overall = self._observe_numbers(numbers, counts)
        self._table.advance(int(np.count_nonzero(counts)))
        new = self._table.observe(keys[counts].reshape(-1)).rows
        self._values[new], self._last[new] = 0, np.nan
        rows = self._table.find(keys)
        values, last = self._pass(rows, numbers, time, position, counts)
        self._events += int(np.count_nonzero(counts))
        if counts.any():
            self._now = max(self._now, float(time[counts].max()))
        return self._features(values, last, time[:, None], *overall)

    def view(self, keys: Ints, time: Floats) -> Floats:
        """Return the features of n events that come now, as ``apply`` does. Pure. A time before
        that of the latest event counts as that, and so does none (NaN)."""
        rows = self._table.find(keys)
        values = self._values[rows]
        values *= np.exp((self._events - self._clock[rows])[:, :, None] * self._logs)[..., None]
        overall = _mean_and_deviation(*self._moments)
        time = np.fmax(time, self._now)[:, None]
        return self._features(values, self._last[rows], time, *overall)

    def _features(
        self, values: Floats, last: Floats, time: Floats, mean: Floats, deviation: Floats
    ) -> Floats:
        """Return (n, keys, width) for values (n, keys, scales, 2) and times of last events."""
        sums, counts = values[..., 0], values[..., 1]
        out = np.empty((*last.shape, self.width))
        scales = len(self._logs)
        means = (sums - mean[..., None] * counts) / ((counts + PRIOR) * deviation[..., None])
        np.clip(means, -_LIMIT, _LIMIT, out=out[..., :scales])
        out[..., scales:-2] = np.log1p(counts) / 5
        seen = ~np.isnan(last)
        out[..., -2] = np.log1p(np.maximum(np.where(seen, time - last, 0), 0)) / 5
        out[..., -1] = seen
        return out

    def _observe_numbers(
        self, numbers: Floats, counts: NDArray[np.bool_]
    ) -> tuple[Floats, tuple[Floats, Floats]]:
        """Add the numbers of the events that count to the moments.

        Returns:
            The numbers (n, keys) less the first of their key, and the mean and deviation (n, keys)
            of those before each event. Sums go from row to row: no other sum is the same at any
            size of micro-batches.
        """
        known = ~np.isnan(numbers) & counts[:, None]
        for column in np.flatnonzero(np.isnan(self._origin) & known.any(0)).tolist():
            first = numbers[known[:, column].argmax(), column]
            self._origin[column] = np.clip(first, -_HUGE, _HUGE)
        origin = np.where(np.isnan(self._origin), 0, self._origin)
        numbers = np.clip(numbers, -_HUGE, _HUGE) - origin
        added = np.where(known, numbers, 0)
        steps = np.stack([known, added, added * added])
        sums = np.concatenate([self._moments[:, None], steps], axis=1)
        np.cumsum(sums, axis=1, out=sums)
        self._moments = sums[:, -1].copy()
        return numbers, _mean_and_deviation(*sums[:, :-1])

    def _pass(
        self,
        rows: Ints,
        numbers: Floats,
        time: Floats,
        position: Ints,
        counts: NDArray[np.bool_],
    ) -> tuple[Floats, Floats]:
        """Return S and K (n, keys, scales, 2) and the last time (n, keys) before each event, and
        update the table."""
        n, keys = rows.shape
        flat, at = rows.reshape(-1), np.repeat(position, keys)
        times, values = np.repeat(time, keys), numbers.reshape(-1)
        known = ~np.isnan(values)
        add = np.stack([np.where(known, values, 0), known], axis=1)[:, None]
        walk = _walk(flat, at, np.repeat(counts, keys) & (flat >= 0))
        entries, steps = walk.entries, len(walk.entries)
        before = np.empty((n * keys, len(self._logs), 2))
        last = np.empty(n * keys)
        clock = np.where(walk.clock < 0, self._clock[flat[entries]], walk.clock)
        fade = np.exp((at[entries] - clock)[:, None] * self._logs)[..., None]
        one = np.exp(self._logs)[:, None]
        add, times_of = add[entries], times[entries]
        current, latest = self._values[walk.rows], self._last[walk.rows]
        seen, seen_last = np.empty((2, steps, *current.shape[1:])), np.empty((2, steps))
        start = 0
        for width in walk.widths:
            step = slice(start, start + width)
            current[:width] *= fade[step]
            seen[0, step], seen_last[0, step] = current[:width], latest[:width]
            current[:width] *= one
            current[:width] += add[step]
            np.fmax(latest[:width], times_of[step], out=latest[:width])
            seen[1, step], seen_last[1, step] = current[:width], latest[:width]
            start += width
        before[entries], last[entries] = seen[0], seen_last[0]
        if steps < n * keys:
            others = np.ones(n * keys, np.bool_)
            others[entries] = False
            rest = np.flatnonzero(others)
            before[rest], last[rest] = self._look(rest, flat, at, walk, seen[1], seen_last[1])
        self._values[walk.rows], self._last[walk.rows] = current, latest
        self._clock[flat[entries]] = at[entries] + 1  # of equal rows the last one stays
        return before.reshape(n, keys, len(self._logs), 2), last.reshape(n, keys)

    def _look(
        self, rest: Ints, flat: Ints, at: Ints, walk: _Walk, values: Floats, last: Floats
    ) -> tuple[Floats, Floats]:
        """Return what entries see that do not count (probes) or have no row.

        Args:
            rest: (r,) numbers of these entries.
            flat: the row of each entry of the micro-batch.
            at: its position in the stream.
            walk: the entries that count.
            values: (e, scales, 2) S and K after each of those.
            last: (e,) the last time after each of those.
        """
        by_row = np.lexsort((walk.entries, flat[walk.entries]))
        sorted_entries = walk.entries[by_row]
        code, rows = np.int64(len(flat) + 1), flat[rest]
        place = np.searchsorted(flat[sorted_entries] * code + sorted_entries, rows * code + rest)
        found = by_row[np.maximum(place - 1, 0)] if len(by_row) else np.zeros(len(rest), np.int64)
        inside = place > 0
        if len(by_row):
            inside &= flat[walk.entries[found]] == rows
        seen, clock, time = self._values[rows], self._clock[rows], self._last[rows]
        found = found[inside]
        seen[inside], time[inside] = values[found], last[found]
        clock[inside] = at[walk.entries[found]] + 1
        seen *= np.exp((at[rest] - clock)[:, None] * self._logs)[..., None]
        return seen, time

    def memory_bytes(self) -> int:
        """Return the bytes of the table and of its sums."""
        own = self._values.nbytes + self._clock.nbytes + self._last.nbytes
        return self._table.memory_bytes() + own

    def state(self) -> State:
        """Return the occupied rows, and the moments of the stream."""
        table = self._table.state()
        return {"table": table, **self._sums_of(table["rows"])}

    def servable(self) -> State:
        """Return what ``view`` needs: all rows, in views, and the moments of the stream."""
        return {"table": self._table.servable(), **self._sums_of(slice(None))}

    def _sums_of(self, rows: Ints | slice) -> State:
        return {
            "values": self._values[rows],
            "event_clock": self._clock[rows],
            "last": self._last[rows],
            "events": self._events,
            "now": np.array(self._now),
            "origin": self._origin,
            "moments": self._moments,
        }

    def load(self, state: State) -> None:
        """Restore what ``state`` returned; or what ``servable`` did, for ``view`` alone."""
        rows = state["table"].get("rows", slice(None))
        self._table.load(state["table"])
        self._values.fill(0)
        self._clock.fill(0)
        self._last.fill(np.nan)
        self._values[rows], self._clock[rows] = state["values"], state["event_clock"]
        self._last[rows] = state["last"]
        self._events, self._now = state["events"], float(state["now"])
        self._origin, self._moments = np.array(state["origin"]), np.array(state["moments"])


def _walk(rows: Ints, at: Ints, counts: NDArray[np.bool_]) -> _Walk:
    """Return the entries that count, for (e,) rows and positions in the stream."""
    entries = np.flatnonzero(counts)
    entries = entries[np.argsort(rows[entries], kind="stable")]
    sorted_rows = rows[entries]
    begins = np.ones(len(entries), np.bool_)
    begins[1:] = sorted_rows[1:] != sorted_rows[:-1]
    starts = np.flatnonzero(begins)
    sizes = np.diff(starts, append=len(entries))
    group = np.cumsum(begins) - 1
    rank = np.arange(len(entries)) - starts[group]
    clock = np.full(len(entries), -1)
    clock[1:] = np.where(begins[1:], -1, at[entries[:-1]] + 1)
    most_first = np.argsort(-sizes, kind="stable")
    place = np.empty(len(sizes), np.int64)
    place[most_first] = np.arange(len(sizes))
    order = np.lexsort((place[group], rank))
    widths: list[int] = np.bincount(rank).tolist()
    return _Walk(entries[order], sorted_rows[starts[most_first]], clock[order], widths)


def _mean_and_deviation(count: Floats, total: Floats, squares: Floats) -> tuple[Floats, Floats]:
    """Return the mean (0 of none) and the standard deviation (1 without variation)."""
    number = np.maximum(count, 1)
    mean = total / number
    variance = squares / number - mean * mean
    varies = variance > 1e-12 * squares / number
    return mean, np.sqrt(np.where(varies, variance, 1))
