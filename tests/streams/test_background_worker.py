"""Steps in a thread: when they run, how they end, and what becomes of an exception."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pytest

from streams.background_worker import BackgroundWorker


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_step_repeats_in_its_own_daemon_thread() -> None:
    threads: list[threading.Thread] = []
    worker = BackgroundWorker("counter", lambda: threads.append(threading.current_thread()), 0.001)
    worker.start()
    wait_until(lambda: len(threads) > 2)
    assert worker.close(10)
    assert {thread.name for thread in threads} == {"counter"}
    assert threads[0].daemon
    count = len(threads)
    time.sleep(0.02)
    assert len(threads) == count


def test_wake_runs_the_next_step_at_once() -> None:
    steps: list[float] = []
    worker = BackgroundWorker("woken", lambda: steps.append(time.monotonic()), math.inf)
    worker.start()
    wait_until(lambda: len(steps) == 1)
    worker.wake()
    wait_until(lambda: len(steps) == 2)
    assert worker.close(10)
    assert len(steps) == 2


def test_wake_during_a_step_is_not_lost() -> None:
    steps: list[int] = []
    worker = BackgroundWorker("woken", lambda: None, math.inf)

    def step() -> None:
        steps.append(1)
        if len(steps) == 1:
            worker.wake()

    worker._step = step
    worker.start()
    wait_until(lambda: len(steps) == 2)
    assert worker.close(10)


def test_interval_is_asked_for_after_each_step() -> None:
    asked: list[float] = []

    def interval() -> float:
        asked.append(0.001)
        return asked[-1]

    worker = BackgroundWorker("asking", lambda: None, interval)
    worker.start()
    wait_until(lambda: len(asked) > 2)
    assert worker.close(10)


def test_close_runs_finish_once_after_the_last_step() -> None:
    calls: list[str] = []
    worker = BackgroundWorker(
        "finishing", lambda: calls.append("step"), math.inf, lambda: calls.append("finish")
    )
    worker.start()
    wait_until(lambda: calls)
    assert worker.close(10)
    assert worker.close(10)
    assert calls == ["step", "finish"]


def test_close_ends_a_wait_inside_a_step() -> None:
    returned: list[bool] = []
    worker = BackgroundWorker("waiting", lambda: returned.append(worker.wait(60)))
    worker.start()
    assert worker.close(10)
    assert returned == [True]


def test_close_gives_up_after_its_timeout() -> None:
    release = threading.Event()
    worker = BackgroundWorker("slow", lambda: release.wait(60))
    worker.start()
    assert not worker.close(0.01)
    release.set()
    assert worker.close(10)


def test_close_before_start_does_nothing() -> None:
    calls: list[str] = []
    worker = BackgroundWorker("unused", lambda: None, finish=lambda: calls.append("finish"))
    assert not worker.started
    assert worker.close(10)
    assert calls == []


def test_close_inside_a_step_ends_the_worker() -> None:
    worker = BackgroundWorker("ending", lambda: worker.close())
    worker.start()
    wait_until(lambda: worker.close(0.01))


def test_error_ends_the_worker_and_is_reported_once() -> None:
    reported: list[Exception] = []
    calls: list[str] = []

    def step() -> None:
        calls.append("step")
        raise ZeroDivisionError("a defect")

    worker = BackgroundWorker(
        "failing", step, finish=lambda: calls.append("finish"), on_error=reported.append
    )
    worker.start()
    wait_until(lambda: worker.error)
    assert worker.close(10)
    assert reported == [worker.error]
    assert calls == ["step"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_error_nobody_takes_goes_to_the_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)

    def step() -> None:
        raise ZeroDivisionError("a defect")

    worker = BackgroundWorker("failing", step)
    worker.start()
    assert worker.close(10)
    wait_until(lambda: seen)
    assert seen[0].exc_value is worker.error
    assert seen[0].thread is not None
    assert seen[0].thread.name == "failing"
