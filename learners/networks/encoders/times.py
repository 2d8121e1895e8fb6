"""Columns of times: their place in day, week and year, and how long ago they are."""

from __future__ import annotations

import numpy as np

from learners.base import Encoding
from learners.networks.encoders.base import ColumnEncoder, Rows
from learners.networks.times import CODES, NUMBERS, EncodedTimes, encode_times
from streams.core.batch import Array, Batch
from streams.core.schema import Feature
from streams.times import TimeZone


class Times(ColumnEncoder):
    """Sine and cosine of day, week and year and the time to the event as numbers, with an indicator
    of a missing time; hour and day of the week as codes (``encode_times``).

    Args:
        features: of kind time. Days are those of the zone of each, or of UTC.
        embedded: whether the network has embeddings. Without them there are no codes.
    """

    name = "times"

    def __init__(self, features: tuple[Feature, ...], embedded: bool) -> None:
        super().__init__(features)
        k = len(features)
        self._zones = [None if f.zone is None else TimeZone(f.zone) for f in features]
        self.width = k * (NUMBERS + 1)
        if embedded:
            self.places, self.embeddings = k * len(CODES), k * sum(CODES)
            self._first = np.cumsum([0, *CODES * k])[:-1]  # of the codes of each place

    def rows(self, batch: Batch) -> dict[str, Array]:
        """Return (n, k + 1) float64: the times, and the event time."""
        assert not isinstance(batch.x, np.ndarray)
        columns = [np.asarray(batch.x[f.name], np.float64) for f in self.features]
        return {self.name: np.stack([*columns, batch.time], axis=1)}

    def dense(self, rows: Rows, out: Array) -> None:
        for j, (encoded, time) in enumerate(self._encoded(rows)):
            start = j * (NUMBERS + 1)
            out[:, start : start + NUMBERS] = encoded.numbers
            out[:, start + NUMBERS] = np.isnan(time)

    def codes(self, rows: Rows) -> Array:
        if not self.places:
            return super().codes(rows)
        codes: Array = np.concatenate([e.codes for e, _ in self._encoded(rows)], 1)
        codes += self._first
        return codes

    def _encoded(self, rows: Rows) -> list[tuple[EncodedTimes, Array]]:
        times = rows[self.name]
        return [
            (encode_times(times[:, j], times[:, -1], zone), times[:, j])
            for j, zone in enumerate(self._zones)
        ]

    def encoding(self, feature: Feature) -> Encoding:
        hours = ", embeddings of hour and weekday" if self.places else ""
        zone = feature.zone or "UTC"
        return Encoding(f"place in day, week and year ({zone}), time to the event{hours}")
