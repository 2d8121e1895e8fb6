"""The base of learners that train small parts inside a frozen backbone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import (
    BeforeValidator,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
)
from torch import Tensor

import learners
from learners.base import (
    Learner,
    LearnerConfig,
    LearnerError,
    NotFiniteError,
)
from learners.networks import modules
from learners.networks.optimizer import LOWER_LR, Adam, FlatOptimizer, OptimizerConfig
from learners.pretrained.backbones.base import BackboneConfig, Hidden
from learners.pretrained.backbones.registry import backbone_class, backbone_config, load_backbone
from learners.pretrained.backbones.trunk import Trunk
from learners.pretrained.encoders.registry import first_line
from learners.pretrained.tuned.parts import TunedParts
from learners.pretrained.tuned.prototypes import PrototypeLoss
from learners.registry import UnknownKindError, find
from learners.results import BufferSummary, Encoding, Prediction
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.schema import Feature, FeatureKind, Schema, Task
from streams.core.state_dict import State
from streams.operators.label_join import Revealed

UpperBlocks = Callable[[Hidden, Tensor | None], Tensor]
"""Maps states before the upper blocks, and queries, to features (n, width)."""
_TOKENS = 4096
"""Tokens of a batch of predictions, padding included."""
_MOST = 1e8
"""The largest number of a trained part: the square of a product of two is finite in float32."""


def _backbone(stated: Any) -> BackboneConfig:
    try:
        return backbone_config(stated)
    except LearnerError as error:
        raise ValueError(str(error)) from None


def head_config(stated: Any) -> LearnerConfig:
    """Return the checked settings of a head: a learner over vectors. Raises ``ValueError``."""
    if isinstance(stated, LearnerConfig):
        return stated
    given = {"kind": stated} if isinstance(stated, str) else stated
    if not isinstance(given, Mapping):
        raise ValueError(f"state the name of a learner, or a mapping with its kind, not {given!r}")
    given = dict(given)
    try:
        config = _head_class(given.get("kind", "")).Config
        scale = config.model_fields.get("scale")
        if scale is not None and scale.annotation is bool:  # features are of unit scale
            given.setdefault("scale", False)
        return config.model_validate(given)
    except UnknownKindError as error:
        raise ValueError(f"kind: {error}") from None
    except ValidationError as error:
        raise ValueError(first_line(error)) from None


def _head_class(kind: Any) -> type[Learner]:
    cls = find(learners.KINDS, Learner, str(kind))  # type: ignore[type-abstract]
    if cls.opaque or cls.per_event or cls.needs_boundaries:
        raise ValueError(f"kind: {kind!r} cannot be a head: take one as slda, ranpac or prototype")
    return cls


HeadConfig = Annotated[SerializeAsAny[LearnerConfig], BeforeValidator(head_config)]
"""Settings of a learner over features: its kind, or a mapping with ``kind`` and its settings."""


class TunedConfig(LearnerConfig):
    """Settings of a learner that trains parts inside a frozen backbone.

    Attributes:
        backbone: its kind, or a mapping with ``kind`` and its settings.
        first_block: the first block that trained parts act in, from 0; None: the last third of the
            blocks. What the blocks below give is kept, and not computed again.
        cache_mb: the most megabytes of it in memory, for all learners that share it. It shapes no
            result.
        optimizer: of the trained parts.
        steps: gradient steps for each micro-batch of revealed labels.
        scale: what cosines are multiplied by in the loss.
        head: the learner that predicts from features: its kind, or a mapping with ``kind`` and its
            settings.
    """

    backbone: Annotated[SerializeAsAny[BackboneConfig], BeforeValidator(_backbone)] = (
        backbone_config("minilm")
    )
    first_block: NonNegativeInt | None = None
    cache_mb: NonNegativeInt = 256
    optimizer: OptimizerConfig = Adam(lr=3e-3)
    steps: PositiveInt = 1
    scale: PositiveFloat = 16.0
    head: HeadConfig = head_config("slda")

    def located(self, folder: Path) -> Self:
        places = {"backbone": self.backbone.located(folder), "head": self.head.located(folder)}
        return self.model_copy(update=places)


class TunedLearner(Learner):
    """Learn by small trained parts inside a frozen backbone, over one column.

    A subclass makes the parts (``new_parts``). They give features, and a *head* predicts from
    these: a learner over vectors, by default one in closed form. Events of other classes move no
    weight of a class there, as they do in a layer that gradients train.

    The parts are trained by the cosine to the means of classes (``PrototypeLoss``). One step for a
    micro-batch of labels: features are computed, enter the means, and give the loss; after the step
    the same features enter the head, so that there is no second pass. The sums of a head then hold
    rows of older parts too: where the parts move fast, they are of little use.

    The state holds the parts, the means and the head; of the backbone only the fingerprint.
    Learners of a process with equal settings share one backbone.

    Args:
        config: settings.
        schema: features and label of the stream.
        seed: of the trained parts, and of the head.
        device: the torch device of the backbone and the parts.

    Raises:
        LearnerError: the backbone does not suit the stream, or cannot be loaded.

    Attributes:
        backbone: the frozen transformer.
        queried: whether parts get what the backbone gives without them.
        parts: all that is trained by gradients.
        optimizer: moves the parts.
        prototypes: the loss, with the means of classes.
        head: predicts from features.
    """

    Config: ClassVar[type[TunedConfig]] = TunedConfig
    handles = frozenset({"classification", "binary"})
    encodes: ClassVar[bool] = True
    example_column: ClassVar[FeatureKind] = "text"
    remedy = LOWER_LR
    queried: ClassVar[bool] = False

    def __init__(self, config: TunedConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        super().__init__(config, schema, seed)
        self.config: Any = config
        self.device = device
        modules.check_device(device)
        self._feature = _column(config, schema)
        try:
            self.backbone = load_backbone(config.backbone, self._feature, device)
        except LearnerError as error:
            raise LearnerError(f"learner.backbone: {error}") from None
        self._trunk = self.trunk(config.cache_mb << 20)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.parts = self.new_parts(self._trunk).to(device)
        self.optimizer = FlatOptimizer(config.optimizer, self.parts)
        self.prototypes = PrototypeLoss(self.backbone.width, config.scale)
        self.head = self.new_head()

    @abstractmethod
    def new_parts(self, trunk: Trunk) -> TunedParts:
        """Return new trained parts, drawn from torch's global generator."""

    def new_head(self) -> Learner:
        """Return a new learner over features."""
        return self.over_features(self.config.head, "head", self.schema.classes)

    def over_features(
        self, config: LearnerConfig, place: str, classes: tuple[ClassName, ...]
    ) -> Learner:
        """Return a new learner over features.

        Args:
            config: its settings.
            place: their key under ``learner`` in a job.
            classes: that it knows from the start.
        """
        vector = Feature(self._feature.name, "vector", (self.head_width,), unit=True)
        schema = replace(self.schema, features=(vector,), classes=classes)
        try:
            return _head_class(config.kind)(config, schema, self.seed)
        except LearnerError as error:
            raise LearnerError(f"learner.{place}: {error}") from None

    @property
    def head_width(self) -> int:
        """Numbers of a feature as the head gets it."""
        return self.backbone.width

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        backbone = {"kind": "random-transformer", "width": 64, "max_tokens": 8}
        return {"kind": cls.kind, "backbone": backbone, "cache_mb": 1}

    def trunk(self, size: int) -> Trunk:
        """Return the blocks below the trained parts, and the cache of their states: that of all
        learners of this process with such blocks. It has room for ``size`` bytes."""
        return Trunk(self.backbone, self._first_block(), size, self.queried, shared=True)

    def _first_block(self) -> int:
        blocks, first = self.backbone.blocks, self.config.first_block
        if first is None:
            return blocks - max(blocks // 3, 1)
        if first >= blocks:
            raise LearnerError(
                f"learner.first_block: the backbone has blocks 0 to {blocks - 1}, and not {first}"
            )
        return int(first)

    def rows(self, batch: Batch) -> Array:
        """Return n events as rows of the backbone (n, *row_shape): tokens, or pixels. Pure."""
        x = batch.x
        return self.backbone.rows(x if isinstance(x, np.ndarray) else x[self._feature.name])

    def features(self, rows: Array) -> Array:
        """Return the features (n, width) float32 of n >= 0 rows, as of now. Pure.

        Rows of like length are computed together. A feature may differ in its last bits with the
        other rows, as a row of any network does.
        """
        return self.features_by(self.parts.features, rows)

    def features_by(self, upper: UpperBlocks, rows: Array) -> Array:
        """Return what a function makes of the states of n >= 0 rows: (n, width) float32. Pure."""
        features = np.empty((len(rows), self.backbone.width), np.float32)
        with torch.inference_mode():
            for some in self._batches(rows):
                states = self._trunk(torch.from_numpy(rows[some]))
                features[some] = upper(*states).cpu().numpy()
        return features

    def _batches(self, rows: Array) -> Iterator[Ints]:
        """Yield the indices of rows, in batches of like length."""
        if not len(rows):
            return
        lengths = self.backbone.lengths(rows)
        order = np.argsort(lengths, kind="stable")
        while len(order):
            size = max(_TOKENS // int(lengths[order[0]]), 1)
            size = max(_TOKENS // int(lengths[order[:size][-1]]), 1)
            yield order[:size]
            order = order[size:]

    def predict(self, batch: Batch) -> Prediction:
        found = self.head.predict(replace(batch, x=self.features(self.rows(batch))))
        return replace(found, version=self.version)

    def learn(self, batch: Batch) -> None:
        assert batch.y is not None
        self.teach_head(batch, self.train(self.rows(batch), batch.y))

    def train(self, rows: Array, y: Ints) -> Array:
        """Take the gradient steps of m >= 1 rows with labels (m,).

        Returns:
            The features (m, width) float32 as they were before the first step.

        Raises:
            NotFiniteError: these are not finite.
        """
        before: Array | None = None
        for _ in range(self.config.steps):
            features, penalty, moved = self.parts.trained(*self._trunk(torch.from_numpy(rows)))
            if before is None:
                before = self.add_to_means(features, y)
            loss = self.prototypes(features, y)
            self.optimizer.step(loss if penalty is None else loss + penalty, moved)
        assert before is not None
        return before

    def add_to_means(self, features: Tensor, y: Ints) -> Array:
        """Add features (m, width) to the means of their classes (m,).

        Returns:
            A copy of the features.

        Raises:
            NotFiniteError: they are not finite. No head has learned them then.
        """
        rows = modules.array_of(features).copy()
        if not np.isfinite(rows).all():
            raise NotFiniteError(f"learner {self.kind!r}: features are no longer finite")
        self.prototypes.add(features, y)
        return rows

    def teach_head(self, batch: Batch, features: Array) -> None:
        """Let the head learn features (m, width) of events with labels."""
        self.head.never_buffer = self.never_buffer
        self.head._learn(replace(batch, x=features))

    def _correct(self, revealed: Revealed) -> None:
        """Correct labels that the head keeps. They may name a class for the first time."""
        self.head._correct(revealed)
        if len(self.head.classes) > len(self.classes):
            self.classes = self.head.classes

    @property
    def gradient_steps(self) -> int:
        return self.version * int(self.config.steps)

    def verify(self) -> None:
        most = float(self.optimizer.weights.abs().max())
        if not most <= _MOST:  # beyond, the next features may be no numbers
            raise NotFiniteError(
                f"learner {self.kind!r}: the largest number of its trained parts is {most:g}, and "
                f"{_MOST:g} at most can be used"
            )
        self.head.verify()

    def encodings(self) -> dict[str, Encoding]:
        inside = f"by {self.backbone.blocks} frozen blocks of {self.backbone.kind}, with parts "
        return {self._feature.name: Encoding(f"{inside} trained from {self._trunk.first_block}")}

    def warnings(self, classes: tuple[ClassName, ...]) -> tuple[str, ...]:
        return self.head.warnings(classes)

    def current_warnings(self) -> tuple[str, ...]:
        return self.head.current_warnings()

    def metrics(self) -> dict[str, float]:
        return self.head.metrics() | self.parts.metrics()

    def buffer_summary(self) -> BufferSummary | None:
        return self.head.buffer_summary()

    def weight_vector(self) -> Array:
        return modules.array_of(self.optimizer.weights)

    def servable(self) -> State:
        return {**self._shared_state(), "head": self.head.servable()}

    def state(self) -> State:
        return {
            **self._shared_state(),
            "optimizer": self.optimizer.state(),
            "prototypes": self.prototypes.state(),
            "head": self.head.state(),
        }

    def _shared_state(self) -> State:
        """Return what predictions and training need."""
        return {
            **self.common_state(),
            "backbone": self.backbone.fingerprint,
            "parts": modules.module_state(self.parts),
        }

    def load(self, state: State) -> None:
        self._load_shared(state)
        self.optimizer.load(state["optimizer"])
        self.prototypes.load(state["prototypes"])
        self.head.load(self.head.migrate(state["head"]))

    def load_servable(self, state: State) -> None:
        self._load_shared(state)
        self.head.load_servable(state["head"])

    def _load_shared(self, state: State) -> None:
        self.check_backbone(state)
        self.load_common(state)
        modules.load_module(self.parts, state["parts"])

    def check_backbone(self, state: State) -> None:
        """Raise ``LearnerError`` where a state is of another backbone."""
        if state["backbone"] != self.backbone.fingerprint:
            raise LearnerError(
                "learner.backbone: it is not the one that the state was trained with: its weights, "
                "its tokenizer or its settings differ: put those files back, or start another run"
            )


def _column(config: TunedConfig, schema: Schema) -> Feature:
    """Return the one column. Raises ``LearnerError`` where there are others."""
    kinds = backbone_class(config.backbone.kind).kinds
    first = schema.features[0]
    if len(schema.features) == 1 and first.kind in kinds:
        return first
    there = ", ".join(f"{f.name!r} ({f.kind})" for f in schema.features[:5])
    raise LearnerError(
        f"learner.backbone: {config.backbone.kind!r} takes one column of kind "
        f"{' or '.join(sorted(kinds))}, and the stream has {there}"
        f"{', ...' if len(schema.features) > 5 else ''}: leave other columns out "
        "(stream.features), and do not encode that one (stream.encoder); or take a learner on all "
        "columns, as ranpac or replay, with stream.encoder"
    )
