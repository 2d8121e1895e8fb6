"""Work in several processes, which end with the process that started them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class ProcessDiedError(Exception):
    """A worker process died during its work."""


def in_processes(work: Callable[[T], R], items: Sequence[T], workers: int) -> Generator[R]:
    """Yield the result of ``work`` for each item, in order of completion.

    The workers exit at once when this process dies, when an item fails, and when the generator is
    closed. They ignore Ctrl-C, which this process handles.

    Args:
        work: a function that can be pickled.
        items: its arguments.
        workers: largest number of processes.

    Raises what ``work`` raises, and ``ProcessDiedError`` where a worker dies.
    """
    context = get_context("spawn")  # a fork of a process that has used torch's threads may hang
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(items)), context, _exit_with, (reader,))
    try:
        with _sigint_blocked():
            running = [pool.submit(work, item) for item in items]
        for done in as_completed(running):
            yield done.result()
    except BrokenProcessPool:
        writer.close()
        raise ProcessDiedError(
            "a process died (was it killed, or out of memory?): fewer --workers need less"
        ) from None
    except BaseException:
        writer.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        writer.close()
        reader.close()


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT: processes started meanwhile inherit that; this process gets it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exit_with(reader: Connection) -> None:
    """Exit when the other end of the pipe is closed, as when its owner dies."""

    def wait() -> None:
        reader.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
