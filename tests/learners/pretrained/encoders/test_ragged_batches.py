"""Batches of rows of several lengths, whose rows have the bits that they have alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from learners.pretrained.encoders.ragged_batches import RaggedBatches, padded_tokens

LENGTHS = np.array([3, 1, 2, 3, 3, 2])


class Network:
    """Doubles rows, with an error at some numbers of tokens, or in groups of some shapes."""

    def __init__(self, *inexact: object) -> None:
        self.inexact = inexact
        self.calls: list[list[int]] = []

    def __call__(self, groups: Sequence[Tensor]) -> list[Tensor]:
        self.calls.append([len(group) for group in groups])
        doubled = [2 * group for group in groups]
        for group in doubled:
            if tuple(group.shape) in self.inexact:
                group[-1, 0] += 1
        if sum(map(len, groups)) > 1 and padded_tokens(groups) in self.inexact:
            doubled[-1][-1, 0] += 1
        return doubled


def rows() -> np.ndarray:
    return np.arange(18).reshape(6, 3)


def expected() -> list[list[int]]:
    return [(2 * row[:n]).tolist() for row, n in zip(rows(), LENGTHS, strict=True)]


def test_exact_batches_are_checked_once() -> None:
    network = Network()
    batches = RaggedBatches(network, 32, 100)
    for _ in range(2):
        assert [r.tolist() for r in batches(rows(), LENGTHS)] == expected()
    alone = [[1]]
    assert network.calls == [[1, 2, 3], *6 * alone, [1, 2, 3]]


def test_batches_that_change_a_bit_are_not_used() -> None:
    for inexact in (16, (3, 3), (2, 2)):
        network = Network(inexact)
        batches = RaggedBatches(network, 32, 100)
        for _ in range(2):
            assert [r.tolist() for r in batches(rows(), LENGTHS)] == expected()
        assert network.calls[-6:] == 6 * [[1]]


def test_batches_are_bounded() -> None:
    network = Network()
    batches = RaggedBatches(network, 2, 5)
    assert [r.tolist() for r in batches(rows(), LENGTHS)] == expected()
    assert [call for call in network.calls if call != [1]] == [[1, 1], [1, 1]]
    one = RaggedBatches(network, 2, 1)
    assert [r.tolist() for r in one(rows(), LENGTHS)] == expected()


def test_images_are_not_cut() -> None:
    images = np.zeros((3, 4, 2, 2), np.uint8)
    results = RaggedBatches(lambda groups: [2 * g for g in groups], 2, 100)(images, np.full(3, 3))
    assert torch.stack(results).shape == images.shape
