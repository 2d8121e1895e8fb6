"""Measure how soon a posted label changes the answer to a like request.

A job on Ray serves while it learns from Kafka. Its base learns rarely, and its error memory at
once. An event arrives without its label. Later, at a random moment, the client posts the label at
`/labels`, and then asks about a like event until the answer has changed. Times begin with the post.

    python experiments/benchmarks/known_at_once.py [--labels 100] [--rates 0 50]

A rate adds other events per second, each with a label. It starts the broker of the tests. Writes
experiments/results/known_at_once.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.benchmarks.live import ROOT, a_broker

RESULT = ROOT / "experiments" / "results" / "known_at_once.md"
MEMORY = {
    "kind": "error-memory",
    "learn_every": 100_000,
    "keys": {"kind": "inputs", "warm_up": 100},
    "base": {"kind": "finetune", "model": {"kind": "mlp", "hidden": [64]}},
}
"""A memory over a base that does not learn while it is measured."""
FIRST = 400
"""Labelled events before the first that is measured."""
WITHIN_S = 5.0
CHANGED = 1e-4
"""By how much the probability of a class must have changed."""


class Topics:
    """Events and labels of a job, as it reads them from Kafka.

    Args:
        servers: of the broker.
    """

    def __init__(self, servers: str) -> None:
        from kafka import KafkaProducer
        from kafka.admin import KafkaAdminClient, NewTopic

        admin = KafkaAdminClient(bootstrap_servers=servers)
        admin.create_topics([NewTopic(name, 1, 1) for name in ("events", "labels")])
        admin.close()
        self._producer = KafkaProducer(bootstrap_servers=servers)
        self._dice = np.random.default_rng(0)
        self._lock = threading.Lock()
        self._sent = 0

    def event(self) -> dict[str, Any]:
        """Send an event, and return it."""
        with self._lock:
            x = self._dice.normal(size=4).round(4).tolist()
            event = {"id": self._sent, **dict(zip("abcd", x, strict=True))}
            self._sent += 1
            self._producer.send("events", json.dumps(event).encode())
        return event

    def label(self, event: dict[str, Any]) -> None:
        """Send the label of an event beside the server: whether a + b is positive."""
        label = "up" if event["a"] + event["b"] > 0 else "down"
        self._producer.send("labels", json.dumps({"id": event["id"], "label": label}).encode())

    def flush(self) -> None:
        """Wait until all is there."""
        self._producer.flush()


def job_of(servers: str, learner: dict[str, Any], linger: float) -> str:
    """Return the job, as YAML."""
    stream = {
        "kind": "kafka",
        "servers": servers,
        "topic": "events",
        "features": {"numeric": list("abcd")},
        "id": "id",
        "label": {"classes": ["down", "up"]},
        "labels": {"topic": "labels", "id": "id", "label": "label"},
        "linger": linger,
    }
    job = {"name": "known", "stream": stream, "learner": learner, "serve": {"port": 0}}
    return yaml.safe_dump(job)


@contextmanager
def running(job: Path) -> Iterator[str]:
    """Run a job on Ray, and yield the address of its server once that is up."""
    words = [sys.executable, "-m", "pipeline", "run", job, "--runner", "ray"]
    said = job.with_suffix(".err")
    with said.open("w") as err:
        process = subprocess.Popen(
            [*map(str, words), "--run-dir", str(job.with_suffix(""))],
            stdout=subprocess.DEVNULL,
            stderr=err,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            while not (found := re.search(r"serving at (http://\S+)/predict", said.read_text())):
                if process.poll() is not None:
                    raise SystemExit(said.read_text())
                time.sleep(0.1)
            yield found[1]
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


class Client:
    """Ask a server about one event, and post labels.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("http://")
        self._connection = HTTPConnection(self._address, timeout=30)

    def up(self, event: dict[str, Any]) -> float | None:
        """Return the probability of the class ``up``; None where there is no model yet."""
        asked = {name: value for name, value in event.items() if name != "id"}
        status, answer = self._post("/predict", [asked])
        if status != 200 or answer["probabilities"][0] is None:
            return None
        return float(dict(zip(answer["classes"], answer["probabilities"][0], strict=True))["up"])

    def label(self, event: dict[str, Any], label: str) -> None:
        """Post a label. Raise ``RuntimeError`` where it is not taken."""
        status, answer = self._post("/labels", [{"id": event["id"], "label": label}])
        if status != 202:
            raise RuntimeError(f"POST /labels: {status} {answer}")

    def _post(self, path: str, body: object) -> tuple[int, Any]:
        self._connection.request("POST", path, json.dumps(body))
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())


