"""Avalanche strategies as learners: each micro-batch of revealed labels is an experience."""

from __future__ import annotations

import importlib
import inspect
import io
import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from learners.base import (
    Learner,
    LearnerConfig,
    LearnerError,
    NotFiniteError,
)
from learners.networks import modules as models
from learners.networks.column_inputs import ColumnInputs
from learners.networks.inputs import Inputs, InputsConfig, MatrixInputs
from learners.networks.optimizer import LOWER_LR, Adam, OptimizerConfig
from learners.registry import UnknownKindError, load_object
from learners.results import Prediction
from streams.core.batch import Batch
from streams.core.errors import StreamError, one_line
from streams.core.schema import Schema, Task
from streams.core.settings import Settings
from streams.core.state_dict import State
from streams.integrations.avalanche_library import OwnRandom, import_avalanche

ImportPath = Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]

_COMPACT_EVERY = 64
"""Micro-batches between two compactions of the replay memories."""


class ModuleConfig(Settings):
    """A ``torch.nn.Module`` by import path, called with ``args``.

    It maps (n, *shape) float32 to one output for each class. A constructor with a parameter
    ``num_classes``, ``input_size`` or ``shape`` gets the number of classes, the numbers in a row,
    or the shape of a row.
    """

    kind: ImportPath = "avalanche.models:SimpleMLP"
    args: dict[str, Any] = {}


class AvalancheConfig(LearnerConfig):
    """Settings of an Avalanche strategy.

    Attributes:
        strategy: import path of a strategy (``avalanche.training:Naive``) that takes a model, an
            optimizer and a criterion.
        args: its other arguments. ``{module:Name: {...}}`` makes an object, such as a plugin or
            its storage policy.
        model: the network.
        optimizer: the optimizer of its weights.
        train_mb_size: rows in a gradient step.
        epochs: passes over each micro-batch.
        outputs: the most classes; needed only where the stream states none.
        scale: whether inputs are scaled by the mean and variance of all events seen.
    """

    strategy: ImportPath = "avalanche.training:Naive"
    args: dict[str, Any] = {}
    model: ModuleConfig = ModuleConfig()
    optimizer: OptimizerConfig = Adam()
    train_mb_size: PositiveInt = 32
    epochs: PositiveInt = 1
    outputs: PositiveInt | None = None
    scale: bool = True


