"""The keys by which an error memory finds similar events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from learners.base import Learner, LearnerError
from learners.pretrained.rows import FeatureRows
from streams.core.batch import Array, Batch
from streams.core.schema import Schema
from streams.core.settings import Settings, unknown
from streams.core.state_dict import State, pack, unpack

Keys = NDArray[np.float32]

_MOST = 1e15
_LEAST_SPREAD = 1e-6


class KeysConfig(Settings):
    """What the keys of an error memory are.

    Attributes:
        kind: ``hidden``, the last hidden layer of the base; ``inputs``, the columns; ``auto``:
            ``hidden`` where the base is a network, else ``inputs``.
        columns: the columns that ``inputs`` takes, such as a vector of an encoder; None: all.
        warm_up: events from which the scale of ``inputs`` is learned.
        sample: events from which the scale of a hidden layer is learned, and its movement.
        moved: the mean cosine distance by which keys of these may move before all are void.
        when_void: ``rekey``: the stored events get new keys, from their columns, which are kept
            for that; ``clear``: the memory is cleared, as a sketch always is.
        check_every: labels after which that is measured.
    """

    kind: Literal["auto", "hidden", "inputs"] = "auto"
    columns: tuple[str, ...] | None = None
    warm_up: PositiveInt = 200
    sample: PositiveInt = 128
    moved: PositiveFloat = 0.2
    when_void: Literal["rekey", "clear"] = "rekey"
    check_every: PositiveInt = 500


class KeySource(ABC):
    """Keys of events, centred and about of unit scale. When their scale changes, old ones are void.

    Attributes:
        width: numbers of a key; 0 while there are none.
        moved: mean cosine distance by which keys have moved since they were last void.
    """

    width: int = 0
    moved: float = 0.0
    moves: bool = False
    """Whether keys move as the base learns."""

    @property
    @abstractmethod
    def observes(self) -> bool:
        """Whether ``observe`` has an effect."""

    @abstractmethod
    def of(self, batch: Batch) -> Keys:
        """Return the keys (n, width) of n events, as of now. Pure."""

    @abstractmethod
    def observe(self, batch: Batch) -> bool:
        """Learn the scale of n >= 1 events. Return whether all keys so far are void."""

    def learned(self, labels: int) -> bool:
        """Take note of labels that the base has learned. Return whether all keys are void."""
        return False

    @abstractmethod
    def state(self) -> State:
        """Return what was learned."""

    @abstractmethod
    def servable(self) -> State:
        """Return what ``of`` needs."""

    @abstractmethod
    def load(self, state: State) -> None:
        """Restore what ``state`` or ``servable`` returned."""


def key_source(config: KeysConfig, schema: Schema, base: Learner) -> KeySource:
    """Return the keys that settings ask for. Raises ``LearnerError``."""
    hidden = type(base).activations is not Learner.activations
    if config.kind == "hidden" or (config.kind == "auto" and hidden and config.columns is None):
        if not hidden:
            raise LearnerError(
                f"learner.keys.kind: learner {base.kind!r} has no hidden layer: use 'inputs'"
            )
        return HiddenKeys(config, base)
    return InputKeys(config, schema)


class InputKeys(KeySource):
    """The columns of an event as one row of numbers (``FeatureRows``), scaled.

    The scale is that of the first ``warm_up`` events, and changes when their number has doubled.

    Args:
        config: settings.
        schema: the features.

    Raises:
        LearnerError: there is no such column.
    """

    def __init__(self, config: KeysConfig, schema: Schema) -> None:
        names = [feature.name for feature in schema.features]
        for name in config.columns or ():
            if name not in names:
                raise LearnerError(
                    f"learner.keys.columns: there is no column {unknown(name, names)}"
                )
        stated = names if config.columns is None else config.columns
        self._places = [i for i, name in enumerate(names) if name in stated]
        self._names = [names[i] for i in self._places]
        self._all = len(self._places) == len(names)
        # Vectors of an encoder are of unit scale, and not centred.
        features = tuple(replace(schema.features[i], unit=False) for i in self._places)
        self._schema = replace(schema, features=features)
        self._rows = FeatureRows(self._schema, True, config.warm_up)
        self.width = self._rows.dimension

    def _part(self, batch: Batch) -> Batch:
        if self._all:
            return batch
        if isinstance(batch.x, np.ndarray):
            return replace(batch, x=batch.x[:, self._places])
        if self._schema.matrix:
            columns = [np.asarray(batch.x[name]) for name in self._names]
            x = columns[0] if columns[0].ndim > 1 else np.stack(columns, 1)
            return replace(batch, x=x)
        return replace(batch, x={name: batch.x[name] for name in self._names})

    @property
    def observes(self) -> bool:
        return self._rows.observes

    def of(self, batch: Batch) -> Keys:
        return np.asarray(self._rows.of(self._part(batch)), np.float32)

    def observe(self, batch: Batch) -> bool:
        changed = self._rows.observe(self._part(batch))
        self.width = self._rows.dimension
        return changed

    def state(self) -> State:
        return {"rows": self._rows.state()}

    def servable(self) -> State:
        return self.state()

    def load(self, state: State) -> None:
        self._rows.load(state["rows"])
        self.width = self._rows.dimension


class HiddenKeys(KeySource):
    """The last hidden layer of the base, centred and scaled by its values on a sample of events.

    Outputs of ReLU lie in one orthant, where all directions are alike: without centring a memory
    finds little. The sample is the first events of the stream; before it is complete, there are no
    keys. As the base learns, its hidden layer moves. After ``check_every`` labels the keys of the
    sample are compared with those at the last change. Where they have moved by more than
    ``moved``, all keys are void, and the scale is that of the sample by now.

    A key cannot be moved along with the layer: what became of an event's units is not a function of
    the old ones. So new keys are made from the columns, by a pass of the base over what is stored.

    Args:
        config: settings.
        base: a network.
    """

    moves = True

    def __init__(self, config: KeysConfig, base: Learner) -> None:
        self._config = config
        self._base = base
        self._sample: Batch | None = None
        self._complete = False
        self._mean, self._inverse = np.zeros(0), np.zeros(0)
        self._before: Keys = np.zeros((0, 0), np.float32)  # keys of the sample at the last change
        self._labels = 0  # since the last check

    def _layer(self, batch: Batch) -> Array:
        layers = self._base.activations(batch)
        if not layers:
            raise LearnerError(
                "learner.keys.kind: the base has no hidden layer with weights: use 'inputs'"
            )
        rows = np.clip(np.nan_to_num(layers[-1].reshape(len(batch), -1)), -_MOST, _MOST)
        return np.asarray(rows, np.float64)

    def _scaled(self, rows: Array) -> Keys:
        keys: Keys = ((rows - self._mean) * self._inverse).astype(np.float32)
        return keys

    @property
    def observes(self) -> bool:
        return not self._complete

    def of(self, batch: Batch) -> Keys:
        if not len(batch):
            return np.zeros((0, self.width), np.float32)
        return self._scaled(self._layer(batch))

    def observe(self, batch: Batch) -> bool:
        new = batch.to_predict(False)
        self._sample = new if self._sample is None else Batch.concat([self._sample, new])
        if len(self._sample) < self._config.sample:
            return False
        self._sample = self._sample.take(np.arange(self._config.sample))
        self._complete = True
        self._fit()
        return True

    def _fit(self) -> None:
        assert self._sample is not None
        rows = self._layer(self._sample)
        self._mean = rows.mean(0)
        deviation = rows.std(0)
        # A unit that varies little on the sample must not outweigh the others.
        least = max(float(np.sqrt((deviation**2).mean())) * 0.1, _LEAST_SPREAD)
        self._inverse = 1.0 / np.maximum(deviation, least)
        self.width = rows.shape[1]
        self._before = self._scaled(rows)
        self.moved = 0.0

    def learned(self, labels: int) -> bool:
        self._labels += labels
        if not self._complete or self._labels < self._config.check_every:
            return False
        self._labels = 0
        assert self._sample is not None
        self.moved = _cosine_distance(self._before, self._scaled(self._layer(self._sample)))
        if self.moved <= self._config.moved:
            return False
        self._fit()
        return True

    def servable(self) -> State:
        return {"mean": self._mean, "inverse": self._inverse}

    def state(self) -> State:
        sample = {} if self._sample is None else {"sample": pack(self._sample)}
        return {
            **self.servable(),
            **sample,
            "complete": self._complete,
            "before": self._before,
            "labels": self._labels,
            "moved": self.moved,
        }

    def load(self, state: State) -> None:
        self._mean, self._inverse = np.array(state["mean"]), np.array(state["inverse"])
        self.width = len(self._mean)
        if "complete" in state:
            self._complete, self._labels = state["complete"], state["labels"]
            self._before, self.moved = np.array(state["before"]), state["moved"]
            self._sample = unpack(state["sample"], ()) if "sample" in state else None


def _cosine_distance(one: Keys, other: Keys) -> float:
    """Return the mean of 1 - cosine over rows (n, width); of two zeros it is 0."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    cosine = np.divide((a * b).sum(1), lengths, out=np.ones(len(a)), where=lengths > 0)
    return float(1.0 - cosine.mean())
