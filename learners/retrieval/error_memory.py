"""An error memory: a slow learner, corrected by what became of events like this one lately."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from buffers.errors.base import ErrorMemory, LabelledKeys, Recalled
from learners.retrieval.keys import KeysConfig, key_source
from learners.retrieval.memories import (
    MemoryConfig,
    RingConfig,
    SketchConfig,
    by_kind,
    check_memory,
    describe_memory,
    new_memory,
)
from learners.retrieval.mixing import AdaHedge, FixedShare, log_losses
from learners.retrieval.noted import Floats
from learners.retrieval.pools import LogLinearPool, log_shares
from learners.retrieval.stored_columns import StoredColumns
from learners.retrieval.target_scale import TargetScale
from learners.retrieval.wrapper import Correction, Outputs, Wrapper, WrapperConfig
from streams.core.batch import Array, Batch, Ints
from streams.core.hashing import mix
from streams.core.schema import Schema
from streams.core.settings import Settings
from streams.core.state_dict import State, bytes_of

GRID = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""The shares by which experts follow the memory."""


class SmallErrorsConfig(Settings):
    """Which errors of the base count as small, and which part of these is stored.

    Attributes:
        below: the error below which an event is one of many: of probabilities, 1 less that of the
            true class; of targets, in their deviations.
        share: the part of such events that is stored. Each then stands for 1 / share events.
    """

    below: PositiveFloat
    share: float = Field(0.1, gt=0, le=1)


class ErrorMemoryConfig(WrapperConfig):
    """Settings of ``error-memory``.

    Attributes:
        memory: ``ring``, ``index`` or ``sketch``, or a mapping with this ``kind`` and its settings.
        keys: by what events are similar.
        lambda_: how far a prediction follows the memory, 0 to 1; ``online``: by a mixture of
            such shares that is weighted by their losses so far. In a job: ``lambda``.
        gamma: 1: follow the mean label of similar events; 0: add the mean error of the base on
            them; or a number between.
        shrink: events like this one that the base's own prediction counts as.
        half_life: labels after which the weight of an event in the memory is halved.
        reset: labels after which the memory is cleared; None: never.
        small_errors: store only a part of the events that the base predicts well; None: store all.
        switch_after: how many labels the mixture expects to keep to one share.
        pool_half_life: labels after which one counts half for the weights of the pool.
    """

    memory: MemoryConfig = RingConfig()
    keys: Annotated[KeysConfig, BeforeValidator(by_kind)] = KeysConfig()
    lambda_: Literal["online"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "online", alias="lambda"
    )
    gamma: float = Field(1.0, ge=0, le=1)
    shrink: NonNegativeFloat = 1.0
    half_life: PositiveFloat | None = None
    reset: PositiveInt | None = None
    small_errors: SmallErrorsConfig | None = None
    switch_after: PositiveInt = 2000
    pool_half_life: PositiveFloat = 10_000

    def located(self, folder: Path) -> Self:
        found = super().located(folder)
        return found.model_copy(update={"keys": found.keys.located(folder)})


