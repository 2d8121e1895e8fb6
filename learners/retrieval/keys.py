"""The keys by which an error memory finds similar events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from learners.base import Learner, LearnerError
from learners.pretrained.encoders.cache import FeatureCache
from learners.pretrained.encoders.registry import encoder_class, load_encoder, located
from learners.pretrained.rows import FeatureRows
from learners.registry import UnknownKindError
from learners.retrieval.memories import by_kind
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, Schema
from streams.core.settings import Settings, unknown
from streams.core.state_dict import State, pack, unpack

Keys = NDArray[np.float32]

_MOST = 1e15
_LEAST_SPREAD = 1e-6
_CACHED = 1 << 26  # bytes of encoded values


class KeysConfig(Settings):
    """What the keys of an error memory are.

    Attributes:
        kind: ``hidden``, the last hidden layer of the base; ``inputs``, the columns; ``encoder``,
            what a frozen encoder makes of a column that the base takes otherwise; ``auto``:
            ``hidden`` where the base is a network, else ``inputs``.
        columns: the columns that ``inputs`` takes, such as a vector of an encoder; None: all. Of
            ``encoder`` the one that it encodes; None: the only one that suits it.
        encoder: a frozen encoder: its kind, or a mapping with this ``kind`` and its settings.
        warm_up: events from which the scale of ``inputs``, or of vectors, is learned.
        sample: events from which the scale of a hidden layer is learned, and its movement.
        moved: the mean cosine distance by which keys of these may move before all are void.
        when_void: ``rekey``: the stored events get new keys, from their columns, which are kept
            for that; ``clear``: the memory is cleared, as a sketch always is.
        check_every: labels after which that is measured.
    """

    kind: Literal["auto", "hidden", "inputs", "encoder"] = "auto"
    columns: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    encoder: Annotated[dict[str, Any] | None, BeforeValidator(by_kind)] = None
    warm_up: PositiveInt = 200
    sample: PositiveInt = 128
    moved: PositiveFloat = 0.2
    when_void: Literal["rekey", "clear"] = "rekey"
    check_every: PositiveInt = 500

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if (self.kind == "encoder") != (self.encoder is not None):
            raise ValueError("kind: 'encoder' and the key encoder belong together")
        if self.kind == "hidden" and self.columns is not None:
            raise ValueError("columns: a hidden layer has none: leave them out, or use 'inputs'")
        return self

    def located(self, folder: Path) -> Self:
        """Return the settings with paths of files made absolute."""
        if self.encoder is None:
            return self
        return self.model_copy(update={"encoder": dict(located(self.encoder, folder))})


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
    def description(self) -> str:
        """What the keys are, for a person."""

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


def key_source(config: KeysConfig, schema: Schema, base: Learner, seed: int) -> KeySource:
    """Return the keys that settings ask for. Raises ``LearnerError``."""
    if config.encoder is not None:
        return EncoderKeys(config, schema, seed)
    hidden = base.has_activations
    if config.kind == "hidden" or (config.kind == "auto" and hidden and config.columns is None):
        if not hidden:
            raise LearnerError(
                f"learner.keys.kind: learner {base.kind!r} has no hidden layer with weights: use "
                "'inputs'"
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

    @property
    def description(self) -> str:
        return "all columns" if self._all else ", ".join(self._names)

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


class EncoderKeys(InputKeys):
    """The vectors of a frozen encoder, of one column, centred and scaled as ``InputKeys``.

    The base takes the column as it is. So a base that hashes the words of a text, say, is corrected
    by texts of a like meaning. They never move. (Where base and keys are to have the same vectors,
    encode the column of the stream instead.) Values that were encoded lately are looked up.

    Args:
        config: settings.
        schema: the features.
        seed: of random weights of the encoder.

    Raises:
        LearnerError: the encoder cannot be loaded, or no one column suits it.
    """

    def __init__(self, config: KeysConfig, schema: Schema, seed: int) -> None:
        assert config.encoder is not None
        feature = _encoded_column(config, schema)
        try:
            encoder = load_encoder(config.encoder, feature, seed)
        except LearnerError as error:
            raise LearnerError(f"learner.keys.encoder: {error}") from None
        self._name = feature.name
        self._fingerprint = encoder.fingerprint
        self._encoder = FeatureCache(encoder, _CACHED) if encoder.costly else encoder
        vector = Feature(feature.name, "vector", (encoder.dimension,))
        self._rows = FeatureRows(replace(schema, features=(vector,)), True, config.warm_up)
        self.width = self._rows.dimension

    @property
    def description(self) -> str:
        return f"{self._name} as encoded for it"

    def _part(self, batch: Batch) -> Batch:
        column = batch.x if isinstance(batch.x, np.ndarray) else batch.x[self._name]
        return replace(batch, x=self._encoder.encode(column))

    def state(self) -> State:
        return {**super().state(), "fingerprint": self._fingerprint}

    def load(self, state: State) -> None:
        if state["fingerprint"] != self._fingerprint:
            raise LearnerError(
                f"learner.keys.encoder: it has the fingerprint {self._fingerprint} here, and the "
                f"keys were made with {state['fingerprint']}: install the version of its weights "
                "that the run had"
            )
        super().load(state)


def _encoded_column(config: KeysConfig, schema: Schema) -> Feature:
    """Return the column that an encoder takes. Raises ``LearnerError``."""
    names = [feature.name for feature in schema.features]
    if config.columns is not None:
        for name in config.columns:
            if name not in names:
                raise LearnerError(
                    f"learner.keys.columns: there is no column {unknown(name, names)}"
                )
        if len(config.columns) != 1:
            raise LearnerError("learner.keys.columns: an encoder takes one column: name it")
        return schema.features[names.index(config.columns[0])]
    try:
        kinds = encoder_class(str((config.encoder or {}).get("kind"))).kinds
    except UnknownKindError as error:
        raise LearnerError(f"learner.keys.encoder: kind: {error}") from None
    suited = [feature for feature in schema.features if feature.kind in kinds]
    if len(suited) != 1:
        raise LearnerError(
            f"learner.keys.columns: {len(suited)} columns are of kind "
            f"{' or '.join(sorted(kinds))}: name the one that the encoder takes"
        )
    return suited[0]


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

    @property
    def description(self) -> str:
        return f"the last hidden layer of {self._base.kind}"

    def _layer(self, batch: Batch) -> Array:
        last = self._base.activations(batch)[-1]
        rows = np.clip(np.nan_to_num(last.reshape(len(batch), -1)), -_MOST, _MOST)
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
