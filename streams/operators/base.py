"""The interface of a stateful step between a stream and a learner."""

from __future__ import annotations

from abc import ABC, abstractmethod

from streams.core.batch import Batch
from streams.core.state_dict import State


class Operator(ABC):
    """Transforms micro-batches one by one, and saves and restores its state."""

    @abstractmethod
    def apply(self, batch: Batch) -> Batch:
        """Transform the next micro-batch of the stream, and update the state."""

    def view(self, batch: Batch) -> Batch:
        """Transform events that are not part of the stream (those of a request to predict), without
        changing the state. An operator that leaves features alone returns the batch itself."""
        return batch

    def learn(self, batch: Batch) -> None:  # noqa: B027 (most operators need no label)
        """Learn from m >= 1 events whose ``y`` is known, as ``apply`` returned them.

        Called after each micro-batch with the events that the learner has just learned.
        """

    @abstractmethod
    def state(self) -> State:
        """Return all that the operator remembers."""

    def servable(self) -> State:
        """Return what ``view`` needs. By default that is the state.

        A table of many rows is best returned as a view of itself, in which rows keep their places:
        snapshots then carry the few that have changed.
        """
        return self.state()

    @abstractmethod
    def load(self, state: State) -> None:
        """Restore what ``state`` returned; or what ``servable`` did, to ``view`` alone."""
