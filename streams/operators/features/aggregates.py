"""Aggregates of the events before, by the values of their columns, as one more feature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from streams.core.batch import Batch, Column, Floats, Ints
from streams.core.errors import StreamError
from streams.core.schema import Feature, Schema
from streams.core.settings import unknown
from streams.core.state_dict import State
from streams.core.stream_config import AggregateConfig
from streams.operators.base import Operator
from streams.operators.features.aggregate_keys import CODES, AggregateKeys
from streams.operators.features.event_aggregates import EventAggregates
from streams.operators.features.label_means import LabelMeans

NAME = "aggregates"
"""The name of the feature."""
LABEL = "label"
"""What ``mean`` names for the mean of the label."""
SCALES: tuple[float | None, ...] = (100.0, 1000.0, None)
KEYS = 65_536
"""Values of columns that aggregates are kept for, unless a job states it."""
MAX_CLASSES = 8
"""Classes whose rates are tracked at most: those of the lowest codes."""
MAX_COLUMNS = 64
"""Columns that ``auto`` takes at most: the first."""

_KEY_KINDS = ("categorical", "numeric")


class Aggregates(Operator):
    """Appends one vector, ``aggregates``, to the features: what the events before have left.

    Means of labels know exactly the labels that were known before the micro-batch, as a learner
    does that is frozen within it (``LabelMeans``). Counts, means of numbers and times since the
    last event know every event before, also of the same micro-batch (``EventAggregates``). Probes
    get features and leave nothing. The keys of an event wait with it for its label
    (``Batch.label_keys``), so a label counts for the values that were predicted from. A label that
    is corrected after it was learned changes nothing.

    A stream of numbers only has a matrix; behind this operator it has columns.

    Args:
        aggregates: what is kept.
        schema: of the stream.
        keys: values of columns that are kept, for label means and for other aggregates each.
        classes: how many classes the stream is expected to have; 0: not known.

    Raises:
        StreamError: a column cannot be used so; the message names place and remedy.
    """

    def __init__(
        self,
        aggregates: Sequence[AggregateConfig],
        schema: Schema,
        keys: int = KEYS,
        classes: int = 0,
    ) -> None:
        _check(aggregates, schema)
        self._names = [feature.name for feature in schema.features]
        self.configs = tuple(aggregates)
        self._settings = {"keys": keys, "classes": classes}
        means = [c for c in aggregates if c.mean == LABEL]
        events = _of_events(aggregates)
        self._keys = AggregateKeys(schema, [c.by for c in means], [c.by for c, _ in events])
        expected = max(len(schema.classes) or classes, 2)
        codes = tracked_classes(schema, expected)
        self._labels: LabelMeans | None = None
        self._events: EventAggregates | None = None
        picks: list[list[int]] = [[], []]
        if means:
            scales = _union(means)
            of = self._keys
            self._labels = LabelMeans(
                len(means), of.coded, CODES, of.numeric, scales, codes, keys, expected
            )
            sums = 1 if codes is None else len(codes)
            picks[0] = _label_columns(means, scales, sums)
        if events:
            scales = _union([config for config, _ in events])
            self._events = EventAggregates(len(events), scales, keys)
            picks[1] = _event_columns(events, scales, self._events.width)
        self._numbers = [number for _, number in events]
        self._picks = [np.array(pick, np.int64) for pick in picks]
        self.width = sum(map(len, picks))

    def settings(self) -> dict[str, Any]:
        """Return what ``of_settings`` makes the operator from, as JSON."""
        configs = [config.model_dump(mode="json") for config in self.configs]
        return {"aggregates": configs, **self._settings}

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], schema: Schema) -> Aggregates:
        """Return the operator of these settings, without state, for a stream of this schema."""
        configs = [AggregateConfig.model_validate(config) for config in settings["aggregates"]]
        return cls(configs, schema, settings["keys"], settings["classes"])

    def schema(self, schema: Schema) -> Schema:
        """Return the schema of the features behind the operator."""
        return replace(
            schema, features=(*schema.features, Feature(NAME, "vector", (self.width,), unit=True))
        )

    def apply(self, batch: Batch) -> Batch:
        x, n = self._columns(batch), len(batch)
        keys = self._keys.apply(x, n, batch.probe)
        parts = []
        if self._labels is not None:
            parts.append(self._labels.features(keys.labels))
        if self._events is not None:
            numbers = self._stack(x, n)
            seen = self._events.apply(keys.events, numbers, batch.time, batch.probe)
            parts.append(seen.reshape(n, math.prod(seen.shape[1:])))
        label_keys = None if self._labels is None else keys.labels
        return replace(batch, x=self._with(x, parts), label_keys=label_keys)

    def view(self, batch: Batch) -> Batch:
        x, n = self._columns(batch), len(batch)
        keys = self._keys.view(x, n)
        parts = []
        if self._labels is not None:
            parts.append(self._labels.features(keys.labels))
        if self._events is not None:
            seen = self._events.view(keys.events, batch.time)
            parts.append(seen.reshape(n, math.prod(seen.shape[1:])))
        return replace(batch, x=self._with(x, parts))

    def learn(self, batch: Batch) -> None:
        if self._labels is not None and batch.label_keys is not None:
            assert batch.y is not None
            self._labels.learn(batch.label_keys, batch.y)

    def _columns(self, batch: Batch) -> Mapping[str, Column]:
        x = batch.x
        if not isinstance(x, np.ndarray):
            return x
        columns = np.ascontiguousarray((x if x.ndim > 1 else x[:, None]).T)
        return dict(zip(self._names, columns, strict=True))

    def _stack(self, x: Mapping[str, Column], n: int) -> Floats:
        """Return (n, keys) the numbers whose means are kept; 0 where there is only a count."""
        numbers = np.zeros((n, len(self._numbers)))
        for j, name in enumerate(self._numbers):
            if name is not None:
                numbers[:, j] = np.asarray(x[name])
        return numbers

    def _with(self, x: Mapping[str, Column], parts: Sequence[Floats]) -> Mapping[str, Column]:
        """Return the columns with the aggregates: the stated ones of the (n, width) parts."""
        picks = [pick for pick in self._picks if len(pick)]
        chosen = [
            part if len(pick) == part.shape[1] else part.take(pick, 1)
            for part, pick in zip(parts, picks, strict=True)
        ]
        whole = chosen[0] if len(chosen) == 1 else np.concatenate(chosen, axis=1)
        return {**x, NAME: whole.astype(np.float32, copy=False)}

    def memory_bytes(self) -> int:
        """Return the bytes of all tables."""
        parts = (self._labels, self._events, self._keys.bins)
        return sum(part.memory_bytes() for part in parts if part is not None)

    def state(self) -> State:
        return {
            "aggregates": self._keys.state(),
            "labels": {} if self._labels is None else self._labels.state(),
            "events": {} if self._events is None else self._events.state(),
        }

    def servable(self) -> State:
        return {
            "aggregates": self._keys.state(),
            "labels": {} if self._labels is None else self._labels.servable(),
            "events": {} if self._events is None else self._events.servable(),
        }

    def load(self, state: State) -> None:
        self._keys.load(state["aggregates"])
        if self._labels is not None:
            if "landmark" not in state["labels"]:
                raise StreamError(
                    "the state is of an everlearn that kept label means in another way: learn "
                    "anew, or resume with the everlearn that wrote it"
                )
            self._labels.load(state["labels"])
        if self._events is not None:
            self._events.load(state["events"])


def auto_aggregates(schema: Schema) -> tuple[AggregateConfig, ...]:
    """Return label means by every category and every number, of the first 64 of them."""
    names = [feature.name for feature in schema.features if feature.kind in _KEY_KINDS]
    return tuple(AggregateConfig(by=(name,), mean=LABEL) for name in names[:MAX_COLUMNS])


def describe_aggregates(configs: Sequence[AggregateConfig], schema: Schema) -> tuple[str, ...]:
    """Return what is kept, one line for each kind: ``label mean by user, hour over 100 labels``."""
    numeric = {feature.name for feature in schema.features if feature.kind == "numeric"}
    lines: dict[tuple[str, str], list[str]] = {}
    for config in configs:
        names = [f"{name} (in bins)" if name in numeric else name for name in config.by]
        scales = ", ".join("all" if scale is None else f"{scale:,g}" for scale in _scales(config))
        over = f" over {' and '.join(scales.rsplit(', ', 1))} "
        kinds = []
        if config.mean == LABEL:
            kinds.append(("label mean", f"{over}labels"))
        elif config.mean is not None:
            kinds.append((f"mean of {config.mean}", f"{over}events"))
        if config.count:
            kinds.append(("count", f"{over}events"))
        if config.since_last:
            kinds.append(("time since the last event", ""))
        for kind in kinds:
            lines.setdefault(kind, []).append(" and ".join(names))
    return tuple(f"{kind} by {', '.join(by)}{over}" for (kind, over), by in lines.items())


def tracked_classes(schema: Schema, expected: int) -> Ints | None:
    """Return (c,) the codes of the classes whose rates are tracked; None for a regression.

    Of two classes class 1 alone: its rate says all of both. Of more, each, up to eight: those of
    the lowest codes, which are the stated ones or those that came first.
    """
    if schema.task == "regression":
        return None
    return np.arange(min(expected, MAX_CLASSES)) if expected > 2 else np.array([1])


def _check(aggregates: Sequence[AggregateConfig], schema: Schema) -> None:
    """Raise ``StreamError`` where the columns of the stream do not suit the aggregates."""
    kinds = {feature.name: feature.kind for feature in schema.features}
    if NAME in kinds:
        raise StreamError(
            f"stream.aggregates: the stream has a feature {NAME!r}, which is the name of what is "
            "added: give that column another name, or state aggregates: none"
        )
    for i, config in enumerate(aggregates):
        place = f"stream.aggregates.{i}"
        for name in config.by:
            if name not in kinds:
                raise StreamError(f"{place}.by: there is no feature {unknown(name, kinds)}")
            if kinds[name] not in _KEY_KINDS:
                raise StreamError(
                    f"{place}.by: {name!r} is {kinds[name]}, and events are grouped by categories "
                    "and numbers: state it as categorical under stream.features, or leave it out"
                )
        if config.mean not in (None, LABEL) and kinds.get(config.mean) != "numeric":
            numeric = [LABEL, *(name for name, kind in kinds.items() if kind == "numeric")]
            raise StreamError(
                f"{place}.mean: there is no numeric feature {unknown(config.mean, numeric)}"
            )


def _scales(config: AggregateConfig) -> tuple[float | None, ...]:
    return SCALES if config.scales is None else config.scales


def _union(configs: Sequence[AggregateConfig]) -> list[float | None]:
    """Return all scales of the configurations, once each."""
    return list(dict.fromkeys(scale for config in configs for scale in _scales(config)))


def _label_columns(
    configs: Sequence[AggregateConfig], scales: Sequence[float | None], sums: int
) -> list[int]:
    """Return which features of ``LabelMeans`` are stated, the overall rates among them."""
    cells = len(scales) * sums
    picked = [
        key * cells + part * len(scales) + scales.index(scale)
        for key, config in enumerate(configs)
        for part in range(sums)
        for scale in _scales(config)
    ]
    return [*picked, *range(len(configs) * cells, (len(configs) + 1) * cells)]


def _of_events(aggregates: Sequence[AggregateConfig]) -> list[tuple[AggregateConfig, str | None]]:
    """Return the configurations that concern events: each with the number whose mean is kept, and
    with None where all events count."""
    events: list[tuple[AggregateConfig, str | None]] = []
    for config in aggregates:
        if config.mean not in (None, LABEL):
            events.append((config, config.mean))
        if config.count or config.since_last:
            events.append((config, None))
    return events


def _event_columns(
    events: Sequence[tuple[AggregateConfig, str | None]],
    scales: Sequence[float | None],
    width: int,
) -> list[int]:
    """Return which features of ``EventAggregates`` are stated."""
    picked: list[int] = []
    for key, (config, number) in enumerate(events):
        begin, places = key * width, [scales.index(scale) for scale in _scales(config)]
        if number is not None:
            picked += [begin + place for place in places]
        elif config.count:
            picked += [begin + len(scales) + place for place in places]
        if number is None and config.since_last:
            picked += [begin + width - 2, begin + width - 1]
    return picked
