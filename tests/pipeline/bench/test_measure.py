"""What a pass over tasks finds, against a plain loop and by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline.bench.measure
from learners.base import Learner
from learners.networks.optimizer import FlatOptimizer
from learners.results import Prediction
from pipeline.bench.cell import Cell, job_of, run_cell
from pipeline.bench.measure import Budget, _log_loss
from streams.core.batch import Batch
from streams.scenarios.stream import ScenarioConfig, ScenarioStream

BORDERS = [269, 538, 809, 1078, 1343]  # of split-digits
WATCHER = """
from learners.baselines.no_change import NoChange

class Watcher(NoChange):
    kind = "watcher"
    per_event = False
    learned, observed, asked = [], [], []

    def predict(self, batch):
        self.asked.append((len(self.learned), batch))
        return super().predict(batch)

    def observe(self, batch):
        assert batch.segment is None and batch.y is None
        self.observed += batch.ids.tolist()

    def learn(self, batch):
        assert batch.segment is None
        self.learned += batch.ids.tolist()
        super().learn(batch)

class Silent(Watcher):
    kind = "silent"

    def predict(self, batch):
        prediction = super().predict(batch)
        prediction.value[:] = -1
        return prediction

class Bounded(Watcher):
    kind = "bounded"
    needs_boundaries = True

    def observe(self, batch): ...

    def learn(self, batch):
        assert batch.segment is not None
        self.learned += batch.ids.tolist()
