"""Networks of click models against their formulas, written with loops."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from learners.networks.column_inputs import HistoryLayout
from learners.networks.modules import ColumnLayout
from learners.networks.optimizer import Adam, FlatOptimizer
from learners.recommenders.networks.base import (
    MOST_DEVIATIONS,
    ClickNet,
    InteractionsConfig,
    RowLayout,
)
from learners.recommenders.networks.choice import ClickNetworkConfig
from learners.recommenders.networks.dcn_v2 import CrossLayer, CrossNetwork, DcnV2
from learners.recommenders.networks.fm import FactorisationMachine

NUMBERS, CODES, DIMENSION = 3, 4, 5
KINDS = ("fm", "dnn", "deepfm", "dcn-v2")


def config(**settings: Any) -> InteractionsConfig:
    adapter: TypeAdapter[InteractionsConfig] = TypeAdapter(ClickNetworkConfig)
    return adapter.validate_python(settings)


def net(outputs: int = 2, regression: bool = False, **settings: Any) -> ClickNet:
    torch.manual_seed(0)
    columns = ColumnLayout(CODES, DIMENSION, embeddings=30, drawn=30, wide=False)
    return ClickNet(config(**settings), NUMBERS, outputs, columns, regression)


def rows(n: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn(n, NUMBERS, generator=generator)
    codes = torch.randint(30, (n, CODES), generator=generator)
    return torch.cat([numbers, codes], 1)


def test_fm_equals_the_sum_over_pairs() -> None:
    torch.manual_seed(0)
    layout = RowLayout(NUMBERS, CODES, DIMENSION, weighted=True)
    fm = FactorisationMachine(layout)
    torch.nn.init.normal_(fm.weights)
    x = torch.randn(4, NUMBERS + CODES * (DIMENSION + 1))
    out = fm.logit(x, fm(x))
    numbers, weights, embeddings = layout.split(x)
    assert weights is not None
    for row in range(4):
        values = [numbers[row, i] * fm.embeddings[i] for i in range(NUMBERS)]
        values += list(embeddings[row])
        pairs = sum((a @ b for a, b in combinations(values, 2)), torch.zeros(()))
        expected = weights[row].sum() + numbers[row] @ fm.weights + pairs
        torch.testing.assert_close(out[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [None, 2])
def test_cross_layers_equal_a_loop(rank: int | None) -> None:
    torch.manual_seed(0)
    layout = RowLayout(NUMBERS, CODES, DIMENSION, weighted=False)
    network = CrossNetwork(layout, DcnV2(cross=3, rank=rank, hidden=()))
    x = torch.randn(2, layout.inputs)
    out = network(x)
    for row in range(2):
        state = x[row]
        for layer in network.cross:
            assert isinstance(layer, CrossLayer)
            matrix = layer.matrix.weight
            if layer.project is not None:
                matrix = matrix @ layer.project.weight
            inner = [
                sum(matrix[i, j] * state[j] for j in range(layout.inputs)) + layer.matrix.bias[i]
                for i in range(layout.inputs)
            ]
            state = torch.stack([x[row, i] * inner[i] + state[i] for i in range(layout.inputs)])
        torch.testing.assert_close(out[row], state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_structures_of_dcn_take_what_they_say(structure: Any) -> None:
    network = CrossNetwork(RowLayout(2, 1, 3, False), DcnV2(structure=structure, hidden=(7,)))
    x = torch.randn(4, 5)
    crossed = x
    for layer in network.cross:
        crossed = layer(x, crossed)
    assert network.deep is not None
    stacked, deep = network.deep(crossed), network.deep(x)
    expected = stacked if structure == "stacked" else torch.cat([crossed, deep], 1)
    torch.testing.assert_close(network(x), expected)


def test_deepfm_is_the_sum_of_its_parts() -> None:
    whole = net(kind="deepfm", hidden=[8])
    encoded = whole.encode(rows())
    body: Any = whole.body
    fm = body.fm.logit(encoded, body.fm(encoded))
    deep = body.deep.logit(encoded, body.deep(encoded))
    out = whole(rows())
    torch.testing.assert_close(out[:, 1] - out[:, 0], fm + deep)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_for_each_number_of_classes(kind: str) -> None:
    """One class is certain; of two, the second has the log-odds; a target has one output."""
    assert net(1, kind=kind)(rows()).eq(0).all()
    two, target = net(2, kind=kind)(rows()), net(1, regression=True, kind=kind)(rows())
    assert two[:, 0].eq(0).all()
    torch.testing.assert_close(two[:, 1], target[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight_and_each_embedding(kind: str) -> None:
    whole = net(kind=kind)
    x = rows()
    torch.nn.functional.cross_entropy(whole(x), torch.arange(len(x)) % 2).backward()  # type: ignore[no-untyped-call]
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.numel() or parameter.grad.abs().sum() > 0, name
    assert whole.table is not None
    taken = whole.table.take_gradients()
    assert taken is not None
    assert set(taken[0].tolist()) == set(x[:, NUMBERS:].flatten().int().tolist())


def test_outliers_are_clipped() -> None:
    whole, x = net(kind="dcn-v2"), rows()
    far, limit = x.clone(), x.clone()
    far[:, 0], limit[:, 0] = 1e9, MOST_DEVIATIONS
    torch.testing.assert_close(whole(far), whole(limit))


WRITTEN_OUT: list[dict[str, Any]] = [
    {"kind": "fm"},
    {"kind": "dnn", "hidden": [8, 7]},
    {"kind": "deepfm", "hidden": [8]},
    {"kind": "dcn-v2", "hidden": [8]},
    {"kind": "dcn-v2", "hidden": [8, 7], "structure": "parallel", "rank": 2},
    {"kind": "dcn-v2", "hidden": [], "cross": 3},
]


@pytest.mark.parametrize(("numbers", "codes"), [(NUMBERS, CODES), (0, CODES), (NUMBERS, 0)])
@pytest.mark.parametrize("settings", WRITTEN_OUT, ids=lambda settings: str(settings["kind"]))
def test_gradients_are_those_of_autograd(
    settings: dict[str, Any], numbers: int, codes: int
) -> None:
    torch.manual_seed(0)
    columns = ColumnLayout(codes, DIMENSION, embeddings=30, drawn=30, wide=False)
    whole = ClickNet(config(**settings), numbers, 2, columns, False)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    optimizer = FlatOptimizer(Adam(), whole)
    x = rows(12)[:, NUMBERS - numbers : NUMBERS + codes]
    above = torch.randn(12, 2)
    out = whole(x)
    expected = optimizer.gradient((above * out).sum()).clone()
    of_rows = whole.table.take_gradients() if whole.table is not None else None
    written_out = optimizer.written_out
    assert written_out is not None
    with torch.no_grad():
        ours, passed = written_out.outputs(x)
        gradient = written_out.gradient(above, passed).clone()
    torch.testing.assert_close(ours, out.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    if of_rows is not None:
        assert whole.table is not None
        taken = whole.table.take_gradients()
        assert taken is not None
        assert torch.equal(taken[0], of_rows[0])
        torch.testing.assert_close(taken[1], of_rows[1], rtol=1e-4, atol=1e-5)


def test_one_class_has_no_gradient_but_that_of_its_bias() -> None:
    whole = net(1, kind="deepfm")
    optimizer = FlatOptimizer(Adam(), whole)
    assert optimizer.written_out is not None
    with torch.no_grad():
        out, passed = optimizer.written_out.outputs(rows())
        gradient = optimizer.written_out.gradient(torch.ones(6, 1), passed)
    assert out.eq(0).all()
    assert gradient.sum() == whole.head.bias.grad == 6
    assert whole.table is not None
    assert whole.table.take_gradients() is None


def test_histories_are_left_to_autograd() -> None:
    columns = ColumnLayout(CODES, DIMENSION, embeddings=30, drawn=30, wide=False)
    history = HistoryLayout(length=2, place=0, none=0, prior=1)
    whole = ClickNet(config(kind="fm"), NUMBERS, 2, columns, False, history)
    assert FlatOptimizer(Adam(), whole).written_out is None