def waited(client: Client, topics: Topics) -> None:
    """Send labelled events until the served model has learned from them."""
    for _ in range(FIRST):
        topics.label(topics.event())
    topics.flush()
    deadline = time.monotonic() + 120
    probe = {"a": 2.0, "b": 2.0, "c": 0.0, "d": 0.0}
    while client.up(probe) is None:
        if time.monotonic() > deadline:
            raise SystemExit("no model answers")
        time.sleep(0.2)
    time.sleep(2.0)


def one(client: Client, topics: Topics, dice: random.Random) -> tuple[float, float]:
    """Return the seconds from the post of a label until it was taken, and until the answer to a
    like request had changed; infinity where it never did."""
    event = topics.event()
    topics.flush()
    time.sleep(dice.uniform(0.8, 1.2))  # by then it was predicted, at no fixed phase
    before = client.up(event)
    assert before is not None
    began = time.perf_counter()
    client.label(event, "down" if before > 0.5 else "up")
    taken = time.perf_counter() - began
    while time.perf_counter() - began < WITHIN_S:
        after = client.up(event)
        if after is not None and abs(after - before) > CHANGED:
            return taken, time.perf_counter() - began
        time.sleep(0.002)
    return taken, float("inf")


@contextmanager
def others(topics: Topics, rate: float) -> Iterator[None]:
    """Send other events with their labels meanwhile."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(1 / rate):
            topics.label(topics.event())

    thread = threading.Thread(target=send)
    if rate:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if rate:
            thread.join()


def measured(learner: dict[str, Any], labels: int, rate: float, linger: float) -> np.ndarray:
    """Return (labels, 2) milliseconds: until a label was taken, and until it was known."""
    with tempfile.TemporaryDirectory() as name, a_broker(None) as servers:
        job = Path(name, "known.yaml")
        topics = Topics(servers)
        job.write_text(job_of(servers, learner, linger))
        with running(job) as url:
            client, dice = Client(url), random.Random(0)
            waited(client, topics)
            with others(topics, rate):
                times = [one(client, topics, dice) for _ in range(labels)]
    return 1000 * np.array(times)


def row(name: str, times: np.ndarray) -> str:
    taken, known = times.T
    cells = [f"{value:,.0f}" for value in np.percentile(known, (50, 90, 99))]
    missed = int((~np.isfinite(known)).sum())
    return f"| {name} | {np.median(taken):.0f} | {' | '.join(cells)} | {missed} | {len(known)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--rates", type=float, nargs="*", default=[0.0, 50.0])
    parser.add_argument("--lingers", type=float, nargs="*", default=[0.1, 0.02])
    parser.add_argument("--learner", type=yaml.safe_load, default=MEMORY, help="as in a job")
    given = parser.parse_args()
    lines = [
        "# How soon a posted label is known",
        "",
        "Milliseconds from the post of a label until the answer to a like request has changed, in "
        f"a run on Ray on 2 cores, at a load average of {os.getloadavg()[0]:.0f}. Printed by "
        "`python experiments/benchmarks/known_at_once.py`, which says how.",
        "",
        "| other events/s, linger | taken, p50 | known, p50 | p90 | p99 | never | labels |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate in given.rates:
        for linger in given.lingers:
            times = measured(given.learner, given.labels, rate, linger)
            lines.append(row(f"{rate:g}, {linger:g} s", times))
            print(lines[-1], flush=True)
    RESULT.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
