"""Batches of a network in which each row has the bits that it has alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from learners.base import LearnerError
from streams.core.errors import one_line

_SIZES = sorted({2**i for i in range(11)} | {3 * 2**i for i in range(9)}, reverse=True)


class RowBatches:
    """Apply a network to n rows of one shape, in batches.

    Libraries of linear algebra choose their order of additions by the shape of a product. So a row
    may be rounded differently in a batch than alone. The first and the last row of the first batch
    of each shape are compared with what they give alone. Where a bit differs, batches of this shape
    are not used. The two are at the edges of the products, where other kernels are in use.

    Sizes are powers of two and the numbers midway, so that few shapes occur.

    Args:
        network: maps rows (n, ...) to (n, dimension). It is a pure function of each row up to
            rounding.
        rows: the most rows of a batch.
        numbers: the most numbers of a batch, if it has several rows.
    """

    def __init__(
        self, network: Callable[[Tensor], Tensor], rows: int, numbers: int | None = None
    ) -> None:
        self._network = network
        self._sizes = [size for size in _SIZES if size <= rows]
        self._numbers = numbers
        self._exact: dict[tuple[int, ...], bool] = {}

    @torch.inference_mode()
    def __call__(self, rows: Tensor) -> Tensor:
        """Return the results of n >= 1 rows: (n, dimension)."""
        results: list[Tensor] = []
        start = 0
        while start < len(rows):
            batch = rows[start : start + self._size(rows, len(rows) - start)]
            results.append(self._apply(batch))
            start += len(batch)
        return torch.cat(results)

    def _size(self, rows: Tensor, left: int) -> int:
        """Return how many rows the next batch has."""
        most = left
        if self._numbers is not None:
            most = min(most, self._numbers // max(rows[0].numel(), 1))
        shape = rows.shape[1:]
        fitting = (s for s in self._sizes if s <= most and self._exact.get((s, *shape), True))
        return next(fitting, 1)

    def _apply(self, batch: Tensor) -> Tensor:
        result = self._network(batch)
        shape = tuple(batch.shape)
        if len(batch) == 1 or self._exact.get(shape, False):
            return result
        ends = torch.cat([self._network(batch[:1]), self._network(batch[-1:])])
        self._exact[shape] = torch.equal(ends, result[[0, -1]])
        return result if self._exact[shape] else self(batch)


class Movable(Protocol):
    """What has weights of torch."""

    def to(self, device: str) -> object:
        """Move the weights to a device."""


def move_network(network: Movable | nn.Module, device: str) -> None:
    """Move a network to a device. Raises ``LearnerError`` where there is none."""
    try:
        network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise LearnerError(
            f"there is no device {device!r}: leave out encoders.gpus: {one_line(error)}"
        ) from error