class ErrorMemoryLearner(Wrapper):
    """Correct a base learner by the labels of recent similar events, without a gradient step.

    This is ReLoop2 (Zhu et al. 2023, "ReLoop2: Building Self-Adaptive Recommendation Models via
    Responsive Error Compensation Loop", KDD), for any learner, any number of classes, and targets.
    When a label arrives, the memory stores the key of the event, the label y, and what the base had
    predicted, p. For a new event the memory returns the means y' and p' over similar events
    (``buffers.errors``). With the base's prediction p the prediction is

        p + lambda * (gamma * (y' - p) + (1 - gamma) * (y' - p'))

    with probabilities below 0 set to 0, and then of sum 1.

    With ``lambda: online``, experts follow the memory by 0, .1, .25, .5, .75, .9 and 1, and the
    prediction is their mean, weighted by their losses so far: for classes by the log-loss
    (``FixedShare``, where the base starts with half of the weight), for targets by the squared
    error (``AdaHedge``). So the memory has no say on a stream where it does not help. Of classes
    there is one more expert, a pool of the logarithms of both probabilities with weights that are
    learned (``LogLinearPool``): it calibrates the base, and leaves it where it is sure and wrong.
    The losses are those of the predictions that were made: of an event that was predicted before
    its neighbours were known. ``lambda: 0`` is the base, bit for bit.

    Deviations: lambda is chosen online. The base's prediction counts as ``shrink`` events that are
    like this one, as a single similar event says little; 0 is the paper's rule. Storing only large
    errors makes the mean label of what is stored wrong. So of the small ones a part is stored, and
    weighs the more (``small_errors``). Which part is decided by a hash of the id.

    When the base moves, keys of its hidden layer are void (``keys``): stored events then get new
    ones, from their columns, and a sketch is cleared. It is cleared after ``reset`` labels too.

    Args:
        config: settings.
        schema: features and label of the stream.
        seed: of the base, and of the hashes of the sketch.
        device: the torch device of the base.

    Attributes:
        memory: recent events; None while there are no keys.
        mixture: the weights of the experts; None with a fixed lambda.
    """

    kind = "error-memory"
    Config = ErrorMemoryConfig
    parts = 2

    def __init__(self, config: Any, schema: Schema, seed: int, device: str = "cpu") -> None:
        check_memory(config.memory)
        super().__init__(config, schema, seed, device)
        self.targets = schema.task == "regression"
        self.keys = key_source(config.keys, schema, self.base, seed)
        self.scale = TargetScale()
        self.memory: ErrorMemory | None = None
        self.mixture: FixedShare | AdaHedge | None = None
        self.pool: LogLinearPool | None = None
        self.grid = np.array(GRID if config.lambda_ == "online" else (config.lambda_,))
        if config.lambda_ == "online":
            if self.targets:
                self.mixture = AdaHedge(len(GRID), config.switch_after)
            else:
                self.pool = LogLinearPool(2, config.pool_half_life)
                self.mixture = FixedShare(len(GRID) + 1, 1.0 / config.switch_after)
        self.columns: StoredColumns | None = None
        rekeys = self.keys.moves and config.keys.when_void == "rekey"
        if rekeys and not isinstance(config.memory, SketchConfig):
            self.columns = StoredColumns(config.memory.capacity)
        self._renew()

    @property
    def idle(self) -> bool:
        """Whether the memory never has a say."""
        return not self.grid.any()

    def _renew(self) -> None:
        """Start with an empty memory for the keys as they are now."""
        if self.columns is not None:
            self.columns.clear()
        if not self.keys.width:
            self.memory = None
            return
        if self.memory is not None and self.memory.width == self.keys.width:
            self.memory.clear()
            return
        keep_base = self.config.gamma < 1
        self.memory = new_memory(
            self.config.memory,
            self.keys.width,
            self.targets,
            self.config.half_life,
            keep_base,
            self.seed,
        )
        if not self.targets:
            self.memory.grow(len(self.classes))

    def correct_outputs(self, batch: Batch, outputs: Outputs) -> Correction:
        base = np.where(outputs.says[:, None], outputs.shares, np.nan)
        if self.idle:
            return Correction(self.uncorrected(outputs), np.stack([base, np.zeros_like(base)], 1))
        error, knows = self._error(batch, outputs)
        notes = np.stack([base, error], 1)
        if not knows.any():
            return Correction(self.uncorrected(outputs), notes)
        weights = np.ones(1) if self.mixture is None else self.mixture.weights
        start = np.where(outputs.says[:, None], outputs.shares, 0.0)
        mixed = np.zeros_like(start)
        for weight, shares in zip(weights, self._experts(start, error), strict=True):
            mixed += weight * shares
        alone = ~outputs.says & knows  # there is no base to correct
        mixed[alone] = error[alone]
        return Correction(self.answer(outputs, mixed, outputs.says | knows), notes)

    def _error(self, batch: Batch, outputs: Outputs) -> tuple[Floats, NDArray[np.bool_]]:
        """Return what the memory would add (n, outputs), and the rows (n,) of which it knows."""
        n, width = outputs.shares.shape
        if self.memory is None or not self.memory.events or not n:
            return np.zeros((n, width)), np.zeros(n, np.bool_)
        recalled = self.memory.read(self.keys.of(batch))
        labels, base = _padded(recalled, width)
        gamma, shrink = self.config.gamma, self.config.shrink
        knows: NDArray[np.bool_] = recalled.support > 0
        error = gamma * (labels - outputs.shares)
        if gamma < 1:
            error += (1 - gamma) * (labels - base)
        error[~outputs.says] = labels[~outputs.says]
        trust = np.where(
            outputs.says, recalled.support / (recalled.support + max(shrink, 1e-12)), 1
        )
        return np.where(knows[:, None], error * trust[:, None], 0.0), knows

    def _experts(self, base: Floats, error: Floats) -> Floats:
        """Return the predictions (experts, n, outputs): those of the grid, then the pool's."""
        shares = base + self.grid[:, None, None] * error
        if self.targets:
            return shares
        np.maximum(shares, 0.0, out=shares)
        total = shares.sum(2, keepdims=True)
        np.divide(shares, total, out=shares, where=total > 0)
        if self.pool is None:
            return np.asarray(shares)
        pooled = self.pool.shares(_opinions(shares))
        return np.concatenate([shares, pooled[None]])

    def observe_keys(self, batch: Batch) -> None:
        if self.idle or not self.keys.observes:
            return
        parts = batch.micro_batches(1) if self.per_event else (batch,)  # cuts make no difference
        for part in parts:
            if self.keys.observe(part):
                self._renew()

    def learn_errors(self, batch: Batch, notes: Floats, delays: Floats) -> None:
        assert batch.y is not None
        y = batch.y
        if self.targets:
            y = self.scale.clip(y)
            self.scale.update(y)
        if self.idle:
            return
        base, error = notes[:, 0], notes[:, 1]
        said = ~np.isnan(base).any(1) & (self.targets | (base.sum(1) > 0))
        base = np.where(said[:, None], base, 0.0)
        if self.targets:
            base = self.scale.clip(base)
        self._weigh(base[said], error[said], y[said], delays[said])
        if self.memory is None:
            return
        if not self.targets:
            self.memory.grow(len(self.classes))
        weights = self._stored_weights(batch.ids, base, y)
        events = LabelledKeys(batch.ids, self.keys.of(batch), y, base, weights)
        stored = weights > 0
        self._write(events.take(stored))
        if self.columns is not None and stored.any():
            self.columns.add(batch.take(stored))

    def _weigh(self, base: Floats, error: Floats, y: Array, delays: Floats) -> None:
        """Let the mixture learn from the predictions of its experts."""
        if self.mixture is None or not len(y):
            return
        shares = self._experts(base, error)
        if self.targets:
            self.mixture.update((self.scale.clip(shares[:, :, 0]) - y).T ** 2, delays)
            return
        self.mixture.update(log_losses(shares, y), delays)
        assert self.pool is not None
        self.pool.update(_opinions(shares[: len(GRID)]), y)

    def _stored_weights(self, ids: Ints, base: Floats, y: Array) -> Floats:
        """Return how many events each of m stands for in the memory; 0: it is not stored."""
        weights = np.ones(len(ids))
        small = self.config.small_errors
        if small is not None:
            if self.targets:
                size = np.abs(y - base[:, 0]) / float(self.scale.std())
            else:
                size = 1.0 - base[np.arange(len(y)), y]
            drawn = mix(ids, 17).astype(np.float64) * 2.0**-64 < small.share
            weights = np.where(size >= small.below, 1.0, np.where(drawn, 1.0 / small.share, 0.0))
        if self.never_buffer is not None:
            weights[self.never_buffer(ids)] = 0.0
        return weights

    def _write(self, events: LabelledKeys) -> None:
        """Write m events, and clear the memory after each ``reset`` of them."""
        assert self.memory is not None
        reset = self.config.reset
        while reset is not None and self.memory.events + len(events.ids) >= reset:
            left = reset - self.memory.events
            events = events.take(slice(left, None))
            self.memory.clear()
        self.memory.write(events)

    def learn(self, batch: Batch) -> None:
        super().learn(batch)
        if self.idle or not self.keys.learned(len(batch)):
            return
        if self.columns is None or self.memory is None:
            self._renew()
            return
        stored = self.columns.last(self.memory.stored)
        if stored is not None:
            self.memory.replace_keys(self.keys.of(stored))

    def correct(self, ids: Ints, y: Array) -> None:
        if self.memory is not None:
            if not self.targets:
                self.memory.grow(len(self.classes))
            self.memory.relabel(ids, y)

    def memories(self) -> tuple[str, ...]:
        own = f"{describe_memory(self.config.memory)}, by {self.keys.description}"
        return (own, *super().memories())

    def metrics(self) -> dict[str, float]:
        own = {
            "memory_events": 0.0 if self.memory is None else float(self.memory.events),
            "keys_moved": self.keys.moved,
        }
        if self.mixture is not None:
            own["lambda"] = float(self.mixture.weights[: len(GRID)] @ self.grid)
        if self.pool is not None and self.mixture is not None:
            own["pool"] = float(self.mixture.weights[-1])
        return {**super().metrics(), **own}

    @property
    def buffer_bytes(self) -> int:
        own = 0 if self.memory is None else self.memory.memory_bytes()
        own += 0 if self.columns is None else bytes_of(self.columns.state())
        return own + self.base.buffer_bytes

    def _weights(self) -> State:
        """Return the state of the weights of the experts."""
        mixture = {} if self.mixture is None else {"mixture": self.mixture.state()}
        return mixture | ({} if self.pool is None else {"pool": self.pool.state()})

    def state(self) -> State:
        return {
            **super().state(),
            **self._weights(),
            "scale": self.scale.state(),
            "keys": self.keys.state(),
            "memory": {} if self.memory is None else dict(self.memory.state()),
            **({} if self.columns is None else {"columns": self.columns.state()}),
        }

    def servable(self) -> State:
        memory = {} if self.memory is None else dict(self.memory.state())
        own = {"keys": self.keys.servable(), "memory": memory}
        return {**super().servable(), **self._weights(), **own}

    def load(self, state: State) -> None:
        super().load(state)
        self.scale.load(state["scale"])
        self._load_memory(state)
        if self.columns is not None:
            self.columns.load(state["columns"])

    def load_servable(self, state: State) -> None:
        super().load_servable(state)
        self._load_memory(state)

    def _load_memory(self, state: State) -> None:
        if self.mixture is not None:
            self.mixture.load(state["mixture"])
        if self.pool is not None:
            self.pool.load(state["pool"])
        self.keys.load(state["keys"])
        self._renew()
        memory = self.memory
        if memory is not None and state["memory"]:
            memory.load(state["memory"])


def _opinions(shares: Floats) -> Floats:
    """Return the features (n, 2, classes) of the pool: of the base, and of the memory alone."""
    return np.stack([log_shares(shares[0]), log_shares(shares[-1])], 1)


def _padded(recalled: Recalled, outputs: int) -> tuple[Floats, Floats]:
    """Return mean labels and predictions for as many outputs as the base has."""
    new = outputs - recalled.labels.shape[1]
    if new <= 0:
        return recalled.labels, recalled.base
    wide = ((0, 0), (0, new))
    return np.pad(recalled.labels, wide), np.pad(recalled.base, wide)
