"""What learners that rehearse share: the buffer, and what a step takes from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from buffers.buffer import Sample
from buffers.recall.base import RecallOutcome
from learners.base import BufferSummary, LearnerError
from learners.networks import modules as models
from learners.networks.augment import Augmentation, AugmentConfig, augmentation
from learners.networks.base import NetworkConfig, NetworkLearner
from learners.rehearsal.buffer_config import BufferConfig
from streams.core.batch import Array, Batch, Ints
from streams.core.schema import Schema, Task
from streams.core.state_dict import State

_LOOKED_AT = 4096  # remembered events at most, where one may look at the memory


class RehearsalConfig(NetworkConfig):
    """Settings of a learner that rehearses.

    Attributes:
        replay_size: presentations of remembered events in each gradient step, beside the new ones.
        buffer: what is remembered.
        augment: at each presentation, of a new event or a remembered one, the network is given
            another random view of it; none without.
    """

    replay_size: PositiveInt = 32
    buffer: BufferConfig = Field(default_factory=BufferConfig)
    augment: AugmentConfig | None = None


@dataclass(frozen=True, slots=True)
class Examples:
    """Events as the network takes them.

    Attributes:
        x: (n, *shape) float32, scaled.
        y: (n,) class codes, or scaled targets.
        columns: what else is remembered of each, by name: (n, ...).
        slots: (n,) where they lie in the buffer; None for new ones.
    """

    x: Tensor
    y: Tensor
    columns: dict[str, Array]
    slots: Ints | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Ints) -> Examples:
        """Those at ``rows`` (m,), out of the buffer."""
        assert self.slots is not None
        at = torch.from_numpy(rows).to(self.x.device)
        columns = {name: each[rows] for name, each in self.columns.items()}
        return Examples(self.x[at], self.y[at], columns, self.slots[rows])


class Rehearsal(NetworkLearner):
    """A network learner with a buffer; a subclass says what it does with what is recalled.

    Attributes:
        views: presentations that it makes of one recalled event in a step.
        augment: draws the views, if there are to be any.
        random: what it draws from; admission and recall have generators of their own.
    """

    Config = RehearsalConfig

    def __init__(
        self,
        config: RehearsalConfig,
        schema: Schema,
        seed: int,
        device: str = "cpu",
        views: int = 1,
    ) -> None:
        super().__init__(config, schema, seed, device)
        self.steps, self.views = config.steps, views
        self.replay_size = config.replay_size
        by_class = ("class-balanced", "herding")
        if schema.task == "regression" and config.buffer.admission in by_class:
            raise LearnerError(
                f"learner.buffer.admission: {config.buffer.admission!r} needs classes, but the "
                "label of this stream is for regression: use 'reservoir', 'ring' or 'random-insert'"
            )
        self.buffer = config.buffer.build(seed, views)
        self.augment = self.augmentation(config.augment, "augment")
        self.random = _generator(seed)

    def augmentation(self, config: AugmentConfig | None, setting: str) -> Augmentation | None:
        """What draws views of the inputs of this stream. Raises ``LearnerError``."""
        if config is None:
            return None
        try:
            return augmentation(config, self.inputs.shape, self.inputs.image, self.device)
        except ValueError as error:
            raise LearnerError(f"learner.{setting}: {error}") from None

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {**super().example(task), "replay_size": 16, "buffer": {"capacity": 50}}

    def forward(self, x: Tensor) -> Tensor:
        """(n, outputs) of the network, as it is when it is trained, on a view of each input."""
        return super().forward(x if self.augment is None else self.augment(x, self.random))

    def examples(self, batch: Batch) -> Examples:
        """The new events of a batch, with the rows that are kept of them as column ``x``."""
        assert batch.y is not None
        rows = self.inputs.rows(batch.x)
        return Examples(self.tensor(rows), self.labels(batch.y), {"x": rows})

    def recalled(self, new: Examples) -> Iterator[Examples | None]:
        """For each of ``steps`` gradient steps what is rehearsed in it beside ``new``: at most
        ``replay_size // views`` events, or None."""
        size = max(self.replay_size // self.views, 1)
        rule = self.buffer.recall
        if not len(self.buffer):
            yield from [None] * self.steps
        elif rule.needs_outcome or rule.criterion is not None:  # what comes next hangs on this step
            for _ in range(self.steps):
                sample = self.buffer.sample(size, presentations=self.replay_size)
                yield self._examples(self._chosen(sample, new, size))
        else:
            sample = self.buffer.sample(size, self.steps, self.replay_size)
            whole, start = self._examples(sample), 0
            for drawn in sample.sizes:
                part = slice(start, start + drawn)
                start += drawn
                yield _rows(whole, part) if whole and drawn else None

    def rehearsed(self, old: Examples | None, out: Tensor) -> None:
        """Tells the recall rule, if that is of any use to it, how recalled events went: ``out``
        (n, outputs) is what the weights before the step gave for them."""
        if old is None or not self.buffer.needs_outcome:
            return
        assert old.slots is not None
        with torch.no_grad():
            loss = self.error(out, old.y, "none")
            if self.schema.task == "classification":
                correct = out.argmax(1) == old.y
            else:
                correct = (out[:, 0] - old.y).abs() <= 0.5  # of a standard deviation
        outcome = RecallOutcome(models.array_of(loss), models.array_of(correct))
        self.buffer.update(old.slots, outcome)

    def remember(self, batch: Batch, rows: Array, **columns: Array) -> None:
        """Offers new events, and what else is to be kept of them, to the buffer."""
        assert batch.y is not None
        kept = {"x": rows, "y": batch.y, **columns}
        ids = batch.ids
        if self.never_buffer is not None and (excluded := self.never_buffer(ids)).any():
            ids, kept = ids[~excluded], {name: each[~excluded] for name, each in kept.items()}
        self.buffer.add(ids, **kept)

    def _examples(self, sample: Sample) -> Examples | None:
        if not len(sample.slots):
            return None
        columns = sample.columns
        return Examples(self.tensor(columns["x"]), self.labels(columns["y"]), columns, sample.slots)

    def _chosen(self, sample: Sample, new: Examples, size: int) -> Sample:
        """Of candidates those that the rule of the buffer asks for, and all of any other sample.

        The loss of a candidate is that of the network as it is; its interference is by how much
        that grows with a step on the new events alone (Aljundi et al. 2019, "Online Continual
        Learning with Maximal Interfered Retrieval"), a plain one of the optimizer's rate.
        """
        criterion = self.buffer.recall.criterion
        if criterion is None:
            return sample
        x, y = self.tensor(sample.columns["x"]), self.labels(sample.columns["y"])
        score = self._losses(x, y)
        if criterion == "interference":
            # The network stays as it is asked: a batch norm must not learn from what is taken back.
            with self.descent.lookahead(self.error(self.net(new.x), new.y)):
                score = self._losses(x, y) - score
        best = torch.topk(score, min(size, len(score)), sorted=False).indices
        return self.buffer.choose(sample, np.sort(models.array_of(best)), self.replay_size)

    def _losses(self, x: Tensor, y: Tensor) -> Tensor:
        self.net.eval()
        with torch.no_grad():
            return self.error(self.net(x), y, "none")

    def buffer_summary(self) -> BufferSummary:
        stored, rule = len(self.buffer), self.buffer.recall
        step = max(-(-stored // _LOOKED_AT), 1)
        values = {name: each[::step] for name, each in rule.row_values(stored).items()}
        return BufferSummary(stored, rule.intervals.copy(), values)

    @property
    def buffer_bytes(self) -> int:
        return self.buffer.memory_bytes()

    def correct(self, ids: Ints, y: Array) -> None:
        self.buffer.relabel(ids, y)

    def forget(self, ids: Ints) -> int:
        """Deletes these events from the buffer; returns how many were there."""
        return self.buffer.delete(ids)

    def state(self) -> State:
        return {
            **super().state(),
            "buffer": self.buffer.state(),
            "random": self.random.bit_generator.state,
        }

    def load(self, state: State) -> None:
        super().load(state)
        self.buffer.load(state["buffer"])
        self.random.bit_generator.state = state["random"]

    @classmethod
    def migrate(cls, state: State) -> State:
        new = super().migrate(state)
        if state["state_version"] != 1 or "buffer" not in state:  # or what only serves
            return new
        # Version 1 knew nothing of intervals: all rows came just now. It drew no views either.
        recall = state["buffer"]["recall"]
        filled = len(state["buffer"]["columns"].get("ids", ()))
        intervals = {
            "clock": 0,
            "draws": 0,
            "last": np.zeros(filled, np.int64),
            "intervals": np.zeros(63, np.int64),
        }
        return {
            **new,
            "buffer": {**state["buffer"], "recall": {**recall, **intervals}},
            "random": _generator(0).bit_generator.state,
        }


def _generator(seed: int) -> np.random.Generator:
    """The buffer has the first two children of the seed; this is the third."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(2,))))


def _rows(examples: Examples, part: slice) -> Examples:
    assert examples.slots is not None
    return Examples(
        examples.x[part],
        examples.y[part],
        {name: each[part] for name, each in examples.columns.items()},
        examples.slots[part],
    )
