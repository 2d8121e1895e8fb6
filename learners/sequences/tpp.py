"""Temporal point processes with a network, trained as events arrive."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from learners.base import Handles, Learner, LearnerConfig, NotFiniteError
from learners.networks import modules as models
from learners.networks.optimizer import LOWER_LR, Adam, FlatOptimizer, OptimizerConfig
from learners.rehearsal.buffer_config import BufferConfig
from learners.results import BufferSummary, Prediction
from learners.sequences import forecast as forecasts
from learners.sequences.history import EventHistory, history_of
from learners.sequences.networks.attentive import AttentiveConfig
from learners.sequences.networks.base import (
    Cells,
    HistoryTensors,
    LogLikelihood,
    Next,
    SequenceNet,
)
from learners.sequences.networks.choice import SequenceNetConfig, network
from learners.sequences.networks.point import Point
from learners.sequences.time_scale import TimeScale
from streams.core.batch import Array, Batch, ClassName, Floats, Ints
from streams.core.schema import Schema, Task
from streams.core.state_dict import State


class TppConfig(LearnerConfig):
    """Settings of a temporal point process.

    Attributes:
        model: the network.
        optimizer: the optimizer of its weights.
        steps: gradient steps for each micro-batch of events whose next one is known.
        cells: of time, in which a forecast is constant. A forecast that waits for its label takes
            ``4 * cells * (2 + types)`` bytes.
        replay_size: stored events in each gradient step, beside the new ones; 0: none is stored,
            and each event is learned once.
        buffer: which events are stored, and which are recalled.
    """

    model: SequenceNetConfig = AttentiveConfig()
    optimizer: OptimizerConfig = Adam()
    steps: PositiveInt = 1
    cells: int = Field(16, ge=8, le=256)
    replay_size: NonNegativeInt = 0
    buffer: BufferConfig = Field(default_factory=BufferConfig)


class SequenceExamples(NamedTuple):
    """Histories of m events with what came next.

    Attributes:
        types: (m, length) as in ``EventHistory``.
        gaps: (m, length) seconds.
        y: (m,) class codes; -1: nothing came.
        wait: (m,) seconds until then.
    """

    types: Array
    gaps: Array
    y: Array
    wait: Floats


class Tpp(Learner):
    """Predict the next event of a key by a network over its history, and learn each as it comes.

    A micro-batch of events whose next one has come is one gradient step on the mean of

        -ln p(time | history) - ln p(type | time, history),

    with the histories as they were, cut to ``stream.sequence.length`` events; where nothing came,
    of the probability of that. Times are on the scale of the stream (``TimeScale``), which learns
    from the same labels; likelihoods are of seconds.

    Args:
        config: settings.
        schema: features and label of the stream.
        seed: of the weights, and of the buffer.
        device: the torch device of the network.

    Attributes:
        net: the network.
        scale: the scale of times.
        optimizer: moves the weights.
        buffer: the stored events.
    """

    kind = "tpp"
    Config = TppConfig
    handles: ClassVar[frozenset[Handles]] = frozenset({"sequences"})
    handles_missing = True
    remedy = LOWER_LR

    def __init__(self, config: TppConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        super().__init__(config, schema, seed)
        models.check_device(device)
        assert schema.sequence is not None
        self.config, self.device = config, device
        self.scale = TimeScale(schema.sequence.resolution, config.cells)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = self._network(len(self.classes)).to(device)
        self.optimizer = FlatOptimizer(config.optimizer, self.net)
        self.buffer = config.buffer.build(seed)
        self._cells = self._cells_of_scale()

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {
            "kind": cls.kind,
            "model": {"kind": "attentive", "hidden": 8, "times": 8},
            "optimizer": {"kind": "adam", "lr": 0.01},
            "steps": 2,
        }

    def _network(self, types: int) -> SequenceNet:
        """Return a new network, with weights drawn from torch's global generator."""
        return network(self.config.model, types, self.seed)

    def predict(self, batch: Batch) -> Prediction:
        n, width = len(batch), max(len(self.classes), 2)
        value = np.full(n, -1)
        proba: Floats = np.zeros((n, width))
        cells = 1 if isinstance(self.net, Point) else self.config.cells
        columns = 2 + width if self.net.joint else 2
        forecast = np.full((n, cells, columns), np.nan, np.float32)
        if n and self.classes:
            proba, forecast = self._forecast(history_of(batch))
            value = proba.argmax(1)
        classes, version = self.classes, self.version
        return Prediction(
            batch.ids, "classification", value, proba, classes, version, None, forecast
        )

    def _forecast(self, history: EventHistory) -> tuple[Floats, Array]:
        """Return the probabilities of types (n, types) and the forecast of n histories."""
        cells, scale = self._cells, self.scale
        self.net.eval()
        with torch.inference_mode():
            encoded = self.net.encode(self._histories(history.types, history.gaps))
            intensities = self.net.intensities(encoded, cells)
            types = models.array_of(intensities.types)
            if isinstance(self.net, Point):
                units = models.array_of(self.net.units(encoded))
                return _two(types[:, 0]), forecasts.point(scale.to_seconds(units))
        total = models.array_of(intensities.total)
        n = len(total)
        forecast = np.zeros((n, len(scale.starts), 2), np.float32)
        forecast[:, :, forecasts.START] = scale.starts
        forecast[:, :, forecasts.INTENSITY] = total * scale.hazards
        if not self.net.joint:
            return _two(types[:, 0]), forecast
        forecast = np.concatenate([forecast, _two(types)], 2, dtype=np.float32)
        return forecasts.types_of(forecast), forecast

    def learn(self, batch: Batch) -> None:
        """Take ``steps`` gradient steps, then offer the new events to the buffer."""
        assert batch.y is not None
        assert batch.wait is not None
        history = history_of(batch)
        new = SequenceExamples(history.types, history.gaps, batch.y, batch.wait)
        self.scale.observe(batch.wait, batch.y >= 0)
        self._cells = self._cells_of_scale()
        for i in range(self.config.steps):
            self.descend(self._with_recalled(new), self.gradient_steps + i)
        if self.config.replay_size:
            self._remember(batch.ids, new)

    def descend(self, examples: SequenceExamples, number: int) -> None:
        """Take the gradient step of this number, from 0, on the mean of the examples."""
        likelihood = self.likelihood(self._encoded(examples), examples)
        self.optimizer.step(-(likelihood.time + likelihood.types).mean())

    def likelihood(self, encoded: Any, examples: SequenceExamples) -> LogLikelihood:
        """Return the log-likelihood of what came next, with times in units of the scale."""
        return self.net.log_likelihood(encoded, self._next(examples), self._cells)

    def _encoded(self, examples: SequenceExamples) -> Any:
        self.net.train()
        return self.net.encode(self._histories(examples.types, examples.gaps))

    def _next(self, examples: SequenceExamples) -> Next:
        wait, scale = examples.wait, self.scale
        known = np.where(examples.y < self.net.count, examples.y, -1)
        return Next(
            self._tensor(scale.to_units(wait)),
            self._tensor(scale.steps(wait)),
            torch.from_numpy(known).to(self.device),
        )

    def _cells_of_scale(self) -> Cells:
        return Cells.of(self._tensor(self.scale.units))

    def _histories(self, types: Array, gaps: Array) -> HistoryTensors:
        """Return n histories as the network takes them, without columns behind all events."""
        present = types >= 0
        longest = max(int(present.sum(1).max()), 1)
        types, gaps, present = types[:, :longest], gaps[:, :longest], present[:, :longest]
        seconds = np.where(present, gaps, 0.0)
        ages = np.cumsum(seconds[:, ::-1], 1)[:, ::-1] - seconds
        codes = np.where(types < self.net.count, types + 1, 0)
        return HistoryTensors(
            torch.from_numpy(codes.astype(np.int64)).to(self.device),
            self._tensor(self.scale.to_units(seconds)),
            self._tensor(self.scale.to_units(ages)),
            torch.from_numpy(present.sum(1)).to(self.device),
        )

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array.astype(np.float32)).to(self.device)

    def _with_recalled(self, new: SequenceExamples) -> SequenceExamples:
        """Return the new examples and ``replay_size`` recalled ones."""
        if not self.config.replay_size or not len(self.buffer):
            return new
        columns = self.buffer.sample(self.config.replay_size).columns
        old = SequenceExamples(*(columns[name] for name in SequenceExamples._fields))
        return SequenceExamples(*(np.concatenate(parts) for parts in zip(new, old, strict=True)))

    def _remember(self, ids: Ints, new: SequenceExamples) -> None:
        """Offer new events to the buffer, except those that ``never_buffer`` excludes."""
        stored = new._asdict()
        if self.never_buffer is not None and (excluded := self.never_buffer(ids)).any():
            ids = ids[~excluded]
            stored = {name: column[~excluded] for name, column in stored.items()}
        self.buffer.add(ids, **stored)

    def correct(self, ids: Ints, y: Array) -> None:
        self.buffer.relabel(ids, y)

    def buffer_summary(self) -> BufferSummary | None:
        if not self.config.replay_size:
            return None
        rule = self.buffer.recall
        return BufferSummary(len(self.buffer), rule.intervals.copy(), {})

    @property
    def buffer_bytes(self) -> int:
        return self.buffer.memory_bytes() if self.config.replay_size else 0

    @property
    def gradient_steps(self) -> int:
        return self.version * self.config.steps

    def weight_vector(self) -> Array:
        return models.array_of(self.optimizer.weights)

    def verify(self) -> None:
        if not self.optimizer.finite():
            raise NotFiniteError(
                f"learner {self.kind!r}: the weights are no longer finite, the training diverged"
            )

    def _register_classes(self, y: Array, classes: tuple[ClassName, ...]) -> None:
        super()._register_classes(y, classes)
        self._resize(len(self.classes))

    def _resize(self, types: int) -> None:
        if types != self.net.count:
            self.optimizer.resize(lambda: self.net.resize(types))

    def state(self) -> State:
        state = {**self.servable(), "optimizer": self.optimizer.state()}
        return {**state, "buffer": self.buffer.state()} if self.config.replay_size else state

    def servable(self) -> State:
        return {
            **self.common_state(),
            "net": models.module_state(self.net),
            "scale": self.scale.state(),
        }

    def load(self, state: State) -> None:
        self.load_servable(state)
        self.optimizer.load(state["optimizer"])
        if self.config.replay_size:
            self.buffer.load(state["buffer"])

    def load_servable(self, state: State) -> None:
        self.load_common(state)
        self._resize(len(self.classes))
        models.load_module(self.net, state["net"])
        self.scale.load(state["scale"])
        self._cells = self._cells_of_scale()


def _two(types: Array) -> Array:
    """Return probabilities (..., types) with a second column where there is one type."""
    if types.shape[-1] != 1:
        return types
    return np.concatenate([types, np.zeros_like(types)], -1)
