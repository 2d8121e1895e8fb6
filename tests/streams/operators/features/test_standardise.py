"""Scaling by the past alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streams.core.batch import Batch, Ragged
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest
from streams.core.statistics.running_moments import RunningMoments
from streams.core.stream_config import StandardiseConfig
from streams.operators.features.standardise import Standardise

NUMBERS = Schema(tuple(Feature(name, "numeric") for name in "abc"), "classification")
MIXED = Schema(
    (
        Feature("a", "numeric"),
        Feature("word", "text"),
        Feature("v", "vector", (2,)),
        Feature("kind", "categorical"),
        Feature("i", "image", (1, 2, 2)),
    ),
    "classification",
)


def batch(n: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    at = np.arange(n, dtype=np.int64)
    x = rng.normal(5, 3, (n, 3))
    return Batch(at, at / 1.0, x, at.astype(np.int32), at, probe=rng.random(n) < 0.3)


def mixed(n: int) -> Batch:
    whole = batch(n)
    x: Any = whole.x
    columns = {
        "a": x[:, 0],
        "word": Ragged.of_text([f"w{i}" for i in range(n)]),
        "v": x[:, 1:],
        "kind": np.arange(n) % 3,
        "i": np.ones((n, 1, 2, 2), np.uint8),
    }
    return replace(whole, x=columns)


def scaled(rows: Batch, size: int, half_life: float | None = None, schema: Schema = NUMBERS) -> Any:
    operator = Standardise(StandardiseConfig(half_life=half_life), schema)
    return [operator.apply(part).x for part in rows.micro_batches(size)]


@pytest.mark.parametrize("half_life", [None, 20.0])
def test_standardise_uses_the_past_without_probes(half_life: float | None) -> None:
    rows = batch(100)
    moments = RunningMoments((3,), half_life)
    for part, x in zip(rows.micro_batches(8), scaled(rows, 8, half_life), strict=True):
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, moments.scale(part.x))
        assert part.probe is not None
        moments.update(part.x[~part.probe])


@pytest.mark.parametrize("size", [1, 7, 32])
def test_no_look_ahead(size: int) -> None:
    """Other later events change nothing earlier, nor their own micro-batch's scale."""
    rows = batch(96)
    first = np.concatenate(scaled(rows, size))
    for at in (0, 1, 31, 32, 50):
        other: Any = np.array(rows.x)
        other[at:] = 1e6
        second = np.concatenate(scaled(replace(rows, x=other), size))
        np.testing.assert_array_equal(first[:at], second[:at])


def test_probes_do_not_change_the_scale() -> None:
    rows = batch(64)
    other: Any = np.array(rows.x)
    other[rows.probe] = -1e9
    assert rows.probe is not None
    one, two = (np.concatenate(scaled(replace(rows, x=x), 8))[~rows.probe] for x in (rows.x, other))
    np.testing.assert_array_equal(one, two)


def test_standardise_batch_of_probes_or_no_rows() -> None:
    operator = Standardise(StandardiseConfig(), NUMBERS)
    before = digest(operator.state())
    rows = replace(batch(4), probe=np.ones(4, np.bool_))
    for part in (rows, rows[:0]):
        out = operator.apply(part)
        assert len(out) == len(part)
    assert digest(operator.state()) == before


def test_mixed_columns() -> None:
    """Numbers and vectors as in a matrix; the rest is left as it is."""
    rows = mixed(40)
    for x, plain, part in zip(
        scaled(rows, 8, None, MIXED), scaled(batch(40), 8), rows.micro_batches(8), strict=True
    ):
        assert list(x) == list(rows.x)
        np.testing.assert_array_equal(x["a"], plain[:, 0])
        np.testing.assert_array_equal(x["v"], plain[:, 1:])
        for name in ("word", "kind", "i"):
            assert type(x[name]) is type(part.x[name])
        assert x["word"].texts() == part.x["word"].texts()
        assert x["i"].dtype == np.uint8


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [("image", (1, 2, 2), "images"), ("text", (), "no numeric feature")],
)
def test_nothing_to_scale(kind: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"stream.standardise: .*{message}"):
        Standardise(StandardiseConfig(), Schema((Feature("f", kind, shape),), "regression"))


def test_state_goes_on() -> None:
    parts = list(batch(80).micro_batches(8))
    first = Standardise(StandardiseConfig(half_life=9), NUMBERS)
    for part in parts:
        second = Standardise(StandardiseConfig(half_life=9), NUMBERS)
        second.load(copied(first.state()))
        one, two = first.apply(part), second.apply(part)
        np.testing.assert_array_equal(one.x, two.x)
        assert digest(first.state()) == digest(second.state())
