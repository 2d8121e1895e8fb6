"""Batches: slices are views, nothing beside the rows is lost or doubled, round trips are exact."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.batch import COLUMNS, Batch, DeadLetter, Labels, Ragged
from streams.core.state_dict import pack, unpack

texts = st.lists(st.text(max_size=5), max_size=12)


def make(n: int, before_dead: list[int], before_labels: list[int], mixed: bool) -> Batch:
    offset = np.arange(n, dtype=np.int64) + 10
    words = Ragged.of_text([f"w{i}" * (i % 3) for i in range(n)])
    x: Any = np.arange(2.0 * n).reshape(n, 2)
    m = len(before_labels)
    return Batch(
        ids=offset * 7,
        time=offset / 2.0,
        x={"a": x[:, 0], "b": words} if mixed else x,
        partition=np.zeros(n, np.int32),
        offset=offset,
        y=offset % 3,
        due=offset + 0.5,
        key=offset % 2,
        segment=offset // 4,
        probe=offset % 5 == 0,
        classes=("r", "g", "b"),
        arrivals=Labels(
            np.arange(m),
            np.arange(m) % 3,
            np.arange(m) / 4.0,
            np.zeros(m, np.int32),
            np.arange(m),
            np.array(sorted(before_labels), np.int64),
        )
        if m
        else None,
        dead=tuple(
            DeadLetter(0, 100 + i, f"d{i}", i, b) for i, b in enumerate(sorted(before_dead))
        ),
    )


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    n = draw(st.integers(0, 12))
    places = st.lists(st.integers(0, n), max_size=5)
    return make(n, draw(places), draw(places), draw(st.booleans()))


def plain(value: Any) -> Any:
    """Comparable with ==, dtypes and all."""
    if isinstance(value, Ragged):
        return value.texts()
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tolist())
    if isinstance(value, dict):
        return {name: plain(column) for name, column in value.items()}
    if isinstance(value, Labels | Batch):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


@settings(deadline=None)
@given(texts)
def test_text_round_trip(words: list[str]) -> None:
    column = Ragged.of_text(words)
    assert column.texts() == words
    assert len(column) == len(words)


@settings(deadline=None)
@given(texts, st.data())
def test_ragged_slice_take_concat(words: list[str], data: st.DataObject) -> None:
    column = Ragged.of_text(words)
    a = data.draw(st.integers(0, len(words)))
    b = data.draw(st.integers(0, len(words)))
    assert column[a:b].texts() == words[a:b]
    assert column[a:b].values is column.values
    rows = data.draw(st.lists(st.integers(0, len(words) - 1), max_size=6)) if words else []
    assert column[0:].take(np.array(rows, np.int64)).texts() == [words[r] for r in rows]
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=b, max_size=b)), np.bool_)
    assert column[:b].take(mask).texts() == [
        w for w, kept in zip(words, mask, strict=False) if kept
    ]
    assert Ragged.concat([column[:a], column[a:]]).texts() == words


@settings(deadline=None)
@given(batches(), st.data())
def test_cut_and_concat_is_the_batch(batch: Batch, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(batch)), max_size=4)))
    # A cut at n carries what comes after the last row, and n:n would carry it once more.
    bounds = [0, *dict.fromkeys(c for c in cuts if 0 < c < len(batch)), len(batch)]
    parts = [batch[a:b] for a, b in pairwise(bounds)]
    assert plain(Batch.concat(parts)) == plain(batch)


@settings(deadline=None)
@given(batches(), st.integers(1, 5))
def test_micro_batches_are_the_batch(batch: Batch, size: int) -> None:
    parts = list(batch.micro_batches(size))
    assert [len(p) for p in parts[:-1]] == [size] * (len(parts) - 1)
    if parts:
        assert plain(Batch.concat(parts)) == plain(batch)


@settings(deadline=None)
@given(batches(), st.data())
def test_take_is_the_rows(batch: Batch, data: st.DataObject) -> None:
    n = len(batch)
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=6)) if n else [], np.int64)
    taken = batch.take(rows)
    assert taken.ids.tolist() == batch.ids[rows].tolist()
    assert (taken.arrivals, taken.dead, taken.classes) == (None, (), batch.classes)
    one_by_one = [replace(batch[int(r) : int(r) + 1], arrivals=None, dead=()) for r in rows]
    if one_by_one:
        assert plain(Batch.concat(one_by_one)) == plain(taken)


def test_slices_are_views() -> None:
    batch = make(8, [], [], mixed=False)
    assert isinstance(batch.x, np.ndarray)
    part = batch[2:5]
    assert np.shares_memory(part.x, batch.x)  # type: ignore[arg-type]
    assert np.shares_memory(part.ids, batch.ids)


def test_slice_keeps_side_records_before_its_rows() -> None:
    batch = make(4, [0, 2, 4], [0, 2, 4], mixed=False)
    first, last = batch[0:2], batch[2:4]
    assert [d.insert_before for d in first.dead] == [0]
    assert [d.insert_before for d in last.dead] == [0, 2]
    assert first.arrivals is not None
    assert last.arrivals is not None
    assert first.arrivals.insert_before.tolist() == [0]
    assert last.arrivals.insert_before.tolist() == [0, 2]


def test_slice_with_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="step 1"):
        make(4, [], [], mixed=False)[::2]


def every_column(n: int) -> Batch:
    """A batch in which no column is None."""
    rows = np.arange(n)
    return Batch(
        rows,
        rows / 1.0,
        rows[:, None] / 1.0,
        rows.astype(np.int32),
        rows,
        y=rows % 2,
        due=rows / 1.0,
        ingestion_time=rows / 1.0,
        time_status=(rows % 4).astype(np.int8),
        clock=rows / 1.0,
        key=rows,
        segment=rows // 2,
        probe=rows % 2 == 0,
        label_keys=np.stack([rows, -rows], 1),
        wait=rows * 1.0,
        classes=("a", "b"),
        dead=(DeadLetter(0, 7, "bad", 7, 1),),
    )


def test_columns_are_the_fields_with_a_row_each() -> None:
    others = {"x", "classes", "arrivals", "dead", "tombstones"}
    others |= {"flush", "last", "read_at", "marks"}  # of a block
    names = [field.name for field in fields(Batch) if field.name not in others]
    assert [column.name for column in COLUMNS] == names


def test_every_column_is_sliced_taken_and_joined() -> None:
    batch, rows = every_column(6), np.array([1, 2, 3])
    pieces = [batch[1:2], batch[2:4]]
    found = [
        batch[1:4],
        batch.take(rows),
        Batch.concat(pieces),
        Batch.gather([(batch, slice(1, 2)), (batch, np.array([2, 3]))]),
        unpack(pack(batch[1:4]), batch.classes),
    ]
    for part in found:
        for column in COLUMNS:
            expected = getattr(batch, column.name)[rows]
            assert np.array_equal(getattr(part, column.name), expected), column.name
        assert np.array_equal(part.x, batch.x[rows])  # type: ignore[index]
        assert part.classes == batch.classes


@pytest.mark.parametrize("boundaries", [False, True])
def test_learner_sees_only_the_columns_that_are_shown(boundaries: bool) -> None:
    batch = every_column(4)
    always = {"ids", "time", "partition", "offset", "key", "probe"}
    segment = {"segment"} if boundaries else set()
    views = (
        (batch.to_predict(boundaries), always | segment),
        (batch.to_learn(boundaries), always | segment | {"y", "label_keys", "wait"}),
    )
    for view, shown in views:
        assert {c.name for c in COLUMNS if getattr(view, c.name) is not None} == shown
        assert (view.classes, view.arrivals, view.dead) == (batch.classes, None, ())
    question, lesson = views[0][0], views[1][0]
    assert not question.ids.flags.writeable
    assert isinstance(question.x, np.ndarray)
    assert not question.x.flags.writeable
    assert lesson.ids is batch.ids
    assert lesson.x is batch.x
