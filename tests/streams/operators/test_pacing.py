"""A recorded stream at the pace of a live one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.training.reading.batch_reader import BLOCK
from streams.core.batch import Batch
from streams.operators.pacing import block_size, throttle
from streams.testing import Event, ManualClock, TestStream


def blocks(sizes: tuple[int, ...]) -> Iterator[Batch]:
    whole = next(TestStream([Event({"a": 1.0}, y=0)] * sum(sizes)).read({}, 10_000))
    start = 0
    for size in sizes:
        yield whole[start : start + size]
        start += size


def test_throttle_blocks_are_not_early() -> None:
    clock = ManualClock(on_wait=ManualClock.move_to)
    came = [clock() for b in throttle(blocks((100, 50, 150)), 100.0, clock, clock.sleep) if len(b)]
    assert came == pytest.approx([1.0, 1.5, 3.0])


def test_throttle_slow_reader_catches_up_one_second() -> None:
    clock = ManualClock(on_wait=ManualClock.move_to)
    came = []
    for block in throttle(blocks((100,) * 5), 100.0, clock, clock.sleep):
        if not len(block):
            continue
        came.append(clock())
        if len(came) == 1:
            clock.advance(60)  # the reader was busy for a minute
    # A second of what it missed comes at once, and the rest at the pace.
    assert came == pytest.approx([1.0, 61.0, 61.0, 62.0, 63.0])


def test_empty_blocks_come_while_nothing_is_due() -> None:
    clock = ManualClock(on_wait=ManualClock.move_to)
    came = [(clock(), len(b)) for b in throttle(blocks((5, 5)), 10.0, clock, clock.sleep)]
    assert [round(at, 6) for at, _ in came] == [0.2, 0.4, 0.5, 0.7, 0.9, 1.0]
    assert [n for _, n in came] == [0, 0, 5, 0, 0, 5]


def test_throttle_without_a_rate_does_not_wait() -> None:
    def never(_: float) -> None:
        pytest.fail("it slept")

    assert len(list(throttle(blocks((5, 5)), None, sleep=never))) == 2


@pytest.mark.parametrize(
    ("rate", "size"), [(None, BLOCK), (1e9, BLOCK), (1000.0, 20), (0.5, 1)]
)  # fmt: skip
def test_block_size_is_small_with_a_rate(rate: float | None, size: int) -> None:
    assert block_size(rate, BLOCK) == size
