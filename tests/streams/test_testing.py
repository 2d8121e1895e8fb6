"""The stream that tests write down, and its clock."""

from __future__ import annotations

import doctest
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streams.testing
from streams.core.batch import Batch, Ragged
from streams.core.errors import StreamError
from streams.testing import Abort, AbortedError, End, Event, Label, ManualClock, Pause, TestStream


def rows(blocks: Any) -> list[tuple[Any, ...]]:
    """Offset and label of each event, and (id, label, row) of each label that came on its own."""
    out: list[tuple[Any, ...]] = []
    n = 0
    for b in blocks:
        came = [] if b.arrivals is None else list(b.arrivals.insert_before)
        for i in range(len(b) + 1):
            out += [
                ("label", int(b.arrivals.ids[j]), b.classes[b.arrivals.y[j]])
                for j, before in enumerate(came)
                if before == i
            ]
            out += [("dead", d.offset, d.reason) for d in b.dead if d.insert_before == i]
            if i < len(b):
                y = None if b.y is None or b.y[i] < 0 else b.classes[b.y[i]]
                out.append(("event", int(b.offset[i]), y))
        n += len(b)
    return out


def test_examples_of_the_docstring() -> None:
    assert doctest.testmod(streams.testing).failed == 0


def test_events_labels_and_the_end() -> None:
    items = [
        Label(9, "z"),
        Event([1, 2], "b", id=7),
        Event([3, 4], id=8),
        Label(7, "a"),
        Event([5], "b", id=9),
        Event([5, 6], "b", id=10),
        Label(8, "c"),
        End(),
        Event([7, 8], "never", id=11),
    ]
    stream = TestStream(items)
    for size in (1, 2, 3, 100):
        assert rows(stream.read({}, size)) == [
            ("label", 9, "z"),
            ("event", 0, "b"),
            ("event", 1, None),
            ("label", 7, "a"),
            ("dead", 2, "column 'x' holds [5]; expected a vector of 2 finite numbers"),
            ("event", 3, "b"),
            ("label", 8, "c"),
        ]
    assert len(stream) == 4
    assert stream.has_ids
    assert not stream.has_time


def test_abort_raises_once_after_the_items_before_it() -> None:
    stream = TestStream([Event([0]), Event([1]), Abort(), Event([2]), Abort(), Abort(), End()])
    blocks = stream.read({}, 10)
    assert len(next(blocks)) == 2
    with pytest.raises(AbortedError, match="item 2"):
        next(blocks)
    for index in (4, 5):
        with pytest.raises(AbortedError, match=f"item {index}"):
            list(stream.read({"0": 2}, 10))
    assert rows(stream.read({}, 10)) == [("event", i, None) for i in range(3)]


def test_mark_before_the_cursor_is_ignored() -> None:
    items = [Event([0]), Abort(), Event([1]), Abort(), Event([2])]
    with pytest.raises(AbortedError, match="item 3"):
        list(TestStream(items).read({"0": 2}, 10))
    assert len(list(TestStream(items).read({"0": 3}, 10))) == 0


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([Event([1.0], "a"), Event([None]), Label(3, "b"), Abort(), Pause(1)])),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_any_block_size_and_cursor_give_one_stream(
    items: list[Any], size: int, again: int, at: int
) -> None:
    whole = rows(TestStream([i for i in items if not isinstance(i, Abort)]).read({}, 100))
    stream = TestStream(items)
    seen: list[Batch] = []
    cursor: dict[str, int] = {}
    sizes = [size, *[again] * len(items)]
    for size in sizes:
        try:
            for block in stream.read(cursor, size):
                part = block if at >= len(block) else block[:at]
                at -= len(part)
                seen.append(part)
                for offset in [*part.offset.tolist(), *(d.offset for d in part.dead)]:
                    cursor["0"] = max(cursor.get("0", 0), offset + 1)
                if part.arrivals is not None:
                    cursor["labels/0"] = int(part.arrivals.offset[-1]) + 1
                if part is not block:
                    at = 1_000
                    break
        except AbortedError:
            continue
    seen += stream.read(cursor, again)

    def of(kind: str, told: list[Any]) -> list[Any]:
        return [entry for entry in told if entry[0] == kind]

    for kind in ("event", "dead", "label"):
        assert of(kind, rows(seen)) == of(kind, whole)


def test_a_pause_waits_for_the_clock() -> None:
    waited: list[float] = []

    def move(clock: ManualClock, until: float) -> None:
        waited.append(until)
        clock.move_to(until)

    clock = ManualClock(100.0, on_wait=move)
    stream = TestStream([Event([0]), Pause(5), Event([1]), Pause(2), End()], clock=clock)
    blocks = stream.read({}, 10)
    assert next(blocks).offset.tolist() == [0]
    assert waited == []
    assert next(blocks).offset.tolist() == [1]
    assert waited == [105]
    assert list(blocks) == []
    assert (waited, clock()) == ([105, 107], 107)


def test_manual_clock_may_be_moved_by_a_thread() -> None:
    clock = ManualClock()
    blocks = TestStream([Pause(5), Event([0])], clock=clock).read({}, 10)
    done: list[Batch] = []
    reader = threading.Thread(target=lambda: done.append(next(blocks)))
    reader.start()
    clock.advance(4.5)
    reader.join(0.01)
    assert not done
    clock.advance(0.5)
    reader.join(10)
    assert len(done) == 1


def test_manual_clock_not_moved_times_out() -> None:
    with pytest.raises(TimeoutError, match=r"is at 0\.0: no thread moved it to 5\.0"):
        ManualClock(patience=0).sleep(5)


def test_kinds_of_features() -> None:
    event = Event({"n": 1, "c": "u", "v": [1, 2], "i": np.zeros((1, 2, 2), np.uint8)}, 0.5, time=3)
    stream = TestStream([event, Event({"n": 2, "c": "w", "v": [3], "i": None}, time=4)])
    assert [(f.name, f.kind, f.shape) for f in stream.schema.features] == [
        ("n", "numeric", ()),
        ("c", "categorical", ()),
        ("v", "vector", (2,)),
        ("i", "image", (1, 2, 2)),
    ]
    assert stream.schema.task == "regression"
    (block,) = stream.read({}, 5)
    assert isinstance(block.x, dict)
    assert isinstance(block.x["c"], Ragged)
    assert block.x["i"].shape == (1, 1, 2, 2)  # type: ignore[union-attr]
    assert block.time.tolist() == [3]
    assert block.dead[0].offset == 1
    assert stream.seek(3.5) == {"0": 1}


def test_stated_classes() -> None:
    stream = TestStream([Event([1], "b"), Event([1], "c"), Label(0, "a")], classes=("a", "b"))
    (block,) = stream.read({}, 5)
    assert block.classes == ("a", "b")
    assert block.y is not None
    assert block.arrivals is not None
    assert (block.y.tolist(), block.arrivals.y.tolist()) == ([1], [0])
    assert "'c'" in block.dead[0].reason
    with pytest.raises(StreamError, match="label 0: column"):
        TestStream([Label(0, "c")], classes=("a",))