class AvalancheLearner(Learner):
    """Run an Avalanche strategy in the training loop.

    A strategy expects experiences that are whole tasks. Here an experience is a micro-batch of
    revealed labels, as in an online split, and its end comes after each micro-batch. Methods that
    keep something for each task (EWC, GEM) then differ from their papers, and grow. A memory that
    is balanced over experiences, such as that of ``Replay``, would grow too: a reservoir of the
    same size replaces it.

    The state is a pickle of the strategy and of its random generators.
    """

    kind = "avalanche"
    Config = AvalancheConfig
    handles = frozenset({"classification"})
    opaque = True
    handles_missing = True
    takes_keys = True
    remedy = LOWER_LR

    def __init__(self, config: AvalancheConfig, schema: Schema, seed: int) -> None:
        self.config = config
        self.outputs = config.outputs or len(schema.classes)
        super().__init__(config, schema, seed)
        if not self.outputs:
            raise LearnerError(
                "learner.outputs: a network of Avalanche has a fixed number of classes, and this "
                "stream states none: state its classes, or how many there may be"
            )
        try:
            import_avalanche()
            self.inputs = _inputs(schema, config.scale)
        except (StreamError, ValueError) as error:
            raise LearnerError(f"learner 'avalanche': {error}") from error
        self._random = OwnRandom(seed)
        with self._within():
            self.strategy = self._strategy(self._model())
            _use_reservoirs(self.strategy)
        self.strategy.model.eval()

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {
            "kind": cls.kind,
            "strategy": "avalanche.training:Replay",
            "args": {"mem_size": 50},
            "model": {"args": {"hidden_size": 32}},
            "optimizer": {"kind": "adam", "lr": 0.01},
            "outputs": 8,
        }

    def predict(self, batch: Batch) -> Prediction:
        n, known = len(batch), len(self.classes)
        value, proba = np.full(n, -1), np.zeros((n, known), np.float32)
        if n and known:
            with torch.no_grad():
                out: Tensor = self.strategy.model(self.inputs.tensor(self.inputs.rows(batch)))
            proba = torch.softmax(out[:, :known], 1).numpy()
            value = proba.argmax(1)
        return Prediction(batch.ids, "classification", value, proba, self.classes, self.version)

    def observe(self, batch: Batch) -> None:
        self.inputs.observe(batch)

    def learn(self, batch: Batch) -> None:
        assert batch.y is not None
        x = self.inputs.tensor(self.inputs.rows(batch))
        experience = _experience(_dataset(_LabelledRows(x, batch.y.tolist())), self.version)
        with self._within():
            self.strategy.train(experience, eval_streams=[])
        self.strategy.model.eval()
        if self.version % _COMPACT_EVERY == 0:
            for memory in _reservoirs(self.strategy):
                _compact(memory)
        if not self.version:
            self._pickled()  # a strategy that cannot be saved must fail here, not at a checkpoint

    def verify(self) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in self.strategy.model.parameters()):
            raise NotFiniteError(
                f"learner {self.kind!r}: the weights are no longer finite, the training diverged"
            )

    def state(self) -> State:
        return {
            **self.common_state(),
            "inputs": self.inputs.state(),
            "opaque": np.frombuffer(self._pickled(), np.uint8),
        }

    def load(self, state: State) -> None:
        """Load a pickle. Use it only for checkpoints of one's own with a verified checksum."""
        self.load_common(state)
        self.inputs.load(state["inputs"])
        pickled = io.BytesIO(state["opaque"].tobytes())
        self.strategy, self._random.state = torch.load(
            pickled, weights_only=False, pickle_module=_PICKLE
        )

    def servable(self) -> State:
        return {
            **self.common_state(),
            "inputs": self.inputs.state(),
            "net": models.module_state(self.strategy.model),
        }

    def load_servable(self, state: State) -> None:
        if "opaque" in state:
            self.load(state)
            return
        self.load_common(state)
        self.inputs.load(state["inputs"])
        models.load_module(self.strategy.model, state["net"])

    def _check_class_count(self, classes: int) -> None:
        if self.outputs and classes > self.outputs:
            raise LearnerError(
                f"learner.outputs: the network has {self.outputs} outputs, and the stream has "
                f"{classes} classes or more: state as many"
            )

    @contextmanager
    def _within(self) -> Iterator[None]:
        """Run the block with the learner's own generators, and without Avalanche's warnings."""
        # Avalanche warns at each step of changes in its next version. It sets a filter just before,
        # which overrides ours, so warnings are recorded instead.
        with self._random.within(), warnings.catch_warnings(record=True):
            warnings.simplefilter("ignore")
            yield

    def _model(self) -> nn.Module:
        config, shape = self.config.model, self.inputs.shape
        offered = {"num_classes": self.outputs, "input_size": math.prod(shape), "shape": shape}
        model = _make("learner.model", config.kind, config.args, offered)
        if not isinstance(model, nn.Module):
            raise LearnerError(
                f"learner.model: {config.kind} gives {type(model).__name__}, not a torch.nn.Module"
            )
        try:
            with torch.no_grad():
                out = model.eval()(torch.zeros(2, *shape))
        except Exception as error:  # a user's module may raise anything
            raise LearnerError(
                f"learner.model: {config.kind} cannot take rows {shape}: {one_line(error)}"
            ) from error
        if not isinstance(out, Tensor) or tuple(out.shape) != (2, self.outputs):
            given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise LearnerError(
                f"learner.model: {config.kind} maps 2 rows {shape} to {given}; one output for each "
                f"of {self.outputs} classes is wanted"
            )
        return model

    def _strategy(self, model: nn.Module) -> Any:
        config = self.config
        library = importlib.import_module("avalanche.training")
        offered = {
            "model": model,
            "optimizer": _optimizer(config.optimizer, model),
            "criterion": nn.CrossEntropyLoss(),
            "train_mb_size": config.train_mb_size,
            "train_epochs": config.epochs,
            "evaluator": library.plugins.EvaluationPlugin(),
        }
        strategy = _make("learner.strategy", config.strategy, config.args, offered)
        if not isinstance(strategy, library.templates.BaseTemplate):
            raise LearnerError(
                f"learner.strategy: {config.strategy} gives {type(strategy).__name__}, which is no "
                "strategy of Avalanche"
            )
        return strategy

    def _pickled(self) -> bytes:
        pickled = io.BytesIO()
        try:
            torch.save((self.strategy, self._random.state), pickled)
        except Exception as error:  # the objects of a strategy may raise anything
            raise LearnerError(
                f"learner.strategy: {self.config.strategy} cannot be saved: {one_line(error)}"
            ) from error
        return pickled.getvalue()


