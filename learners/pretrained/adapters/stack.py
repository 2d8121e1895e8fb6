"""Several adapters of each block, among which each row has its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from learners.networks.modules import array_of
from learners.pretrained.backbones.base import Hidden
from learners.pretrained.backbones.trunk import Trunk
from learners.pretrained.blocks.bert_block import Adapter
from streams.core.batch import Array
from streams.core.state_dict import State


class AdapterStack:
    """Copies of trained ``Adapters``, and features through any of them. Nothing here is trained.

    All rows of a batch pass the upper blocks together, each with the adapters that it is given: the
    products of a row with its own weights are one batched product. So k adapters cost no more
    passes than one, where each row needs one of them.

    Args:
        trunk: the blocks below.
        scale: the factor of what an adapter adds.

    Attributes:
        count: k, how many there are.
    """

    def __init__(self, trunk: Trunk, scale: float) -> None:
        self._trunk, self._scale = trunk, scale
        self._weights: dict[str, Tensor] = {}
        self.count = 0

    def append(self, parts: nn.Module) -> None:
        """Add a copy of trained adapters."""
        for name, new in parts.state_dict().items():
            old = self._weights.get(name, new[None][:0])
            self._weights[name] = torch.cat([old, new[None]])
        self.count += 1

    def put(self, i: int, parts: nn.Module) -> None:
        """Replace copy ``i``."""
        for name, new in parts.state_dict().items():
            self._weights[name][i] = new

    def of(self, i: int) -> dict[str, Array]:
        """Return the weights of copy ``i`` by name."""
        return {name: array_of(weights[i]) for name, weights in self._weights.items()}

    def replace(self, i: int, by: dict[str, Array]) -> None:
        """Let these weights stand for the copies ``i`` and ``i`` + 1."""
        for name, old in self._weights.items():
            new = torch.from_numpy(by[name]).to(old)[None]
            self._weights[name] = torch.cat([old[:i], new, old[i + 2 :]])
        self.count -= 1

    def features(self, hidden: Hidden, chosen: int | Tensor) -> Tensor:
        """Return features (n, width). Pure.

        Args:
            hidden: the states before the first of the upper blocks, of n rows.
            chosen: the copy that all rows pass; or (n,) int64, the copy of each.
        """
        backbone = self._trunk.backbone
        for place, i in enumerate(self._trunk.upper_blocks()):
            hidden = backbone.block(i, hidden, adapter=self._adapter(place, chosen))
        return backbone.pool(hidden)

    def _adapter(self, place: int, chosen: int | Tensor) -> Adapter:
        """Return the adapters of the upper block at a place, as one function."""
        names = ("down.weight", "down.bias", "up.weight", "up.bias")
        down, d, up, u = (self._weights[f"adapters.{place}.{name}"][chosen] for name in names)
        if not isinstance(chosen, Tensor):
            down, d, up, u = down[None], d[None], up[None], u[None]

        def adapter(states: Tensor) -> Tensor:
            inner = torch.relu(states @ down.mT + d[:, None])
            return self._scale * (inner @ up.mT + u[:, None])

        return adapter

    @property
    def nbytes(self) -> int:
        """The bytes of one copy."""
        total = sum(weights.nbytes for weights in self._weights.values())
        return total // max(self.count, 1)

    def state(self) -> State:
        """Return the weights by name: (k, ...) each."""
        return {name: array_of(weights) for name, weights in self._weights.items()}

    def load(self, state: State) -> None:
        """Restore what ``state`` returned, as copies."""
        device = self._trunk.backbone.device
        self._weights = {
            name: torch.from_numpy(np.array(array)).to(device) for name, array in state.items()
        }
        self.count = len(next(iter(self._weights.values()))) if self._weights else 0
