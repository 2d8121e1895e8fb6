"""Send requests to a served model at a fixed rate, and score the answers later.

Each request asks about one event that is about to arrive in the stream, by its position. So its
answer can be scored once the label is known.

    python experiments/demo/client.py --url http://127.0.0.1:8000 --rate 100 --seconds 20
"""

from __future__ import annotations

import argparse
import http.client
import json
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq

ELEC2 = Path(__file__).parents[2] / "streams" / "data" / "elec2.parquet"


@dataclass
class Asked:
    """The requests so far: when each was sent (seconds since the first), how long it took
    (seconds), and which model version answered.
    """

    sent: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    version: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        took = np.array(self.took) * 1000
        p50, p99 = np.percentile(took, (50, 99)) if len(took) else (np.nan, np.nan)
        return {
            "answered": len(self.took),
            "failed": len(self.failed),
            "versions": len(set(self.version)),
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "first_failure": self.failed[0] if self.failed else None,
        }


class Client:
    """Send ``rate`` requests per second over several connections until it is stopped.

    Args:
        url: of ``/predict``.
        rate: requests per second. After a late request none is left out.
        events: to ask about, in the order of the stream.
        pace: events per second of the stream.
        ahead: how far before the stream's position to ask: the least and the most events.
    """

    def __init__(
        self,
        url: str,
        rate: float,
        events: list[dict[str, Any]],
        pace: float = 0.0,
        ahead: tuple[int, int] = (0, 64),
    ) -> None:
        self._ahead = ahead
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + "/predict"
        self._rate = rate
        self._events = events
        self._pace = pace
        self._leads: deque[float] = deque(maxlen=100)
        self._due: queue.Queue[float | None] = queue.Queue()
        self._stop = threading.Event()
        self.asked = Asked()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(8)]
        self._clock = threading.Thread(target=self._schedule, daemon=True)

    def ready(self, until: Callable[[], bool] = lambda: False, timeout: float = 120.0) -> bool:
        """Wait until a model answers, ``until`` is true, or ``timeout`` seconds have passed."""
        limit = time.monotonic() + timeout
        while time.monotonic() < limit and not until():
            try:
                connection = self._connect()
                connection.request("GET", self._path.removesuffix("predict") + "healthz")
                if connection.getresponse().status == 200:
                    return True
            except OSError:
                pass
            finally:
                connection.close()
            self.wait(0.1)
        return False

    def wait(self, seconds: float) -> None:
        """Wait, unless the client is stopped."""
        self._stop.wait(seconds)

    def start(self) -> None:
        self._began = time.perf_counter()
        for thread in (*self._threads, self._clock):
            thread.start()

    def stop(self) -> Asked:
        self._stop.set()
        if self._clock.is_alive():
            self._clock.join()
            for _ in self._threads:
                self._due.put(None)
            for thread in self._threads:
                thread.join(10)
        return self.asked

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host or "", self._port, timeout=10)

    def _schedule(self) -> None:
        due = self._began
        while not self._stop.wait(max(due - time.perf_counter(), 0)):
            self._due.put(due)
            due += 1 / self._rate

    def _work(self) -> None:
        connection = self._connect()
        dice = random.Random(threading.get_ident())
        while self._due.get() is not None:
            position = min(self._now() + dice.randrange(*self._ahead), len(self._events) - 1)
            body = json.dumps([{**self._events[position], "id": position}])
            sent = time.perf_counter()
            try:
                connection.request("POST", self._path, body)
                response = connection.getresponse()
                said = json.loads(response.read())
                if response.status != 200:
                    raise OSError(f"{response.status}: {said.get('error')}")
            except (OSError, ValueError, http.client.HTTPException) as error:
                if not self._stop.is_set():
                    self.asked.failed.append(f"{type(error).__name__}: {error}")
                connection.close()
                continue
            self.asked.took.append(time.perf_counter() - sent)
            self.asked.sent.append(sent - self._began)
            self.asked.version.append(said["model_version"])
            lead = said["events_seen"] - self._pace * (time.perf_counter() - self._began)
            self._leads.append(lead)
        connection.close()

    def _now(self) -> int:
        """Return the position of the stream, by the recent answer with the least lag."""
        if not self._leads:
            return 0
        return int(max(self._leads.copy()) + self._pace * (time.perf_counter() - self._began))


def elec2_events() -> list[dict[str, Any]]:
    return pq.read_table(ELEC2).drop_columns(["class"]).to_pylist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    client = Client(given.url, given.rate, elec2_events())
    if not client.ready():
        raise SystemExit(f"no model answers at {given.url}")
    client.start()
    time.sleep(given.seconds)
    print(json.dumps(client.stop().summary(), indent=1))


if __name__ == "__main__":
    main()
