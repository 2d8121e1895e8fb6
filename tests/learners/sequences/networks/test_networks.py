"""What holds for every network of sequences, by closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from learners.networks.optimizer import Adam, FlatOptimizer
from learners.sequences.networks.attentive import Attentive, AttentiveConfig
from learners.sequences.networks.base import Cells, HistoryTensors, Next, SequenceNet
from learners.sequences.networks.log_normal_mixture import LogNormalMixture, LogNormalMixtureConfig
from learners.sequences.networks.point import Point, PointConfig
from learners.sequences.networks.prompted import Prompted
from learners.sequences.networks.recurrent import Recurrent
from learners.sequences.networks.rmtpp import Rmtpp, RmtppConfig, growth
from learners.sequences.prompt_tpp import PromptTppConfig

Make = Callable[[int], SequenceNet]
ATTENTIVE = AttentiveConfig(hidden=8, times=8)
MAKERS: dict[str, Make] = {
    "attentive": lambda types: Attentive(ATTENTIVE, types, 0),
    "prompted": lambda types: Prompted(
        ATTENTIVE, PromptTppConfig(kind="prompt-tpp", pool=6, top=2), types, 0
    ),
    "log-normal-mixture": lambda types: LogNormalMixture(
        LogNormalMixtureConfig(kind="log-normal-mixture", hidden=8, components=5), types, 0
    ),
    "rmtpp": lambda types: Rmtpp(RmtppConfig(kind="rmtpp", hidden=8), types, 0),
}
POINT: Make = lambda types: Point(PointConfig(kind="point", hidden=8), types, 0)  # noqa: E731
CELLS = Cells.of(torch.tensor([0.0, 1e-3, 1e-3, 0.1, 0.3, 0.7, 1.2, 2.0, 3.5]))


def _net(make: Make, types: int = 3, spread: float = 0.5) -> SequenceNet:
    """Return a network with weights that are not near their start."""
    torch.manual_seed(3)
    net = make(types)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name not in ("mixture.bias", "slope"):
                parameter.add_(spread * torch.randn_like(parameter))
    return net.eval()


def _histories(n: int = 6, length: int = 7, types: int = 3) -> HistoryTensors:
    torch.manual_seed(4)
    gaps = torch.rand(n, length) * torch.tensor([0.0, 0.1, 1.0, 3.0]).repeat(length)[:length]
    ages = gaps.flip(1).cumsum(1).flip(1) - gaps
    lengths = torch.tensor([7, 1, 3, 7, 5, 0])[:n].clamp(max=length)
    return HistoryTensors(torch.randint(0, types + 1, (n, length)), gaps, ages, lengths)


def _events(elapsed: Tensor, types: Tensor, step: float = 1e-6) -> Next:
    return Next(elapsed, torch.full_like(elapsed, step), types)


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKERS[request.param]


@pytest.fixture(params=[*MAKERS, "point"])
def make_any(request: pytest.FixtureRequest) -> Make:
    return MAKERS.get(request.param, POINT)


def _set_rates(net: SequenceNet, rates: list[float]) -> None:
    """Let each type have this rate per unit, whatever the history."""
    rate = torch.tensor(rates)
    with torch.no_grad():
        if isinstance(net, Attentive):
            net.outputs.zero_()
            net.outputs[:, 0] = rate.expm1().log() - math.log(math.expm1(1 / len(rates)))
            return
        assert isinstance(net, Rmtpp)
        net.outputs.zero_()
        net.outputs[:, 0] = rate.log()
        net.level.weight.zero_()
        net.level.bias.fill_(math.log(sum(rates)))


@pytest.mark.parametrize("name", ["attentive", "rmtpp"])
def test_poisson_of_rate_two_has_its_entropy(name: str) -> None:
    """1 - ln 2 = 0.307 nats of time, and -sum p ln p of types; not where types are shifted."""
    net, rates = _net(MAKERS[name]), [1.4, 0.4, 0.2]
    _set_rates(net, rates)
    torch.manual_seed(5)
    elapsed = torch.empty(10_000).exponential_(2.0)
    types = torch.multinomial(torch.tensor(rates), 10_000, replacement=True)
    histories = HistoryTensors(*(x[:1].expand(10_000, *x.shape[1:]) for x in _histories()))
    encoded = net.encode(histories)
    found = net.log_likelihood(encoded, _events(elapsed, types), CELLS)
    assert -(found.time - math.log(1e-6)).mean().item() == pytest.approx(0.307, abs=0.02)
    entropy = -sum(p / 2 * math.log(p / 2) for p in rates)
    assert -found.types.mean().item() == pytest.approx(entropy, abs=0.02)
    shifted = net.log_likelihood(encoded, _events(elapsed, (types + 1) % 3), CELLS)
    assert -shifted.types.mean().item() > entropy + 0.5


def test_probabilities_of_all_that_may_come_sum_to_one(make: Make) -> None:
    net, histories = _net(make), _histories()
    bounds = torch.cat([torch.zeros(1), torch.logspace(-4, 1.5, 1500)])
    # Within a cell the density of a step is exact; a step across two cells counts as in its first.
    bounds = torch.cat([bounds, CELLS.starts]).unique()
    for row in (0, 1, 5):
        encoded = net.encode(HistoryTensors(*(x[row : row + 1] for x in histories)))
        m, total, by_type = len(bounds) - 1, 0.0, 0.0
        start, step = bounds[:-1], torch.diff(bounds)
        many = _expanded(net, encoded, m)
        for kind in range(3):
            event = Next(start, step, torch.full((m,), kind))
            found = net.log_likelihood(many, event, CELLS)
            by_type += (found.time + found.types).exp().sum().item()
            total = found.time.exp().sum().item()
        nothing = Next(bounds[-1:], step[:1], torch.tensor([-1]))
        later = net.log_likelihood(encoded, nothing, CELLS).time.exp().item()
        assert total + later == pytest.approx(1.0, abs=2e-3)
        assert by_type == pytest.approx(total, abs=1e-4)


def _expanded(net: SequenceNet, encoded: object, n: int) -> object:
    """Return what was encoded of one history, n times."""
    if isinstance(encoded, Tensor):
        return encoded.expand(n, -1)
    keys, values, bias, *rest = encoded  # type: ignore[misc]
    many = [[x.expand(-1, n, -1, -1) for x in part] for part in (keys, values)]
    return type(encoded)(*many, bias.expand(n, -1, -1), *rest)


def test_intensities_in_cells_have_the_survival_of_the_network(make: Make) -> None:
    net, histories = _net(make), _histories()
    encoded = net.encode(histories)
    intensities = net.intensities(encoded, CELLS)
    until = (intensities.total[:, :-1] * CELLS.widths[:-1]).sum(1)
    event = _events(CELLS.starts[-1:].expand(6), torch.full((6,), -1))
    survived = net.log_likelihood(encoded, event, CELLS).time
    assert survived.tolist() == pytest.approx((-until).tolist(), rel=1e-4)
    assert torch.allclose(intensities.types.sum(-1), torch.ones(()), atol=1e-5)


def test_what_is_behind_the_last_event_changes_nothing(make_any: Make) -> None:
    net, histories = _net(make_any), _histories()
    other = HistoryTensors(
        torch.where(histories.present, histories.types, 2),
        torch.where(histories.present, histories.gaps, 7.0),
        torch.where(histories.present, histories.ages, 9.0),
        histories.lengths,
    )
    one, two = (net.intensities(net.encode(h), CELLS) for h in (histories, other))
    assert all(torch.equal(a, b) or a.isnan().all() for a, b in zip(one, two, strict=True))


def test_other_histories_of_the_batch_change_nothing(make_any: Make) -> None:
    """To rounding: products of matrices with other numbers of rows sum in another order."""
    net, histories = _net(make_any), _histories()
    together = net.intensities(net.encode(histories), CELLS)
    for row in range(6):
        length = max(int(histories.lengths[row]), 1)
        cut = HistoryTensors(
            *(x[row : row + 1, :length] for x in histories[:3]), histories.lengths[row : row + 1]
        )
        alone = net.intensities(net.encode(cut), CELLS)
        for a, b in zip(together, alone, strict=True):
            assert torch.allclose(a[row], b[0], rtol=2e-6, atol=1e-6, equal_nan=True)


def test_gradient_reaches_every_parameter(make_any: Make) -> None:
    net, histories = _net(make_any), _histories()
    net.train()
    encoded = net.encode(histories)
    event = _events(
        torch.tensor([0.0, 0.05, 0.2, 1.0, 5.0, 2.0]), torch.tensor([0, 1, 2, 0, 1, -1])
    )
    found = net.log_likelihood(encoded, event, CELLS)
    loss = -(found.time + found.types).sum()
    if isinstance(net, Prompted):
        assert encoded.pull is not None
        loss = loss + encoded.pull
    loss.backward()
    for name, parameter in net.named_parameters():
        if not name.startswith("estimate."):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_events_at_equal_times_have_a_finite_likelihood(make: Make) -> None:
    net, histories = _net(make), _histories()
    event = _events(torch.zeros(6), torch.tensor([0, 1, 2, 0, 1, 2]))
    found = net.log_likelihood(net.encode(histories), event, CELLS)
    assert found.time.isfinite().all()
    assert (found.time < 0).all()
    assert found.types.isfinite().all()


def test_new_types_leave_the_rows_of_others(make_any: Make) -> None:
    net, grown = _net(make_any, types=2, spread=0.0), _net(make_any, types=5, spread=0.0)
    optimizer = FlatOptimizer(Adam(), net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer.resize(lambda: net.resize(5))
    assert net.count == 5
    for name, kept in (("embedding", 3), ("outputs", 2)):  # one is of the unknown type
        rows = getattr(net, name)
        assert torch.equal(rows[:kept], before[name])
        assert torch.equal(rows, getattr(grown, name)), f"{name}: rows depend on when they came"
    optimizer.resize(lambda: net.resize(2))
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_integral_in_cells_is_near_that_of_all_times() -> None:
    """The cells are a midpoint rule for the intensity at all times: here within 5% with 16 cells,
    and within 0.5% with 64. The likelihood of the cells themselves is exact, however few."""
    torch.manual_seed(6)
    net, histories = Attentive(AttentiveConfig(), 3, 0), _histories()
    optimizer = FlatOptimizer(Adam(lr=0.01), net)
    for _ in range(60):  # a bend: events after about 0.5 units, or about 2
        elapsed = torch.where(torch.rand(6) < 0.5, 0.5, 2.0) * torch.rand(6).add(0.5)
        event = _events(elapsed, torch.randint(0, 3, (6,)))
        found = net.log_likelihood(net.encode(histories), event, _levels(16))
        optimizer.step(-(found.time + found.types).mean())
    with torch.no_grad():
        encoded = net.encode(histories)
        fine = torch.linspace(0, 4.5, 10_001)
        rate = net.intensity(encoded, (fine[:-1] + fine[1:]) / 2).sum(-1)
        exact = (rate * torch.diff(fine)).sum(1)
        assert rate.max() / rate.min() > 2, "the intensity is flat: any rule is exact"
        for count, bound in ((16, 0.05), (64, 0.005)):
            cells = _levels(count)
            cell = net.intensity(encoded, cells.middles).sum(-1)[:, :-1]
            integral = (cell * cells.widths[:-1]).sum(1)
            assert ((integral - exact) / exact).abs().max() < bound


def _levels(count: int) -> Cells:
    """Return cells with equal parts of waits, the last from 4.5 units on."""
    levels = torch.linspace(0, 0.98, count - 1)
    return Cells.of(torch.cat([-torch.log1p(-levels), torch.tensor([4.5])]))


def test_exponential_growth_is_exact_where_its_exponent_is_small() -> None:
    x = torch.tensor([-3.0, -0.0501, -0.0499, -1e-8, 0.0, 1e-8, 1e-3, 0.0499, 0.0501, 4.0])
    x.requires_grad_()
    value = growth(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    exact = x.detach().double()
    expected = torch.where(exact == 0, 1.0, torch.expm1(exact) / exact)
    assert value.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    derived = (exact.exp() - expected) / exact
    derived = torch.where(exact.abs() < 1e-3, 0.5 + exact / 3, derived)
    assert slope.tolist() == pytest.approx(derived.tolist(), rel=1e-4)


@pytest.mark.parametrize("slope", [-2.0, -1e-7, 0.0, 1e-7, 0.8])
def test_rmtpp_is_the_integral_of_its_intensity(slope: float) -> None:
    net = _net(MAKERS["rmtpp"])
    assert isinstance(net, Rmtpp)
    with torch.no_grad():
        net.slope.fill_(slope)
        encoded = net.encode(_histories())
        fine = torch.linspace(0, 3, 30_001, dtype=torch.float64)
        level = net.level(encoded).double()
        rate = torch.exp(level + slope * (fine[:-1] + fine[1:]) / 2)
        expected = (rate * torch.diff(fine)).sum(1)
        found = net.cumulative(encoded, torch.tensor([3.0]))[:, 0]
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_mixture_mass_agrees_where_its_two_formulas_meet() -> None:
    net = _net(MAKERS["log-normal-mixture"])
    assert isinstance(net, LogNormalMixture)
    encoded = net.encode(_histories())
    elapsed = torch.tensor([0.0, 1e-3, 0.5, 1.0, 3.0, 20.0])
    for width in (1e-4, 1e-2, 0.05, 0.3):
        step = (elapsed * width).clamp(min=1e-6)
        exact = [p.double() for p in net.parameters_of(encoded)]
        bounds = torch.stack([elapsed, elapsed + step]).double().clamp(min=1e-300).log()
        place = (bounds[:, :, None] - exact[1]) / exact[2]
        upper, lower = (torch.special.ndtr(-p) for p in place)
        expected = (exact[0].exp() * (upper - lower).abs()).sum(1).log()
        assert net.log_mass(encoded, elapsed, step).tolist() == pytest.approx(
            expected.tolist(), abs=5e-3
        )


def test_recurrent_state_is_that_of_the_last_event() -> None:
    for name, lengths in itertools.product(("log-normal-mixture", "rmtpp"), (1, 4, 7)):
        net, histories = _net(MAKERS[name]), _histories()
        assert isinstance(net, Recurrent)
        first = [x[:1, :lengths] for x in histories[:3]]
        cut = HistoryTensors(*first, torch.tensor([lengths]))
        longer = HistoryTensors(*(x[:1] for x in histories[:3]), torch.tensor([lengths]))
        assert torch.allclose(net.encode(cut), net.encode(longer), atol=1e-6)
        changed = HistoryTensors(cut.types.clone(), *cut[1:])
        changed.types[0, -1] = (changed.types[0, -1] + 1) % 3
        assert not torch.allclose(net.encode(cut), net.encode(changed), atol=1e-3)
