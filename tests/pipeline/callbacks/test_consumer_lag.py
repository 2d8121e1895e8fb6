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


def test_lag_falls_to_zero_when_all_is_read(start_lag: Any) -> None:
    """The last end offsets are older than the last events: they are behind, not the run."""
    stream = Ends({"0": 30, "1": 4})
    lag, loop, _ = start_lag(stream)
    loop.ledger.begin({"0": 10, "1": 4})
    wait_until(lambda: stream.asked > 1)
    lag.on_batch_end(loop, loop.flush())
    assert lag.messages == 20
    enter(loop.ledger, 10, 20)
    lag.on_idle(loop)
    assert lag.messages == 0


def test_lag_at_the_end_waits_for_the_first_answer(start_lag: Any) -> None:
    """A run of a moment ends before the thread has asked."""
    lag, loop, _ = start_lag(Ends({"0": 12}))
    loop.ledger.begin({"0": 0})
    enter(loop.ledger, 0, 12)
    lag.on_end(loop, loop.flush())
    assert lag.messages == 0


class Named(Ends):
    def place_name(self, partition: int, label: bool) -> str:
        return f"{'labels' if label else 'clicks'}/{partition}"


def test_silence_is_of_all_of_topics_and_of_partitions(start_lag: Any) -> None:
    """Partition 1 and the labels have gone silent; partition 0 goes on."""
    ends = [{"0": n, "1": 5, "labels/0": 7} for n in range(1, 400)]
    stream = Named(*ends)
    lag, _, _ = start_lag(stream)
    wait_until(lambda: stream.asked > 60)
    seconds = lag.silence()
    name = "system/seconds_since_last_message"
    assert seconds.keys() == {
        name,
        *(f"{name}/{place}" for place in ("clicks", "clicks/0", "clicks/1", "labels", "labels/0")),
    }
    assert seconds[name] == seconds[f"{name}/clicks"] == seconds[f"{name}/clicks/0"]
    assert seconds[f"{name}/labels"] == seconds[f"{name}/labels/0"]
    assert seconds[f"{name}/clicks/1"] == pytest.approx(seconds[f"{name}/labels"], abs=0.01)
    assert seconds[f"{name}/clicks/1"] > 0.2 > seconds[name]


def test_silence_of_many_partitions_is_of_topics_only(start_lag: Any) -> None:
    stream = Named({str(partition): 1 for partition in range(40)})
    lag, _, _ = start_lag(stream)
    wait_until(lambda: lag.silence())
    name = "system/seconds_since_last_message"
    assert lag.silence().keys() == {name, f"{name}/clicks"}


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
