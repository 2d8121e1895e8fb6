"""A time limit for calls of a library that may never return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def within(seconds: float, create: Callable[[], T], discard: Callable[[T], Any]) -> T:
    """Return what a call returns.

    Args:
        seconds: how long it may take.
        create: the call, made in a thread of its own.
        discard: takes what the call returns when it is too late.

    Raises:
        TimeoutError: it takes longer. The thread is left to end by itself.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []
    lock, late = threading.Lock(), threading.Event()

    def call() -> None:
        try:
            created = create()
        except BaseException as error:
            failure.append(error)
            return
        with lock:
            outcome.append(created)
            if not late.is_set():
                return
        discard(created)

    thread = threading.Thread(target=call, name="kafka-connect", daemon=True)
    thread.start()
    thread.join(seconds)
    with lock:
        if not outcome and not failure:
            late.set()
            raise TimeoutError
    if failure:
        raise failure[0]
    return outcome[0]