"""


def measure_cell(
    out: Path, scenario: str, learner: str, *overrides: str, seed: int = 0, **budget: Any
) -> dict[str, Any]:
    cell = Cell(scenario, learner, seed)
    return run_cell(cell, job_of(cell, overrides), Budget(**budget), out)


@pytest.fixture
def watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return the class of a user's learner that keeps its arguments."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "watcher_module", raising=False)
    (tmp_path / "watcher_module.py").write_text(WATCHER)
    return lambda: sys.modules["watcher_module"].Watcher  # type: ignore[attr-defined]


def scenario(tmp_path: Path, **tasks: Any) -> str:
    """A YAML file of digits with these tasks."""
    file = tmp_path / "scenario.yaml"
    file.write_text(json.dumps({"kind": "scenario", "dataset": "digits", "tasks": tasks}))
    return str(file)


def plain(learner: Learner, stream: ScenarioStream, size: int) -> np.ndarray[Any, Any]:
    """(phases, tasks) accuracy after each phase, with nothing of the pipeline."""
    (everything,) = stream.read({}, len(stream))
    tests = [stream.task_test(task) for task in range(stream.tasks)]
    ends = [start for start, _ in stream.begins[1:]] + [len(stream)]
    rows = []
    for (start, _), stop in zip(stream.begins, ends, strict=True):
        for i in range(start, stop, size):
            batch = everything[i : min(i + size, stop)]
            question = replace(batch, y=None, segment=None)
            learner.predict(question)
            learner.observe(question)
            learner.learn(batch)
        rows.append([right(learner, test) for test in tests])
    return np.array(rows)


def log_loss(learner: Learner, test: Batch) -> float:
    proba = learner.predict(test).proba
    assert proba is not None
    assert test.y is not None
    return float(-np.log(proba[np.arange(len(test)), test.y]).mean())


def right(learner: Learner, test: Batch) -> float:
    return float((learner.predict(test).value == test.y).mean())


@pytest.mark.parametrize("size", [10, 7])
@pytest.mark.parametrize("learner", ["replay", "finetune"])
def test_measure_matches_a_plain_loop(tmp_path: Path, learner: str, size: int) -> None:
    result = measure_cell(tmp_path, "split-digits", learner, f"stream.batch_size={size}", seed=3)
    loaded = job_of(Cell("split-digits", learner, 3), [f"stream.batch_size={size}"])
    stream = ScenarioStream(ScenarioConfig(kind="scenario", name="split-digits", seed=3), Path())
    own = loaded.learner(loaded.job.learner, stream.schema, 3)
    a = plain(own, stream, size)
    k = 5
    for i in range(k):
        assert result["matrix"][i] == [*a[i, : i + 1], *[None] * (k - i - 1)]
    metrics = result["metrics"]
    assert metrics["acc"] == pytest.approx(sum(a[-1]) / k, abs=1e-12)
    assert metrics["bwt"] == pytest.approx(sum(a[-1, j] - a[j, j] for j in range(4)) / 4, abs=1e-12)
    forgotten = [max(a[i, j] for i in range(j, 4)) - a[-1, j] for j in range(4)]
    assert metrics["forgetting"] == pytest.approx(sum(forgotten) / 4, abs=1e-12)
    assert metrics["learning_accuracy"] == pytest.approx(a.diagonal().mean(), abs=1e-12)
    assert "fwt" not in metrics
    assert result["evaluations"]["accuracy"][-1] == a[-1].tolist()
    losses = [log_loss(own, stream.task_test(task)) for task in range(k)]
    assert metrics["test_log_loss"] == pytest.approx(sum(losses) / k, rel=1e-5)
    assert own.memory_bytes() <= result["state_bytes"] < own.memory_bytes() + 1000
    assert result["cpu_seconds"] > 0


@pytest.mark.parametrize("block", [100, 4096])
@pytest.mark.parametrize("size", [1, 10, 64, 1000])
def test_measure_ends_a_task_at_its_last_event(
    tmp_path: Path,
    watcher: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    block: int,
) -> None:
    monkeypatch.setattr(pipeline.bench.measure, "BLOCK", block)
    set_ = f"stream.batch_size={size}"
    result = measure_cell(tmp_path, "split-digits", "watcher_module:Watcher", set_, every=100)
    log = watcher()
    assert log.learned == log.observed == list(range(1343))
    asked = {learned for learned, batch in log.asked if batch.ids[0] < 0}
    assert asked == set(result["evaluations"]["events"])
    assert asked >= set(BORDERS)
    if size == 1:
        assert asked == {*BORDERS, *range(100, 1343, 100)}
    if size == 1000:
        assert asked == set(BORDERS)


def test_measure_shows_the_learner_no_test_labels(
    tmp_path: Path, watcher: Callable[[], Any]
) -> None:
    measure_cell(tmp_path, "split-digits", "watcher_module:Watcher")
    log = watcher()
    assert min(log.learned) == min(log.observed) == 0
    tests = [batch for _, batch in log.asked if batch.ids[0] < 0]
    assert tests
    for _, batch in log.asked:
        assert batch.y is None
        assert batch.segment is None
        assert not batch.x.flags.writeable
    assert {batch.classes for batch in tests} == {()}


def test_measure_shows_boundaries_to_a_learner_that_needs_them(
    tmp_path: Path, watcher: Callable[[], Any]
) -> None:
    measure_cell(tmp_path, "split-digits", "watcher_module:Bounded", every=10**6)
    tests = [batch for _, batch in watcher().asked if batch.ids[0] < 0]
    assert [sorted(set(batch.segment.tolist())) for batch in tests[:3]] == [[0], [0], [1]]


def test_measure_counts_no_prediction_as_abstained(
    tmp_path: Path, watcher: Callable[[], Any]
) -> None:
    result = measure_cell(tmp_path, "split-digits", "watcher_module:Silent")
    assert result["metrics"]["acc"] == 0
    assert result["metrics"]["online_abstained"] == 1343
    assert "online_accuracy" not in result["metrics"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_log_loss_of_a_label_the_learner_lacks_is_bounded() -> None:
    proba = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    predictions = [
        Prediction(np.arange(n), "classification", np.zeros(n, np.int64), rows, ("a", "b"), 1)
        for rows in (proba[:2], proba[2:])
        for n in [len(rows)]
    ]
    lost = -np.log(1e-15)
    found = _log_loss(predictions, np.array([0, 1, -2]))
    assert found == pytest.approx((-np.log(0.5) - np.log(0.75) + lost) / 3)
    assert _log_loss(predictions, np.array([0, 1, 5])) == pytest.approx(found)
    silent = replace(predictions[0], proba=None)
    assert np.isnan(_log_loss([silent], np.array([0, 1])))


def test_measure_matches_new_classes_by_name(tmp_path: Path) -> None:
    sets = ["stream.known_classes=false", "stream.tasks.shuffle_classes=true"]
    result = measure_cell(tmp_path, "split-digits", "replay", *sets)
    assert result["metrics"]["learning_accuracy"] > 0.9
    assert result["metrics"]["acc"] > 0.6
    # No-change gives the last label: of a task of two classes it knows the share of that one.
    result = measure_cell(tmp_path, "split-digits", "no-change", *sets)
    tasks = {"kind": "split", "shuffle_classes": True}
    stream = ScenarioStream(
        ScenarioConfig.model_validate({"kind": "scenario", "name": "split-digits", "tasks": tasks}),
        Path(),
    )
    ends = [start for start, _ in stream.begins[1:]] + [len(stream)]
    for task, end in enumerate(ends):
        last = next(stream.read({"0": end - 1}, 1))
        share = float((stream.task_test(task).y == last.y).mean())
        assert result["matrix"][task][task] == pytest.approx(share)


def test_measure_fwt_is_against_the_untrained_model(tmp_path: Path) -> None:
    result = measure_cell(tmp_path, "permuted-digits", "replay", "stream.events=200")
    loaded = job_of(Cell("permuted-digits", "replay", 0), ["stream.events=200"])
    config = ScenarioConfig(kind="scenario", name="permuted-digits", events=200)
    stream = ScenarioStream(config, Path())
    learner = loaded.learner(loaded.job.learner, stream.schema, 0)
    untrained = [right(learner, stream.task_test(task)) for task in range(5)]
    a = plain(learner, stream, 10)
    assert result["matrix"] == a.tolist()  # also of tasks that are still to come
    assert result["evaluations"]["events"][9] == 200
    assert result["evaluations"]["accuracy"][9] == [a[0, 0], None, None, None, None]
    means = [
        sum(known) / len(known)
        for row in result["evaluations"]["accuracy"]
        for known in [[one for one in row if one is not None]]
    ]
    assert result["metrics"]["aaa"] == pytest.approx(sum(means) / len(means), abs=1e-12)
    fwt = sum(a[j - 1, j] - untrained[j] for j in range(1, 5)) / 4
    assert result["metrics"]["fwt"] == pytest.approx(fwt, abs=1e-12)
    assert len(set(untrained)) > 1


@pytest.mark.parametrize(
    ("tasks", "phases"),
    [
        ({"kind": "power-law", "tasks": 5, "phases": 12}, 12),
        ({"kind": "drift", "shape": "recurring", "concepts": 3, "phases": 9}, 9),
        ({"kind": "drift", "shape": "gradual", "concepts": 3, "width": 100}, 3),
        ({"kind": "blurry", "tasks": 3}, 3),
        ({"kind": "iid"}, 1),
    ],
    ids=["power-law", "recurring", "gradual", "blurry", "iid"],
)
@pytest.mark.parametrize("learner", ["replay", "no-change"])
def test_measure_of_tasks_that_return_and_drift(
    tmp_path: Path, tasks: dict[str, Any], phases: int, learner: str
) -> None:
    result = measure_cell(tmp_path, scenario(tmp_path, **tasks), learner)
    assert len(result["matrix"]) == phases
    assert all(isfinite(value) for value in result["metrics"].values())
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    wanted = {"acc", "aaa", "wc_acc", "learning_accuracy"}
    if phases > 1:
        wanted |= {"bwt", "forgetting"}
    assert wanted <= result["metrics"].keys()
    last = [a for a in result["matrix"][-1] if a is not None]
    assert result["metrics"]["acc"] == pytest.approx(sum(last) / len(last))


@pytest.mark.parametrize(
    ("learner", "steps", "size"),
    [
        # Phases of 269, 269, 271, 269 and 265 events in micro-batches of 10. A row of the buffer is
        # 64 float32, the id and the label (8 each), and for the recall a place (4) and a time (8).
        ("replay", 136, 100 * 284),
        ("replay:steps=3,buffer.capacity=7", 3 * 136, 7 * 284),
        ("finetune:steps=2", 2 * 136, 0),
        ("no-change", 0, 0),
        ("river:model=naive_bayes.GaussianNB", 0, 0),
    ],
)
def test_measure_counts_gradient_steps_and_buffer_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learner: str, steps: int, size: int
) -> None:
    counted, step = [0], FlatOptimizer.step

    def counting(self: FlatOptimizer, *args: Any) -> None:
        counted[0] += 1
        step(self, *args)

    monkeypatch.setattr(FlatOptimizer, "step", counting)
    result = measure_cell(tmp_path, "split-digits", learner, every=10**6)
    assert result["gradient_steps"] == counted[0] == steps
    assert result["buffer_bytes"] == size
    assert result["events"] == 1343


def test_measure_transforms_tests_as_the_stream(tmp_path: Path, watcher: Callable[[], Any]) -> None:
    measure_cell(tmp_path, "split-digits", "watcher_module:Watcher", "stream.standardise={}")
    stream = ScenarioStream(ScenarioConfig(kind="scenario", name="split-digits"), Path())
    asked = [batch.x for learned, batch in watcher().asked if learned == 1343]
    scaled = np.concatenate(asked)
    raw = np.concatenate([stream.task_test(task).x for task in range(5)])
    (seen,) = stream.read({}, 1343)
    mean, std = seen.x.mean(0), seen.x.std(0)
    wanted = (raw - mean) / np.maximum(std, 1e-9)
    common = (std > 0.5) & (np.abs(wanted) < 3)  # what is far out is cut off
    assert common.mean() > 0.5
    assert np.isclose(scaled[common], wanted[common], atol=0.02).mean() > 0.999


def test_measure_takes_the_same_part_of_the_tests(
    tmp_path: Path, watcher: Callable[[], Any]
) -> None:
    measure_cell(tmp_path, "split-digits", "watcher_module:Watcher", tests=20)
    asked = [batch.offset.tolist() for _, batch in watcher().asked if batch.ids[0] < 0]
    assert {len(rows) for rows in asked} == {20}
    assert len({tuple(rows) for rows in asked}) == 5


def test_measure_writes_curves_to_metric_logs(tmp_path: Path) -> None:
    result = measure_cell(tmp_path, "split-digits", "finetune", every=100)
    folder = tmp_path / Cell("split-digits", "finetune", 0).folder
    for name, metric in (("metrics", "online/accuracy"), ("stability", "stability/forgetting")):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == result["evaluations"]["events"]
        key = metric.replace("stability/", "").replace("/", "_")
        assert rows[-1]["metrics"][metric] == result["metrics"][key]
        assert rows[-1]["step"] == 1343


def test_measure_writes_buffer_metrics(tmp_path: Path) -> None:
    for learner, there in (("replay", True), ("finetune", False)):
        measure_cell(tmp_path, "split-digits", learner)
        folder = tmp_path / Cell("split-digits", learner, 0).folder
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line)["metrics"] for line in lines]
        assert rows[-1].get("replay/stored") == (100 if there else None)
        # One draw in four is counted: not every row has any.
        assert any("replay/interval_p50" in row for row in rows) == there
