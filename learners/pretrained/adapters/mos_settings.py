"""Settings of ``mos``."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

import learners
from learners.base import Learner
from learners.boundaries import OnDrift
from learners.networks.optimizer import Adam, OptimizerConfig
from learners.pretrained.adapters.adapter import AdapterConfig
from learners.pretrained.closed_form.base import ClosedFormLearner
from learners.pretrained.tuned.base import HeadConfig, head_config
from learners.registry import find


class MosConfig(AdapterConfig):
    """Settings of ``mos``.

    Attributes:
        every: labelled events after which a new adapter starts; ``segment``: where a segment of the
            stream starts; ``drift``: where errors become more; null: never.
        drift: the significance of ADWIN for ``every: drift``.
        most: adapters at most. Beyond, the two oldest after the first become one.
        adapters: whether adapters are trained. Otherwise the classes of segments lie on frozen
            features: the control.
        merge: alpha, how far an adapter moves to the mean of earlier ones with each step.
        orthogonality: the weight of the orthogonality term.
        alignment: of the classifier: ``lda``, the learner of ``head`` in closed form; ``sgd``, a
            linear layer trained on draws from Gaussians, as in the paper; ``none``, a linear layer
            trained on the events alone.
        covariance: of the Gaussians of ``sgd``: ``full``, of which ``rank`` directions are kept; or
            ``variance``, one for each number.
        directions: that are kept of a full covariance.
        align_every: an alignment follows each multiple of this number of events; new classes are
            aligned sooner.
        epochs, draws: of an alignment.
        layer_rate: of the steps of the layer of ``none``.
        refine: rounds of refinement of the choice of an adapter.
        ensemble: whether the learner that chooses an adapter votes too.
        retrieval: the learner in closed form over features of the first adapter that chooses.
    """

    optimizer: OptimizerConfig = Adam(lr=3e-3)
    every: PositiveInt | Literal["segment", "drift"] | None = 500
    drift: float = Field(0.002, gt=0, lt=1)
    most: int = Field(20, ge=3)
    adapters: bool = True
    merge: float = Field(0.0, ge=0, le=1)
    orthogonality: NonNegativeFloat = 0.0
    alignment: Literal["lda", "sgd", "none"] = "lda"
    covariance: Literal["full", "variance"] = "full"
    directions: PositiveInt = 8
    align_every: PositiveInt = 100
    epochs: PositiveInt = 2
    draws: PositiveInt = 20
    layer_rate: PositiveFloat = 0.1
    refine: NonNegativeInt = Field(4, le=4)
    ensemble: bool = True
    retrieval: HeadConfig = head_config("slda")

    @model_validator(mode="after")
    def _joinable(self) -> MosConfig:
        for name, config in (("head", self.head), ("retrieval", self.retrieval)):
            cls = find(learners.KINDS, Learner, config.kind)  # type: ignore[type-abstract]
            if not (issubclass(cls, ClosedFormLearner) and cls.merges):
                raise ValueError(
                    f"{name}: classes of {config.kind!r} cannot be joined: take prototype, slda, "
                    "ranpac or fecam"
                )
        return self

    @property
    def boundaries(self) -> int | OnDrift | None:
        """What ends a segment, as ``Boundaries`` takes it."""
        if self.every == "drift":
            return OnDrift(self.drift)
        return self.every if isinstance(self.every, int) else None
