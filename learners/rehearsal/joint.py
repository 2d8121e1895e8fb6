"""Joint training on all past events: the reference for learning with a small buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt

from learners.networks.augment import AugmentConfig
from learners.networks.base import NetworkConfig
from learners.rehearsal.base import Rehearsal, RehearsalConfig
from learners.rehearsal.buffer_config import BufferConfig
from streams.core.batch import Batch
from streams.core.schema import Schema, Task


class JointConfig(NetworkConfig):
    """Settings of joint training.

    Attributes:
        replay_size: a gradient step takes as many events as the micro-batch has, plus this many, as
            in replay.
        capacity: the most events that are stored.
        augment: draws views of events, as in replay.
    """

    replay_size: PositiveInt = 32
    capacity: PositiveInt = 1_000_000
    augment: AugmentConfig | None = None


class Joint(Rehearsal):
    """Store every event, and take each gradient step on a sample of all events so far.

    This is a reference and not a continual learner: its memory grows with the stream. A step takes
    as many events as a step of replay, drawn uniformly from all so far, the new ones included. So
    the network trains on a mix of the past, whatever the order of the stream. Beyond ``capacity`` a
    uniform sample of the past is stored, and each past event is still equally likely to be drawn.

    Events that ``never_buffer`` excludes are learned in the steps of their own micro-batch.
    """

    kind = "joint"
    Config = JointConfig  # type: ignore[assignment]  # it builds a RehearsalConfig itself

    def __init__(self, config: JointConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        rehearsal = RehearsalConfig(
            **config.model_dump(exclude={"capacity"}), buffer=BufferConfig(capacity=config.capacity)
        )
        super().__init__(rehearsal, schema, seed, device)

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        settings = {**super().example(task), "capacity": 500}
        del settings["buffer"]
        return settings

    def learn(self, batch: Batch) -> None:
        """Store the new events, then take ``steps`` gradient steps."""
        new = self.examples(batch)
        self.remember(batch, new.columns)
        excluded = np.zeros(len(batch), bool)
        if self.never_buffer is not None:
            excluded = self.never_buffer(batch.ids)
        unbuffered = torch.from_numpy(np.flatnonzero(excluded)).to(self.device)
        size = len(batch) + self.replay_size - len(unbuffered)
        for _ in range(self.steps):
            x, y = new.x[unbuffered], new.y[unbuffered]
            drawn = self._examples(self.buffer.sample(size))
            if drawn is not None:
                x, y = torch.cat([x, drawn.x]), torch.cat([y, drawn.y])
            self.descend(x, y)

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the events stored so far."""
        return self.buffer.memory_bytes() * len(self.buffer) // self.buffer.capacity
