"""Post alerts to webhooks."""

from __future__ import annotations

import json
import math
import queue
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from streams.background_worker import BackgroundWorker
from streams.core.errors import one_line

TIMEOUT_S = 5.0
"""How long the receiver of a webhook may take to answer."""


QUEUED = 100
"""Messages that may wait for a slow receiver; more are dropped, with a message."""


class Webhooks:
    """Post messages from a thread of its own, so that a slow receiver delays nothing else.

    Args:
        say: takes one line for each message that could not be posted. The address is not in it: it
            may be a secret.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._posts: queue.Queue[tuple[str, bytes]] = queue.Queue(QUEUED)
        self._worker = BackgroundWorker("webhooks", self._post_all, math.inf, self._post_all)

    def post(self, address: str, message: dict[str, Any]) -> None:
        """Queue a message to be posted as JSON; return at once."""
        if not self._worker.started:
            self._worker.start()
        try:
            self._posts.put_nowait((address, json.dumps(message).encode()))
        except queue.Full:
            self._report(address, f"{QUEUED} messages wait already")
        self._worker.wake()

    def close(self, timeout: float) -> None:
        """Wait until all is posted, ``timeout`` seconds at most."""
        self._worker.close(timeout)

    def _post_all(self) -> None:
        while True:
            try:
                address, body = self._posts.get_nowait()
            except queue.Empty:
                return
            try:
                request = Request(address, body, {"Content-Type": "application/json"})
                with urlopen(request, timeout=TIMEOUT_S):
                    pass
            except Exception as error:  # a user's address: whatever it does harms nothing else
                self._report(address, one_line(error))

    def _report(self, address: str, why: str) -> None:
        self.say(f"the alert could not be posted to {urlsplit(address).hostname} ({why})")
