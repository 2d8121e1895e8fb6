"""Makes bad messages, to test how a reader handles them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson

LARGE_BYTES = 200_000
ABSURD_TIME = 1e18  # some 30 billion years from now


class FaultInjector:
    """Makes bad messages from good ones, each of a random kind.

    No reader can take one for an event of the good ones' fields: their types are wrong, except for
    the kind ``absurd_time``.

    Args:
        share: bad messages per good message.
        seed: of the random kinds.
        frame: dtype of events that are frames; None: they are JSON.
        id, time: fields of the events. features: all other fields except the label.

    Attributes:
        events, labels: number of bad messages, by kind.
    """

    def __init__(
        self,
        share: float,
        seed: int,
        frame: np.dtype[Any] | None,
        id: str,
        time: str | None,
        features: Sequence[str],
    ) -> None:
        self.share = share
        self.events: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self._rng = np.random.default_rng([seed, 1])
        self._frame, self._id, self._time, self._features = frame, id, time, features
        kinds = ["truncated", "too_large", "random_bytes"]
        odd = ["absurd_time"] if time is not None else []
        json = ["broken_json", "wrong_type", "missing_field"]
        self._of_events = [*kinds, *odd, *(json if frame is None else ["not_finite"])]
        self._of_labels = [*kinds, *json]

    def of_event(self, value: bytes) -> bytes | None:
        """Return a bad message to send before this event, or None."""
        make = self._json_event if self._frame is None else self._framed
        return self._draw(self._of_events, self.events, value, make)

    def of_label(self, value: bytes) -> bytes | None:
        """Return a bad message to send before this label, or None."""
        return self._draw(self._of_labels, self.labels, value, self._json_label)

    def _draw(
        self,
        kinds: list[str],
        counts: Counter[str],
        value: bytes,
        make: Callable[[str, bytes], bytes],
    ) -> bytes | None:
        if not self.share or self._rng.random() >= self.share:
            return None
        kind = kinds[self._rng.integers(len(kinds))]
        counts[kind] += 1
        if kind == "truncated":
            return value[: int(self._rng.integers(1, len(value)))]
        if kind == "random_bytes":
            # Shorter than a frame, and invalid UTF-8.
            return b"\xff" + self._rng.bytes(int(self._rng.integers(len(value) - 1)))
        if kind == "broken_json":
            return value[:-1] + b",}"
        return make(kind, value)

    def _json_event(self, kind: str, value: bytes) -> bytes:
        event = orjson.loads(value)
        if kind == "absurd_time":
            event[self._time] = ABSURD_TIME
            event[self._id] = -1 - sum(
                self.events.values()
            )  # a new id: else the good one would be a duplicate
        elif kind == "wrong_type":
            event |= {name: {"wrong": True} for name in self._features}
        else:
            for name in self._features:
                event.pop(name, None)
            if kind == "too_large":
                event["padding"] = "x" * LARGE_BYTES
        return orjson.dumps(event)

    def _json_label(self, kind: str, value: bytes) -> bytes:
        label = orjson.loads(value)
        if kind == "wrong_type":
            label["label"] = {"wrong": True}
        else:
            del label["id"]
            if kind == "too_large":
                label["padding"] = "x" * LARGE_BYTES
        return orjson.dumps(label)

    def _framed(self, kind: str, value: bytes) -> bytes:
        if kind == "too_large":
            return value + bytes(LARGE_BYTES)
        frame = np.frombuffer(value, self._frame).copy()
        if kind == "absurd_time":
            frame["time"] = ABSURD_TIME
            frame["id"] = -1 - sum(self.events.values())
        else:
            frame["x"] = np.nan
        return frame.tobytes()
