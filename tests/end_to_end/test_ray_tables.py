"""A model with a large table, served while it learns: each answer is that of the whole model."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.config.job import load
from pipeline.training.builder import build
from tests.support.ray_processes import ROOT, Driver, Place

pytest.importorskip("ray")

LEARNER = """
import numpy as np

from learners.base import Learner
from learners.results import Prediction
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

    def ask(self, more: int) -> None:
        """Ask until there are answers of more versions."""
        wanted = len(self.answers) + more
        while len(self.answers) < wanted:
            assert self._driver.running(), self._driver.err
            try:
                with urllib.request.urlopen(self._url, self._events, timeout=10) as reply:
                    answer = json.load(reply)
            except OSError:  # it is not up, or has just died
                time.sleep(0.1)
                continue
            version, proba = answer["model_version"], answer["probabilities"]
            assert self.answers.setdefault(version, proba) == proba
            time.sleep(0.02)


def local_answers(job: Path, events: int) -> dict[int, list[list[float]]]:
    """What a loop in this process predicts for the questions at each version."""
    parts = build(load(job))
    question = next(parts.reader.read({}))[:20]
    learner, answers = parts.loop.learner, {}
    for batch in parts.reader.read({}):
        if parts.loop.events >= events:
            break
        parts.loop.step(batch)
        proba = learner.predict(question).proba
        assert proba is not None
        answers[learner.version] = proba.tolist()
    return answers


@pytest.mark.soak
@pytest.mark.parametrize("victims", [(), ("replica", "trainer")], ids=str)
def test_replica_of_a_table_answers_as_the_trainer(
    job: Path,
    victims: tuple[str, ...],
    place: Place,
    summary: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Also one that was killed, and after the trainer was."""
    folder = tmp_path / "ray"
    driver = place.run(job, folder, "--rate", 300)
    questions = Questions(driver.says(r"serving at (http://\S+/predict)")[1], driver)
    questions.ask(more=8)
    for name in victims:
        victim = driver.actor(name)
        assert victim is not None
        victim.kill()
        victim.wait(10)
        questions.ask(more=8)
    driver.process.send_signal(signal.SIGINT)
    driver.ends(1)  # stopped before the end of the stream
    assert ("the trainer died" in driver.err) == ("trainer" in victims)
    found = summary(folder)
    wanted = local_answers(job, found["events"])
    answers = {version: proba for version, proba in questions.answers.items() if version}
    assert answers == {version: wanted[version] for version in answers}
    assert max(wanted) == found["model_version"]
    assert found["metrics"]["stability/probes"] > 0
