"""Experience replay (Chaudhry et al. 2019, "On Tiny Episodic Memories in Continual Learning")."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from buffers.admission import ADMISSIONS
from buffers.buffer import Buffer
from buffers.recall import RECALLS
from learners.learner import LearnerError
from learners.network import NetworkConfig, NetworkLearner
from streams.batch import Array, Batch, Ints
from streams.schema import Schema, Task
from streams.settings import Settings, unknown
from streams.state import State


class BufferConfig(Settings):
    """What is remembered, and how it is recalled."""

    capacity: PositiveInt = 2000
    admission: str = "reservoir"
    recall: str = "uniform"

    @field_validator("admission", "recall")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        names = ADMISSIONS if info.field_name == "admission" else RECALLS
        if name not in names:
            raise ValueError(unknown(name, names))
        return name


class ReplayConfig(NetworkConfig):
    """Settings of experience replay.

    Attributes:
        replay_size: events recalled for each gradient step, beside the new ones.
        buffer: what is remembered.
    """

    replay_size: PositiveInt = 32
    buffer: BufferConfig = Field(default_factory=BufferConfig)


class Replay(NetworkLearner):
    """Each gradient step is taken on newly revealed events and ``replay_size`` remembered ones."""

    kind = "replay"
    Config = ReplayConfig

    def __init__(
        self, config: ReplayConfig, schema: Schema, seed: int, device: str = "cpu"
    ) -> None:
        super().__init__(config, schema, seed, device)
        self.steps, self.replay_size = config.steps, config.replay_size
        memory = config.buffer
        if schema.task == "regression" and memory.admission == "class-balanced":
            raise LearnerError(
                "learner.buffer.admission: 'class-balanced' needs classes, but the label of this "
                "stream is for regression: use 'reservoir' or 'ring'"
            )
        self.buffer = Buffer(memory.capacity, memory.admission, memory.recall, seed)

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {**super().example(task), "replay_size": 16, "buffer": {"capacity": 50}}

    def learn(self, batch: Batch) -> None:
        """Takes ``steps`` gradient steps, then offers the new events to the buffer."""
        rows, y = self.inputs.rows(batch.x), batch.y
        assert y is not None
        x, labels = self.tensor(rows), self.labels(y)
        if not len(self.buffer):
            for _ in range(self.steps):
                self.descent.step(self.loss(x, labels))
        else:
            recalled = self.buffer.sample(self.replay_size, draws=self.steps)
            size = len(recalled.slots) // self.steps
            old_x = self.tensor(recalled.columns["x"])
            old_labels = self.labels(recalled.columns["y"])
            for start in range(0, len(recalled.slots), size):
                part = slice(start, start + size)
                both = torch.cat([x, old_x[part]]), torch.cat([labels, old_labels[part]])
                self.descent.step(self.loss(*both))
        self.buffer.add(batch.ids, x=rows, y=y)

    @property
    def buffer_bytes(self) -> int:
        return self.buffer.memory_bytes()

    def correct(self, ids: Ints, y: Array) -> None:
        self.buffer.relabel(ids, y)

    def forget(self, ids: Ints) -> int:
        """Deletes these events from the buffer; returns how many were there."""
        return self.buffer.delete(ids)

    def state(self) -> State:
        return {**super().state(), "buffer": self.buffer.state()}

    def load(self, state: State) -> None:
        super().load(state)
        self.buffer.load(state["buffer"])
