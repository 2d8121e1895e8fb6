"""What a learner of task sequences sees of each event: the last events of its key.

A job states ``stream.sequence``; ``streams/operators/features/sequences.py`` then adds the columns.

- To predict: ``history_of(batch)`` ends with the event itself. ``batch.key`` (n,) tells which
  events are of one sequence, for a learner that keeps a state for each key. A request to a server
  states a key alone: its history ends with the last event of the key, and is empty for an unknown
  key.
- To learn: ``batch`` has the same columns, as they were when the event was predicted. The label is
  the next event of the key: ``batch.y`` (m,) is its type and ``batch.wait`` (m,) the seconds until
  then. Where ``y`` is -1, nothing came for ``wait`` seconds: only the survival until then is known.
- ``schema.sequence`` has the length, the horizon and the resolution of times. A wait is 0 between
  equal times, and ``resolution`` tells how far apart such events may have been.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streams.core.batch import Array, Batch, Floats, Ints
from streams.operators.features.sequences import GAPS, TIME, TYPES


class EventHistory(NamedTuple):
    """The last events of the key of each of n events, the oldest first.

    Attributes:
        types: (n, length) int32 class codes; -1 behind the last event.
        gaps: (n, length) float32, seconds since the event before of the key; 0 for the first of a
            key, and behind the last event.
        time: (n,) float64 event time of the last event, seconds; NaN without one.
        lengths: (n,) int64, how many events there are; 0 only in a request for an unknown key.
    """

    types: Array
    gaps: Array
    time: Floats
    lengths: Ints

    def rows(self, rows: slice) -> EventHistory:
        """Return the histories of these events."""
        return EventHistory(self.types[rows], self.gaps[rows], self.time[rows], self.lengths[rows])


def history_of(batch: Batch) -> EventHistory:
    """Return the histories of the n events of a batch."""
    x = batch.x
    assert not isinstance(x, np.ndarray)
    types, gaps, time = (np.asarray(x[name]) for name in (TYPES, GAPS, TIME))
    return EventHistory(types, gaps, time, np.count_nonzero(types >= 0, axis=1))
