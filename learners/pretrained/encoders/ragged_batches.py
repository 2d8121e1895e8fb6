"""Batches of rows of several lengths, in which each row has the bits that it has alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from streams.core.batch import Array, Ints

_STEP = 16  # tokens: so few totals occur


class RaggedBatches:
    """Apply a network to rows of tokens of several lengths, without a place of padding.

    Rows of one length are a *group*. The groups of a batch are multiplied together, and attended to
    apart. Both may be rounded differently than for a row alone (see ``RowBatches``). So the first
    and the last row of the first batch of each number of tokens are compared with what they give
    alone, and those of the first group of each shape. Where a bit differs, rows go one by one.

    Args:
        network: maps groups (n, length) of tokens to the results (n, ...) of each. It is a pure
            function of each row up to rounding.
        rows: the most rows of a batch.
        tokens: the most tokens of a batch, if it has several rows.
    """

    def __init__(
        self, network: Callable[[Sequence[Tensor]], list[Tensor]], rows: int, tokens: int
    ) -> None:
        self._network = network
        self._rows, self._tokens = rows, tokens
        self._exact: dict[tuple[int, ...], bool] = {}

    @torch.inference_mode()
    def __call__(self, rows: Array, lengths: Ints) -> list[Tensor]:
        """Return the result of each of n >= 1 rows, which have these lengths (n,).

        Rows are tokens (n, places), of which those behind the length are left out, or images.
        """
        results: list[Tensor] = [torch.empty(0)] * len(rows)
        for some in self._batches(lengths):
            of_length = np.flatnonzero(np.diff(lengths[some])) + 1
            members = np.split(some, of_length)
            groups = [torch.from_numpy(_cut(rows[of], int(lengths[of[0]]))) for of in members]
            for place, result in zip(members, self._apply(groups), strict=True):
                for i, of_row in zip(place.tolist(), result, strict=True):
                    results[i] = of_row
        return results

    def _batches(self, lengths: Ints) -> Iterator[Ints]:
        """Yield the indices of the rows of each batch, by length."""
        order = np.argsort(lengths, kind="stable")
        while len(order):
            total = np.cumsum(lengths[order[: self._rows]])
            size = max(int(np.searchsorted(total, self._tokens, side="right")), 1)
            yield order[:size]
            order = order[size:]

    def _apply(self, groups: list[Tensor]) -> list[Tensor]:
        if sum(map(len, groups)) == 1:
            return self._network(groups)
        results = self._network(groups)
        keys: dict[tuple[int, ...], tuple[tuple[int, int], ...]]
        keys = {(padded_tokens(groups),): ((0, 0), (-1, -1))}
        keys |= {tuple(g.shape): ((i, 0), (i, -1)) for i, g in enumerate(groups) if len(g) > 1}
        for key, of_key in keys.items():
            if key not in self._exact:
                self._exact[key] = all(
                    torch.equal(results[i][row], self._alone(groups[i][row])) for i, row in of_key
                )
        if all(self._exact[key] for key in keys):
            return results
        return [torch.stack([self._alone(row) for row in group]) for group in groups]

    def _alone(self, row: Tensor) -> Tensor:
        (result,) = self._network([row[None]])
        return result[0]


def _cut(rows: Array, length: int) -> Array:
    return rows[:, :length] if rows.ndim == 2 else rows


def padded_tokens(groups: Sequence[Tensor]) -> int:
    """Return how many tokens a product has for groups: a multiple of 16, or those of one row."""
    total = sum(group.numel() for group in groups)
    return total if sum(map(len, groups)) == 1 else -(-total // _STEP) * _STEP
