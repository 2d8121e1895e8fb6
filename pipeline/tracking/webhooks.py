"""Alerts sent to webhooks."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from streams.core.errors import one_line

TIMEOUT_S = 5.0
"""How long the receiver of a webhook may take to answer."""


QUEUED = 100
"""Posts that may wait for a slow receiver; more are dropped, and said to be."""


class Webhooks:
    """Posts messages from a thread of its own, so that a slow receiver delays nothing else.

    Args:
        say: is told in one line of a message that did not get through. The address is not in it:
            it may be a secret.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._posts: queue.Queue[tuple[str, bytes] | None] = queue.Queue(QUEUED)
        self._thread: threading.Thread | None = None

    def post(self, address: str, message: dict[str, Any]) -> None:
        """Has a message posted as JSON; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="webhooks", daemon=True)
            self._thread.start()
        try:
            self._posts.put_nowait((address, json.dumps(message).encode()))
        except queue.Full:
            self._failed(address, f"{QUEUED} messages wait already")

    def close(self, timeout: float) -> None:
        """Waits for what is still to be posted, ``timeout`` seconds at most."""
        if self._thread is None:
            return
        deadline = time.monotonic() + timeout
        while self._posts.full() and time.monotonic() < deadline:
            self._thread.join(0.05)
        if not self._posts.full():
            self._posts.put_nowait(None)
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (post := self._posts.get()) is not None:
            address, body = post
            try:
                request = Request(address, body, {"Content-Type": "application/json"})
                with urlopen(request, timeout=TIMEOUT_S):
                    pass
            except Exception as error:  # a user's address: whatever it does harms nothing else
                self._failed(address, one_line(error))

    def _failed(self, address: str, why: str) -> None:
        self.say(f"the alert could not be posted to {urlsplit(address).hostname} ({why})")
