"""Codes depend on nothing that comes later, and the state at a cursor on nothing that was read
ahead."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch, Labels
from streams.operators.label_encoder import LabelEncoder

NAMES = ("a", "b", "c", "d", "e")


def block(first: int, names: list[str | None], order: list[int]) -> Batch:
    """Rows with labels, coded into the block's own classes, which stand in any order."""
    n = len(names)
    at = np.arange(first, first + n, dtype=np.int64)
    classes = tuple(NAMES[k] for k in order)
    y = np.array([-1 if c is None else classes.index(c) for c in names], np.int64)
    return Batch(at, at / 1.0, at[:, None] / 1.0, np.zeros(n, np.int32), at, y, classes=classes)


def as_arrivals(rows: Batch) -> Batch:
    n = len(rows)
    assert rows.y is not None
    labels = Labels(rows.ids, rows.y, rows.time, rows.partition, rows.offset, np.zeros(n, np.int64))
    return Batch(
        *(column[:0] for column in (rows.ids, rows.time, rows.x, rows.partition, rows.offset)),  # type: ignore[arg-type]
        classes=rows.classes,
        arrivals=labels,
    )


streams = st.lists(
    st.tuples(
        st.lists(st.sampled_from([*NAMES, None]), max_size=8), st.permutations(range(len(NAMES)))
    ),
    max_size=6,
)


@given(streams, st.booleans(), st.sampled_from([(), ("c",), ("e", "a")]), st.data())
def test_vocabulary(
    stream: list[tuple[list[str | None], list[int]]],
    apart: bool,
    declared: tuple[str, ...],
    data: st.DataObject,
) -> None:
    labels = [name for names, _ in stream for name in names]
    firsts = np.cumsum([0, *(len(names) for names, _ in stream)])
    blocks = [block(f, *b) for f, b in zip(firsts.tolist(), stream, strict=False)]
    if apart:
        blocks = [as_arrivals(b) for b in blocks]
    partition = "labels/0" if apart else "0"

    known = list(declared)
    wanted = []
    for name in labels:
        if name is not None and name not in known:
            known.append(name)
        wanted.append(-1 if name is None else known.index(name))

    encoder = LabelEncoder(declared)
    done = [encoder.apply(b) for b in blocks]
    codes = [c for b in done for c in (b.arrivals if apart else b).y.tolist()]  # type: ignore[union-attr]
    assert codes == wanted
    assert list(encoder.classes) == known
    for b in done:
        assert list(b.classes) == known[: len(b.classes)]

    # At any cursor: as if no more had been read; and what goes on from there gets the same codes.
    stop = data.draw(st.integers(0, len(labels)))
    cursor = {partition: stop}
    fresh = LabelEncoder(declared)
    half = block(0, labels[:stop], list(range(len(NAMES))))
    fresh.apply(as_arrivals(half) if apart else half)
    assert encoder.state(cursor) == fresh.state(cursor)
    resumed = LabelEncoder(declared)
    resumed.load(encoder.state(cursor))
    rest = block(stop, labels[stop:], list(range(len(NAMES))))
    rest = resumed.apply(as_arrivals(rest) if apart else rest)
    assert (rest.arrivals if apart else rest).y.tolist() == wanted[stop:]  # type: ignore[union-attr]
    end = {partition: len(labels)}
    assert resumed.state(end) == encoder.state(end)


def test_label_encoder_repeated_name_is_one_class() -> None:
    at = np.arange(3, dtype=np.int64)
    twice = Batch(at, at / 1.0, at[:, None], at.astype(np.int32), at, at, classes=("a", "b", "a"))
    done = LabelEncoder().apply(twice)
    assert done.y is not None
    assert done.y.tolist() == [0, 1, 0]
    assert done.classes == ("a", "b")
