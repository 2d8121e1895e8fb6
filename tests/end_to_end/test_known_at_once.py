"""A label that is posted to a served run on Ray is known at once, while the base learns rarely."""

from __future__ import annotations

import json
import re
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from kafka import KafkaProducer

from tests.support.brokers import make_topics
from tests.support.http import Client
from tests.support.ray_processes import Driver, Place, until

pytest.importorskip("ray")
LABELLED, POSTED = 300, 8
JOB = """
name: known
seed: 3
stream:
  kind: kafka
  servers: {servers}
  topic: clicks
  features: {{numeric: [a, b, c]}}
  id: id
  label: {{classes: [down, up]}}
  labels: {{topic: clicks-labels, id: id, label: label}}
  linger: 0.02
learner:
  kind: error-memory
  learn_every: 200
  keys: {{kind: inputs, warm_up: 100}}
  base: {{kind: finetune, model: {{kind: mlp, hidden: [16]}}}}
serve: {{port: 0}}
"""


@pytest.mark.soak
def test_a_posted_label_changes_the_answer_to_a_like_request(
    broker: str, place: Place, tmp_path: Path
) -> None:
    """Events after the first are unlabelled, and none comes while it waits for the answer: what
    changes the answer is the posted label alone. The base has learned 200 labels, and learns no
    more before 400."""
    make_topics(broker, "clicks", "clicks-labels")
    producer = KafkaProducer(bootstrap_servers=broker)
    x = np.random.default_rng(0).normal(size=(LABELLED + POSTED, 3)).round(4)

    def send(i: int) -> dict[str, float]:
        event = dict(zip("abc", x[i].tolist(), strict=True))
        producer.send("clicks", json.dumps({"id": i, **event}).encode())
        return event

    for i in range(LABELLED):
        send(i)
        label = "up" if x[i, 0] + x[i, 1] > 0 else "down"
        producer.send("clicks-labels", json.dumps({"id": i, "label": label}).encode())
    producer.flush()
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(yaml.safe_load(JOB.format(servers=broker))))
    words = ("run", tmp_path / "job.yaml", "--runner", "ray", "--run-dir", tmp_path / "run")
    driver = Driver(place, sys.executable, "-m", "pipeline", *words)
    port = int(driver.says(r"serving at http://[^:]+:(\d+)")[1])
    client = Client(port)
    until(partial(_seen, client, LABELLED))
    seconds = []
    for i in range(LABELLED, LABELLED + POSTED):
        event = send(i)
        producer.flush()
        until(partial(_seen, client, i + 1))
        before = client.answer([event])
        place_of_other = int(np.argmin(before["probabilities"][0]))
        other = before["classes"][place_of_other]
        began = time.monotonic()
        body = json.dumps([{"id": i, "label": other}])
        assert client.ask("POST", "/labels", body).status == 202
        until(partial(_moved, client, event, place_of_other, before["probabilities"][0]))
        seconds.append(time.monotonic() - began)
    assert np.median(seconds) < 1.0, seconds  # milliseconds are in experiments/results
    client.close()
    producer.close()
    driver.process.terminate()
    driver.ends(1)
    assert not re.search("Error", driver.err)


def _seen(client: Client, events: int) -> bool:
    """Whether the served model has seen this number of events, or more."""
    return bool(client.ask("GET", "/model").body.get("events_seen") == events)


def _moved(client: Client, event: dict[str, float], place: int, before: list[float]) -> bool:
    """Whether the class at that place has become more likely for an event."""
    now = client.answer([event])["probabilities"][0]
    return bool(now[place] > before[place] + 1e-4)
