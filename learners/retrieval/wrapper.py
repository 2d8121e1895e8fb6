"""The base of learners that correct another learner by what they know of its recent errors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PositiveInt, SerializeAsAny, ValidationError

import learners
from learners.base import Learner, LearnerConfig, LearnerError
from learners.pretrained.encoders.registry import first_line
from learners.registry import UnknownKindError, find
from learners.results import BufferSummary, Encoding, Prediction
from learners.retrieval.noted import Floats, NotedEvents
from learners.retrieval.slow_base import SlowBase
from streams.core.batch import Array, Batch, ClassName
from streams.core.schema import Schema, Task
from streams.core.state_dict import State
from streams.operators.label_join import Revealed


def base_config(stated: Any) -> LearnerConfig:
    """Return the checked settings of a base learner. Raises ``ValueError``."""
    if isinstance(stated, LearnerConfig):
        return stated
    given = {"kind": stated} if isinstance(stated, str) else stated
    if not isinstance(given, Mapping):
        raise ValueError(f"expected a kind, or a mapping with a kind, got {stated!r}")
    try:
        return _class_of(str(given.get("kind", ""))).Config.model_validate(given)
    except UnknownKindError as error:
        raise ValueError(f"kind: {error}") from None
    except ValidationError as error:
        raise ValueError(first_line(error)) from None


def _class_of(kind: str) -> type[Learner]:
    return find(learners.KINDS, Learner, kind)  # type: ignore[type-abstract]


BaseConfig = Annotated[SerializeAsAny[LearnerConfig], BeforeValidator(base_config)]
"""Settings of any learner: its kind, or a mapping with ``kind`` and its settings."""


class WrapperConfig(LearnerConfig):
    """Settings of a learner that corrects another.

    Attributes:
        base: the learner that is corrected.
        learn_every: labels after which the base learns, in the micro-batches in which they came;
            None: at once.
        frozen_after: labels after which the base learns no more; None: it always learns.
        waiting: the most events that wait for their label, of which the prediction is known.
    """

    base: BaseConfig
    learn_every: PositiveInt | None = None
    frozen_after: PositiveInt | None = None
    waiting: PositiveInt = 20_000

    def located(self, folder: Path) -> Self:
        return self.model_copy(update={"base": self.base.located(folder)})


class Outputs(NamedTuple):
    """What the base predicts of n events, as numbers.

    Attributes:
        prediction: as the base returned it.
        shares: (n, outputs) probabilities by class, or the target; 0 where it says nothing.
        says: (n,) bool, whether it says anything.
    """

    prediction: Prediction
    shares: Floats
    says: NDArray[np.bool_]


class Correction(NamedTuple):
    """A prediction of n events, and what is to be known of it when the labels come.

    Attributes:
        prediction: the corrected one.
        notes: (n, parts, outputs).
    """

    prediction: Prediction
    notes: Floats


class Wrapper(Learner):
    """Predict with a base learner, and correct it by its recent errors.

    A subclass says how (``correct_outputs``), and learns errors (``learn_errors``). It learns them
    from what was predicted *when the event was predicted*: that is noted until the label comes. At
    most ``waiting`` events wait so. Of others, and of events that were never predicted, it is what
    would be predicted just before the base learns them.

    All else is the base's: what it takes of the columns, whether it goes event by event, its device
    and its warnings.

    Args:
        config: settings.
        schema: features and label of the stream.
        seed: of the base, and of what the wrapper draws.
        device: the torch device of the base.

    Raises:
        LearnerError: the base cannot be made.

    Attributes:
        base: the learner that is corrected.
    """

    Config = WrapperConfig
    parts: int = 1

    def __init__(self, config: Any, schema: Schema, seed: int, device: str = "cpu") -> None:
        super().__init__(config, schema, seed)
        self.config: Any = config
        self.base = _base(config.base, schema, seed, device)
        self.per_event, self.opaque = self.base.per_event, self.base.opaque
        self.takes_keys = self.base.takes_keys
        self.handles_missing = self.base.handles_missing
        self.needs_boundaries = self.base.needs_boundaries
        self.slow = SlowBase(self.base, config.learn_every, config.frozen_after)
        self.noted = NotedEvents(self.parts, config.waiting)
        self._fresh: tuple[Batch, Correction] | None = None  # within a step
        self._unknown = 0  # labels of events that were not noted

    @classmethod
    def wants_aggregates(cls, config: Any) -> bool:
        return _class_of(config.base.kind).wants_aggregates(config.base)

    @classmethod
    def wants_histories(cls, config: Any) -> bool:
        return _class_of(config.base.kind).wants_histories(config.base)

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        base = "rls" if task == "regression" else "slda"
        return {"kind": cls.kind, "base": {"kind": base, "warm_up": 50}}

    @property
    def requires_segments(self) -> bool:
        return self.base.requires_segments

    @abstractmethod
    def correct_outputs(self, batch: Batch, outputs: Outputs) -> Correction:
        """Return the corrected prediction of n events. Pure."""

    @abstractmethod
    def learn_errors(self, batch: Batch, notes: Floats, delays: Floats) -> None:
        """Learn m events with labels.

        Args:
            batch: the events.
            notes: what was noted of them (m, parts, outputs).
            delays: (m,) how many events were predicted from each of them on.
        """

    def predict(self, batch: Batch) -> Prediction:
        return self._correct_base(batch).prediction

    def _correct_base(self, batch: Batch) -> Correction:
        return self.correct_outputs(batch, self.outputs_of(self.base.predict(batch)))

    def outputs_of(self, prediction: Prediction) -> Outputs:
        """Return a prediction of the base as numbers."""
        n, value = len(prediction), prediction.value
        if self.schema.task == "regression":
            says = np.isfinite(value)
            return Outputs(prediction, np.where(says, value, 0.0)[:, None], says)
        says, proba = value >= 0, prediction.proba
        outputs = max(len(self.classes), 0 if proba is None else proba.shape[1])
        shares = np.zeros((n, outputs))
        if proba is not None:
            shares[:, : proba.shape[1]] = proba
        else:
            shares = np.zeros((n, max(outputs, int(value.max(initial=-1)) + 1)))
            shares[says, value[says]] = 1.0
        return Outputs(prediction, shares, says)

    def answer(self, outputs: Outputs, shares: Floats, says: NDArray[np.bool_]) -> Prediction:
        """Return the prediction of corrected ``shares`` (n, outputs), where ``says`` (n,) is True.

        The likeliest class is predicted, the first of equally likely ones.
        """
        base = outputs.prediction
        if self.schema.task == "regression":
            value = np.where(says, shares[:, 0], np.nan)
            silent = ~says if self.version else None
            return Prediction(base.ids, "regression", value, None, (), self.version, silent)
        shares = np.where(says[:, None], shares, 0.0)
        value = np.where(says, shares.argmax(1) if shares.shape[1] else -1, -1).astype(np.int64)
        dtype = np.float64 if base.proba is None else base.proba.dtype
        proba = shares.astype(dtype)
        return Prediction(base.ids, "classification", value, proba, self.classes, self.version)

    def uncorrected(self, outputs: Outputs) -> Prediction:
        """Return the prediction of the base, bit for bit."""
        base = outputs.prediction
        if base.kind == "regression" and self.version and not base.version:
            # The base waits for its first label, and its wrapper has learned one.
            base = replace(base, abstains=np.isnan(base.value))
        proba = base.proba
        if proba is not None and len(self.classes) > proba.shape[1]:  # the base lags behind
            proba = np.pad(proba, ((0, 0), (0, len(self.classes) - proba.shape[1])))
        return replace(base, proba=proba, classes=self.classes, version=self.version)

    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        if self.per_event:
            return self._interleave(batch, revealed)
        prediction = self._predict_noted(batch)
        self._observe(batch)
        self._learn(revealed.batch)
        self._correct(revealed)
        return prediction

    def _predict_noted(self, batch: Batch) -> Prediction:
        correction = self._correct_base(batch)
        self._fresh = batch, correction
        return correction.prediction

    def _predict_part(self, part: Batch) -> Prediction:
        prediction = self._predict_noted(part)
        if self.version or prediction.kind == "classification":
            return prediction
        return replace(prediction, abstains=np.isnan(prediction.value))

    def _observe(self, batch: Batch) -> None:
        fresh, self._fresh = self._fresh, None
        known = None if fresh is None or fresh[0] is not batch else fresh[1].notes
        if batch.probe is not None and batch.probe.any():
            learned = ~batch.probe
            known = None if known is None else known[learned]
            batch = batch.take(learned)
        if len(batch):
            self._note(batch, known)

    def observe(self, batch: Batch) -> None:
        self._note(batch, None)

    def _note(self, batch: Batch, notes: Floats | None) -> None:
        """Note the prediction of n >= 1 events, and let the base observe them."""
        self.noted.add(batch.ids, self._correct_base(batch).notes if notes is None else notes)
        self.observe_keys(batch)
        if not self.slow.frozen:
            self.base._observe(batch)

    def observe_keys(self, batch: Batch) -> None:
        """Learn of n >= 1 events what keys need, such as a scale."""

    def learn(self, batch: Batch) -> None:
        self.base.never_buffer = self.never_buffer
        outputs = 1 if self.schema.task == "regression" else len(self.classes)
        notes = self.noted.pop(batch.ids, outputs)
        values = notes.values
        if not notes.known.all():
            missing = ~notes.known
            self._unknown += int(np.count_nonzero(missing))
            late = self._correct_base(replace(batch.take(missing), y=None)).notes
            width = max(late.shape[2], values.shape[2])
            values = np.pad(values, ((0, 0), (0, 0), (0, width - values.shape[2])))
            values[missing, :, : late.shape[2]] = late
        self.learn_errors(batch, values, notes.delays)
        self.slow.learn(batch)

    def _correct(self, revealed: Revealed) -> None:
        if revealed.corrected is not None:
            classes = revealed.batch.classes
            self._register_classes(revealed.corrected[1], classes)
            self.slow.correct(*revealed.corrected, classes)
        super()._correct(revealed)
        if not self.slow.frozen:
            self.base._correct(revealed)

    def verify(self) -> None:
        self.base.verify()

    def encodings(self) -> dict[str, Encoding]:
        return self.base.encodings()

    def memories(self) -> tuple[str, ...]:
        return self.base.memories()

    def warnings(self, classes: tuple[ClassName, ...]) -> tuple[str, ...]:
        return self.base.warnings(classes)

    def current_warnings(self) -> tuple[str, ...]:
        late: tuple[str, ...] = ()
        if self._unknown:
            late = (
                f"learner.waiting: labels come for events that are no longer noted, as more than "
                f"{self.config.waiting} wait: raise it to the events that a label takes",
            )
        return (*self.base.current_warnings(), *late)

    def metrics(self) -> dict[str, float]:
        return self.base.metrics()

    @property
    def has_activations(self) -> bool:
        return self.base.has_activations

    def activations(self, batch: Batch) -> list[Array]:
        return self.base.activations(batch)

    def buffer_summary(self) -> BufferSummary | None:
        return self.base.buffer_summary()

    def weight_vector(self) -> Array | None:
        return self.base.weight_vector()

    @property
    def gradient_steps(self) -> int:
        return self.base.gradient_steps

    @property
    def buffer_bytes(self) -> int:
        return self.base.buffer_bytes

    def state(self) -> State:
        return {
            **self.common_state(),
            "base": self.base.state(),
            "slow": self.slow.state(),
            "noted": self.noted.state(),
            "unknown": self._unknown,
        }

    def load(self, state: State) -> None:
        self.load_common(state)
        self.base.load(self.base.migrate(state["base"]))
        self.slow.load(state["slow"], self.classes)
        self.noted.load(state["noted"])
        self._unknown = state["unknown"]

    def servable(self) -> State:
        return {**self.common_state(), "base": self.base.servable()}

    def load_servable(self, state: State) -> None:
        self.load_common(state)
        self.base.load_servable(state["base"])


def _base(config: LearnerConfig, schema: Schema, seed: int, device: str) -> Learner:
    cls = _class_of(config.kind)
    try:
        if "device" in signature(cls).parameters:
            return cls(config, schema, seed, device=device)  # type: ignore[call-arg]
        if device != "cpu":
            raise LearnerError(f"device: {device!r}, but {config.kind!r} knows only cpu")
        return cls(config, schema, seed)
    except LearnerError as error:
        raise LearnerError(f"learner.base: {error}") from None
