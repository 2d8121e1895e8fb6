"""Linear maps of frozen weights, as they are and in the layout of oneDNN."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from learners.pretrained.blocks.linear import Linear


@pytest.fixture
def plain() -> Linear:
    draw = torch.Generator().manual_seed(0)
    return Linear(torch.randn(48, 32, generator=draw), torch.randn(48, generator=draw))


@pytest.fixture
def packed(plain: Linear) -> Linear:
    packed = plain.packed()
    if not packed.weight.is_mkldnn:
        pytest.skip("this torch has no oneDNN, or other functions of it")
    return packed


@pytest.mark.parametrize("shape", [(1, 32), (5, 32), (3, 7, 32), (0, 32)])
def test_a_packed_map_gives_the_same(plain: Linear, packed: Linear, shape: tuple[int, ...]) -> None:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    expected = F.linear(rows, plain.weight, plain.bias)
    for of_rows in (plain, packed):
        torch.testing.assert_close(of_rows.apply(rows), expected)
        torch.testing.assert_close(of_rows.apply(rows, gelu=True), F.gelu(expected))


def test_a_packed_map_has_gradients(plain: Linear, packed: Linear) -> None:
    """The product of oneDNN alone would leave them out."""
    rows = torch.randn(3, 32, requires_grad=True)
    packed.apply(rows, gelu=True).sum().backward()
    given = rows.grad
    rows.grad = None
    plain.apply(rows, gelu=True).sum().backward()
    assert given is not None
    torch.testing.assert_close(given, rows.grad)


def test_a_packed_map_can_move(plain: Linear, packed: Linear) -> None:
    moved = packed.to("cpu")
    assert torch.equal(moved.weight, plain.weight)


def test_another_torch_leaves_a_map_as_it_is(
    plain: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda rows: rows)
    assert plain.packed() is plain
