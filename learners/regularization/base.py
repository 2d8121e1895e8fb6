"""What learners share that do something whenever a task is over."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import PositiveInt

from learners.base import LearnerError
from learners.networks.base import NetworkConfig, NetworkLearner
from streams.core.batch import Batch
from streams.core.schema import Schema, Task
from streams.core.state_dict import State


class SegmentedConfig(NetworkConfig):
    """Settings of a learner that needs task boundaries.

    Attributes:
        every: events from one boundary to the next; the stream's segments are not read then. None:
            a boundary is where the segment changes.
    """

    every: PositiveInt | None = None


class Boundaries:
    """Cuts micro-batches where a task ends.

    A task ends where the segment of an event is another than that of the event learned before it:
    labels that come out of order may end one more than once.

    Args:
        every: events in a task; None: the stream says where it ends.

    Attributes:
        parts: how many parts there were so far.
    """

    def __init__(self, every: int | None) -> None:
        self.every = every
        self.parts = 0
        self._events = 0
        self._last: int | None = None

    def cut(self, batch: Batch) -> Iterator[tuple[bool, Batch]]:
        """The parts of m >= 1 events, each of one task, and whether a task ended before it.

        Raises ``LearnerError`` where nothing says where tasks end.
        """
        if self.every is not None:
            segment = (self._events + np.arange(len(batch))) // self.every
        elif batch.segment is not None:
            segment = batch.segment
        else:
            raise LearnerError(
                "learner.every: where tasks end is needed, and this stream has no segments: state "
                "how many events a task has, or the stream's segments"
            )
        last = segment[0] if self._last is None else self._last
        ended = np.diff(segment, prepend=last) != 0
        edges = [0, *(np.flatnonzero(ended[1:]) + 1).tolist(), len(batch)]
        for start, stop in pairwise(edges):
            self.parts += 1
            self._events += stop - start
            self._last = int(segment[start])
            yield bool(ended[start]), batch[start:stop]

    def state(self) -> State:
        return {"parts": self.parts, "events": self._events, "last": self._last}

    def load(self, state: State) -> None:
        self.parts, self._events, self._last = state["parts"], state["events"], state["last"]


class Segmented(NetworkLearner):
    """A network learner that is told when a task is over: just before it learns the next one. A
    micro-batch with events of two tasks is learned as two."""

    Config = SegmentedConfig
    needs_boundaries = True

    def __init__(
        self, config: SegmentedConfig, schema: Schema, seed: int, device: str = "cpu"
    ) -> None:
        super().__init__(config, schema, seed, device)
        self.boundaries = Boundaries(config.every)

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {**super().example(task), "every": 40}

    def learn(self, batch: Batch) -> None:
        for ended, part in self.boundaries.cut(batch):
            if ended:
                self.consolidate()
            self.learn_part(part)

    @abstractmethod
    def consolidate(self) -> None:
        """A task is over: its last event has been learned."""

    @abstractmethod
    def learn_part(self, part: Batch) -> None:
        """Learns from m >= 1 events of one task."""

    @property
    def gradient_steps(self) -> int:
        return self.boundaries.parts * self.config.steps

    def state(self) -> State:
        return {**super().state(), "boundaries": self.boundaries.state()}

    def load(self, state: State) -> None:
        super().load(state)
        self.boundaries.load(state["boundaries"])
