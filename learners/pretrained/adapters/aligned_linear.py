"""A linear layer trained on draws from Gaussians of classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from learners.base import Learner, LearnerConfig, LearnerError, NotFiniteError
from learners.pretrained.adapters.gaussians import Gaussians
from learners.pretrained.closed_form.statistics import grown, unit_length
from learners.results import Prediction
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.schema import Schema
from streams.core.state_dict import State

_SCALE = 16.0  # of cosines, as in the loss of adapters
_RATE = 0.1
_MOMENTUM = 0.9
_BATCH = 256
_DRAWS = 6_000  # of one alignment, at most
_STEPS = 30  # of one alignment, at least
_GROWTH = 1.5  # events since the last alignment, after which the next one is due early
_SOON = 4  # how many times sooner it is due, where there are classes that it does not know


class AlignmentConfig(LearnerConfig):
    """Settings of ``aligned-linear``.

    Attributes:
        align: whether it is trained on draws; otherwise on the events alone.
        rank: directions of the covariance of each class; 0: a variance for each number.
        every: an alignment follows each multiple of this number of events. The first ones come
            earlier. So does one a quarter of them after the last, where there are new classes.
        epochs: of an alignment; more, where that is less than 30 batches of 256 draws.
        draws: rows for each class and epoch. There are 6,000 at most, all together.
        rate: of the steps on events, where there is no alignment.
    """

    kind: Literal["aligned-linear"] = "aligned-linear"
    align: bool = True
    rank: int = 8
    every: PositiveInt = 100
    epochs: PositiveInt = 2
    draws: PositiveInt = 20
    rate: PositiveFloat = _RATE


class AlignedLinear(Learner):
    """A linear layer over vectors, trained on draws from the Gaussians of all classes.

    This is the classifier alignment of SLCA (Zhang et al. 2023) and MOS (Sun et al. 2025). Rows and
    draws are of the size of unit vectors, and scores are 16 w_c' x + b_c. An alignment continues
    from the layer of the last one, with zeros for new classes. It takes steps with momentum on
    batches of 256 draws, with the rate falling from 0.1 to 0 by a cosine. Draws follow from the
    seed and the number of the alignment.

    Without ``align`` each micro-batch takes a step of ``rate`` by the cross-entropy over the
    classes of the micro-batch, as the layers do that the paper compares with.

    Args:
        config: settings.
        schema: numeric columns or one vector, and a label.
        seed: of the draws.

    Raises:
        LearnerError: there are columns that are no numbers.
    """

    kind = "aligned-linear"
    Config = AlignmentConfig
    handles = frozenset({"classification", "binary"})
    remedy = "mend or leave out that value, or scale and clip the features (stream.standardise)"

    def __init__(self, config: AlignmentConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        if not schema.matrix or len(schema.row_shape) != 1:
            raise LearnerError(
                f"learner {self.kind!r} takes numeric columns or one vector: encode columns of "
                "texts or images (stream.encoder)"
            )
        self.config = config
        self._width = schema.row_shape[0]
        self.gaussians = Gaussians(self._width, config.rank)
        self._weights = np.zeros((0, self._width), np.float32)
        self._offsets = np.zeros(0, np.float32)
        self._alignments = self._events = self._aligned_at = 0

    def predict(self, batch: Batch) -> Prediction:
        """Return predictions. A class that the layer was not yet trained on has probability 0."""
        assert isinstance(batch.x, np.ndarray)
        proba = np.zeros((len(batch), len(self.classes)), np.float32)
        known = len(self._offsets)
        if not known:
            value = np.full(len(batch), -1)
            return Prediction(batch.ids, "classification", value, proba, self.classes, self.version)
        scores = _SCALE * (_unit(batch.x) @ self._weights.T) + self._offsets
        proba[:, :known] = torch.softmax(torch.from_numpy(scores), 1).numpy()
        value = proba.argmax(1)
        return Prediction(batch.ids, "classification", value, proba, self.classes, self.version)

    def learn(self, batch: Batch) -> None:
        """Add events to the Gaussians. Raises ``NotFiniteError``."""
        assert batch.y is not None
        assert isinstance(batch.x, np.ndarray)
        x = _unit(batch.x)
        if not np.isfinite(x).all():
            raise NotFiniteError(
                f"learner {self.kind!r}: a feature is no finite number: {self.remedy}"
            )
        self.gaussians.grow(len(self.classes))
        self.gaussians.add(x, batch.y)
        self._events += len(x)
        if not self.config.align:
            self._step(x, batch.y)
        elif self._due:
            self.align()

    @property
    def _due(self) -> bool:
        every, since = self.config.every, self._events - self._aligned_at
        if self._events // every > self._aligned_at // every:
            return True
        if len(self.classes) > len(self._offsets) and since >= every // _SOON:
            return True
        return self._events >= _GROWTH * self._aligned_at

    def _step(self, x: Array, y: Ints) -> None:
        """Take a step on rows, by the cross-entropy over their own classes."""
        self._weights = grown(self._weights, len(self.classes))
        self._offsets = grown(self._offsets, len(self.classes))
        codes, place = np.unique(y, return_inverse=True)
        w, b = torch.from_numpy(self._weights[codes]), torch.from_numpy(self._offsets[codes])
        change, of_offsets = _gradient(w, b, torch.from_numpy(x), torch.from_numpy(place))
        self._weights[codes] -= self.config.rate * change.numpy()
        self._offsets[codes] -= self.config.rate * of_offsets.numpy()

    def align(self) -> None:
        """Train the layer on draws from all classes."""
        self._weights = grown(self._weights, len(self.classes))
        self._offsets = grown(self._offsets, len(self.classes))
        generator = torch.Generator().manual_seed(_seed(self.seed, self._alignments))
        w, b = torch.from_numpy(self._weights), torch.from_numpy(self._offsets)
        _train(w, b, self.gaussians, self.config, generator)
        self._alignments += 1
        self._aligned_at = self._events

    def join_classes(self, codes: Ints, names: tuple[ClassName, ...]) -> None:
        """Let class i be class ``codes[i]``. Its row of the layer is the first one that has it."""
        self.gaussians.join(codes)
        self.classes = names
        _, first = np.unique(codes, return_index=True)
        first = first[first < len(self._offsets)]
        self._weights, self._offsets = self._weights[first], self._offsets[first]
        if self.config.align:
            self.align()

    def verify(self) -> None:
        sums = self.gaussians.state()
        if not all(np.isfinite(part).all() for part in (self._weights, *sums.values())):
            raise NotFiniteError(f"learner {self.kind!r}: it is no longer finite: {self.remedy}")

    def metrics(self) -> dict[str, float]:
        return {"alignments": float(self._alignments)}

    def servable(self) -> State:
        return {**self.common_state(), "weights": self._weights, "offsets": self._offsets}

    def load_servable(self, state: State) -> None:
        self.load_common(state)
        self._weights, self._offsets = np.array(state["weights"]), np.array(state["offsets"])

    def state(self) -> State:
        return {
            **self.servable(),
            "seed": self.seed,
            "gaussians": self.gaussians.state(),
            "alignments": self._alignments,
            "events": self._events,
            "aligned_at": self._aligned_at,
        }

    def load(self, state: State) -> None:
        self.load_servable(state)
        self.seed = state["seed"]
        self.gaussians.load(state["gaussians"])
        self._alignments, self._events = state["alignments"], state["events"]
        self._aligned_at = state["aligned_at"]


def _unit(x: Array) -> Array:
    """Return rows of length 1, with the same bits whatever the strides of ``x``."""
    return unit_length(np.ascontiguousarray(x, np.float32))


def _seed(seed: int, number: int) -> int:
    """Return the seed of one alignment."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _train(
    w: Tensor,
    b: Tensor,
    gaussians: Gaussians,
    config: AlignmentConfig,
    generator: torch.Generator,
) -> None:
    """Train weights (k, d) and offsets (k,) in place, on draws."""
    each = max(min(config.draws, _DRAWS // (config.epochs * len(w))), 1)
    draws = _Draws(gaussians, each, generator)
    batches = math.ceil(draws.rows / _BATCH)
    epochs = max(config.epochs, math.ceil(_STEPS / batches))
    speed, of_offsets = torch.zeros_like(w), torch.zeros_like(b)
    step = 0
    for _ in range(epochs):
        for x, y in draws.epoch():
            rate = _RATE * (1 + math.cos(math.pi * step / (epochs * batches))) / 2
            change, change_b = _gradient(w, b, x, y)
            w -= rate * speed.mul_(_MOMENTUM).add_(change)
            b -= rate * of_offsets.mul_(_MOMENTUM).add_(change_b)
            step += 1


class _Draws:
    """Batches of draws from the Gaussians of all classes, the same number of each.

    Args:
        gaussians: of k classes.
        each: draws from a class in an epoch.
        generator: of the draws.
    """

    def __init__(self, gaussians: Gaussians, each: int, generator: torch.Generator) -> None:
        self._means = torch.from_numpy(gaussians.means.astype(np.float32))[:, None]
        self._factors = torch.from_numpy(gaussians.factors.astype(np.float32))
        self._deviations = torch.from_numpy(gaussians.deviations().astype(np.float32))[:, None]
        self._each, self._generator = each, generator

    @property
    def rows(self) -> int:
        """Draws in an epoch."""
        return len(self._means) * self._each

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows (n, d) and their classes (n,), mixed: one product for all classes."""
        k, rank, d = self._factors.shape
        x = torch.randn(k, self._each, d, generator=self._generator)
        x.mul_(self._deviations).add_(self._means)
        if rank:
            along = torch.randn(k, self._each, rank, generator=self._generator)
            x.baddbmm_(along, self._factors)
        order = torch.randperm(self.rows, generator=self._generator)
        flat = x.view(-1, d)
        for rows in torch.split(order, _BATCH):
            yield flat[rows], rows // self._each


def _gradient(w: Tensor, b: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of the mean cross-entropy of rows (n, d) with respect to w and b."""
    error = torch.softmax(_SCALE * (x @ w.T) + b, 1)
    error[torch.arange(len(y)), y] -= 1
    error /= len(y)
    return _SCALE * (error.T @ x), error.sum(0)
