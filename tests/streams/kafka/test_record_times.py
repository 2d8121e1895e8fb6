"""One wrong time in a partition moves no other event, wherever it stands and blocks are cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.decoding.decoder import Columns, Decoder, NamedColumn
from streams.decoding.formats.factory import Field, make
from streams.decoding.formats.json import JsonConfig
from streams.kafka.record_fields import RecordFields
from streams.kafka.records import RecordBatch, TopicPartition, Topics
from streams.kafka.records_to_batch import BlockDecoder, RecordReader
from streams.operators.partition_clocks import PartitionClocks

TOPICS = Topics(["ev"], None)
START = 1_704_067_200
READ_AT = START + 400 * 86_400.0


def decoder() -> BlockDecoder:
    fields = [Field("x", "number"), Field("id", "integer")]
    schema = Schema((Feature("x", "numeric"),), "classification", ())
    reader = RecordReader(
        make(JsonConfig(kind="json"), fields, Path()),
        Decoder(schema, Columns(id=NamedColumn("id", "int"))),
        RecordFields(),
    )
    return BlockDecoder(reader, reader, None, 600.0, 1000)


def read(stamps: list[np.ndarray], cuts: list[int], read_at: float = READ_AT) -> list[Batch]:
    """The blocks of partitions that are cut at the same offsets."""
    n, decode = len(stamps[0]), decoder()
    edges = sorted({0, n, *(cut for cut in cuts if cut < n)})
    blocks = []
    for first, stop in zip(edges[:-1], edges[1:], strict=True):  # noqa: RUF007
        batches = [
            RecordBatch(
                TopicPartition("ev", p),
                np.arange(first, stop),
                (stamp[first:stop] * 1000).astype(np.int64),
                [json.dumps({"id": p * 1000 + i, "x": 1}).encode() for i in range(first, stop)],
            )
            for p, stamp in enumerate(stamps)
        ]
        blocks.append(decode(TOPICS.merge(batches, read_at), read_at))
    return blocks


@given(
    st.integers(1, 3),
    st.integers(20, 120),
    st.integers(4, 119),
    st.sampled_from([86_400.0, 30 * 86_400.0, 5e9]),
    st.lists(st.integers(5, 119), max_size=4),
)
def test_blocks_a_wrong_stamp_moves_no_clock(
    partitions: int, n: int, row: int, ahead: float, cuts: list[int]
) -> None:
    right = [START + 1.0 * np.arange(n) + p / 4 for p in range(partitions)]
    wrong = [stamp.copy() for stamp in right]
    row = min(row, n - 1)
    wrong[0][row] += ahead
    operator = PartitionClocks(0.0, rejects=False)
    clean = PartitionClocks(0.0, rejects=False)
    for odd, plain in zip(read(wrong, cuts), read(right, cuts), strict=True):
        out, expected = operator.apply(odd), clean.apply(plain)
        assert out.clock is not None
        assert expected.clock is not None
        left, others = out.ids != row, expected.ids != row
        assert out.ids[left].tolist() == expected.ids[others].tolist()
        assert out.time[left].tolist() == expected.time[others].tolist()
        assert np.all(np.abs(out.clock[left] - expected.clock[others]) <= 1.0)


def test_blocks_stamps_are_at_most_the_clock_of_the_reader() -> None:
    stamps = [START + 1.0 * np.arange(40)]
    stamps[0][20:] += 1000.0
    (block,) = read(stamps, [], read_at=START + 30.0)
    assert block.time.max() == START + 30.0
    operator = PartitionClocks(0.0, rejects=False)
    operator.apply(block)
    assert operator.counts == {"bounded": 20, "corrected": 0}
    again = read(stamps, [], read_at=START + 30.0)[0]
    assert again.time.tolist() == block.time.tolist()
