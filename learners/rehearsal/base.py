"""The base of learners that replay: the buffer, and what a gradient step takes from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from buffers.buffer import Sample
from buffers.recall.base import RecallOutcome
from learners.base import LearnerError
from learners.networks import modules as models
from learners.networks.augment import Augmentation, AugmentConfig, augmentation
from learners.networks.base import NetworkConfig, NetworkLearner
from learners.networks.column_inputs import ColumnInputs
from learners.networks.encoders import Rows
from learners.rehearsal.buffer_config import BufferConfig
from learners.results import BufferSummary
from streams.core.batch import Array, Batch, Ints
from streams.core.schema import Schema, Task
from streams.core.state_dict import State

_MAX_SUMMARISED = 4096  # most stored events in a summary of the buffer


class RehearsalConfig(NetworkConfig):
    """Settings of a learner that replays.

    Attributes:
        replay_size: presentations of stored events in each gradient step, beside the new ones.
        buffer: which events are stored, and which are recalled.
        augment: draws a random view of an event, new or recalled, at each presentation. None: the
            network gets the event itself.
    """

    replay_size: PositiveInt = 32
    buffer: BufferConfig = Field(default_factory=BufferConfig)
    augment: AugmentConfig | None = None


class Examples:
    """Events as the network takes them.

    Args:
        encode: turns columns into inputs, when these are first asked for.
        y: (n,) class codes, or scaled targets.
        columns: the columns of each event that are stored, by name: (n, ...).
        slots: (n,) int64, where they lie in the buffer; None for new events.
    """

    def __init__(
        self,
        encode: Callable[[Rows], Tensor],
        y: Tensor,
        columns: Rows,
        slots: Ints | None = None,
    ) -> None:
        self._encode = encode
        self._x: Tensor | None = None
        self.y = y
        self.columns = columns
        self.slots = slots

    @property
    def x(self) -> Tensor:
        """The inputs (n, *shape) float32."""
        if self._x is None:
            self._x = self._encode(self.columns)
        return self._x

    def encode_with(self, others: Examples, names: Iterable[str]) -> None:
        """Encode these and other examples at once, by the columns of these names."""
        both = {n: np.concatenate([self.columns[n], others.columns[n]]) for n in names}
        self._x, others._x = torch.split(self._encode(both), [len(self), len(others)])

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Ints) -> Examples:
        """Return the examples at ``rows`` (m,), of events from the buffer."""
        assert self.slots is not None
        index = torch.from_numpy(rows).to(self.x.device)
        columns = {name: column[rows] for name, column in self.columns.items()}
        taken = Examples(self._encode, self.y[index], columns, self.slots[rows])
        taken._x = self.x[index]
        return taken

    def part(self, rows: slice) -> Examples:
        """Return the examples at these rows, as views."""
        assert self.slots is not None
        columns = {name: column[rows] for name, column in self.columns.items()}
        part = Examples(self._encode, self.y[rows], columns, self.slots[rows])
        part._x = self.x[rows]
        return part


class Rehearsal(NetworkLearner):
    """A network learner with a buffer. A subclass defines the loss of recalled events.

    ``learn`` of a subclass takes ``examples`` of the new events, iterates over ``recall``, passes
    outputs to ``update_recall`` after each step, and stores the new events by ``remember``.

    Attributes:
        buffer: the stored events.
        views: presentations of one recalled event in a step.
        augment: draws the views; None without them.
        random: the generator of views. Admission and recall have their own generators.
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
        """Return a function that draws views of the inputs. Raises ``LearnerError``.

        ``setting`` is the key of the settings, for the message.
        """
        if config is None:
            return None
        try:
            shape = self.inputs.shape
            if isinstance(self.inputs, ColumnInputs):
                shape = (self.inputs.dense,)
            views = augmentation(config, shape, self.inputs.image, self.device)
        except ValueError as error:
            raise LearnerError(f"learner.{setting}: {error}") from None
        return _before_codes(views, self.inputs.codes) if self.inputs.codes else views

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {**super().example(task), "replay_size": 16, "buffer": {"capacity": 50}}

    def present(self, x: Tensor) -> Tensor:
        """Return a view (n, *shape) of each input."""
        return x if self.augment is None else self.augment(x, self.random)

    def examples(self, batch: Batch) -> Examples:
        """Return the new events of a batch, with the rows to store as columns."""
        assert batch.y is not None
        rows = self.inputs.rows(batch)
        return Examples(self.tensor, self.labels(batch.y), rows)

    def recall(self, new: Examples) -> Iterator[Examples | None]:
        """Yield, for each of ``steps`` gradient steps, the events to replay beside ``new``.

        They are at most ``replay_size // views`` events, or None.
        """
        size = max(self.replay_size // self.views, 1)
        rule = self.buffer.recall
        if not len(self.buffer):
            yield from [None] * self.steps
        elif rule.needs_outcome or rule.criterion is not None:  # a draw depends on the step before
            for _ in range(self.steps):
                sample = self.buffer.sample(size, presentations=self.replay_size)
                yield self._examples(self._choose(sample, new, size))
        else:
            sample = self.buffer.sample(size, self.steps, self.replay_size)
            whole, start = self._examples(sample), 0
            if whole is not None:
                new.encode_with(whole, new.columns)
            for drawn in sample.sizes:
                part = slice(start, start + drawn)
                start += drawn
                yield whole.part(part) if whole and drawn else None

    def update_recall(self, old: Examples | None, out: Tensor) -> None:
        """Pass the outcome of recalled events to the recall rule, if it uses outcomes.

        ``out`` (n, outputs) are the outputs for ``old`` before the gradient step.
        """
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

    def remember(self, batch: Batch, rows: Rows, **columns: Array) -> None:
        """Offer new events to the buffer, except those that ``never_buffer`` excludes.

        Args:
            batch: m events with labels.
            rows: of the m events, as ``inputs.rows`` returns them.
            columns: (m, ...) each: what else is stored of them.
        """
        assert batch.y is not None
        stored = {**rows, "y": batch.y, **columns}
        ids = batch.ids
        if self.never_buffer is not None and (excluded := self.never_buffer(ids)).any():
            ids = ids[~excluded]
            stored = {name: column[~excluded] for name, column in stored.items()}
        self.buffer.add(ids, **stored)

    def _examples(self, sample: Sample) -> Examples | None:
        if not len(sample.slots):
            return None
        columns = sample.columns
        return Examples(self.tensor, self.labels(columns["y"]), columns, sample.slots)

    def _choose(self, sample: Sample, new: Examples, size: int) -> Sample:
        """Return the candidates that score highest by the recall rule, at most ``size``.

        A sample of a rule without a criterion is returned whole. The loss of a candidate is that of
        the present network. Its interference is the increase of its loss after a plain gradient
        step of the optimizer's rate on the new events alone (Aljundi et al. 2019, "Online Continual
        Learning with Maximal Interfered Retrieval").
        """
        criterion = self.buffer.recall.criterion
        if criterion is None:
            return sample
        x, y = self.tensor(sample.columns), self.labels(sample.columns["y"])
        score = self._losses(x, y)
        if criterion == "interference":
            # In evaluation mode: batch norm must not learn from a step that is undone.
            with self.optimizer.lookahead(self.error(self.net(new.x), new.y)):
                score = self._losses(x, y) - score
        best = torch.topk(score, min(size, len(score)), sorted=False).indices
        return self.buffer.choose(sample, np.sort(models.array_of(best)), self.replay_size)

    def _losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each row, (n,), with the network in evaluation mode."""
        self.net.eval()
        with torch.no_grad():
            return self.error(self.net(x), y, "none")

    def buffer_summary(self) -> BufferSummary:
        stored, rule = len(self.buffer), self.buffer.recall
        step = max(-(-stored // _MAX_SUMMARISED), 1)
        values = {name: column[::step] for name, column in rule.row_values(stored).items()}
        return BufferSummary(stored, rule.intervals.copy(), values)

    @property
    def buffer_bytes(self) -> int:
        return self.buffer.memory_bytes()

    def correct(self, ids: Ints, y: Array) -> None:
        self.buffer.relabel(ids, y)

    def forget(self, ids: Ints) -> int:
        """Delete these events from the buffer. Return how many were stored."""
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
        if state["state_version"] != 1 or "buffer" not in state:  # or a state that only serves
            return new
        # Version 1 had no intervals: let all rows arrive now. It drew no views either.
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


def _before_codes(views: Augmentation, codes: int) -> Augmentation:
    """Return views that change the numbers of a row, and not the codes at its end."""

    def drawn(x: Tensor, rng: np.random.Generator) -> Tensor:
        return torch.cat([views(x[:, :-codes], rng), x[:, -codes:]], 1)

    return drawn


def _generator(seed: int) -> np.random.Generator:
    """Return the third child generator of the seed. The buffer uses the first two."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(2,))))
