"""A step repeated in a thread beside the main work."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable


class BackgroundWorker:
    """Call ``step`` again and again in a daemon thread until ``close``.

    The rule for exceptions: a step handles those that it expects. Any other ends the worker, is
    kept in ``error``, and is reported once: to ``on_error``, or to ``threading.excepthook`` where
    there is none. ``finish`` is then skipped, and ``close`` raises nothing.

    Args:
        name: of the thread.
        step: the work of one turn. It must return soon after ``closing`` turns true.
        interval: seconds between two steps, or a function that returns them. ``math.inf`` waits
            for ``wake``.
        finish: runs once in the thread after the last step, as the worker is closed.
        on_error: takes the exception that ended the worker; runs in the thread.

    Attributes:
        error: the exception that ended the worker.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], object],
        interval: float | Callable[[], float] = 0.0,
        finish: Callable[[], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> None:
        self.error: Exception | None = None
        self._step = step
        self._interval = interval
        self._finish = finish
        self._on_error = on_error
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    @property
    def started(self) -> bool:
        """Whether ``start`` has been called."""
        return self._thread.ident is not None

    @property
    def closing(self) -> bool:
        """Whether the worker has been asked to end."""
        return self._closing.is_set()

    def start(self) -> None:
        """Start the thread; the first step runs at once."""
        self._thread.start()

    def wake(self) -> None:
        """Run the next step now and not after the interval."""
        self._wake.set()

    def wait(self, seconds: float) -> bool:
        """Sleep inside a step; return early, and true, once the worker is to end."""
        return self._closing.wait(seconds)

    def close(self, timeout: float | None = None) -> bool:
        """End the worker after the step that runs now.

        Args:
            timeout: seconds to wait for the thread; None waits as long as it takes.

        Returns:
            Whether the thread has ended. A worker that was never started has.
        """
        self._closing.set()
        self._wake.set()
        if self.started and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            while not self.closing:
                self._step()
                self._pause()
            if self._finish is not None:
                self._finish()
        except Exception as error:
            self.error = error
            if self._on_error is not None:
                self._on_error(error)
            else:
                threading.excepthook(
                    threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread()))
                )

    def _pause(self) -> None:
        """Wait for the interval to pass, or for ``wake`` or ``close``."""
        seconds = self._interval() if callable(self._interval) else self._interval
        if seconds > 0:
            self._wake.wait(None if math.isinf(seconds) else seconds)
        self._wake.clear()
