"""Compressed tables: lookups and gradients against autograd, rounding, bytes, and resume."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learners.networks.compressed_tables import (
    Int8Table,
    QuotientRemainderTable,
    SharedRows,
    values_of,
)
from learners.networks.embedding_table import EmbeddingTable, RowOptimizer
from learners.networks.optimizer import Adam
from learners.rehearsal.base import RehearsalConfig
from learners.rehearsal.replay import Replay
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest

OWN, ROWS, DIMENSION = 5, 12, 4


def quotient_remainder() -> QuotientRemainderTable:
    torch.manual_seed(0)
    return QuotientRemainderTable(OWN + values_of(ROWS), DIMENSION, OWN, ROWS)


def int8() -> Int8Table:
    torch.manual_seed(0)
    return Int8Table(30, DIMENSION, 30)


def test_quotient_remainder_tells_all_values_apart() -> None:
    table = quotient_remainder()
    codes = torch.arange(OWN + values_of(ROWS))
    assert values_of(ROWS) == 36
    assert len(torch.unique(table.lookup(codes[:, None]), dim=0)) == len(codes)
    assert len(table.weight) == OWN + ROWS + 1


def test_quotient_remainder_gradients_are_those_of_autograd() -> None:
    table = quotient_remainder()
    codes = torch.randint(
        OWN + values_of(ROWS), (20, 3), generator=torch.Generator().manual_seed(1)
    )
    weights = torch.randn(20, 3 * DIMENSION)
    (table(codes) * weights).sum().backward()
    taken = table.take_gradients()
    assert taken is not None
    whole = table.weight.clone().requires_grad_()
    first, second = table._rows_of(codes.flatten())
    ((whole[first] * whole[second]).view(20, -1) * weights).sum().backward()  # type: ignore[no-untyped-call]
    expected = whole.grad
    assert expected is not None
    expected[table._one] = 0
    dense = torch.zeros_like(expected).index_add_(0, *taken)
    torch.testing.assert_close(dense, expected)


def test_int8_rounds_within_a_unit_and_without_bias() -> None:
    table, values = int8(), torch.full((30, DIMENSION), 0.1003)
    values[:, 0] = 1.27  # so that a unit is 0.01
    rows = torch.arange(30)
    total = torch.zeros(30, DIMENSION)
    for _ in range(200):
        table.write(rows, values)
        read = table.read(rows)
        assert (read - values).abs().max() < 0.01 + 1e-6
        total += read
    assert abs(float((total / 200 - values)[:, 1:].mean())) < 2e-4
    assert table.weight.element_size() == 1


def test_int8_keeps_rows_that_are_not_written() -> None:
    table = int8()
    before, rows = table.weight.clone(), torch.tensor([3, 7])
    table.write(rows, torch.zeros(2, DIMENSION))
    assert table.read(rows).eq(0).all()
    others = [row for row in range(30) if row not in (3, 7)]
    assert torch.equal(table.weight[others], before[others])


@pytest.mark.parametrize("make", [quotient_remainder, int8])
def test_resume_continues_bit_for_bit(make: Any) -> None:
    def stepped(table: EmbeddingTable, optimizer: RowOptimizer, steps: range) -> None:
        for step in steps:
            drawn = torch.Generator().manual_seed(step)
            codes: Tensor = torch.randint(30, (8, 2), generator=drawn)
            table(codes).sin().sum().backward()
            optimizer.step()

    whole, half, other = make(), make(), make()
    of_whole, of_half, of_other = (RowOptimizer(Adam(lr=0.01), t) for t in (whole, half, other))
    stepped(whole, of_whole, range(10))
    stepped(half, of_half, range(5))
    other.load(copied(half.state()))
    of_other.load(copied(of_half.state()))
    stepped(other, of_other, range(5, 10))
    assert digest(other.state()) == digest(whole.state())
    assert digest(of_other.state()) == digest(of_whole.state())
    served = make()
    served.load(copied(whole.servable()))
    codes = torch.arange(30)[:, None]
    assert torch.equal(served.lookup(codes), whole.lookup(codes))


def test_shared_rows_are_spread() -> None:
    rows = SharedRows(16).find(np.arange(16_000))
    counts = np.bincount(rows, minlength=16)
    assert counts.min() > 850
    assert counts.max() < 1150


@pytest.mark.parametrize("compression", ["hashed", "quotient-remainder", "int8"])
def test_learner_learns_with_a_compressed_table(compression: str) -> None:
    schema = Schema((Feature("id", "categorical"), Feature("b", "categorical")), "classification")
    rng = np.random.default_rng(0)
    x = {"id": rng.integers(0, 20, 3000), "b": rng.integers(0, 4, 3000)}
    y, offset = (x["id"] % 2).astype(np.int64), np.arange(3000)
    batch = Batch(offset, offset * 1.0, x, np.zeros(3000, np.int32), offset, y, classes=(0, 1))
    inputs = {"rows": 512, "compression": compression}
    config = {"kind": "replay", "inputs": inputs, "buffer": {"capacity": 200}}
    learner = Replay(RehearsalConfig.model_validate(config), schema, 1)
    for part in batch[:2500].micro_batches(32):
        learner._observe(part)
        learner._learn(part)
    other = Replay(RehearsalConfig.model_validate(config), schema, 1)
    other.load(copied(learner.state()))
    fresh = batch[2500:]
    value = other.predict(fresh).value
    assert np.array_equal(value, learner.predict(fresh).value)
    assert (value == fresh.y).mean() > 0.95
