"""Networks from settings: a body, which a user may provide, and a head that grows with classes."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from pydantic import Discriminator, Field, PositiveInt, Tag
from torch import Tensor, nn

from learners.base import LearnerError
from learners.networks.compressed_tables import Compression, Int8Table, QuotientRemainderTable
from learners.networks.embedding_table import EmbeddingTable
from learners.registry import UnknownKindError, load_object
from streams.core.batch import Array
from streams.core.errors import one_line
from streams.core.settings import Settings
from streams.core.state_dict import State

TABLE = "embeddings"
"""The name of the embeddings in the state of a network."""
MOST_UNITS = 1_000_000
"""Units of a layer; no machine has the memory for many more."""


class Mlp(Settings):
    """A multilayer perceptron with layers of widths ``hidden``; no layers give a linear model."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[PositiveInt, Field(le=MOST_UNITS)], ...] = (128, 128)
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"

    def body(self, shape: tuple[int, ...]) -> nn.Sequential:
        """Return the body for rows of this shape."""
        layers: list[nn.Module] = [nn.Flatten()] if len(shape) != 1 else []
        width = math.prod(shape)
        for hidden in self.hidden:
            layers += [nn.Linear(width, hidden), _ACTIVATIONS[self.activation]()]
            width = hidden
        return nn.Sequential(*layers)


class Conv(Settings):
    """A small convolutional network.

    For each of ``channels`` it has a 3x3 convolution, ReLU and 2x2 max pooling, then one hidden
    layer.
    """

    kind: Literal["conv"]
    channels: tuple[PositiveInt, ...] = (32, 64)
    hidden: PositiveInt = Field(128, le=MOST_UNITS)

    def body(self, shape: tuple[int, ...]) -> nn.Sequential:
        """Return the body for images (channels, height, width). Raises ValueError for others."""
        if len(shape) != 3:
            raise ValueError(f"a conv net takes images (channels, height, width), not rows {shape}")
        layers: list[nn.Module] = []
        width, height, breadth = shape
        for channels in self.channels:
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            width, height, breadth = channels, height // 2, breadth // 2
        if not height * breadth:
            raise ValueError(f"images {shape} are too small for {len(self.channels)} poolings")
        features = width * height * breadth
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, self.hidden), nn.ReLU())


class UserModule(Settings):
    """A user's ``torch.nn.Module`` by import path ``module:Name``, called with ``args``.

    It maps (n, *shape) float32 to (n, features); the head is added here. A constructor with a
    parameter ``shape`` gets the shape of one row.
    """

    kind: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
    args: dict[str, Any] = Field(default_factory=dict)

    def body(self, shape: tuple[int, ...]) -> nn.Module:
        """Return the user's module. Raises ValueError where it cannot be made."""
        try:
            make = load_object(self.kind)
            args = dict(self.args)
            if "shape" in inspect.signature(make).parameters:
                args.setdefault("shape", shape)
            module = make(**args)
        except UnknownKindError as error:
            raise ValueError(str(error)) from error
        except (Exception, SystemExit) as error:  # a user's module may raise anything
            raise ValueError(
                f"{self.kind} cannot be made: {type(error).__name__}: {one_line(error)}"
            ) from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"{self.kind} gives {type(module).__name__}, not a torch.nn.Module")
        return module


_IMPORTED = "module:Name"


def _kind(model: Any) -> str:
    kind = model.get("kind", "mlp") if isinstance(model, dict) else getattr(model, "kind", "")
    return _IMPORTED if ":" in str(kind) else str(kind)


ModelConfig = Annotated[
    Annotated[Mlp, Tag("mlp")]
    | Annotated[Conv, Tag("conv")]
    | Annotated[UserModule, Tag(_IMPORTED)],
    Discriminator(_kind),
]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class GrowingHead(nn.Linear):
    """A linear layer that may start without outputs."""

    def reset_parameters(self) -> None:
        if self.out_features:
            super().reset_parameters()


