"""How far a run is behind, and that a stream that is away is told of once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learners.base import LearnerConfig
from learners.baselines.prior import Prior
from pipeline.callbacks.consumer_lag import ConsumerLag
from pipeline.evaluation.prequential import Prequential
from pipeline.training.callback import RunContext
from pipeline.training.event_fates import Ledger
from pipeline.training.loop import Loop
from streams.core.batch import Batch
from streams.core.live_stream import BrokerUnavailableError, LiveStream, Ranges
from streams.core.schema import Schema
from streams.core.stream import Cursor, Stream
from streams.operators.labels_in_rows import DelayByEvents


class Ends(LiveStream):
    """Gives its ends one after another, the last again and again; None: nobody answers."""

    kind = "ends"

    def __init__(self, *ends: Cursor | None) -> None:
        self.ends = list(ends)
        self.asked = 0
        self.closed = 0
        self.threads: set[int] = set()

    def end(self) -> Cursor:
        self.asked += 1
        self.threads.add(threading.get_ident())
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if end is None:
            raise BrokerUnavailableError("stream.servers: nobody")
        return dict(end)

    def close(self) -> None:
        self.closed += 1

    def start(self) -> Cursor:
        return {}

    def read_ranges(self, ranges: Ranges) -> Batch:
        raise AssertionError

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        raise AssertionError


@pytest.fixture
def start_lag() -> Iterator[Callable[[Stream], tuple[ConsumerLag, Any, list[str]]]]:
    """Begins one that looks 200 times a second; it, the loop and what it says."""
    open_: list[ConsumerLag] = []

    def begin(stream: Stream) -> tuple[ConsumerLag, Any, list[str]]:
        lag, messages_said = ConsumerLag(every_s=0.005), list[str]()
        open_.append(lag)
        loop = untrained_loop()
        lag.on_start(
            RunContext(Path(), "job", Path("job.yaml"), stream, {}, messages_said.append), loop
        )
        return lag, loop, messages_said

    yield begin
    for lag in open_:
        lag.teardown()


def untrained_loop() -> Loop:
    learner = Prior(LearnerConfig(kind="prior"), Schema((), "classification"), 0)
    return Loop([], DelayByEvents(0, 10), learner, Prequential("classification", 10))


def wait_until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def enter(ledger: Ledger, first: int, n: int) -> None:
    at = np.arange(first, first + n, dtype=np.int64)
    ledger.enter(Batch(at, at / 1.0, at[:, None] / 1.0, np.zeros(n, np.int32), at))


def test_lag_counts_messages_behind(start_lag: Any) -> None:
    stream = Ends({"0": 30, "1": 4, "labels/0": 7})
    lag, loop, _ = start_lag(stream)
    assert lag.messages is None
    loop.ledger.begin({"0": 10, "1": 4, "labels/0": 0})
    enter(loop.ledger, 10, 5)
    wait_until(lambda: stream.asked > 1)
    lag.on_batch_end(loop, loop.flush())
    assert lag.messages == 15 + 0 + 7
    enter(loop.ledger, 15, 20)  # past what was known of the end
    before = stream.asked
    wait_until(lambda: stream.asked > before + 1)
    lag.on_batch_end(loop, loop.flush())
    assert lag.messages == 7


def test_lag_ignores_partitions_not_read_yet(start_lag: Any) -> None:
    """As before a group has given it: nobody can tell where its reading begins."""
    stream = Ends({"0": 30, "5": 1000})
    lag, loop, _ = start_lag(stream)
    loop.ledger.begin({"0": 0})
    wait_until(lambda: stream.asked > 1)
    lag.on_batch_end(loop, loop.flush())
    assert lag.messages == 30


def test_lag_says_away_and_back_once_each(start_lag: Any) -> None:
    stream = Ends({"0": 1}, None, None, None, {"0": 2}, {"0": 3}, None, None, {"0": 4})
    lag, loop, messages_said = start_lag(stream)
    loop.ledger.begin({"0": 0})
    wait_until(lambda: stream.asked > 10)
    away = "stream.servers: nobody; the run waits, and goes on when it is back"
    back = "the stream is back after 0 s"
    assert messages_said == [away, back, away, back]
    lag.on_batch_end(loop, loop.flush())
    assert lag.messages == 4


def test_lag_thread_ends_with_the_run(start_lag: Any) -> None:
    stream = Ends({"0": 1})
    lag, _, _ = start_lag(stream)
    wait_until(lambda: stream.asked > 2)
    assert lag.teardown() == {}
    asked = stream.asked
    time.sleep(0.03)
    assert (stream.asked, stream.closed) == (asked, 1)
    assert stream.threads.isdisjoint({threading.get_ident()})


def test_lag_of_a_stream_that_is_not_live_is_unknown(start_lag: Any) -> None:
    class Still(Stream):
        def __init__(self) -> None:
            pass

        def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
            raise AssertionError

    lag, loop, messages_said = start_lag(Still())
    lag.on_batch_end(loop, loop.flush())
    assert lag.messages is None
    assert lag.teardown() == {}
    assert messages_said == []
