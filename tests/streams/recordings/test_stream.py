"""A recording that is read again gives what was write_recording, from anywhere, at any pace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import Batch, DeadLetter, Labels, Ragged, Tombstones
from streams.core.errors import StreamError
from streams.core.live_stream import ranges_of, skip_before
from streams.core.schema import Feature, Schema
from streams.core.stream import Cursor
from streams.operators.label_encoder import LabelEncoder
from streams.operators.microbatch import rebatch
from streams.operators.pacing import throttle_by_event_time
from streams.recordings.manifest import path_of
from streams.recordings.stream import RecordingConfig, RecordingStream
from streams.recordings.table import blocks_of, columns_of, table_of
from tests.support.fuzz import examples
from tests.support.recordings import NUMBERS, write_part, write_recording

MIXED = Schema(
    (
        Feature("n", "numeric"),
        Feature("c", "categorical"),
        Feature("v", "vector", (2,)),
        Feature("i", "image", (1, 2, 2)),
        Feature("t", "text"),
    ),
    "classification",
)


def events(
    offsets: Sequence[int], x: Any = None, time: Sequence[float] | None = None, **more: Any
) -> Batch:
    """Events of partition 0, whose ids are ten times their offsets."""
    n, offset = len(offsets), np.array(offsets, np.int64)
    if x is None:
        x = np.stack([offset, -offset], axis=1).astype(np.float32) / 3
    times = offset.astype(np.float64) if time is None else np.array(time, np.float64)
    return Batch(offset * 10, times, x, np.zeros(n, np.int32), offset, **more)


def labels(ids: Sequence[int], y: Sequence[int], before: Sequence[int], start: int = 0) -> Labels:
    n = len(ids)
    return Labels(
        np.array(ids),
        np.array(y),
        np.full(n, np.nan),
        np.full(n, 2, np.int32),
        np.arange(start, start + n),
        np.array(before),
    )


def dead(offset: int, before: int, label: bool = False) -> DeadLetter:
    return DeadLetter(
        2 if label else 0, offset, f"bad {offset}", offset * 10, before, b"\xff", label
    )


def same(one: Any, two: Any) -> bool:
    """Whether two parts of batches are equal to the last bit, in type as in value."""
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    if isinstance(one, Ragged):
        return isinstance(two, Ragged) and one.texts() == two.texts()
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, Batch | Labels):
        names = type(one).__slots__
        return type(one) is type(two) and all(same(getattr(one, k), getattr(two, k)) for k in names)
    return type(one) is type(two) and bool(one == two)


def there_and_back(
    blocks: Sequence[Batch], schema: Schema, file: Path, in_rows: bool = False
) -> list[Batch]:
    pq.write_table(table_of(7, blocks, schema), file, compression="zstd")
    return list(blocks_of(pq.read_table(file), schema, in_rows))


def test_table_rows_are_in_stream_order() -> None:
    block = events(
        [5, 8],
        arrivals=labels([50, 1, 2], [1, 0, 1], [0, 1, 2]),
        dead=(dead(6, 1), dead(7, 1), dead(9, 2, label=True)),
        classes=("no", "yes"),
        flush=True,
    )
    table = table_of(3, [block, replace(events([9]), classes=("no",))], NUMBERS)
    assert table["_what"].to_pylist() == [
        *("label", "event", "label", "dead", "dead", "event", "label", "dead label", "end"),
        "event",
    ]
    assert table["_block"].to_pylist() == [3] * 9 + [4]
    assert table["_offset"].to_pylist() == [0, 5, 1, 6, 7, 8, 2, 9, None, 9]
    assert table["_partition"].to_pylist() == [2, 0, 2, 0, 0, 0, 2, 2, None, 0]
    assert table["id"].to_pylist() == [50, 50, 1, 60, 70, 80, 2, 90, None, 90]
    assert table["label"].to_pylist() == ["yes", None, "no", *[None] * 3, "yes", *[None] * 3]
    assert table["_reason"].to_pylist()[3:5] == ["bad 6", "bad 7"]
    assert (
        table["_value"].to_pylist()
        == [*[None] * 3, b"\xff", b"\xff", None, None, b"\xff"] + [None] * 2
    )
    assert table["b"].type == pa.float32()
    assert table["b"].null_count == 7


def test_every_feature_kind_round_trips_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = {
        "n": rng.normal(size=3),
        "c": Ragged.of_text(["é", "", "xyz"]),
        "v": rng.normal(size=(3, 2)).astype(np.float32),
        "i": rng.integers(0, 256, (3, 1, 2, 2), np.uint8),
        "t": Ragged.of_text(["one", "two two", "three"])[0:3],
    }
    more = {
        "due": np.array([np.nan, 3.25, 4]),
        "key": np.array([1, -(2**63), 2**63 - 1]),
        "y": np.array([1, -1, 0]),
    }
    # An id whose position is no float, a dead one first and last, and an end.
    block = events([2**60, 2**60 + 1, 2**60 + 2], x, classes=("b", "a"), **more)
    block = replace(block, dead=(dead(2, 0), dead(3, 3)), flush=True)
    (back,) = there_and_back([block], MIXED, tmp_path / "t.parquet", in_rows=True)
    assert back.classes == ("a", "b")  # as they appear
    assert back.y is not None
    assert back.y.tolist() == [0, -1, 1]
    assert same(replace(back, y=block.y, classes=block.classes), block)
    (plain,) = there_and_back(
        [events([1], {k: v[0:1] for k, v in x.items()})], MIXED, tmp_path / "u"
    )
    assert same(plain.x, {k: v[0:1] for k, v in x.items()})
    assert plain.y is None


@pytest.mark.parametrize(
    ("classes", "kind"),
    [
        (("a", "b"), pa.string()),
        ((3, 4), pa.int64()),
        ((0.5, 2.0), pa.float64()),
        ((True, False), pa.bool_()),
        ((1, 0.5), pa.float64()),
    ],
)
def test_classes_keep_their_type(classes: Any, kind: pa.DataType, tmp_path: Path) -> None:
    stated = replace(NUMBERS, classes=classes)
    block = events([0, 1, 2, 3], y=np.array([1, -1, 0, 1]), classes=classes)
    assert table_of(0, [block], stated)["label"].type == kind
    (back,) = there_and_back([block], stated, tmp_path / "t", in_rows=True)
    assert same(back, block)
    if len({type(name) for name in classes}) == 1:
        (back,) = there_and_back([block], NUMBERS, tmp_path / "t", in_rows=True)
        assert same(back.classes, (classes[1], classes[0]))
        assert same(back.y, np.array([0, -1, 1, 0]))


def test_targets_come_back(tmp_path: Path) -> None:
    schema = replace(NUMBERS, task="regression")
    block = events([0, 1], y=np.array([0.1, np.nan]))
    block = replace(block, arrivals=replace(labels([1], [0], [1]), y=np.array([-2.5])))
    assert table_of(0, [block], schema)["label"].to_pylist() == [0.1, -2.5, None]
    (back,) = there_and_back([block], schema, tmp_path / "t", in_rows=True)
    assert same(back, block)


def test_blocks_without_labels_round_trip(tmp_path: Path) -> None:
    block = events([0, 1], y=np.array([-1, -1]))
    (back,) = there_and_back([block], NUMBERS, tmp_path / "t", in_rows=True)
    assert same(back, block)


def test_feature_named_like_a_table_column_is_renamed() -> None:
    features = tuple(Feature(name, "numeric") for name in ("label", "label_", "due", "x"))
    schema = Schema(features, "classification")
    names = {"label": "label__", "label_": "label_", "due": "due_", "x": "x"}
    assert columns_of(schema) == names
    block = events([1], np.array([[1.0, 2.0, 3.0, 4.0]]), y=np.array([0]), classes=("c",))
    table = table_of(0, [block], schema)
    assert table.select([*names.values(), "label"]).to_pylist() == [
        {"label__": 1.0, "label_": 2.0, "due_": 3.0, "x": 4.0, "label": "c"}
    ]
    assert same(next(blocks_of(table, schema, True)), block)


def test_classes_of_several_types_are_refused() -> None:
    blocks = [events([i], y=np.array([0]), classes=(c,)) for i, c in enumerate(("a", 1))]
    with pytest.raises(StreamError, match="several types"):
        table_of(0, blocks, NUMBERS)


# A stream of blocks at random: each event, label, dead one, tombstone and end in one place.
THINGS = st.lists(st.sampled_from("eeelddLtTEB"), max_size=40)


def stream_of(things: Sequence[str]) -> list[Batch]:
    """Blocks of these, in order: ``e`` event, ``l`` label, ``d`` dead, ``L`` dead label, ``t`` and
    ``T`` tombstones of these, ``E`` the end of a block and of a micro-batch, ``B`` that of a block.
    """
    blocks, at, label_at = [], 0, 0
    rows: list[int] = []
    arrived: list[tuple[int, int]] = []
    aside: list[DeadLetter] = []
    deleted: list[tuple[int, int, bool, int]] = []
    for thing in [*things, "B"]:
        if thing == "e":
            rows.append(at)
        elif thing == "l":
            arrived.append((label_at, len(rows)))
        elif thing == "d":
            aside.append(dead(at, len(rows)))
        elif thing == "L":
            aside.append(dead(label_at, len(rows), label=True))
        elif thing in "tT":
            position = (0, at) if thing == "t" else (2, label_at)
            deleted.append((*position, thing == "T", len(rows)))
        elif rows or arrived or aside or deleted or thing == "E":
            block = events(rows, dead=tuple(aside), classes=("a", "b"), flush=thing == "E")
            if arrived:
                offset, before = map(np.array, zip(*arrived, strict=True))
                some = labels(offset * 10, offset % 2, before)
                block = replace(block, arrivals=replace(some, offset=offset))
            if deleted:
                columns = map(np.array, zip(*deleted, strict=True))
                block = replace(block, tombstones=Tombstones(*columns))
            blocks.append(block)
            rows, arrived, aside, deleted = [], [], [], []
        at += thing in "edt"
        label_at += thing in "lLT"
    return blocks


def recording(folder: Path, **settings: Any) -> RecordingStream:
    return RecordingStream(RecordingConfig(kind="recording", path=str(folder), **settings), folder)


def records_of(batches: Any) -> list[Any]:
    """All that micro-batches hold, thing by thing, and where each of them ends."""
    found: list[Any] = []
    for batch in batches:
        beside: list[list[Any]] = [[] for _ in range(len(batch) + 1)]
        if (a := batch.arrivals) is not None:
            for i in range(len(a)):
                name = batch.classes[a.y[i]]
                beside[a.insert_before[i]].append(("label", int(a.ids[i]), int(a.offset[i]), name))
        for d in batch.dead:
            beside[d.insert_before].append(replace(d, insert_before=0))
        if (t := batch.tombstones) is not None:
            for i in range(len(t)):
                position = (int(t.partition[i]), int(t.offset[i]), bool(t.label[i]))
                beside[t.insert_before[i]].append(("tombstone", *position))
        for i, some in enumerate(beside):
            found += some
            if i < len(batch):
                found.append((int(batch.ids[i]), float(batch.time[i]), batch.x[i].tolist()))
        found.append("cut")
    return found


def cuts(blocks: Iterable[Batch], size: int) -> list[Batch]:
    """Micro-batches, their classes in one numbering."""
    return list(rebatch(map(LabelEncoder().apply, blocks), size))


def cursor_after(batches: Sequence[Batch]) -> Cursor:
    cursor = {"0": 0, "labels/2": 0}
    for batch in batches:
        cursor |= {name: after for name, (_, after) in ranges_of(batch).items()}
    return cursor


@given(THINGS, st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, 6), st.data())
def test_resume_from_any_micro_batch_gives_the_same_ones(
    tmp_path_factory: pytest.TempPathFactory,
    things: list[str],
    sizes: list[int],
    block_size: int,
    data: st.DataObject,
) -> None:
    blocks = stream_of(things)
    read = recording(write_recording(tmp_path_factory.getbasetemp() / "any", blocks, sizes))
    size = data.draw(st.integers(1, 5))
    wanted = cuts(blocks, size)
    assert len(read) == sum(block.events for block in blocks)
    assert records_of(cuts(read.read({}, block_size), size)) == records_of(wanted)
    stop = data.draw(st.integers(0, len(wanted)))
    rest = cuts(read.read(cursor_after(wanted[:stop]), block_size), size)
    assert records_of(rest) == records_of(wanted[stop:])


@given(THINGS, st.lists(st.integers(1, 3), min_size=1, max_size=9), st.integers(1, 4), st.data())
def test_river_reading_resumes_where_it_stopped(
    tmp_path_factory: pytest.TempPathFactory,
    things: list[str],
    sizes: list[int],
    block_size: int,
    data: st.DataObject,
) -> None:
    # Of a reader that died after any block, and with it the end that it had not given out.
    blocks = stream_of(things)
    read = recording(write_recording(tmp_path_factory.getbasetemp() / "broken", blocks, sizes))
    given_out = list(read.read({}, block_size))
    stop = data.draw(st.integers(0, len(given_out)))
    again = [*given_out[:stop], *read.read(cursor_after(given_out[:stop]), block_size)]
    assert records_of(cuts(again, 3)) == records_of(cuts(blocks, 3))


@given(THINGS, st.floats(-1, 30))
def test_from_a_time_on(
    tmp_path_factory: pytest.TempPathFactory, things: list[str], time: float
) -> None:
    blocks = stream_of(things)
    folder = write_recording(tmp_path_factory.getbasetemp() / "time", blocks, [2])
    offsets = [int(i) for block in blocks for i in block.offset]
    if not offsets or offsets[-1] < time:
        with pytest.raises(StreamError, match=r"stream\.start: .* after the last event"):
            recording(folder, start=time)
        return
    read = recording(folder, start=time)
    got = list(read.read(read.origin(), 100))
    left = [offset for offset in offsets if offset >= time]
    assert [int(i) for block in got for i in block.offset] == left
    assert len(read) == sum(block.events for block in got)
    begun = [skip_before(block, read.origin()) for block in blocks]
    assert records_of(cuts(got, 4)) == records_of(
        cuts([b for b in begun if records_of([b]) != ["cut"] or b.flush], 4)
    )


@given(THINGS, st.integers(1, 5), st.integers(1, 4), st.data())
def test_stopped_run_is_read_up_to_its_stop(
    tmp_path_factory: pytest.TempPathFactory,
    things: list[str],
    block_size: int,
    size: int,
    data: st.DataObject,
) -> None:
    blocks = stream_of(things)
    wanted = cuts(blocks, size)
    stop = data.draw(st.integers(0, len(wanted)))
    at = {"events": sum(b.events for b in wanted[:stop]), "cursor": cursor_after(wanted[:stop])}
    folder = write_recording(tmp_path_factory.getbasetemp() / "stopped", blocks, [2], **at)
    read = recording(folder, stop="run")
    assert read.open_end
    assert len(read) == at["events"]
    assert records_of(cuts(read.read({}, block_size), size)) == records_of(wanted[:stop])
    first = data.draw(st.integers(0, stop))
    rest = cuts(read.read(cursor_after(wanted[:first]), block_size), size)
    assert records_of(rest) == records_of(wanted[first:stop])


def test_finished_run_is_read_to_the_end(tmp_path: Path) -> None:
    at = {"events": 2, "cursor": {"0": 2}}
    finished = write_recording(tmp_path / "r", stream_of("eeee"), [1], finished=True, **at)
    assert not recording(finished, stop="run").open_end
    assert len(list(recording(finished, stop="run").read({}, 1))) == len(recording(finished)) == 4
    stopped = write_recording(tmp_path / "s", stream_of("eeee"), [1], **at)
    assert len(list(recording(stopped).read({}, 1))) == len(recording(stopped)) == 4
    assert [b.offset.tolist() for b in recording(stopped, stop="run").read({}, 10)] == [[0, 1]]
    assert len(recording(stopped, start=1.0, stop="run")) == 1
    assert len(recording(stopped, start=3.0, stop="run")) == 0


def test_recording_begins_where_the_run_did(tmp_path: Path) -> None:
    folder = write_recording(tmp_path / "r", stream_of("eeee"), [1])
    assert recording(folder).origin() == {"0": 0, "labels/2": 0}
    assert recording(folder, start=2.5).origin() == {"0": 3, "labels/2": 0}
    assert recording(folder, start="1970-01-01T00:00:02Z").origin() == {"0": 2, "labels/2": 0}
    assert recording(folder).seek(1.0) == {"0": 1, "labels/2": 0}


class Clock:
    """Moves by what is slept, and by ``lost`` now and then."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_throttle_by_event_time_is_not_early() -> None:
    clock = Clock()
    times = [50.0, 50.01, 51.0, 50.5, 53.0]
    batch = replace(events(range(5), time=times), flush=True)
    came = [
        (round(clock.now - 100, 6), piece.offset.tolist(), piece.flush)
        for piece in throttle_by_event_time([batch], 2.0, clock, clock.sleep)
        if len(piece)
    ]
    # Twice as fast; the one that goes back comes with the one before it.
    assert came == [(0.005, [0, 1], False), (0.5, [2, 3], False), (1.5, [4], True)]


