"""Optimizers that move all weights of a network as one vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag
from torch import Tensor, nn

from learners.base import LearnerError
from learners.networks import modules as models
from learners.networks.embedding_table import RowOptimizer, all_finite, unwritten_zeros
from learners.networks.perceptron import layout, written_out
from streams.core.batch import Ints
from streams.core.settings import Settings
from streams.core.state_dict import State

Beta = Annotated[float, Field(ge=0, lt=1)]
Pieces = Mapping[str, list[Tensor]]
"""The state of an optimizer by name, in the pieces in which the weights are moved."""
Moved = Mapping[Tensor, Tensor]
"""Parameters, and which of their rows are moved: bool, as long as the parameter."""

LOWER_LR = "lower learner.optimizer.lr, in a new run: the settings are part of the state"
"""What to do where training has diverged."""
_MAX_FLAT_WEIGHTS = 1 << 16
"""Most weights of a network whose gradients are one vector. Beyond, writing all gradients into one
vector costs more than moving one vector saves."""


class Adam(Settings):
    """Adam (Kingma and Ba 2015); ``weight_decay`` is decoupled (Loshchilov and Hutter 2019).

    Attributes:
        lr: the learning rate.
        lr_start: the rate of the first step. Then it falls to ``lr`` by inverse time: step t has
            the rate ``lr + (lr_start - lr) / (1 + t / lr_steps)``. None: it is ``lr`` throughout.
        lr_steps: steps after which the rate is half-way between the two; None: 100.
    """

    kind: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3
    lr_start: PositiveFloat | None = None
    lr_steps: PositiveInt | None = None
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)

    def fresh(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the state that the optimizer keeps from step to step, before the first step."""
        return {
            "step": torch.zeros((), device=weights.device),
            "exp_avg": unwritten_zeros(weights),
            "exp_avg_sq": unwritten_zeros(weights),
        }

    def move(self, weights: list[Tensor], gradients: list[Tensor], state: Pieces) -> None:
        """Move the weights by one step, in place, piece by piece.

        This calls the kernel of ``torch.optim.AdamW(fused=True)``. The Python code around that
        kernel costs a small network more than the kernel does.
        """
        (step,) = state["step"]
        rate = self.lr
        if self.lr_start is not None:
            rate += (self.lr_start - self.lr) / (1 + step.item() / (self.lr_steps or 100))
        step.add_(1)
        torch._fused_adamw_(
            weights,
            gradients,
            state["exp_avg"],
            state["exp_avg_sq"],
            [],
            [step] * len(weights),
            lr=rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class Sgd(Settings):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    lr: PositiveFloat = 0.01
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)

    def fresh(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the state that the optimizer keeps from step to step, before the first step."""
        return {"momentum": unwritten_zeros(weights)} if self.momentum else {}

    def move(self, weights: list[Tensor], gradients: list[Tensor], state: Pieces) -> None:
        """Move the weights by one step, in place, piece by piece."""
        for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            if self.weight_decay:
                gradient.add_(weight, alpha=self.weight_decay)
            if self.momentum:
                gradient = state["momentum"][i].mul_(self.momentum).add_(gradient)
            weight.add_(gradient, alpha=-self.lr)


def _kind(optimizer: Any) -> str:
    if isinstance(optimizer, dict):
        return str(optimizer.get("kind", "adam"))
    return str(getattr(optimizer, "kind", ""))


OptimizerConfig = Annotated[
    Annotated[Adam, Tag("adam")] | Annotated[Sgd, Tag("sgd")], Discriminator(_kind)
]


class FlatOptimizer:
    """Move all weights of a network as one vector.

    Parameters become views of the vector. In a small network their gradients become views of
    another vector. Then each step zeroes one tensor and moves one, whatever the number of layers. A
    large network is moved tensor by tensor, by the gradients that torch allocates anyway.

    The weights equal those of torch's optimizers, bit for bit. One difference: a parameter that a
    loss does not reach has gradient 0, not None.

    Args:
        config: the optimizer and its settings.
        net: the network, or other modules; only a ``Net`` has ``grow`` and ``grow_inputs``. Its
            parameters are replaced by views.

    Raises:
        LearnerError: the parameters are not all of one dtype.

    Attributes:
        weights: all weights, as one vector.
        written_out: computes outputs and their gradient without autograd; None where the network
            is of another kind or large.
        per_weight_state: vectors like ``weights`` by name: what a learner keeps of each weight.
            They grow with the weights, by zeros, and are part of the state.
    """

    def __init__(self, config: Adam | Sgd, net: nn.Module) -> None:
        self._config = config
        self._net = net
        table = getattr(net, "table", None)
        self._rows = None if table is None else RowOptimizer(config, table)
        self.per_weight_state: dict[str, Tensor] = {}
        self._bind()

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self._config.lr

    def keep(self, *names: str) -> None:
        """Add vectors of zeros to ``per_weight_state``, one for each name."""
        self.per_weight_state |= {name: torch.zeros_like(self.weights) for name in names}

    def _bind(self) -> None:
        trained = [p for p in self._net.parameters() if p.requires_grad]
        number = {id(parameter): i for i, parameter in enumerate(trained)}
        self._parameters = [p for p in layout(self._net) if p.requires_grad]
        self._places = [number[id(parameter)] for parameter in self._parameters]
        dtypes = {p.dtype for p in self._parameters}
        if len(dtypes) != 1:
            names = ", ".join(sorted(map(str, dtypes)))
            raise LearnerError(f"learner.model: parameters of one dtype are wanted, not of {names}")
        self.weights = torch.cat([p.detach().flatten() for p in self._parameters])
        self._state = self._config.fresh(self.weights)
        self.per_weight_state = {
            name: torch.zeros_like(self.weights) for name in self.per_weight_state
        }
        weights = self._split(self.weights)
        for parameter, weight in zip(self._parameters, weights, strict=True):
            parameter.data, parameter.grad = weight, None
        self._gradient: Tensor | None = None
        if len(self.weights) <= _MAX_FLAT_WEIGHTS:
            self._gradient = torch.zeros_like(self.weights)
            gradients = self._split(self._gradient)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
        self.written_out: models.WrittenOut | None = None
        if self._gradient is not None:
            self.written_out = written_out(self._net, self.weights, self._gradient)
        self._pieces = self._moved(self.weights)
        self._state_pieces = {
            name: self._moved(value) if value.ndim else [value]
            for name, value in self._state.items()
        }

    def _moved(self, vector: Tensor) -> list[Tensor]:
        """Return the pieces of a vector that are moved one by one."""
        return self._split(vector) if self._gradient is None else [vector]

    def _split(self, vector: Tensor) -> list[Tensor]:
        """Return views of a vector: one for each parameter, in its shape."""
        parts = torch.split(vector, [math.prod(p.shape) for p in self._parameters])
        return [part.view(p.shape) for part, p in zip(parts, self._parameters, strict=True)]

    def step(self, loss: Tensor, moved: Moved | None = None) -> None:
        """Take one step down the gradient of a loss.

        Args:
            loss: a scalar.
            moved: of some parameters, the rows that the step moves. Other rows keep their bits, and
                what the optimizer keeps of them is as old as their last step, as in
                ``torch.optim.SparseAdam``: otherwise Adam would move them without a gradient. The
                number of steps is counted for all together.
        """
        gradients = self._gradients(loss)
        still = self._still(moved) if moved else []
        self._config.move(self._pieces, gradients, self._state_pieces)
        for view, rows, values in still:
            view[rows] = values
        if self._rows is not None:
            self._rows.step()

    def _still(self, moved: Moved) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return what a step must not move: views, which of their rows, and the values there."""
        vectors = [self.weights, *(value for value in self._state.values() if value.ndim)]
        found = []
        for vector in vectors:
            for parameter, view in zip(self._parameters, self._split(vector), strict=True):
                if (rows := moved.get(parameter)) is not None:
                    found.append((view, ~rows, view[~rows]))
        return found

    def gradient(self, loss: Tensor) -> Tensor:
        """Return the gradient of a loss, as long as ``weights``. The next call may overwrite it."""
        gradients = self._gradients(loss)
        if len(gradients) == 1:
            return gradients[0].view(-1)
        return torch.cat([gradient.flatten() for gradient in gradients])

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        """Return the gradient, in the pieces that are moved one by one."""
        if self._gradient is not None:
            self._gradient.zero_()
            loss.backward()  # type: ignore[no-untyped-call]
            return [self._gradient]
        for parameter in self._parameters:
            parameter.grad = None  # otherwise torch adds to it
        loss.backward()  # type: ignore[no-untyped-call]
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]

    def move(self, gradient: Tensor) -> None:
        """Take one step down a gradient that ``gradient`` returned; it may be overwritten."""
        state = {name: [value] for name, value in self._state.items()}
        self._config.move([self.weights], [gradient], state)
        if self._rows is not None:
            self._rows.step()

    @contextmanager
    def lookahead(self, loss: Tensor) -> Iterator[None]:
        """Move the weights by a plain gradient step of the learning rate within the block.

        Afterwards weights and optimizer are as before. Embeddings are not moved.
        """
        before = self.weights.clone()
        self.weights.add_(self.gradient(loss), alpha=-self._config.lr)
        if self._rows is not None:
            self._rows.discard()
        try:
            yield
        finally:
            self.weights.copy_(before)

    def finite(self) -> bool:
        """Return whether every weight and every embedding is finite."""
        return all_finite(self.weights) and (self._rows is None or self._rows.finite())

    def start_rows(self, rows: Ints, prior: Ints) -> None:
        """Let embeddings (m,) start as copies of others (m,), with a fresh optimizer state."""
        assert self._rows is not None
        self._rows.start(rows, prior)

    def grow(self, outputs: int, drawn: bool = True) -> None:
        """Give the head of the network ``outputs`` outputs.

        The optimizer state of old outputs stays, that of new ones starts afresh. The weights of new
        outputs are drawn, or left open to be loaded where ``drawn`` is false.
        """
        net = self._net
        assert isinstance(net, models.Net)
        self.resize(lambda: models.grow(net, outputs, drawn))

    def grow_inputs(self, inputs: int) -> None:
        """Give the first layer of the network ``inputs`` inputs, as ``models.grow_inputs`` does.

        The optimizer state of old inputs stays, that of new ones starts afresh.
        """
        net = self._net
        assert isinstance(net, models.Net)
        self.resize(lambda: models.grow_inputs(net, inputs))

    def resize(self, change: Callable[[], None]) -> None:
        """Let ``change`` replace parameters of the network by longer or shorter ones.

        The number of parameters stays. The optimizer state of the places that a parameter had
        before stays, that of new ones starts afresh.
        """
        known = self.state()
        change()
        self._bind()
        self.load(known)

    def state(self) -> State:
        """Return the state by name: a scalar, or one array for each parameter by its index."""
        rows: State = {} if self._rows is None else {models.TABLE: self._rows.state()}
        return rows | {
            name: self._by_parameter(value) if value.ndim else models.array_of(value)
            for name, value in (self._state | self.per_weight_state).items()
        }

    def _by_parameter(self, vector: Tensor) -> State:
        """Return the parts of a vector by the number of their parameter in the network."""
        parts = dict(zip(self._places, self._split(vector), strict=True))
        return {str(place): models.array_of(parts[place]) for place in sorted(parts)}

    def load(self, state: State) -> None:
        """Load a ``state``, also of layers with more or fewer inputs or outputs."""
        for name, value in (self._state | self.per_weight_state).items():
            if not value.ndim:
                value.copy_(torch.from_numpy(np.array(state[name])))
                continue
            value.zero_()
            for place, part in zip(self._places, self._split(value), strict=True):
                known = torch.from_numpy(np.array(state[name][str(place)]))
                shared = tuple(map(slice, map(min, part.shape, known.shape)))
                part[shared] = known[shared]
        if self._rows is not None:
            self._rows.load(state[models.TABLE])
