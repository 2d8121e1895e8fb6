"""A table of embeddings: a step moves the rows that it read, as torch's own sparse Adam does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learners.networks.embedding_table import EMBEDDING_RATE, EmbeddingTable, RowOptimizer
from learners.networks.optimizer import Adam, Sgd
from streams.core.state_dict import copied, digest

ROWS, DIMENSION = 50, 4


def table(drawn: int = ROWS) -> EmbeddingTable:
    torch.manual_seed(0)
    return EmbeddingTable(ROWS, DIMENSION, drawn)


def codes(seed: int, n: int = 16, places: int = 3, below: int = ROWS) -> Tensor:
    return torch.randint(below, (n, places), generator=torch.Generator().manual_seed(seed))


def loss_of(out: Tensor) -> Tensor:
    return (out * torch.arange(out.shape[1])).sin().sum()


@pytest.mark.parametrize("calls", [1, 3])
def test_rows_move_as_those_of_sparse_adam(calls: int) -> None:
    ours = table()
    theirs = torch.nn.Embedding.from_pretrained(ours.weight.clone(), freeze=False, sparse=True)
    optimizer, reference = RowOptimizer(Adam(lr=0.01), ours), None
    reference = torch.optim.SparseAdam(theirs.parameters(), lr=0.01 * EMBEDDING_RATE)
    for step in range(5):
        drawn = [codes(10 * step + call) for call in range(calls)]
        sum(loss_of(ours(c)) for c in drawn).backward()  # type: ignore[union-attr]
        optimizer.step()
        reference.zero_grad()
        sum(loss_of(theirs(c).flatten(1)) for c in drawn).backward()  # type: ignore[union-attr]
        reference.step()
    torch.testing.assert_close(ours.weight, theirs.weight.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [Adam(lr=0.1), Sgd(kind="sgd", lr=0.1, momentum=0.9)])
def test_rows_that_were_not_read_stay(config: Any) -> None:
    ours = table()
    optimizer = RowOptimizer(config, ours)
    before = ours.weight.clone()
    loss_of(ours(codes(0, below=10))).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert torch.equal(ours.weight[10:], before[10:])
    assert not torch.equal(ours.weight[:10], before[:10])


def test_numbers_before_embeddings_change_no_gradient() -> None:
    ours, weights = table(), torch.randn(16, 3 * DIMENSION)
    (ours(codes(0)) * weights).sum().backward()
    alone = ours.take_gradients()
    numbers = torch.randn(16, 5)
    both = ours(codes(0), numbers)
    assert torch.equal(both[:, :5], numbers)
    (both * torch.cat([torch.randn(16, 5), weights], 1)).sum().backward()
    beside = ours.take_gradients()
    assert alone is not None
    assert beside is not None
    assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True))


def test_without_gradients_nothing_is_remembered() -> None:
    ours = table()
    with torch.no_grad():
        ours(codes(0))
    with torch.inference_mode():
        ours(codes(0))
    assert ours.take_gradients() is None
    ours(codes(0)).sum().backward()
    RowOptimizer(Adam(), ours).discard()
    assert ours.take_gradients() is None


def test_new_row_starts_as_its_prior_and_afresh() -> None:
    ours = table(drawn=10)
    optimizer = RowOptimizer(Adam(lr=0.1), ours)
    loss_of(ours(codes(0, below=10))).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.start(np.array([3, 20]), np.array([1, 2]))
    assert torch.equal(ours.weight[[3, 20]], ours.weight[[1, 2]])
    state = optimizer.state()
    for name in ("exp_avg", "exp_avg_sq"):
        assert not {3, 20} & set(state[name]["rows"].tolist())


def test_state_continues_bit_for_bit() -> None:
    runs = []
    for cut in (False, True):
        ours = table(drawn=10)
        optimizer = RowOptimizer(Adam(lr=0.05), ours)
        for step in range(8):
            if cut and step == 4:
                saved = copied({"table": ours.state(), "rows": optimizer.state()})
                ours = table(drawn=50)
                optimizer = RowOptimizer(Adam(lr=0.05), ours)
                ours.load(saved["table"])
                optimizer.load(saved["rows"])
            loss_of(ours(codes(step, below=10 + step))).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        runs.append(digest({"table": ours.state(), "rows": optimizer.state()}))
    assert runs[0] == runs[1]


def test_state_holds_the_rows_in_use_alone() -> None:
    state = table(drawn=10).state()
    assert state["rows"].tolist() == list(range(10))
    assert state["values"].shape == (10, DIMENSION)