def test_empty_blocks_come_while_nothing_is_due() -> None:
    clock = Clock()
    label = labels([0], [0], [0])
    batch = events([0, 1], time=[0.0, 1.1], arrivals=label, dead=(dead(2, 2),), classes=("a",))
    pieces = [
        (round(clock.now - 100, 6), p)
        for p in throttle_by_event_time([batch], 1.0, clock, clock.sleep)
    ]
    assert [at for at, _ in pieces] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.1]
    assert records_of([p for _, p in pieces[1:-1]]) == ["cut"] * 5
    assert max(clock.slept) == 0.2
    assert records_of(cuts((p for _, p in pieces), 5)) == records_of(cuts([batch], 5))


def test_slow_reader_gets_all_due_events_at_once() -> None:
    clock, came = Clock(), []
    batch = events(range(100))
    for piece in throttle_by_event_time([batch, events(range(100, 110))], 1.0, clock, clock.sleep):
        came.append(len(piece))
        clock.now += 40
    assert came == [1, 40, 40, 19, 10]
    assert clock.slept == []


def test_speed_does_not_change_the_micro_batches(tmp_path: Path) -> None:
    blocks = stream_of("eelddeeLEeleelBEeddeeleee")
    read = recording(write_recording(tmp_path / "r", blocks, [1, 2]))
    clock = Clock()
    for speed in (0.5, 7.0, 1e9):
        slices = throttle_by_event_time(read.read({}, 4), speed, clock, clock.sleep)
        assert records_of(cuts(slices, 3)) == records_of(cuts(blocks, 3))


