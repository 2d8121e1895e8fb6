"""The base of learners that act at task boundaries."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import PositiveInt

from learners.base import NEEDS_SEGMENTS, LearnerError
from learners.networks.base import NetworkConfig, NetworkLearner
from streams.core.batch import Batch
from streams.core.schema import Schema, Task
from streams.core.state_dict import State


class SegmentedConfig(NetworkConfig):
    """Settings of a learner that needs task boundaries.

    Attributes:
        every: events from one boundary to the next; the segments of the stream are then ignored.
            None: a boundary is where the segment changes.
    """

    every: PositiveInt | None = None


class Boundaries:
    """Cut micro-batches where a task ends.

    A task ends where the segment of an event differs from that of the event learned before it.
    Labels out of order may therefore end a task more than once.

    Args:
        every: events in a task; None: the segments of the stream mark its end.

    Attributes:
        parts: number of parts so far.
    """

    def __init__(self, every: int | None) -> None:
        self.every = every
        self.parts = 0
        self._events = 0
        self._last: int | None = None

    def cut(self, batch: Batch) -> Iterator[tuple[bool, Batch]]:
        """Yield the parts of m >= 1 events, each of one task, and whether a task ended before it.

        Raises:
            LearnerError: neither ``every`` nor the stream states where tasks end.
        """
        if self.every is not None:
            segment = (self._events + np.arange(len(batch))) // self.every
        elif batch.segment is not None:
            segment = batch.segment
        else:
            raise LearnerError(f"learner.every: this learner {NEEDS_SEGMENTS}")
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
    """A network learner that consolidates after each task, just before it learns the next one.

    A micro-batch with events of two tasks is learned as two.
    """

    Config = SegmentedConfig
    needs_boundaries = True

    def __init__(
        self, config: SegmentedConfig, schema: Schema, seed: int, device: str = "cpu"
    ) -> None:
        super().__init__(config, schema, seed, device)
        self.boundaries = Boundaries(config.every)

    @property
    def requires_segments(self) -> bool:
        return self.boundaries.every is None

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
        """Act at the end of a task, after its last event was learned."""

    @abstractmethod
    def learn_part(self, part: Batch) -> None:
        """Learn from m >= 1 events of one task."""

    @property
    def gradient_steps(self) -> int:
        return self.boundaries.parts * self.config.steps

    def state(self) -> State:
        return {**super().state(), "boundaries": self.boundaries.state()}

    def load(self, state: State) -> None:
        super().load(state)
        self.boundaries.load(state["boundaries"])
