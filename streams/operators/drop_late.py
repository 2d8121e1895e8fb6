"""Reject events that are later than the allowed lateness."""

from __future__ import annotations

import numpy as np

from streams.core.batch import Batch, Floats, reject_rows
from streams.core.state_dict import State
from streams.operators.base import Operator
from streams.times import autumn_night, iso

_HOUR = 3600.0


class DropLate(Operator):
    """Rejects an event whose time is more than ``lateness`` seconds before the latest time seen.

    Args:
        lateness: in seconds.
        zone_stated: whether the job states the zone of its times; else the reason names that remedy
            where the time may be a local one of a night in which clocks are set back.
    """

    def __init__(self, lateness: float, zone_stated: bool = False) -> None:
        self.lateness = lateness
        self.zone_stated = zone_stated
        self._latest = -np.inf

    def apply(self, batch: Batch) -> Batch:
        if not len(batch):
            return batch
        latest = np.maximum.accumulate(np.maximum(batch.time, self._latest))
        self._latest = float(latest[-1])
        return reject_late(batch, latest, self.lateness, self.zone_stated)

    def state(self) -> State:
        return {"latest": np.array(self._latest)}

    def load(self, state: State) -> None:
        self._latest = float(state["latest"])


def reject_late(batch: Batch, latest: Floats, lateness: float, zone_stated: bool) -> Batch:
    """Return the rows that are not late.

    Args:
        batch: n rows.
        latest: (n,) the latest time seen at each row.
        lateness: as in ``DropLate``.
        zone_stated: as in ``DropLate``.
    """
    late = batch.time < latest - lateness
    if not late.any():
        return batch
    reasons = []
    for time, newest in zip(batch.time[late].tolist(), latest[late].tolist(), strict=True):
        reason = (
            f"time goes back: {iso(time)} is {newest - time:.6g} s before {iso(newest)}, the "
            f"latest seen, and lateness is {lateness:g} s"
        )
        if not zone_stated and newest - time <= _HOUR and autumn_night(time):
            reason += "; if clocks were set back then, state stream.time_zone, as in Europe/Vienna"
        reasons.append(reason)
    return reject_rows(batch, late, reasons)