def test_in_real_time(tmp_path: Path) -> None:
    from time import monotonic

    folder = write_recording(tmp_path / "r", stream_of("eeee"), [1])  # three seconds
    started = monotonic()
    read = recording(folder, speed=10)
    assert sum(len(block) for block in read.read({}, 10)) == 4
    assert 0.27 < monotonic() - started < 2


def bad(change: Callable[[Path], Any], match: str, folder: Path) -> None:
    folder = write_recording(folder, stream_of("eBeBeBe"), [1])
    change(folder)
    with pytest.raises(StreamError, match=match):
        list(recording(folder).read({}, 10))


def test_broken_recording_error_names_the_file(tmp_path: Path) -> None:
    bad(lambda f: path_of(f, 1).unlink(), r"000001\.parquet is missing: put it back", tmp_path)
    bad(lambda f: path_of(f, 3).write_bytes(b"PAR1"), r"000003\.parquet cannot be read", tmp_path)
    bad(lambda f: (f / "recording.json").unlink(), r"`everlearn record --to`", tmp_path)
    bad(lambda f: (f / "recording.json").write_text("{}"), "not the manifest", tmp_path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other")
    other = (tmp_path / "other").read_bytes()
    bad(lambda f: path_of(f, 2).write_bytes(other), r"000002\.parquet cannot be read", tmp_path)


def test_recording_is_read_from_the_cursor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = recording(write_recording(tmp_path / "r", stream_of("eB" * 20), [2]))
    looked: list[int] = []
    blocks = read._blocks
    monkeypatch.setattr(
        read, "_blocks", lambda part: (looked.append(part.blocks[0]), blocks(part))[1]
    )
    got = read.read({"0": 15, "labels/2": 0}, 10)
    assert [int(i) for block in got for i in block.offset] == [*range(15, 20)]
    assert looked == [12, 14, 16, 18]


@pytest.mark.hypothesis
@examples(0.5)
@given(THINGS, st.lists(st.integers(1, 3), min_size=1, max_size=9), st.data())
def test_part_changed_before_the_cursor_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
    things: list[str],
    sizes: list[int],
    data: st.DataObject,
) -> None:
    """Change, write anew, cut or remove any part, or add one, at any micro-batch."""
    blocks = stream_of(["e", *things])
    folder = write_recording(tmp_path_factory.getbasetemp() / "changed", blocks, sizes)
    read = recording(folder)
    batches = cuts(read.read({}, 4), 3)
    cursor = cursor_after(batches[: data.draw(st.integers(1, len(batches)))])
    known = read.identity(cursor)
    assert recording(folder).identity(cursor) == known  # also where nothing was read
    part = data.draw(st.sampled_from(read.parts))
    how = data.draw(st.sampled_from(["flip", "write anew", "cut", "remove", "add"]))
    whole = part.path.read_bytes()
    refused = part.path.name in known["parts"]
    assert refused or all(cursor[name] <= start for name, (start, _) in part.ranges.items())
    if how == "flip":  # in the values: the footer is at the end
        part.path.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
    elif how == "write anew":
        pq.write_table(pq.read_table(part.path), part.path, compression="zstd")
    elif how == "cut":
        part.path.write_bytes(whole[: len(whole) // 2])
        refused = True  # its footer is gone, whether it was read or not
    elif how == "remove":
        part.path.unlink()
        refused |= part != read.parts[-1]
    else:
        write_part(folder, read.parts[-1].blocks[1], [replace(events([999]), classes=("a",))])
        refused = False
    if not refused:
        recording(folder).verify_identity([known], cursor)
        return
    with pytest.raises(StreamError, match=rf"^[^\n]*{part.path.name}[^\n]*$"):
        recording(folder).verify_identity([known], cursor)


def test_part_changed_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    folder = write_recording(tmp_path / "r", stream_of("eB" * 6), [2])
    read = recording(folder)
    known = read.identity({"0": 3, "labels/2": 0})
    assert list(known["parts"]) == [path_of(folder, 0).name, path_of(folder, 2).name]
    path = path_of(folder, 2)
    pq.write_table(pq.read_table(path), path, compression="zstd")
    with pytest.raises(StreamError, match=r"000002\.parquet, .* has changed: restore it, or start"):
        list(read.read({}, 10))


def test_identity_from_a_time_is_of_the_parts_read(tmp_path: Path) -> None:
    folder = write_recording(tmp_path / "r", stream_of("eB" * 10), [2])
    parts = recording(folder, start=6.0).identity({"0": 7, "labels/2": 0})["parts"]
    assert list(parts) == [path_of(folder, first).name for first in (4, 6)]
