"""The interface of an encoder: it takes all columns of one kind to a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from learners.results import Encoding
from streams.core.batch import Array, Batch, Ints
from streams.core.schema import Feature
from streams.core.state_dict import State

Rows = Mapping[str, Array]
"""What a buffer stores of n events, by name: (n, ...) each."""


class ColumnEncoder(ABC):
    """Encode the columns of one kind, in two steps.

    ``rows`` returns what a buffer stores of n events, with the precision of the stream. The others
    encode such rows *as of the time of the call*, so that old and new events are encoded alike. An
    encoder gives numbers, or codes of embeddings, or both. A place may have a key beside its code:
    where the key has an embedding of its own, that one is taken instead of the code's.

    Args:
        features: the columns, at least one.

    Attributes:
        name: the key under which its state and its rows are stored.
        width: the numbers that it gives for an event.
        places: the codes that it gives for an event.
        embeddings: how many embeddings its codes name: ``0..embeddings - 1``.
    """

    name: ClassVar[str]
    width: int = 0
    places: int = 0
    embeddings: int = 0

    def __init__(self, features: tuple[Feature, ...]) -> None:
        self.features = features

    @abstractmethod
    def rows(self, batch: Batch) -> dict[str, Array]:
        """Return what a buffer stores of n events. Pure."""

    def observe(self, rows: Rows) -> None:  # noqa: B027 (many encoders learn nothing)
        """Learn what needs no label, from n >= 1 events."""

    def dense(self, rows: Rows, out: Array) -> None:  # noqa: B027
        """Write the numbers of n events to ``out`` (n, width) float32. Pure."""

    def codes(self, rows: Rows) -> Array:
        """Return the codes of n events, (n, places) int64 or less by broadcasting. Pure."""
        return np.empty((len(rows[self.name]), 0), np.int64)

    def keyed(self) -> Ints:
        """Return the places that have keys: (k,) int64. They may become more with time."""
        return _NONE

    def keys(self, rows: Rows) -> Ints:
        """Return the keys (n, k) int64 of the places that have keys. Pure."""
        return np.empty((len(rows[self.name]), 0), np.int64)

    @abstractmethod
    def encoding(self, feature: Feature) -> Encoding:
        """Return how one of its columns reaches the network, for a person."""

    def state(self) -> State:
        """Return what it has learned; empty where that is nothing."""
        return {}

    def load(self, state: State) -> None:  # noqa: B027 (many encoders learn nothing)
        """Restore what ``state`` returned."""


_NONE = np.empty(0, np.int64)
