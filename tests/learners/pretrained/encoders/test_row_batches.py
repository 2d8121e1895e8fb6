"""Batches whose rows have the bits that they have alone."""

from __future__ import annotations

import torch
from torch import Tensor

from learners.pretrained.encoders.row_batches import RowBatches


class Network:
    """Doubles rows, with an error in batches of some sizes, and counts its calls by size."""

    def __init__(self, *inexact: int) -> None:
        self.inexact = inexact
        self.calls: list[int] = []

    def __call__(self, rows: Tensor) -> Tensor:
        self.calls.append(len(rows))
        doubled = 2 * rows
        if len(rows) in self.inexact:
            doubled[-1, 0] += 1
        return doubled


def rows(n: int, width: int = 3) -> Tensor:
    return torch.arange(float(n * width)).reshape(n, width)


def test_exact_batches_are_checked_once() -> None:
    network = Network()
    batches = RowBatches(network, 8)
    assert torch.equal(batches(rows(21)), 2 * rows(21))
    assert network.calls == [8, 1, 1, 8, 4, 1, 1, 1]  # ones beside: the check of 8 and of 4
    network.calls.clear()
    batches(rows(23))
    assert network.calls == [8, 8, 6, 1, 1, 1]


def test_batches_that_change_a_bit_are_not_used() -> None:
    network = Network(8, 6, 3)
    batches = RowBatches(network, 8)
    assert torch.equal(batches(rows(21)), 2 * rows(21))
    network.calls.clear()
    assert torch.equal(batches(rows(8)), 2 * rows(8))
    assert network.calls == [4, 4]


def test_shapes_are_checked_apart_and_numbers_are_bounded() -> None:
    network = Network()
    batches = RowBatches(network, 32, numbers=12)
    for width in (2, 3, 13):
        assert torch.equal(batches(rows(6, width)), 2 * rows(6, width))
    assert network.calls == [6, 1, 1, 4, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1]
