"""The gradient of a perceptron with a linear model beside it, written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from learners.networks.modules import ColumnNet, Net, WrittenOut


class Pass(NamedTuple):
    """What one pass leaves for its gradient.

    Attributes:
        codes: (n, codes) int64 of embeddings.
        taken: what each layer got, from the first on: (n, ...) each.
    """

    codes: Tensor
    taken: list[Tensor]


def layout(net: nn.Module) -> list[nn.Parameter]:
    """Return the parameters in the order in which they lie in one vector.

    Those of the first layer and of the linear model beside it come first, side by side: both take
    the same inputs, so that one product does for both.
    """
    parameters = list(net.parameters())
    if not (isinstance(net, ColumnNet) and is_written_out(net)):
        return parameters
    first, wide = net.body[0], net.wide  # type: ignore[index]
    assert wide is not None
    joint = [first.weight, wide.weight, first.bias, wide.bias]
    places = {id(parameter) for parameter in joint}
    return joint + [parameter for parameter in parameters if id(parameter) not in places]


def is_written_out(net: ColumnNet) -> bool:
    """Return whether a network has embeddings, a linear model, and hidden layers with ReLU."""
    kinds = [type(module) for module in net.body.children()]
    layers = len(kinds) // 2
    return (
        net.table is not None
        and net.wide is not None
        and layers > 0
        and type(net.body) is nn.Sequential
        and kinds == [nn.Linear, nn.ReLU] * layers
        and all(parameter.requires_grad for parameter in net.parameters())
    )


def written_out(net: nn.Module, weights: Tensor, gradient: Tensor) -> WrittenOut | None:
    """Return what does without autograd what a network does; None where nothing does.

    Args:
        net: the network.
        weights: its parameters in the order of ``layout``, of which these are views.
        gradient: as long as the weights. The ``grad`` of the parameters are views of it.
    """
    if isinstance(net, ColumnNet):
        return Perceptron(net, weights, gradient) if is_written_out(net) else None
    return net.written_out(gradient) if isinstance(net, Net) else None


class Perceptron:
    """The outputs of a ``ColumnNet`` and their gradient, in few and large operations.

    In a network of this size autograd spends more time between the products than in them. Outputs
    and gradients are those of the network but for rounding.

    Args:
        net: for which ``is_written_out`` is true.
        weights: its parameters in the order of ``layout``, of which these are views.
        gradient: as long as the weights. It is written here.
    """

    def __init__(self, net: ColumnNet, weights: Tensor, gradient: Tensor) -> None:
        assert net.table is not None
        self._table = net.table
        self._codes = net.codes
        sizes = [parameter.shape for parameter in layout(net)]
        (self._hidden, inputs), (outputs, _) = sizes[0], sizes[1]
        self._numbers = inputs - net.codes * net.table.dimension
        shapes = [
            torch.Size((self._hidden + outputs, inputs)),
            torch.Size((self._hidden + outputs,)),
        ]
        self._weights = _views(weights, [*shapes, *sizes[4:]])
        self._gradients = _views(gradient, [*shapes, *sizes[4:]])
        self._gradient = gradient

    def outputs(self, x: Tensor) -> tuple[Tensor, Pass]:
        """Return the outputs (n, outputs) for rows (n, inputs), and what ``gradient`` takes."""
        codes = x[:, -self._codes :].long()
        embeddings = self._table.lookup(codes)
        taken = [torch.cat([x[:, : -self._codes], embeddings], 1)]
        weight, bias, *others = self._weights
        joint = torch.addmm(bias, taken[0], weight.t())
        taken.append(joint[:, : self._hidden].relu())
        for weight, bias in _pairs(others[:-2]):
            taken.append(torch.addmm(bias, taken[-1], weight.t()).relu_())
        weight, bias = others[-2:]
        out = torch.addmm(joint[:, self._hidden :], taken[-1], weight.t()).add_(bias)
        return out, Pass(codes, taken)

    def gradient(self, above: Tensor, passed: Pass) -> Tensor:
        """Return the gradient of all weights, for that of the outputs (n, outputs).

        The table of embeddings remembers theirs. The next call overwrites the gradient.
        """
        first, bias, *others = self._gradients
        joint = above.new_empty(len(above), len(bias))
        joint[:, self._hidden :] = above
        pairs = zip(_pairs(self._weights[2:]), _pairs(others), passed.taken[1:], strict=True)
        for (weight, _), (of_weight, of_bias), below in [*pairs][::-1]:
            torch.mm(above.t(), below, out=of_weight)
            torch.sum(above, 0, out=of_bias)
            above = torch.ops.aten.threshold_backward(above.mm(weight), below, 0)
        joint[:, : self._hidden] = above
        torch.mm(joint.t(), passed.taken[0], out=first)
        torch.sum(joint, 0, out=bias)
        embeddings = joint.mm(self._weights[0][:, self._numbers :])
        self._table.add_gradient(passed.codes, embeddings)
        return self._gradient


def _views(vector: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return views of a vector, one behind the other."""
    parts = torch.split(vector, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _pairs(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return weights and biases, layer by layer."""
    return list(zip(tensors[::2], tensors[1::2], strict=True))