class ZeroHead(GrowingHead):
    """A linear layer whose weights start at zero."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class WrittenOut(Protocol):
    """The outputs of a network and their gradient, without autograd."""

    def outputs(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return the outputs (n, outputs) for rows (n, inputs), and what ``gradient`` takes."""

    def gradient(self, above: Tensor, passed: Any) -> Tensor:
        """Return the gradient of all weights, for that of the outputs (n, outputs).

        The table of embeddings remembers theirs. The next call overwrites the gradient.
        """


class Net(nn.Module):
    """A body, and a linear head with one output for each class, or one for a target."""

    def __init__(self, body: nn.Module, features: int, outputs: int) -> None:
        super().__init__()
        self.body = body
        self.head = GrowingHead(features, outputs)

    def encode(self, x: Tensor) -> Tensor:
        """Return the rows that the body takes, of rows (n, *shape) of the inputs."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out

    def heads(self) -> dict[str, GrowingHead]:
        """Return the layers that have one output for each class, by name."""
        return {"head": self.head}

    def written_out(self, gradient: Tensor) -> WrittenOut | None:
        """Return what does without autograd what this network does; None where nothing does.

        Args:
            gradient: of all parameters, whose ``grad`` are views of it.
        """
        return None


class ColumnLayout(NamedTuple):
    """What the rows of a ``ColumnNet`` hold.

    Attributes:
        codes: how many numbers at the end of a row are codes of embeddings.
        dimension: of an embedding.
        embeddings: how many embeddings codes name.
        drawn: how many of them are drawn at random at the start.
        wide: whether a linear model is added to the outputs.
        compression: of the table; None: none.
        rows: of the compressed part of the table.
    """

    codes: int
    dimension: int
    embeddings: int
    drawn: int
    wide: bool
    compression: Compression | None = None
    rows: int = 0

    def table(self, dimension: int) -> EmbeddingTable:
        """Return the table of embeddings of this dimension."""
        if self.compression == "quotient-remainder":
            return QuotientRemainderTable(self.embeddings, dimension, self.drawn, self.rows)
        drawn = self.embeddings if self.compression == "hashed" else self.drawn
        kind = Int8Table if self.compression == "int8" else EmbeddingTable
        return kind(self.embeddings, dimension, drawn)


class ColumnNet(Net):
    """A network over numbers and embeddings, and a linear model of the same inputs beside it
    (Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems").

    A row of its inputs ends with codes, which name rows of a table of embeddings. The outputs of
    the linear model, whose weights start at zero, are added to those of the network.

    Args:
        body: maps numbers and embeddings to features.
        features: how many the body gives.
        outputs: one for each class, or one for a target.
        width: of what the body takes.
        columns: what the rows hold.
    """

    def __init__(
        self, body: nn.Module, features: int, outputs: int, width: int, columns: ColumnLayout
    ) -> None:
        super().__init__(body, features, outputs)
        self.codes = columns.codes
        self.table = None
        if columns.codes:
            self.table = columns.table(columns.dimension)
        self.wide = ZeroHead(width, outputs) if columns.wide else None

    def encode(self, x: Tensor) -> Tensor:
        if self.table is None:
            return x
        dense, codes = x[:, : -self.codes], x[:, -self.codes :]
        rows: Tensor = self.table(codes.long(), dense)
        return rows

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(x)
        out: Tensor = self.head(self.body(x))
        return out if self.wide is None else out + self.wide(x)

    def heads(self) -> dict[str, GrowingHead]:
        return super().heads() | ({} if self.wide is None else {"wide": self.wide})


def check_device(device: str) -> None:
    """Raise ``LearnerError`` where torch has no such device, or cannot compute on it."""
    try:
        torch.zeros(1, device=device).add(1).item()
    except Exception as error:  # RuntimeError, AssertionError, ImportError: each backend its own
        raise LearnerError(f"device: {device!r} cannot be used here: {one_line(error)}") from None


def build(
    config: Mlp | Conv | UserModule,
    shape: tuple[int, ...],
    outputs: int,
    device: str,
    columns: ColumnLayout | None = None,
) -> Net:
    """Return a new network, with weights drawn from torch's global generator.

    Args:
        config: settings of the body.
        shape: of one row.
        outputs: of the head.
        device: the torch device.
        columns: what rows of several kinds of columns hold; None: rows are of one kind.

    Raises:
        ValueError: the body cannot be made, or does not map (n, *shape) to (n, features).
    """
    if columns is not None:
        (numbers,) = shape
        shape = (numbers - columns.codes + columns.codes * columns.dimension,)
    body, features = _body(config, shape)
    try:
        if columns is None:
            return Net(body, features, outputs).to(device)
        return ColumnNet(body, features, outputs, shape[0], columns).to(device)
    except Exception as error:
        raise ValueError(f"{config.kind} cannot be put on {device}: {one_line(error)}") from error


def _body(config: Mlp | Conv | UserModule, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Return the body for rows of this shape, and how many features it gives."""
    try:
        body = config.body(shape)
        body.eval()
    except ValueError:
        raise
    except Exception as error:  # torch raises RuntimeError, MemoryError or OverflowError
        raise ValueError(f"{config.kind} cannot be made: {one_line(error)}") from error
    try:
        with torch.no_grad():
            out = body(torch.zeros(2, *shape))
    except Exception as error:  # a user's module may raise anything
        raise ValueError(f"{config.kind} cannot take rows {shape}: {one_line(error)}") from error
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != 2:
        given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"{config.kind} maps 2 rows {shape} to {given}; the head needs one vector of features "
            "for each row"
        )
    return body, out.shape[1]