class _LabelledRows(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Rows (n, *shape) and their class codes."""

    def __init__(self, x: Tensor, targets: list[int]) -> None:
        self.x = x
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.x[row], self.targets[row]


_FORMER_NAMES = (("learners.avalanche", "_Rows"), ("learners.integrations.avalanche", "_Rows"))
"""Module and name of ``_LabelledRows`` in the pickles of earlier versions."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _FORMER_NAMES:
            return _LabelledRows
        return super().find_class(module, name)


_PICKLE = SimpleNamespace(**{**vars(pickle), "__name__": "pickle", "Unpickler": _Unpickler})


def _dataset(rows: _LabelledRows) -> Any:
    """Return rows as a data set of Avalanche, all of task 0: some strategies need a task."""
    library = importlib.import_module("avalanche.benchmarks.utils")
    attributes = [
        library.DataAttribute(rows.targets, "targets"),
        library.DataAttribute([0] * len(rows), "targets_task_labels", use_in_getitem=True),
    ]
    return library.TaskAwareSupervisedClassificationDataset([rows], data_attributes=attributes)


def _experience(dataset: Any, number: int) -> Any:
    """Return the ``number``-th experience, without an experience that it was split from."""
    library = importlib.import_module("avalanche.benchmarks")
    experience = library.OnlineCLExperience(dataset=dataset, origin_experience=None)
    experience.current_experience = number
    return experience


def _memories(strategy: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the storage policies of a strategy and of its plugins, each with its owner."""
    library = importlib.import_module("avalanche.training.storage_policy")
    for owner in (strategy, *strategy.plugins):
        policy = getattr(owner, "storage_policy", None)
        if isinstance(policy, library.ExemplarsBuffer):
            yield owner, policy


def _use_reservoirs(strategy: Any) -> None:
    """Replace memories that are balanced over experiences by reservoirs of the same size."""
    library = importlib.import_module("avalanche.training.storage_policy")
    for owner, policy in _memories(strategy):
        if isinstance(policy, library.ExperienceBalancedBuffer):
            owner.storage_policy = library.ReservoirSamplingBuffer(policy.max_size)


def _reservoirs(strategy: Any) -> Iterator[Any]:
    """Yield the reservoirs of a strategy that hold rows."""
    library = importlib.import_module("avalanche.training.storage_policy")
    for _, policy in _memories(strategy):
        for part in (policy, *getattr(policy, "buffer_groups", {}).values()):
            if type(part) is library.ReservoirSamplingBuffer and len(part.buffer):
                yield part


def _compact(memory: Any) -> None:
    """Reduce a reservoir to its rows.

    Avalanche keeps each data set whole from which a row came. Here that would be the whole stream.
    """
    samples = [memory.buffer[row] for row in range(len(memory.buffer))]
    if all(len(sample) == 3 for sample in samples):  # some strategies store more of a row
        x = torch.stack([sample[0] for sample in samples])
        memory.buffer = _dataset(_LabelledRows(x, [int(sample[1]) for sample in samples]))


def _inputs(schema: Schema, scale: bool) -> Inputs:
    """Return inputs of numbers alone: a model of Avalanche has no table of embeddings."""
    if schema.matrix:
        return MatrixInputs(schema, scale)
    return ColumnInputs(schema, scale, InputsConfig(), embedded=False)


def _optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer. Raise ``LearnerError`` for settings that torch's own have not."""
    settings = config.model_dump(exclude={"kind", "lr_start", "lr_steps"})
    if isinstance(config, Adam) and (config.lr_start or config.lr_steps):
        raise LearnerError(
            "learner.optimizer.lr_start: a strategy of Avalanche has one learning rate: leave out "
            "lr_start and lr_steps"
        )
    make = torch.optim.AdamW if isinstance(config, Adam) else torch.optim.SGD
    return make(model.parameters(), **settings)


def _make(where: str, path: str, args: dict[str, Any], offered: dict[str, Any]) -> Any:
    """Call the object at an import path with ``args``, and with those of ``offered`` that it takes.

    An object with ``**kwargs`` takes all of ``offered``. A torch module does not: its inherited
    constructor has ``**kwargs`` but accepts nothing.

    Raises:
        LearnerError: the call fails. ``where`` is the setting that the message names.
    """
    try:
        make: Callable[..., Any] = load_object(path)
        named = {name: _value(where, value) for name, value in args.items()}
        takes = inspect.signature(make).parameters
        passes_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
        if not passes_on or (inspect.isclass(make) and issubclass(make, nn.Module)):
            offered = {name: value for name, value in offered.items() if name in takes}
        return make(**{**offered, **named})
    except LearnerError:
        raise
    except UnknownKindError as error:
        raise LearnerError(f"{where}: {error}") from None
    except (Exception, SystemExit) as error:  # a constructor may raise anything
        raise LearnerError(
            f"{where}: {path} cannot be made: {type(error).__name__}: {one_line(error)}"
        ) from error


def _value(where: str, value: Any) -> Any:
    """Return an argument: an object if it is written as ``{module:Name: {...}}``, else itself."""
    if isinstance(value, list):
        return [_value(where, item) for item in value]
    if isinstance(value, dict) and len(value) == 1 and ":" in (path := str(next(iter(value)))):
        args = value[path] or {}
        if not isinstance(args, dict):
            raise LearnerError(f"{where}: the arguments of {path} are wanted by name, not {args!r}")
        return _make(where, path, args, {})
    return value
