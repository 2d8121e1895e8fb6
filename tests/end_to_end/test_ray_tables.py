"""A model with a large table, served while it learns: each answer is that of the whole model."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.config.job import load
from pipeline.training.builder import build
from tests.support.ray_processes import ROOT, Driver, Place, until

pytest.importorskip("ray")

EVENTS = 12_000
LEARNER = """
import numpy as np

from learners.base import Learner, Prediction
from streams.core.hashing import mix


class CountTable(Learner):
    kind = "tables:CountTable"
    handles = frozenset({"binary"})

    def __init__(self, config, schema, seed):
        super().__init__(config, schema, seed)
        self.table = np.ones((65_536, 2))

    def rows(self, x):
        cells = np.rint(x[:, 0] * 47) * 16 + np.floor(x[:, 2] * 16)
        return (mix(cells.astype(np.int64), 0) % np.uint64(65_536)).astype(np.int64)

    def predict(self, batch):
        counts = self.table[self.rows(batch.x)]
        proba = counts / counts.sum(axis=1, keepdims=True)
        best = proba.argmax(axis=1)
        return Prediction(batch.ids, "classification", best, proba, self.classes, self.version)

    def learn(self, batch):
        np.add.at(self.table, (self.rows(batch.x), batch.y), 1.0)

    def state(self):
        return {**self.common_state(), "table": self.table.copy()}

    def servable(self):
        return {**self.common_state(), "table": self.table}

    def load(self, state):
        self.load_common(state)
        self.table = np.array(state["table"])
"""


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


@pytest.fixture
def job(write_job: Callable[..., Path], tmp_path: Path) -> Path:
    """A job whose learner has a table of 65,536 rows, in a module beside it."""
    changes = {"stream": {"standardise": None}, "checkpoint": {"every_events": 2000}}
    job = yaml.safe_load(write_job(**changes, evaluate={"probes": {"share": 0.05}}).read_text())
    job |= {"name": "tables", "learner": {"kind": "tables:CountTable"}, "serve": {"port": 0}}
    (tmp_path / "tables.py").write_text(LEARNER)
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump(job))
    return tmp_path / "tables.yaml"


class Questions:
    """Asks about the same 20 events again and again; what was answered, by the model's version."""

    def __init__(self, url: str, driver: Driver) -> None:
        self.answers: dict[int, list[list[float]]] = {}
        self._url, self._driver = url, driver
        rows = pq.read_table(ROOT / "streams" / "data" / "elec2.parquet").slice(0, 20)
        self._events = json.dumps(rows.drop(["class"]).to_pylist()).encode()

    def ask(self, more: int = 0) -> None:
        """Ask until there are answers of more versions; without, until the run ends."""
        wanted = len(self.answers) + more if more else EVENTS
        while self._driver.running() and len(self.answers) < wanted:
            try:
                with urllib.request.urlopen(self._url, self._events, timeout=10) as reply:
                    answer = json.load(reply)
            except (OSError, urllib.error.URLError):  # it is not up, or has just died
                time.sleep(0.1)
                continue
            version, proba = answer["model_version"], answer["probabilities"]
            assert self.answers.setdefault(version, proba) == proba
            time.sleep(0.02)


def local_answers(job: Path) -> tuple[dict[int, list[list[float]]], int]:
    """What a loop in this process predicts for the questions at each version."""
    parts = build(load(job))
    question = next(parts.reader.read({}))[:20]
    learner, answers = parts.loop.learner, {}
    for batch in parts.reader.read({}):
        if parts.loop.events >= EVENTS:
            break
        parts.loop.step(batch)
        answers[learner.version] = learner.predict(question).proba.tolist()  # type: ignore[union-attr]
    return answers, learner.version


def test_replica_of_a_table_answers_as_the_trainer(
    job: Path, place: Place, summary: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    """Also one that was killed, and after the trainer was."""
    folder = tmp_path / "ray"
    driver = place.run(job, folder, "--rate", 1500, "--max-events", EVENTS)
    url = driver.says(r"serving at (http://\S+/predict)")[1]
    questions = Questions(url, driver)
    questions.ask(more=5)
    for name in ("replica", "trainer"):
        victim = until(lambda name=name: driver.actor(name))
        victim.kill()
        victim.wait(10)
        questions.ask(more=5)
    questions.ask()
    driver.ends()
    assert "the trainer died; it goes on from its newest checkpoint" in driver.err
    wanted, version = local_answers(job)
    assert len(questions.answers) > 15
    assert {v: wanted[v] for v in questions.answers if v} == {
        v: proba for v, proba in questions.answers.items() if v
    }
    found = summary(folder)
    assert found["model_version"] == version
    assert found["metrics"]["stability/probes"] > 0
