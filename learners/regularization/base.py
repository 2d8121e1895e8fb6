"""The base of learners that act at task boundaries."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pydantic import PositiveInt

from learners.boundaries import Boundaries
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
