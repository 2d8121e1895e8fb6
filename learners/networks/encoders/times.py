"""Columns of times: their place in day, week and year, and how long ago they are."""

from __future__ import annotations

import numpy as np

from learners.networks.encoders.base import ColumnEncoder, Rows
from learners.networks.encoders.time_codes import CODES, NUMBERS, encode_times
from learners.results import Encoding
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
        """Return (n, width + codes) float32. It is encoded already: no encoding changes with time,
        and a row is read several times."""
        assert not isinstance(batch.x, np.ndarray)
        k = len(self.features)
        rows = np.empty((len(batch), self.width + k * len(CODES)), np.float32)
        for j, (feature, zone) in enumerate(zip(self.features, self._zones, strict=True)):
            column = np.asarray(batch.x[feature.name], np.float64)
            numbers, codes = encode_times(column, batch.time, zone)
            start = j * (NUMBERS + 1)
            rows[:, start : start + NUMBERS] = numbers
            rows[:, start + NUMBERS] = np.isnan(column)
            start = self.width + j * len(CODES)
            rows[:, start : start + len(CODES)] = codes
        return {self.name: rows}

    def dense(self, rows: Rows, out: Array) -> None:
        out[:] = rows[self.name][:, : self.width]

    def codes(self, rows: Rows) -> Array:
        if not self.places:
            return super().codes(rows)
        codes: Array = rows[self.name][:, self.width :].astype(np.int64)
        codes += self._first
        return codes

    def encoding(self, feature: Feature) -> Encoding:
        hours = ", embeddings of hour and weekday" if self.places else ""
        zone = feature.zone or "UTC"
        return Encoding(f"place in day, week and year ({zone}), time to the event{hours}")
