"""The face of a stateful step between a stream and a learner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from streams.core.batch import Batch
from streams.core.state_dict import State


class Operator(ABC):
    """Takes micro-batches, gives micro-batches, and can say all that it remembers."""

    @abstractmethod
    def apply(self, batch: Batch) -> Iterable[Batch]:
        """The micro-batches that one becomes: at present exactly one."""

    def view(self, batch: Batch) -> Batch:
        """What a learner would see of an event now, for events that are asked about and are no
        part of the stream. Pure; the batch as it is, for an operator that changes no features."""
        return batch

    @abstractmethod
    def state(self) -> State: ...

    @abstractmethod
    def load(self, state: State) -> None: ...