def grow(net: Net, outputs: int, drawn: bool = True) -> None:
    """Give the heads ``outputs`` outputs. The weights of old outputs stay.

    Those of new outputs are drawn from torch's global generator, or left open to be loaded where
    ``drawn`` is false.
    """
    for name, old in net.heads().items():
        make = type(old) if drawn else partial(nn.utils.skip_init, type(old))
        new = make(old.in_features, outputs).to(old.weight.device)
        with torch.no_grad():
            for before, after in zip(old.parameters(), new.parameters(), strict=True):
                after[: len(before)] = before[:outputs]
        setattr(net, name, new)


def grow_inputs(net: Net, inputs: int) -> None:
    """Give the first layer of a perceptron ``inputs`` inputs. The weights of old inputs stay, those
    of new ones are 0: the outputs are as before until they are learned."""
    old = first_layer(net)
    make = partial(nn.utils.skip_init, type(old))
    new = make(inputs, old.out_features).to(old.weight.device)
    kept = min(inputs, old.in_features)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, :kept] = old.weight[:, :kept]
        new.bias.copy_(old.bias)
    if old is net.head:
        net.head = new
    else:
        net.body[0] = new  # type: ignore[operator]


def first_layer(net: Net) -> nn.Linear:
    """Return the first layer of a perceptron over rows of numbers; without a body, the head."""
    layers = [layer for layer in (*net.body.children(), net.head) if isinstance(layer, nn.Linear)]
    return layers[0]


def module_state(module: nn.Module) -> State:
    """Return parameters and buffers by name, as arrays; of a table of embeddings, the rows in
    use."""
    state, table = _parameters(module), getattr(module, "table", None)
    return state if table is None else {**state, TABLE: table.state()}


def servable_module(module: nn.Module) -> State:
    """Return the same, with all rows of a table of embeddings."""
    state, table = _parameters(module), getattr(module, "table", None)
    return state if table is None else {**state, TABLE: table.servable()}


def _parameters(module: nn.Module) -> State:
    return {name: array_of(tensor) for name, tensor in module.state_dict().items()}


def load_module(module: nn.Module, state: State) -> None:
    """Load parameters and buffers that ``module_state`` or ``servable_module`` returned."""
    arrays = {name: a for name, a in state.items() if name != TABLE}
    module.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in arrays.items()})
    if TABLE in state:
        module.table.load(state[TABLE])  # type: ignore[operator,union-attr]


def array_of(tensor: Tensor) -> Array:
    """Return the values of a tensor on any device; a view where it is on the CPU."""
    return tensor.detach().cpu().numpy()
