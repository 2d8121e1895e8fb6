"""Records become blocks as computed by hand, and the fate of each is independent of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch
from streams.core.errors import StreamError
from streams.core.schema import Feature, Schema
from streams.decoding.decoder import POSITION_BITS, Columns, Decoder, NamedColumn
from streams.decoding.formats.factory import Field, make
from streams.decoding.formats.json import JsonConfig
from streams.kafka.records import RecordBatch, TopicPartition, Topics
from streams.kafka.records_to_batch import BlockDecoder, RecordReader

TOPICS = Topics(["ev", "more"], "lab")


def decoder(max_future_seconds: float = 100.0, max_bytes: int = 200) -> BlockDecoder:
    here = Path()
    events = [Field("a", "number"), Field("id", "integer"), Field("t", "time")]
    labels = [Field("id", "integer"), Field("y", "text")]
    config = JsonConfig(kind="json")
    schema = Schema((Feature("a", "numeric"),), "classification", ())
    return BlockDecoder(
        RecordReader(
            make(config, events, here),
            Decoder(schema, Columns(id=NamedColumn("id", "int"), time="t")),
        ),
        RecordReader(
            make(config, labels, here),
            Decoder(
                Schema((), "classification", ()),
                Columns(id=NamedColumn("id", "int"), label=NamedColumn("y", "str")),
            ),
        ),
        "t",
        max_future_seconds,
        max_bytes,
    )


def event(i: int, t: float = 0.0, a: Any = 0.5) -> bytes:
    return json.dumps({"id": i, "a": a, "t": t}).encode()


def label(i: int, y: Any = "up") -> bytes:
    return json.dumps({"id": i, "y": y}).encode()


def records(
    partition: tuple[str, int], values: list[bytes | None], time: list[int], first: int = 0
) -> RecordBatch:
    offsets = np.arange(first, first + len(values))
    return RecordBatch(TopicPartition(*partition), offsets, np.array(time, np.int64), values)


def block(*batches: RecordBatch, **settings: Any) -> Batch:
    return decoder(**settings)(TOPICS.merge(batches))


def test_decoder_events_and_labels_match_hand_computed_block() -> None:
    found = block(
        records(("ev", 1), [event(10, 1), b"{", event(12, 3)], [1000, 2000, 3000], 5),
        records(("more", 0), [event(20, 2, "x"), event(21, 4)], [2500, 4000]),
        records(
            ("lab", 2), [label(10), b"[]", label(12, "down"), label(9)], [1000, 2000, 3500, 5000], 7
        ),
    )
    # at ms:  1000 label 10, 1000 event 10, 2000 bad label, 2000 {, 2500 x, 3000 event 12,
    #         3500 label 12, 4000 event 21, 5000 label 9
    assert found.ids.tolist() == [10, 12, 21]
    assert found.time.tolist() == [1.0, 3.0, 4.0]
    assert found.partition.tolist() == [1, 1, 65536]
    assert found.offset.tolist() == [5, 7, 1]
    assert found.events == 5
    assert found.arrivals is not None
    assert found.arrivals.ids.tolist() == [10, 12, 9]
    assert [found.classes[code] for code in found.arrivals.y] == ["up", "down", "up"]
    assert found.arrivals.insert_before.tolist() == [0, 2, 3]
    assert found.arrivals.time.tolist() == [1.0, 3.5, 5.0]
    assert found.arrivals.partition.tolist() == [2, 2, 2]
    assert found.arrivals.offset.tolist() == [7, 9, 10]
    assert [(d.partition, d.offset, d.insert_before, d.value, d.label) for d in found.dead] == [
        (1, 6, 1, b"{", False),
        (65536, 0, 1, event(20, 2, "x"), False),
        (2, 8, 1, b"[]", True),
    ]
    assert found.dead[0].id == (1 << POSITION_BITS) + 6
    assert found.dead[1].reason == "column 'a' holds 'x'; expected a finite number"


def test_decoder_large_or_future_are_dead_and_empty_not() -> None:
    large = b" " * 201
    found = block(
        records(
            ("ev", 0),
            [event(0, 1.0), large, event(2, 101.0), event(3, 101.001), None, event(5, -1e9)],
            [1000] * 6,
        )
    )
    assert found.ids.tolist() == [0, 2, 5]
    assert [(d.offset, d.insert_before, d.reason, d.value) for d in found.dead] == [
        (1, 1, "201 bytes; expected at most 200 (stream.max_bytes)", large),
        (
            3,
            2,
            f"column 't' holds {101.001:.17g}; expected a time at most 100 s after that of the "
            "message, 1",
            event(3, 101.001),
        ),
    ]
    assert found.tombstones is not None
    assert (found.tombstones.offset.tolist(), found.tombstones.insert_before.tolist()) == ([4], [2])


def test_decoder_no_timestamp_skips_future_check() -> None:
    """A broker of old keeps none."""
    assert block(records(("ev", 0), [event(0, 1e9)], [-1])).ids.tolist() == [0]


def test_decoder_without_timestamps() -> None:
    """-1: the time of a label is unknown, so that none is taken for old."""
    found = block(
        records(("ev", 0), [event(0, 5.0)], [-1]),
        records(("lab", 0), [label(0), label(1)], [-1] * 2),
    )
    assert found.time.tolist() == [5.0]
    assert found.arrivals is not None
    assert np.isnan(found.arrivals.time).all()
    config = JsonConfig(kind="json")
    schema = Schema((Feature("a", "numeric"),), "classification", ())
    reader = RecordReader(
        make(config, [Field("a", "number"), Field("id", "integer")], Path()),
        Decoder(schema, Columns(id=NamedColumn("id", "int"))),
    )
    mixed = TOPICS.merge([records(("ev", 0), [event(0), event(1)], [7000, -1])])
    assert BlockDecoder(reader, reader, None, 1.0, 200)(mixed).time.tolist() == [7.0, 0.0]
    needs = BlockDecoder(reader, reader, None, 1.0, 200, needs_timestamps=True)
    assert needs(mixed.take(np.array([0]))).time.tolist() == [7.0]
    with pytest.raises(
        StreamError, match=r"^stream\.label_timeout_seconds: this broker keeps no timestamps"
    ):
        needs(mixed)


def test_decoder_labels_only_or_no_records() -> None:
    found = block(records(("lab", 0), [label(1), b"?", label(2)], [0, 1, 2]))
    assert len(found) == found.events == 0
    assert found.arrivals is not None
    assert found.arrivals.insert_before.tolist() == [0, 0]
    assert [(d.offset, d.label, d.insert_before) for d in found.dead] == [(1, True, 0)]
    assert len(block()) == 0
    assert block().arrivals is None
    bad = block(records(("lab", 0), [b"?"], [0]))
    assert bad.arrivals is None
    assert len(bad.dead) == 1


GOOD, LATE, WRONG, BROKEN, LARGE, EMPTY = range(6)


def value(kind: int, i: int, of_label: bool) -> bytes | None:
    if kind == BROKEN:
        return b'{"id": '
    if kind == LARGE:
        return b" " * 201
    if kind == EMPTY:
        return None
    if of_label:
        return label(i, ("up", "down", "flat")[i % 3] if kind != WRONG else 3)
    return event(i, 1e6 if kind == LATE else i, 0.5 if kind != WRONG else "x")


@st.composite
def batches(draw: st.DrawFn) -> list[RecordBatch]:
    found = []
    for place in [("ev", 0), ("ev", 2), ("more", 0), ("lab", 0)]:
        kinds = draw(st.lists(st.sampled_from([GOOD, GOOD, *range(6)]), max_size=8))
        values = [value(kind, i, place[0] == "lab") for i, kind in enumerate(kinds)]
        times = st.lists(st.integers(0, 6), min_size=len(kinds), max_size=len(kinds))
        if kinds:
            found.append(records(place, values, [1000 * t for t in draw(times)]))
    return found


DECODE = decoder()


@given(batches())
def test_decoder_fate_of_record_is_independent_of_others(parts: list[RecordBatch]) -> None:
    """Each in a block of its own, one after another in the order of the whole, gives the whole."""
    messages = TOPICS.merge(parts)
    whole = DECODE(messages)
    alone = [DECODE(messages.take(np.array([i]))) for i in range(len(messages.values))]
    assert rows_of(whole) == [row for one in alone for row in rows_of(one)]
    assert labels_of(whole) == [found for one in alone for found in labels_of(one)]
    for of_label in (False, True):  # those of labels stand behind those of events, row by row
        told = [one.dead for one in alone]
        mine = [
            (d.partition, d.offset, d.reason, d.id, d.value)
            for t in told
            for d in t
            if d.label is of_label
        ]
        assert mine == [
            (d.partition, d.offset, d.reason, d.id, d.value)
            for d in whole.dead
            if d.label is of_label
        ]
    # and each stands before the first row that comes after it
    seen, places = 0, {}
    for i, one in enumerate(alone):
        places[bool(messages.label[i]), int(messages.partition[i]), int(messages.offset[i])] = seen
        seen += len(one)
    assert all(d.insert_before == places[d.label, d.partition, d.offset] for d in whole.dead)
    if whole.arrivals is not None:
        a = whole.arrivals
        for part, at, before in zip(a.partition, a.offset, a.insert_before, strict=True):
            assert before == places[True, int(part), int(at)]
    deleted = whole.tombstones or ()
    n = sum(d.label for d in whole.dead) + len(labels_of(whole)) + len(deleted)
    assert whole.events + n == len(messages.values)
    assert len(deleted) == sum(value is None for value in messages.values)


def rows_of(batch: Batch) -> list[Any]:
    return list(
        zip(
            batch.ids.tolist(),
            batch.time.tolist(),
            np.asarray(batch.x).tolist(),
            batch.partition.tolist(),
            batch.offset.tolist(),
            strict=True,
        )
    )


def labels_of(batch: Batch) -> list[Any]:
    a = batch.arrivals
    if a is None:
        return []
    names = [batch.classes[code] for code in a.y]
    columns = (a.ids.tolist(), names, a.time.tolist(), a.partition.tolist(), a.offset.tolist())
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_max_future_seconds_is_inclusive(seconds: float) -> None:
    values: list[bytes | None] = [event(0, 1.0 + seconds), event(1, 1.001 + seconds)]
    found = block(records(("ev", 0), values, [1000, 1000]), max_future_seconds=seconds)
    assert found.ids.tolist() == [0]
