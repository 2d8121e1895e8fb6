"""Joint training: the bound that learning with a small memory is measured against."""

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
        replay_size: a gradient step takes as many events as the micro-batch has, and these: what a
            step of replay takes.
        capacity: the most events that are kept.
        augment: views that the network is given of events, as in replay.
    """

    replay_size: PositiveInt = 32
    capacity: PositiveInt = 1_000_000
    augment: AugmentConfig | None = None


class Joint(Rehearsal):
    """Keeps every event, and takes each gradient step on a sample of all that came so far.

    This is a reference and no continual learner: its memory grows with the stream. A step takes as
    many events as one of replay does, drawn from all so far, the newest among them, each with the
    same chance: whatever the order of the stream, the network is trained on a mix of its past.
    Beyond ``capacity`` a uniform sample of the past is kept, so that each event still has the same
    chance to be drawn.

    Events that no memory may keep are learned in the steps of their own micro-batch.
    """

    kind = "joint"
    Config = JointConfig  # type: ignore[assignment]  # it makes those of Rehearsal of its own

    def __init__(self, config: JointConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        rehearsal = RehearsalConfig(
            **config.model_dump(exclude={"capacity"}), buffer=BufferConfig(capacity=config.capacity)
        )
        super().__init__(rehearsal, schema, seed, device)

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        given = {**super().example(task), "capacity": 500}
        del given["buffer"]
        return given

    def learn(self, batch: Batch) -> None:
        """Keeps the new events, then takes ``steps`` gradient steps."""
        new = self.examples(batch)
        self.remember(batch, new.columns["x"])
        alone = (
            np.zeros(len(batch), bool)
            if self.never_buffer is None
            else self.never_buffer(batch.ids)
        )
        apart = torch.from_numpy(np.flatnonzero(alone)).to(self.device)
        size = len(batch) + self.replay_size - len(apart)
        for _ in range(self.steps):
            x, y = new.x[apart], new.y[apart]
            drawn = self._examples(self.buffer.sample(size))
            if drawn is not None:
                x, y = torch.cat([x, drawn.x]), torch.cat([y, drawn.y])
            self.descent.step(self.loss(x, y))

    @property
    def buffer_bytes(self) -> int:
        """Bytes of what is kept by now."""
        return self.buffer.memory_bytes() * len(self.buffer) // self.buffer.capacity
