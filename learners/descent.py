"""Gradient descent on all the weights of a network as one vector."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from learners import models
from learners.learner import LearnerError
from streams.state import State


class Descent:
    """An optimizer that sees one vector where the network has many tensors.

    Parameters become views of the vector, and their gradients views of another: one tensor is
    zeroed and one is moved at each step, whatever the number of layers. The weights are, bit for
    bit, those that the same optimizer gives tensor by tensor; for a small network a step takes a
    sixth less time. (A parameter that a loss does not reach has gradient 0, not none.)

    Raises ``LearnerError`` where the parameters are not all of one dtype.
    """

    def __init__(self, config: models.Adam | models.Sgd, net: models.Net) -> None:
        self._config = config
        self._net = net
        self._bind()

    def _bind(self) -> None:
        self._parameters = [p for p in self._net.parameters() if p.requires_grad]
        dtypes = {p.dtype for p in self._parameters}
        if len(dtypes) != 1:
            found = ", ".join(sorted(map(str, dtypes)))
            raise LearnerError(f"learner.model: parameters of one dtype are wanted, not of {found}")
        self._weights = nn.Parameter(torch.cat([p.detach().flatten() for p in self._parameters]))
        self._gradient = torch.zeros_like(self._weights)
        self._weights.grad = self._gradient
        pairs = zip(self._split(self._weights.data), self._split(self._gradient), strict=True)
        for parameter, (weight, gradient) in zip(self._parameters, pairs, strict=True):
            parameter.data, parameter.grad = weight, gradient
        self._optimizer = self._config.build([self._weights])

    def _split(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector, one for each parameter, in its shape."""
        sizes = [math.prod(p.shape) for p in self._parameters]
        parts = torch.split(vector, sizes)
        return [part.view(p.shape) for part, p in zip(parts, self._parameters, strict=True)]

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of a loss."""
        self._gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def grow(self, outputs: int) -> None:
        """Gives the head of the network ``outputs``; what is known of the old ones stays, and
        nothing is known of new ones."""
        known = self.state()
        models.grow(self._net, outputs)
        self._bind()
        self.load(known)

    def state(self) -> State:
        """What the optimizer keeps, by the place of the parameter and by name."""
        kept = self._optimizer.state.get(self._weights, {})
        places: list[State] = [{} for _ in self._parameters]
        for name, value in kept.items():
            if not isinstance(value, Tensor):
                parts = [value] * len(places)
            elif value.ndim:
                parts = [part.detach().cpu().numpy() for part in self._split(value)]
            else:
                parts = [value.cpu().numpy()] * len(places)
            for place, part in zip(places, parts, strict=True):
                place[name] = part
        return {str(i): place for i, place in enumerate(places) if place}

    def load(self, state: State) -> None:
        """Takes back a ``state``, also that of a head with more or fewer outputs."""
        self._optimizer.state.clear()
        if not state:
            return
        kept = {}
        for name, value in state["0"].items():
            if not isinstance(value, np.ndarray):
                kept[name] = value
            elif not value.ndim:
                kept[name] = torch.from_numpy(np.array(value)).to(self._weights.device)
            else:
                vector = torch.zeros_like(self._weights.data)
                for i, part in enumerate(self._split(vector)):
                    known = torch.from_numpy(np.array(state[str(i)][name]))
                    part[: len(known)] = known[: len(part)]
                kept[name] = vector
        self._optimizer.state[self._weights] = kept
