"""A click model: a network of interactions over embeddings of ids."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt
from torch import Tensor

from learners.base import Handles, LearnerError
from learners.networks import modules as models
from learners.networks.column_inputs import BINS, ColumnInputs
from learners.networks.encoders import Rows
from learners.networks.inputs import Inputs, InputsConfig
from learners.networks.optimizer import Adam, OptimizerConfig
from learners.recommenders.downsampling import NegativeDownsampling
from learners.recommenders.networks.base import ClickNet
from learners.recommenders.networks.choice import ClickNetworkConfig
from learners.recommenders.networks.deepfm import DeepFm
from learners.recommenders.sdim import SdimConfig
from learners.rehearsal.base import RehearsalConfig
from learners.rehearsal.replay import Replay
from streams.core.batch import Array, Batch
from streams.core.schema import Schema, Task


class ClickModelConfig(RehearsalConfig):
    """Settings of a click model.

    Attributes:
        model: the network.
        optimizer: by default Adam with a rate that falls from 0.005 to 0.001.
        replay_size: presentations of stored events in each gradient step, beside the new ones; 0:
            nothing is stored, and each event is learned once.
        negative_downsampling: the share of the events of class 0 that is learned. Probabilities
            are corrected for it. None: all.
        sdim: how the history of ``stream.history`` is weighed; None: the defaults.
    """

    model: ClickNetworkConfig = DeepFm()  # type: ignore[assignment]  # networks of its own
    optimizer: OptimizerConfig = Adam(lr=1e-3, lr_start=5e-3, lr_steps=100)
    replay_size: NonNegativeInt = 0
    negative_downsampling: float | None = Field(None, gt=0, le=1)
    sdim: SdimConfig | None = None


class ClickModel(Replay):
    """Learn clicks, or another label of two classes, or a number, by a network of interactions.

    Numbers have bins and categories have embeddings, whatever columns the stream has.

    Args:
        config: settings.
        schema: features and label of the stream.
        seed: of the weights, of the buffer, and of which negative events are learned.
        device: the torch device of the network.

    Raises:
        LearnerError: as of every learner with a network; or ``negative_downsampling`` does not suit
            the label or ``class_weight``.
    """

    kind = "click-model"
    Config = ClickModelConfig
    handles: ClassVar[frozenset[Handles]] = frozenset({"binary", "regression"})
    takes_histories = True

    def __init__(
        self, config: ClickModelConfig, schema: Schema, seed: int, device: str = "cpu"
    ) -> None:
        super().__init__(config, schema, seed, device)
        self._downsampling = None
        if config.negative_downsampling is not None:
            _check_downsampling(config, schema)
            self._downsampling = NegativeDownsampling(config.negative_downsampling, seed)

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        model = {"kind": "deepfm", "hidden": [16]}
        return {**super().example(task), "model": model, "inputs": {"rows": 256}}

    def _inputs(self) -> Inputs:
        settings = self.config.inputs or InputsConfig()
        if settings.bins is None:
            settings = settings.model_copy(update={"bins": BINS})
        return ColumnInputs(self.schema, self.config.scale, settings)

    def _network(self, outputs: int) -> models.Net:
        config, columns = self.config, self._columns()
        assert isinstance(config, ClickModelConfig)
        assert columns is not None
        assert isinstance(self.inputs, ColumnInputs)
        numbers, history = self.inputs.dense, self.inputs.history
        if config.sdim is not None and history is None:
            raise LearnerError("learner.sdim: the stream has no history: state stream.history")
        regression = self.schema.task == "regression"
        net = ClickNet(config.model, numbers, outputs, columns, regression, history, config.sdim)
        return net.to(self.device)

    def learn(self, batch: Batch) -> None:
        """Take ``steps`` gradient steps, then offer the new events to the buffer."""
        if self._downsampling is not None:
            assert batch.y is not None
            batch = batch.take(self._downsampling.kept(batch.ids, batch.y))
        if len(batch):
            super().learn(batch)

    def remember(self, batch: Batch, rows: Rows, **columns: Array) -> None:
        if self.replay_size:
            super().remember(batch, rows, **columns)

    @property
    def buffer_bytes(self) -> int:
        return super().buffer_bytes if self.replay_size else 0

    def _output(self, batch: Batch) -> Tensor:
        out = super()._output(batch)
        return out if self._downsampling is None else self._downsampling.correct(out)


def _check_downsampling(config: ClickModelConfig, schema: Schema) -> None:
    """Raise ``LearnerError`` where ``negative_downsampling`` does not suit other settings."""
    place = "learner.negative_downsampling"
    if schema.task == "regression":
        raise LearnerError(f"{place}: a number has no negative events: leave it out")
    if config.class_weight is not None:
        raise LearnerError(f"{place} and learner.class_weight: both weigh classes: keep one")
    if len(schema.classes) != 2:
        raise LearnerError(
            f"{place}: the class that is left out must be known: state both classes under "
            "stream.label.classes, the negative one first"
        )
