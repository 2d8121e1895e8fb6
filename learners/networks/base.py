"""The base of learners that train one network: inputs, predictions, growth, state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from learners.base import (
    Learner,
    LearnerConfig,
    LearnerError,
    NotFiniteError,
)
from learners.networks import modules as models
from learners.networks.calibration import CalibrationConfig
from learners.networks.class_outputs import ClassOutputs, unseen_classes
from learners.networks.class_weights import ClassWeightConfig
from learners.networks.column_inputs import ColumnInputs
from learners.networks.decision import DecisionConfig
from learners.networks.encoders import Rows
from learners.networks.inputs import Inputs, InputsConfig, MatrixInputs
from learners.networks.optimizer import LOWER_LR, Adam, FlatOptimizer, OptimizerConfig
from learners.results import Encoding, Prediction
from streams.core.batch import Array, Batch, ClassName
from streams.core.schema import Schema, Task
from streams.core.state_dict import State
from streams.core.statistics.running_moments import RunningMoments

_ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh)


class NetworkConfig(LearnerConfig):
    """Settings of a learner that trains one network.

    Attributes:
        model: the network.
        optimizer: the optimizer of its weights.
        steps: gradient steps for each micro-batch of revealed labels.
        scale: whether inputs are scaled by the mean and variance of all events seen.
        class_weight: weights of classes in the loss; None: all events weigh the same.
        calibration: how probabilities are corrected; None: they are those of the network.
        decision: the rule that chooses a class; None: ``argmax``.
        inputs: how columns of several kinds reach the network; None: all defaults.
    """

    model: models.ModelConfig = models.Mlp(kind="mlp")
    optimizer: OptimizerConfig = Adam()
    steps: PositiveInt = 1
    scale: bool = True
    class_weight: ClassWeightConfig | None = None
    calibration: CalibrationConfig = None
    decision: DecisionConfig | None = None
    inputs: InputsConfig | None = None


class NetworkLearner(Learner):
    """Predict with one network over scaled inputs. A subclass defines how it learns.

    Classification uses cross-entropy over the classes known so far, with a head that grows.
    Regression uses squared error on targets scaled by their running mean and variance.

    Args:
        config: settings.
        schema: features and label of the stream.
        seed: of the weights, and of what the network draws.
        device: the torch device of the network.

    Raises:
        LearnerError: the network cannot be built for this stream, or the device cannot be used.

    Attributes:
        net: the network.
        inputs: turns columns into tensors.
        targets: running mean and variance of regression targets.
        optimizer: moves the weights.
        class_outputs: the loss, probabilities and predicted classes of outputs.
    """

    Config = NetworkConfig
    handles_missing = True
    takes_keys = True
    takes_aggregates = True
    state_version = 2
    remedy = LOWER_LR

    def __init__(
        self, config: NetworkConfig, schema: Schema, seed: int, device: str = "cpu"
    ) -> None:
        super().__init__(config, schema, seed)
        self.config = config
        self.device = device
        self.targets = RunningMoments(())
        self.class_outputs = ClassOutputs(config, schema, device)
        models.check_device(device)
        try:
            self.inputs = self._inputs()
        except ValueError as error:
            raise LearnerError(f"learner.{error}") from None
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                outputs = len(self.classes) if schema.task == "classification" else 1
                self.net = self._network(outputs)
                self._rng = torch.get_rng_state()
        except ValueError as error:
            raise LearnerError(f"learner.model: {error}") from None
        self.optimizer = FlatOptimizer(config.optimizer, self.net)
        # The modules of everlearn are the same in training and in prediction; a user's may not be.
        self._modal = isinstance(config.model, models.UserModule)
        # A user's module has no first layer that could grow: there, missing numbers are imputed and
        # not marked.
        self._marks = isinstance(config.model, models.Mlp)
        # The gradient of another error, or of another forward pass, is not written out.
        own, base = type(self), NetworkLearner
        self._plain_error = own.error is base.error and own.forward is base.forward

    def _inputs(self) -> Inputs:
        """Return the inputs of the network for the features of the stream.

        Raises:
            ValueError: a setting does not suit the features; the message begins with its place.
        """
        settings = self.config.inputs or InputsConfig()
        if settings.as_columns(self.schema):
            return ColumnInputs(self.schema, self.config.scale, settings)
        return MatrixInputs(self.schema, self.config.scale)

    def _columns(self) -> models.ColumnLayout | None:
        """Return what the rows of the inputs hold; None where they are of one kind."""
        config, inputs = self.config.inputs or InputsConfig(), self.inputs
        if not isinstance(inputs, ColumnInputs):
            return None
        return models.ColumnLayout(
            inputs.codes,
            config.dimension,
            inputs.embeddings,
            inputs.embeddings_drawn,
            config.wide is not False,
            config.compression,
            config.rows,
        )

    def _network(self, outputs: int) -> models.Net:
        """Return a new network, with weights drawn from torch's global generator.

        Raises:
            ValueError: it cannot be made for these inputs.
        """
        shape, columns = self.inputs.shape, self._columns()
        return models.build(self.config.model, shape, outputs, self.device, columns)

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {
            "kind": cls.kind,
            "model": {"kind": "mlp", "hidden": [16]},
            "optimizer": {"kind": "adam", "lr": 0.01},
            "steps": 2,
        }

    def predict(self, batch: Batch) -> Prediction:
        ids, n = batch.ids, len(batch)
        if self.schema.task == "regression":
            value = np.full(n, np.nan)
            if n and self.targets.count:
                scaled = self._output(batch)[:, 0].numpy().astype(np.float64)
                value = scaled * self.targets.std() + self.targets.mean
            return Prediction(ids, "regression", value, None, (), self.version)
        value = np.full(n, -1)
        proba = np.zeros((n, len(self.classes)), np.float32)
        if n and self.classes:
            value, proba = self.class_outputs.predict(self._output(batch))
        return Prediction(ids, "classification", value, proba, self.classes, self.version)

    def encodings(self) -> dict[str, Encoding]:
        return self.inputs.encodings()

    def warnings(self, classes: tuple[ClassName, ...]) -> tuple[str, ...]:
        return unseen_classes(self.config, classes)

    @property
    def gradient_steps(self) -> int:
        return self.version * self.config.steps

    def verify(self) -> None:
        if not self.optimizer.finite():
            raise NotFiniteError(
                f"learner {self.kind!r}: the weights are no longer finite, the training diverged"
            )

    def observe(self, batch: Batch) -> None:
        missing, new = self.inputs.observe(batch)
        if missing and self._marks:
            self._mark([*self.inputs.marked, *missing])
        if new is not None:
            self.optimizer.start_rows(new.codes, new.prior)

    def _mark(self, columns: list[int]) -> None:
        """Give these columns of a row an indicator each, beside the row itself."""
        self.inputs.marked = columns
        self.optimizer.grow_inputs(self.inputs.shape[0] + len(columns))

    def _observe(self, batch: Batch) -> None:
        if self.inputs.observes:  # otherwise it would select rows for nothing
            super()._observe(batch)

    def _output(self, batch: Batch) -> Tensor:
        with torch.inference_mode():
            x = self.tensor(self.inputs.rows(batch))
            written_out = self.optimizer.written_out
            out: Tensor = self.net(x) if written_out is None else written_out.outputs(x)[0]
            return out.cpu()

    @property
    def has_activations(self) -> bool:
        return any(True for _ in self.net.body.parameters())

    def activations(self, batch: Batch) -> list[Array]:
        """Return the outputs of the body's activation modules, in the order of their calls.

        A body without activation modules gives its own output. A body without weights gives an
        empty list.
        """
        body = self.net.body
        if not len(batch) or not self.has_activations:
            return []
        outputs: list[Array] = []

        def keep(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
            outputs.append(models.array_of(out).copy())  # a later layer may write into it

        watched = [module for module in body.modules() if isinstance(module, _ACTIVATIONS)]
        hooks = [module.register_forward_hook(keep) for module in watched or (body,)]
        try:
            with torch.inference_mode():
                body(self.net.encode(self.tensor(self.inputs.rows(batch))))
        finally:
            for hook in hooks:
                hook.remove()
        return outputs

    def weight_vector(self) -> Array:
        return models.array_of(self.optimizer.weights)

    def tensor(self, rows: Rows) -> Tensor:
        """Return rows as the network takes them: (n, *shape) float32, encoded as of now."""
        return self.inputs.tensor(rows).to(self.device)

    def present(self, x: Tensor) -> Tensor:
        """Return (n, *shape) what the network is shown of inputs while it learns."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs) of the network in training mode on (n, *shape) inputs."""
        if self._modal:
            self.net.train(len(x) > 1)  # batch norm has no statistics of one row
        out: Tensor = self.net(self.present(x))
        return out

    def descend(self, x: Tensor, y: Tensor) -> Tensor:
        """Take a step down the mean ``error`` of (n, *shape) inputs for labels (n,).

        Return the outputs (n, outputs) that the network gave before it.
        """
        written_out = self.optimizer.written_out
        if written_out is None or not self._plain_error:
            out = self.forward(x)
            self.optimizer.step(self.error(out, y))
            return out
        with torch.no_grad():
            out, passed = written_out.outputs(self.present(x))
            self.optimizer.move(written_out.gradient(self._error_gradient(out, y), passed))
        return out

    def _error_gradient(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the gradient (n, outputs) of the mean error of outputs for labels (n,)."""
        if self.schema.task == "regression":
            return (out - y[:, None]) / len(y)
        return self.class_outputs.gradient(out, y)

    def error(
        self, out: Tensor, y: Tensor, reduction: str = "mean", codes: Tensor | None = None
    ) -> Tensor:
        """Return the cross-entropy, or half the squared error, of (n, outputs) for labels (n,).

        The mean of cross-entropies is weighted by ``class_weight``. ``codes`` (outputs,) are the
        classes of the outputs where these are not all; then labels are indices of outputs.
        """
        if self.schema.task == "regression":
            return 0.5 * F.mse_loss(out[:, 0], y, reduction=reduction)
        return self.class_outputs.cross_entropy(out, y, reduction, codes)

    def loss(self, x: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        """Return the ``error`` of the outputs that ``forward`` returns."""
        return self.error(self.forward(x), y, reduction)

    def labels(self, y: Array) -> Tensor:
        """Return class codes as they are, or targets scaled and clipped as inputs are: (n,)."""
        if self.schema.task == "classification":
            writable = y if y.flags.writeable else y.copy()  # torch warns of read-only arrays
            return torch.from_numpy(writable).to(self.device)
        return torch.from_numpy(self.targets.scale(y)).to(self.device)

    def _learn(self, batch: Batch) -> None:
        if not len(batch):
            return
        assert batch.y is not None
        if self.class_outputs.evaluates and self.classes:
            self.class_outputs.evaluate(self._output(batch), batch.y)
        self._register_classes(batch.y, batch.classes)
        if self.schema.task == "regression":
            self.targets.update(batch.y)
        else:
            self.class_outputs.count(batch.y)
        if not self._modal:
            self.learn(batch)
        else:
            with self._own_random():
                self.learn(batch)
            self.net.eval()
        self.version += 1

    def _register_classes(self, y: Array, classes: tuple[ClassName, ...]) -> None:
        super()._register_classes(y, classes)
        if self.schema.task == "classification" and len(self.classes) > self.net.head.out_features:
            with self._own_random():
                self.optimizer.grow(len(self.classes))
            self.class_outputs.register(self.classes)

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        """Let torch draw from the generator of this learner within the block."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self._rng)
        try:
            yield
        finally:
            self._rng = torch.get_rng_state()
            torch.set_rng_state(outside)

    def state(self) -> State:
        state = {
            **self.common_state(),
            "net": models.module_state(self.net),
            "inputs": self.inputs.state(),
            "targets": self.targets.state(),
            "optimizer": self.optimizer.state(),
            "rng": self._rng.numpy(),
        }
        outputs = self.class_outputs.state()
        return {**state, "class_outputs": outputs} if outputs else state

    def load(self, state: State) -> None:
        self._load_network(state)
        self.optimizer.load(state["optimizer"])
        self._rng = torch.from_numpy(np.array(state["rng"]))

    @classmethod
    def migrate(cls, state: State) -> State:
        if state["state_version"] != 1:
            return super().migrate(state)
        if not np.ndim(state["inputs"]["mean"]):  # nothing is scaled by moments: images
            raise LearnerError(
                f"the state is of a {cls.kind!r} that learned from pixels between -1 and 1, and "
                "they go from 0 to 1 now: learn anew, or resume with the everlearn that wrote it"
            )
        return {**state, "state_version": 2}

    def servable(self) -> State:
        state = {
            **self.common_state(),
            "net": models.servable_module(self.net),
            "inputs": self.inputs.servable(),
            "targets": self.targets.state(),
        }
        outputs = self.class_outputs.servable()
        return {**state, "class_outputs": outputs} if outputs else state

    def load_servable(self, state: State) -> None:
        self._load_network(state)
        self.net.eval()

    def _load_network(self, state: State) -> None:
        self.load_common(state)
        outputs = len(state["net"]["head.bias"])
        if outputs != self.net.head.out_features:
            self.optimizer.grow(outputs, drawn=False)
        marked = len(self.inputs.marked)
        self.inputs.load(state["inputs"])
        if marked != len(self.inputs.marked):
            self._mark(self.inputs.marked)
        models.load_module(self.net, state["net"])
        self.targets.load(state["targets"])
        self.class_outputs.load(state.get("class_outputs", {}), self.classes)
