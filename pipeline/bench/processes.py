"""Work for several processes, none of which outlives whoever began them."""

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
    """A process ended in the midst of its work."""


def in_processes(work: Callable[[T], R], things: Sequence[T], workers: int) -> Generator[R]:
    """What ``work`` gives of each thing, as it comes, from so many processes at most.

    They leave at once where this one dies, of whatever, where work of one of them fails, and where
    the generator is closed. Ctrl-C is for this process alone. Raises what ``work`` raises, and
    ``ProcessDiedError`` where a process dies.
    """
    context = get_context("spawn")  # a fork of a process that has used torch's threads may hang
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(things)), context, _leave_with, (reader,))
    try:
        with _undisturbed():
            running = [pool.submit(work, thing) for thing in things]
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
def _undisturbed() -> Iterator[None]:
    """A process that is begun meanwhile never hears of Ctrl-C; this one does, afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_with(reader: Connection) -> None:
    """Ends this process when the other end of the pipe is closed, or its owner is dead."""

    def wait() -> None:
        reader.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
