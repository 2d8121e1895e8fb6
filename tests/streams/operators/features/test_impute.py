"""Imputation by the running mean: exact at any size of micro-batches."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch, Ragged
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest
from streams.operators.features.impute import Impute

SCHEMA = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")


def batch_of(x: np.ndarray, probe: np.ndarray | None = None) -> Batch:
    n = len(x)
    offset = np.arange(n)
    return Batch(offset, offset / 1.0, x, np.zeros(n, np.int32), offset, probe=probe)


def imputed(rows: np.ndarray, probe: np.ndarray) -> np.ndarray:
    """The same, one number after another."""
    out = rows.copy()
    for j in range(rows.shape[1]):
        total, count = 0.0, 0
        for i in range(len(rows)):
            if np.isnan(rows[i, j]):
                out[i, j] = total / max(count, 1)
            elif not probe[i]:
                total, count = total + rows[i, j], count + 1
    return out


@given(
    st.integers(0, 99),
    st.integers(1, 40),
    st.lists(st.integers(0, 40), max_size=4),
    st.integers(0, 40),
)
def test_impute_any_cut_and_load_gives_the_same(
    seed: int, n: int, cuts: list[int], reload: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(5, 1, (n, 2))
    rows[rng.random((n, 2)) < 0.4] = np.nan
    probe = rng.random(n) < 0.2
    whole, parts = Impute(SCHEMA), Impute(SCHEMA)
    expected = whole.apply(batch_of(rows, probe)).x
    np.testing.assert_array_equal(np.asarray(expected), imputed(rows, probe))
    found = []
    bounds = sorted({0, n, *(min(cut, n) for cut in cuts)})
    for start, stop in pairwise(bounds):
        if start >= reload:
            heir = Impute(SCHEMA)
            heir.load(copied(parts.state()))
            parts = heir
        found.append(parts.apply(batch_of(rows, probe)[start:stop]).x)
    np.testing.assert_array_equal(np.concatenate(found), np.asarray(expected))  # type: ignore[arg-type]
    assert digest(parts.state()) == digest(whole.state())


def test_impute_view_changes_nothing() -> None:
    operator = Impute(SCHEMA)
    operator.apply(batch_of(np.array([[1.0, 2.0], [3.0, np.nan]])))
    before = digest(operator.state())
    viewed = operator.view(batch_of(np.array([[np.nan, np.nan], [7.0, 8.0]])))
    assert np.asarray(viewed.x).tolist() == [[2, 2], [7, 8]]
    assert digest(operator.state()) == before


def test_impute_mixed_columns_leaves_texts_alone() -> None:
    schema = Schema((Feature("n", "numeric"), Feature("c", "categorical")), "classification")
    text = Ragged.of_text(["a", "b", "c"])
    numbers = np.array([1.0, np.nan, 4.0])
    batch = replace(batch_of(np.empty((3, 0))), x={"n": numbers, "c": text})
    operator = Impute(schema)
    assert isinstance(out := operator.apply(batch).x, dict)
    assert np.asarray(out["n"]).tolist() == [1, 1, 4]
    assert out["c"] is text
    assert operator.imputed == 1


def test_impute_float32_stays() -> None:
    x = np.array([[1, np.nan]], np.float32)
    assert np.asarray(Impute(SCHEMA).apply(batch_of(x)).x).dtype == np.float32
