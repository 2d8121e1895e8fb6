"""Aggregates against simulations in plain Python, event by event."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch, Ragged
from streams.core.errors import StreamError
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest
from streams.core.stream_config import AggregateConfig
from streams.operators.features.aggregates import Aggregates, auto_aggregates
from streams.operators.labels_in_rows import DelayByEvents

FEATURES = (
    Feature("user", "categorical"),
    Feature("shop", "categorical"),
    Feature("amount", "numeric"),
    Feature("note", "text"),
    Feature("v", "vector", (2,)),
)
SCHEMA = Schema(FEATURES, "classification", ("no", "yes"))
SCALES = (3.0, 20.0, None)


def stated(**settings: Any) -> AggregateConfig:
    return AggregateConfig.model_validate(settings)


LABEL_MEANS = (
    stated(by="user", mean="label", scales=SCALES),
    stated(by=["user", "shop"], mean="label", scales=SCALES),
)
OF_EVENTS = (
    stated(by="user", count=True, mean="amount", scales=SCALES),
    stated(by=["shop", "user"], count=True, scales=SCALES),
    stated(by="shop", since_last=True),
)


def events(n: int, seed: int = 0, users: int = 4, task: str = "classification") -> Batch:
    """Events with missing numbers, unlabelled events, probes, and times that go backwards."""
    rng = np.random.default_rng(seed)
    at = np.arange(n)
    y: Any = rng.integers(0, 2, n)
    y[rng.random(n) < 0.1] = -1
    if task == "regression":
        y = np.where(rng.random(n) < 0.1, np.nan, rng.normal(100, 5, n))
    x = {
        "user": Ragged.of_text([f"u{k}" for k in rng.integers(0, users, n)]),
        "shop": rng.integers(0, 3, n),  # keys, as of a block that is hashed
        "amount": np.where(rng.random(n) < 0.2, np.nan, rng.normal(50, 9, n)),
        "note": Ragged.of_text(["x"] * n),
        "v": rng.normal(size=(n, 2)),
    }
    time = np.cumsum(rng.exponential(9, n)) - 20 * rng.random(n)
    partition = np.zeros(n, np.int32)
    classes = ("no", "yes") if task == "classification" else ()
    probe = rng.random(n) < 0.15
    return Batch(at, time, x, partition, at, y=y, probe=probe, classes=classes)


def run(operator: Aggregates, batch: Batch, size: int, delay: int) -> Any:
    """The aggregates of all events, with labels that come ``delay`` events late."""
    join = DelayByEvents(delay, 10_000)
    seen = []
    for part in batch.micro_batches(size):
        out = operator.apply(part)
        seen.append(out.x["aggregates"])  # type: ignore[index]
        pushed = join.push(out)
        pushed.settle(np.zeros(len(part), np.int64), None)
        if len(pushed.revealed):
            operator.learn(pushed.revealed.batch)
    return np.concatenate(seen) if seen else None


def keys_of(batch: Batch, names: Sequence[str]) -> list[tuple[Any, ...]]:
    x: Any = batch.x
    columns = [x[n].texts() if isinstance(x[n], Ragged) else x[n].tolist() for n in names]
    return list(zip(*columns, strict=True))


def weight(steps: int, scale: float | None) -> float:
    return 1.0 if scale is None else (1 - 1 / scale) ** steps


def simulated_means(batch: Batch, size: int, delay: int) -> Any:
    """The label means as formulas state them, from lists of the labels known by then."""
    assert batch.y is not None
    assert batch.probe is not None
    y, counts = batch.y.tolist(), (~batch.probe & (batch.y >= 0)).tolist()
    columns = [keys_of(batch, config.by) for config in LABEL_MEANS]
    rows = []
    for i in range(len(batch)):
        start = i - i % size
        known = [j for j in range(max(start - delay, 0)) if counts[j]]
        fades = {s: [weight(len(known) - 1 - p, s) for p in range(len(known))] for s in SCALES}
        rates = {}
        for scale, fade in fades.items():
            total = sum(w * y[j] for w, j in zip(fade, known, strict=True))
            rates[scale] = (total + 1) / (sum(fade) + 2)
        row = []
        for keys in columns:
            for scale, fade in fades.items():
                mine = [(w, y[j]) for w, j in zip(fade, known, strict=True) if keys[j] == keys[i]]
                ones, all_ = sum(w * label for w, label in mine), sum(w for w, _ in mine)
                p = rates[scale]
                row.append(3 * ((ones + 10 * p) / (all_ + 10) - p))
        rows.append([*row, *(3 * (p - 0.5) for p in rates.values())])
    return np.array(rows)


@given(
    st.integers(0, 2**32),
    st.integers(1, 60),
    st.sampled_from([1, 2, 5, 16, 60]),
    st.sampled_from([0, 1, 2, 3, 7, 31, 100]),
)
def test_label_means_are_those_known_by_then(seed: int, n: int, size: int, delay: int) -> None:
    batch = events(n, seed)
    given = run(Aggregates(LABEL_MEANS, SCHEMA), batch, size, delay)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, simulated_means(batch, size, delay), atol=1e-6)


@pytest.mark.parametrize("delay", [0, 1, 5, 40])
def test_labels_that_are_not_known_change_nothing(delay: int) -> None:
    batch, size = events(96), 8
    first = run(Aggregates(LABEL_MEANS, SCHEMA), batch, size, delay)
    for at in (0, 7, 8, 50):
        assert batch.y is not None
        other = batch.y.copy()
        other[at:] = 1 - other[at:].clip(0)
        second = run(Aggregates(LABEL_MEANS, SCHEMA), replace(batch, y=other), size, delay)
        known = -(-(at + delay + 1) // size) * size  # the micro-batch after the label is known
        np.testing.assert_array_equal(first[:known], second[:known])
        assert (first[known:] != second[known:]).any() or known >= 96


def simulated_events(batch: Batch) -> Any:
    """Counts, means and times as formulas state them, from lists of the events before."""
    assert batch.probe is not None
    amounts, probe = batch.x["amount"].tolist(), batch.probe.tolist()  # type: ignore[index]
    time, rows = batch.time.tolist(), []
    user, pair, shop = (keys_of(batch, config.by) for config in OF_EVENTS)
    for i in range(len(batch)):
        before = [j for j in range(i) if not probe[j]]
        age = {j: len(before) - 1 - p for p, j in enumerate(before)}
        numbers = [amounts[j] for j in before if amounts[j] == amounts[j]]
        mean = float(np.mean(numbers)) if numbers else 0.0
        deviation = float(np.std(numbers)) if len(numbers) > 1 else 1.0
        row: list[float] = []
        own = [j for j in before if user[j] == user[i]]
        counted = [j for j in own if amounts[j] == amounts[j]]
        for scale in SCALES:
            k = sum(weight(age[j], scale) for j in counted)
            s = sum(weight(age[j], scale) * amounts[j] for j in counted)
            row.append(((s + mean) / (k + 1) - mean) / deviation)
        row += [math.log1p(sum(weight(age[j], s) for j in own)) / 5 for s in SCALES]
        both = [j for j in before if pair[j] == pair[i]]
        row += [math.log1p(sum(weight(age[j], s) for j in both)) / 5 for s in SCALES]
        past = [time[j] for j in before if shop[j] == shop[i]]
        since = max(time[i] - max(past), 0) if past else 0.0
        rows.append([*row, math.log1p(since) / 5, float(bool(past))])
    return np.array(rows)


@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from([1, 2, 5, 16, 60]))
def test_aggregates_of_events_know_every_event_before(seed: int, n: int, size: int) -> None:
    batch = events(n, seed)
    given = run(Aggregates(OF_EVENTS, SCHEMA), batch, size, 0)
    np.testing.assert_allclose(given, simulated_events(batch), atol=2e-6)


def test_aggregates_of_events_do_not_depend_on_the_cuts() -> None:
    """Bit for bit, also where bins of numbers begin within a micro-batch."""
    aggregates = (*OF_EVENTS, stated(by=["amount", "user"], count=True, since_last=True))
    batch = events(900, users=40)
    runs = [run(Aggregates(aggregates, SCHEMA), batch, size, 0) for size in (1, 7, 32, 900)]
    for other in runs[1:]:
        np.testing.assert_array_equal(runs[0], other)


def test_probes_leave_nothing() -> None:
    batch = events(700)
    other = {**batch.x, "amount": batch.x["amount"].copy()}  # type: ignore[dict-item,union-attr,index]
    other["amount"][batch.probe] = 1e9
    other["shop"] = np.where(batch.probe, 77, other["shop"])
    aggregates = (*LABEL_MEANS, *OF_EVENTS, stated(by="amount", mean="label"))
    one, two = (Aggregates(aggregates, SCHEMA) for _ in range(2))
    first, second = run(one, batch, 32, 5), run(two, replace(batch, x=other), 32, 5)
    assert batch.probe is not None
    np.testing.assert_array_equal(first[~batch.probe], second[~batch.probe])
    assert digest(one.state()) == digest(two.state())


def test_numbers_as_keys_are_binned() -> None:
    """A label that is 1 in the middle of a range: no bin, then bins that know it."""
    n = 1600
    rng = np.random.default_rng(0)
    x = rng.random((n, 2))
    y = (np.abs(x[:, 0] - 0.5) < 0.2).astype(np.int64)
    at = np.arange(n)
    schema = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")
    operator = Aggregates((stated(by="a", mean="label", scales=[None]),), schema)
    given = run(operator, Batch(at, at / 1.0, x, np.zeros(n, np.int32), at, y=y), 32, 0)
    later = given[-400:, 0]
    assert (later[y[-400:] == 1] > 0.5).mean() > 0.9
    assert (later[y[-400:] == 0] < -0.5).mean() > 0.9
    assert np.abs(given[:500, 0]).max() < 0.2  # of all numbers together


IDS = Schema((Feature("id", "numeric"), Feature("hour", "numeric")), "classification")


def ids(n: int, several: int = 40) -> Batch:
    """Events of integer ids, of which the even ones have label 1."""
    rng = np.random.default_rng(3)
    at, id_ = np.arange(n), rng.integers(0, several, n)
    x = np.stack([id_, rng.integers(0, 2, n)], axis=1).astype(np.float64)
    return Batch(at, at / 1.0, x, np.zeros(n, np.int32), at, y=1 - id_ % 2)


@pytest.mark.parametrize("by", ["id", ["hour", "id"]])
def test_integers_are_told_apart_from_their_second_label_on(by: Any) -> None:
    """In a bin odd and even ids are mixed. A number that is new has what its bin has."""
    operator = Aggregates((stated(by=by, mean="label", scales=[None]),), IDS)
    batch = ids(3200)
    assert batch.y is not None
    given = run(operator, batch, 32, 0)[:, 0]
    later, y = given[-400:], batch.y[-400:]
    assert (later[y == 1] > 0.4).all()
    assert (later[y == 0] < -0.4).all()
    new = replace(batch[:1], x=np.array([[17.5, 0.0]]))
    assert 0 < abs(operator.view(new).x["aggregates"][0, 0]) < 0.6  # type: ignore[index]
    state = operator.state()["labels"]
    assert len(state["exact"]["rows"]) == (40 if by == "id" else 80)


def test_integers_that_come_once_take_no_room() -> None:
    operator = Aggregates((stated(by="id", mean="label"),), IDS, keys=4096)
    batch = ids(4000)
    x = np.stack([np.arange(4000.0), np.zeros(4000)], axis=1)
    run(operator, replace(batch, x=x), 32, 0)
    state = operator.state()["labels"]
    assert len(state["exact"]["rows"]) < 100
    assert len(state["values"]) < 120


def test_counts_by_an_integer_are_of_the_integer() -> None:
    batch = ids(900)
    operator = Aggregates((stated(by="id", count=True, scales=[None]),), IDS)
    given = run(operator, batch, 32, 0)[:, 0]
    counts = np.expm1(given * 5).round()
    x: Any = batch.x
    for i in (500, 700, 899):  # bins are known from 500 on, and counts begin anew
        assert counts[i] == (x[500:i, 0] == x[i, 0]).sum()


def test_matrix_becomes_columns() -> None:
    schema = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")
    operator = Aggregates(auto_aggregates(schema), schema)
    x = np.array([[1.0, 2.0], [3.0, np.nan]], np.float32)
    at = np.arange(2)
    out: Any = operator.apply(Batch(at, at / 1.0, x, np.zeros(2, np.int32), at)).x
    assert list(out) == ["a", "b", "aggregates"]
    np.testing.assert_array_equal(np.stack([out["a"], out["b"]], axis=1), x)
    behind = operator.schema(schema)
    assert behind.features[:2] == schema.features
    assert behind.features[2].shape == out["aggregates"].shape[1:] == (9,)
    assert not behind.matrix


@pytest.mark.parametrize(("classes", "rates"), [(0, 1), (2, 1), (3, 3), (8, 8), (50, 8)])
def test_tracked_classes_are_bounded(classes: int, rates: int) -> None:
    names = tuple(map(str, range(classes)))
    for made in (
        Aggregates(LABEL_MEANS, replace(SCHEMA, classes=names)),
        Aggregates(LABEL_MEANS, replace(SCHEMA, classes=()), classes=classes),
    ):
        assert made.width == 3 * len(SCALES) * rates


def test_rates_of_many_classes_begin_at_nothing() -> None:
    operator = Aggregates(LABEL_MEANS, replace(SCHEMA, classes=()), classes=40)
    assert not run(operator, events(10), 10, 0).any()


def test_regression_means_are_in_deviations() -> None:
    batch = events(2000, users=2, task="regression")
    user = np.array(keys_of(batch, ["user"]))[:, 0] == "u0"
    y = np.where(user, 110, 90) + np.random.default_rng(1).normal(0, 1, 2000)
    y[1500] = 1e200  # winsorised
    schema = replace(SCHEMA, task="regression", classes=())
    given = run(Aggregates(LABEL_MEANS[:1], schema), replace(batch, y=y), 32, 10)
    assert given.shape[1] == 2 * len(SCALES)
    assert np.isfinite(given).all()
    before = given[1000:1500, 2]  # without fading
    np.testing.assert_allclose(before[user[1000:1500]], 1, atol=0.1)
    np.testing.assert_allclose(before[~user[1000:1500]], -1, atol=0.1)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("stop", [0, 32, 480, 960])
def test_state_continues(stop: int, task: Any) -> None:
    batch, schema = events(1280, users=30, task=task), replace(SCHEMA, task=task, classes=())
    aggregates = (*LABEL_MEANS, *OF_EVENTS, stated(by="amount", mean="label"))
    first, second = (Aggregates(aggregates, schema) for _ in range(2))
    run(first, batch[:stop], 32, 0)
    second.load(copied(first.state()))
    one, two = (run(each, batch[stop:], 32, 0) for each in (first, second))
    np.testing.assert_array_equal(one, two)
    assert digest(first.state()) == digest(second.state())


def test_view_is_pure_and_what_the_next_event_gets() -> None:
    batch = events(640)
    aggregates = (*LABEL_MEANS, *OF_EVENTS, stated(by="amount", mean="label"))
    operator = Aggregates(aggregates, SCHEMA)
    run(operator, batch[:600], 32, 0)
    before = digest(operator.state())
    late = replace(batch[600:], time=batch.time[600:] + 1e4)
    asked: Any = operator.view(late).x
    assert list(asked) == [*(f.name for f in FEATURES), "aggregates"]
    assert digest(operator.state()) == before
    for state in (operator.servable(), operator.state()):
        server = Aggregates(aggregates, SCHEMA)
        server.load(state)
        served: Any = server.view(late).x
        np.testing.assert_array_equal(served["aggregates"], asked["aggregates"])
    assert digest(operator.state()) == before
    got: Any = operator.apply(late[:1]).x
    np.testing.assert_array_equal(asked["aggregates"][:1], got["aggregates"])


def test_view_of_an_event_without_a_time_is_of_the_latest() -> None:
    batch = events(640)
    operator = Aggregates((*LABEL_MEANS, *OF_EVENTS), SCHEMA)
    run(operator, batch[:600], 32, 0)
    latest, none = (replace(batch[600:], time=np.full(40, t)) for t in (batch.time[599], np.nan))
    asked: Any = [operator.view(events).x for events in (latest, none)]
    np.testing.assert_array_equal(asked[0]["aggregates"], asked[1]["aggregates"])


def test_no_rows_and_only_probes() -> None:
    batch = events(64)
    operator = Aggregates((*LABEL_MEANS, *OF_EVENTS), SCHEMA)
    run(operator, batch, 32, 0)
    before = digest(operator.state())
    for part in (batch[:0], replace(batch[:5], probe=np.ones(5, np.bool_))):
        assert len(operator.apply(part).x["aggregates"]) == len(part)  # type: ignore[index]
    assert digest(operator.state()) == before


def test_keys_without_room_are_as_unknown_ones() -> None:
    """A flood of users: the table stays full, and memory the same."""
    batch = events(3000, users=2500)
    operator = Aggregates((*LABEL_MEANS, *OF_EVENTS), SCHEMA, keys=64)
    size = operator.memory_bytes()
    given = run(operator, batch, 32, 5)
    assert operator.memory_bytes() == size
    assert np.isfinite(given).all()
    state = operator.state()
    assert len(state["labels"]["values"]) <= 64 + 1  # and the sums of the stream
    assert len(state["events"]["values"]) <= 64


def test_a_state_of_sums_that_fade_is_refused() -> None:
    operator = Aggregates(LABEL_MEANS, SCHEMA)
    state = operator.state()
    del state["labels"]["landmark"]
    with pytest.raises(StreamError, match="learn anew"):
        operator.load(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "usr", "count": True}, r"by: there is no feature 'usr': did you mean 'user'"),
        ({"by": "note", "mean": "label"}, "by: 'note' is text, .* categorical under stream.feat"),
        ({"by": ["user", "v"], "mean": "label"}, "by: 'v' is vector"),
        ({"by": "user", "mean": "shop"}, "mean: there is no numeric feature 'shop'"),
        ({"by": "user", "mean": "amout"}, "did you mean 'amount'"),
    ],
)
def test_columns_that_do_not_suit_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StreamError, match=f"stream.aggregates.0.*{message}"):
        Aggregates((stated(**settings),), SCHEMA)


def test_a_feature_of_that_name_is_refused() -> None:
    schema = Schema((Feature("aggregates", "numeric"), Feature("c", "categorical")), "regression")
    with pytest.raises(StreamError, match="give that column another name"):
        Aggregates(auto_aggregates(schema), schema)


def test_auto_takes_categories_and_numbers() -> None:
    assert [config.by for config in auto_aggregates(SCHEMA)] == [("user",), ("shop",), ("amount",)]
    wide = Schema(tuple(Feature(f"n{i}", "numeric") for i in range(300)), "regression")
    assert len(auto_aggregates(wide)) == 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "user"}, "state at least one of mean, count: true and since_last: true"),
        ({"by": "user", "since_last": True, "scales": [10]}, "scales: they are for mean and count"),
        ({"by": ["a", "a"], "count": True}, "by: one is stated twice"),
        ({"by": "a", "count": True, "scales": [10, 10]}, "scales: one is stated twice"),
        ({"by": "a", "count": True, "scales": [1]}, "greater than 1"),
        ({"by": [], "count": True}, "at least 1 item"),
        ({"by": "a", "cuont": True}, "unknown key 'cuont': did you mean 'count'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stated(**settings)
