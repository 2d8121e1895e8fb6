"""Residuals by segment: the plainest memory of errors, to compare others with."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from buffers.errors.base import one_hot
from learners.base import LearnerError
from learners.retrieval.mixing import AdaHedge, FixedShare, log_losses
from learners.retrieval.noted import Floats
from learners.retrieval.pools import LinearPool, LogLinearPool, log_shares
from learners.retrieval.residuals import SegmentTable
from learners.retrieval.target_scale import TargetScale
from learners.retrieval.wrapper import Correction, Outputs, Wrapper, WrapperConfig
from streams.core.batch import Array, Batch, Column, Ints
from streams.core.schema import Schema
from streams.core.settings import unknown
from streams.core.state_dict import State
from streams.operators.features.aggregate_keys import AggregateKeys

_MOST = 1e6  # deviations of an error


class SegmentResidualsConfig(WrapperConfig):
    """Settings of ``segment-residuals``.

    Attributes:
        by: the columns whose values are segments; a list in it is a combination of columns. None:
            each category and each number alone. Numbers are in 16 bins, or their own segments where
            they are whole.
        half_lives: labels of a segment after which a residual counts half.
        prior: labels without a residual that a segment starts with.
        segments: the most segments.
        weights: ``online``: weights of the residuals are learned, and that of the base; a
            prediction is a mixture of this and of the base. ``one``: residuals are added.
        switch_after: how many labels the mixture expects to keep to one of them.
        pool_half_life: labels after which one counts half for the weights.
    """

    by: tuple[str | tuple[str, ...], ...] | None = None
    half_lives: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (100, 10_000)
    prior: PositiveFloat = 20
    segments: PositiveInt = Field(1 << 16, le=1 << 26)
    weights: Literal["online", "one"] = "online"
    switch_after: PositiveInt = 2000
    pool_half_life: PositiveFloat = 10_000

    @model_validator(mode="after")
    def _stated_once(self) -> Self:
        combinations = [(by,) if isinstance(by, str) else by for by in self.by or ()]
        lists = {"by": [tuple(sorted(by)) for by in combinations], "half_lives": self.half_lives}
        lists |= {f"by.{i}": by for i, by in enumerate(combinations)}
        for name, values in lists.items():
            if not values and name != "by":
                raise ValueError(f"{name}: it names no column")
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: one is stated twice")
        return self


class SegmentResiduals(Wrapper):
    """Add to a base learner what its errors were of late in the segments of an event.

    A segment is a value of a column, or of several; the whole stream is one too. For each there are
    exponentially weighted sums over its labels, by each half-life: for class c with probability p_c
    and label y,

        S_c = sum ([c = y] - p_c),   V_c = sum p_c (1 - p_c),
        r_c = (C - 1) / C * S_c / (V_c + 0.2 prior),

    one Newton step on the logit, with C classes; for targets S = sum (y - p) and
    r = S / (count + prior). p is what the base had predicted.

    With ``weights: online`` the logits of the base and the residuals are features of a pool
    (``LogLinearPool``, for targets ``LinearPool``), which is a calibration of the base too; the
    prediction is a mixture of pool and base, weighted by their losses so far. So a column that
    tells nothing does no harm. With ``one`` the residuals of all segments are added, by the first
    half-life.

    Args:
        config: settings.
        schema: features and label of the stream.
        seed: of the base.
        device: the torch device of the base.

    Raises:
        LearnerError: there is no such column, or it has no segments.
    """

    kind = "segment-residuals"
    Config = SegmentResidualsConfig

    def __init__(self, config: Any, schema: Schema, seed: int, device: str = "cpu") -> None:
        combinations = self.combinations = _combinations(config.by, schema)
        lives = config.half_lives
        self.parts = 1 + (len(combinations) + 1) * len(lives)
        super().__init__(config, schema, seed, device)
        self.targets = schema.task == "regression"
        self.keys = AggregateKeys(schema, [], combinations)
        self.table = SegmentTable(config.segments, len(combinations) + 1, lives, config.prior)
        self.scale = TargetScale()
        self.pool: LogLinearPool | LinearPool
        self.mixture: FixedShare | AdaHedge
        if self.targets:
            self.pool = LinearPool(self.parts - 1, config.pool_half_life)
            self.mixture = AdaHedge(2, config.switch_after)
        else:
            self.pool = LogLinearPool(self.parts, config.pool_half_life)
            self.mixture = FixedShare(2, 1.0 / config.switch_after)
        if config.weights == "one":
            self._added = np.zeros(self.parts - 1)
            self._added[:: len(lives)] = 1.0

    def _columns(self, batch: Batch) -> dict[str, Column]:
        """Return the columns that have segments, by name."""
        if not isinstance(batch.x, np.ndarray):
            return dict(batch.x)
        names = [feature.name for feature in self.schema.features if feature.kind == "numeric"]
        x = batch.x if batch.x.ndim > 1 else batch.x[:, None]
        return {name: x[:, i] for i, name in enumerate(names)}

    def _segments(self, batch: Batch) -> Ints:
        """Return the keys (n, segments) of events that come now. Pure."""
        n, keys = len(batch), self.keys
        if not keys.bins.known.all():
            keys = copy.deepcopy(keys)  # an event is one of those that give the edges
            own = keys.apply(self._columns(batch), n, batch.probe).events
        else:
            own = keys.view(self._columns(batch), n).events
        return np.concatenate([own, np.zeros((n, 1), np.int64)], 1)

    def correct_outputs(self, batch: Batch, outputs: Outputs) -> Correction:
        base = outputs.shares
        residuals = self.table.residuals(self._segments(batch), base.shape[1], self.targets)
        start = np.where(outputs.says[:, None], base, np.nan)
        notes = np.concatenate([start[:, None], residuals], 1)
        if not self.table.count or not outputs.says.any():
            return Correction(self.uncorrected(outputs), notes)
        experts = self._experts(base, residuals)
        if self.config.weights == "one":
            mixed = experts[1]
        else:
            mixed = self.mixture.weights[0] * experts[0] + self.mixture.weights[1] * experts[1]
        return Correction(self.answer(outputs, mixed, outputs.says), notes)

    def _experts(self, base: Floats, residuals: Floats) -> Floats:
        """Return the predictions (2, n, outputs) of the base, and with its residuals."""
        if isinstance(self.pool, LinearPool):
            if self.config.weights == "one":
                return np.stack([base, base + self._sum(residuals)])
            pooled = self.pool.correction(self._in_deviations(residuals[:, :, 0]))
            return np.stack([base, base + float(self.scale.std()) * pooled[:, None]])
        features = self._features(base, residuals)
        if self.config.weights == "one":
            features = np.stack([features[:, 0], self._sum(residuals)], 1)
            return np.stack([base, _softmax(features.sum(1))])
        return np.stack([base, self.pool.shares(features)])

    def _sum(self, residuals: Floats) -> Floats:
        return np.asarray((residuals * self._added[:, None]).sum(1), np.float64)

    def _in_deviations(self, errors: Floats) -> Floats:
        return np.clip(errors / float(self.scale.std()), -_MOST, _MOST)

    @staticmethod
    def _features(base: Floats, residuals: Floats) -> Floats:
        return np.concatenate([log_shares(base)[:, None], residuals], 1)

    def observe_keys(self, batch: Batch) -> None:
        if not self.keys.bins.known.all():
            self.keys.apply(self._columns(batch), len(batch), None)

    def learn_errors(self, batch: Batch, notes: Floats, delays: Floats) -> None:
        assert batch.y is not None
        y = batch.y
        if self.targets:
            y = self.scale.clip(y)
            self.scale.update(y)
        base, residuals = notes[:, 0], notes[:, 1:]
        said = ~np.isnan(base).any(1) & (self.targets | (base.sum(1) > 0))
        if not said.any():
            return
        base, residuals, y, delays = base[said], residuals[said], y[said], delays[said]
        if self.targets:
            base = self.scale.clip(base)
        keys = self._segments(batch.take(said))
        if self.never_buffer is not None and (out := self.never_buffer(batch.ids[said])).any():
            base, residuals, y = base[~out], residuals[~out], y[~out]
            keys, delays = keys[~out], delays[~out]
        # Where labels come one by one, cuts make no difference.
        size = 1 if self.per_event else max(len(y), 1)
        for start in range(0, len(y), size):
            rows = slice(start, start + size)
            self._learn_rows(base[rows], residuals[rows], y[rows], keys[rows], delays[rows])

    def _learn_rows(
        self, base: Floats, residuals: Floats, y: Array, keys: Ints, delays: Floats
    ) -> None:
        experts = self._experts(base, residuals)
        if isinstance(self.pool, LinearPool):
            self.mixture.update((self.scale.clip(experts[:, :, 0]) - y).T ** 2, delays)
            features = self._in_deviations(residuals[:, :, 0])
            self.pool.update(features, self._in_deviations(y - base[:, 0]))
        else:
            self.mixture.update(log_losses(experts, y), delays)
            self.pool.update(self._features(base, residuals), y)
        error = one_hot(y, base.shape[1], self.targets) - base
        curvature = np.ones_like(base) if self.targets else base * (1 - base)
        self.table.add(keys, error, curvature)

    def memories(self) -> tuple[str, ...]:
        segments = ", ".join(" and ".join(names) for names in self.combinations)
        lives = " and ".join(f"{life:,g}" for life in self.config.half_lives)
        own = f"errors by {segments or 'nothing'}, and of all, with half-lives of {lives} labels"
        return (own, *super().memories())

    def metrics(self) -> dict[str, float]:
        own = {"segments": float(len(self.table)), "residuals": float(self.mixture.weights[1])}
        return {**super().metrics(), **own}

    def state(self) -> State:
        return {**super().state(), "scale": self.scale.state(), **self._errors_state(False)}

    def servable(self) -> State:
        return {**super().servable(), "scale": self.scale.state(), **self._errors_state(True)}

    def _errors_state(self, served: bool) -> State:
        return {
            "keys": self.keys.state(),
            "table": self.table.servable() if served else self.table.state(),
            "pool": self.pool.state(),
            "mixture": self.mixture.state(),
        }

    def load(self, state: State) -> None:
        super().load(state)
        self._load_errors(state)

    def load_servable(self, state: State) -> None:
        super().load_servable(state)
        self._load_errors(state)

    def _load_errors(self, state: State) -> None:
        self.scale.load(state["scale"])
        self.keys.load(state["keys"])
        self.table.load(state["table"])
        self.pool.load(state["pool"])
        self.mixture.load(state["mixture"])


def _softmax(logits: Floats) -> Floats:
    shares: Floats = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return shares


def _combinations(
    by: tuple[str | tuple[str, ...], ...] | None, schema: Schema
) -> list[tuple[str, ...]]:
    """Return the columns of each segment. Raises ``LearnerError``."""
    kinds = {feature.name: feature.kind for feature in schema.features}
    suited = [name for name, kind in kinds.items() if kind in ("categorical", "numeric")]
    if by is None:
        return [(name,) for name in suited]
    combinations = [(names,) if isinstance(names, str) else tuple(names) for names in by]
    for name in [name for names in combinations for name in names]:
        if name not in kinds:
            raise LearnerError(f"learner.by: there is no column {unknown(name, kinds)}")
        if name not in suited:
            raise LearnerError(
                f"learner.by: column {name!r} is of kind {kinds[name]}: take categories and numbers"
            )
    return combinations
