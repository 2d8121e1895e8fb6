"""A learner that is no longer finite stops the run: the line names it, the events and the remedy;
what is kept and served is finite."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.base import NotFiniteError
from learners.integrations.river import RiverConfig, RiverLearner
from learners.integrations.river_numbers import beyond_limits
from pipeline.config.job import load
from pipeline.config.sections import ServeConfig
from pipeline.serving.checkpoint_server import CheckpointServer
from pipeline.storage.checkpoints import read
from pipeline.training.builder import build
from streams.core.schema import Feature, Schema
from tests.support.http import served

CASE = Path(__file__).parents[3].parent / "shared" / "cases" / "metric-not-finite"
N = 400
LINEAR = {
    "regression": (
        "linear_model.LinearRegression",
        ["preprocessing.StandardScaler", "linear_model.LinearRegression"],
        {"linear_model.LinearRegression": {"optimizer": {"optim.AdaGrad": {"lr": 0.1}}}},
        "linear_model.PARegressor",
        "linear_model.BayesianLinearRegression",
    ),
    "classification": (
        "linear_model.LogisticRegression",
        ["preprocessing.StandardScaler", "linear_model.LogisticRegression"],
        "linear_model.Perceptron",
        "linear_model.ALMAClassifier",
        {"multiclass.OneVsRestClassifier": ["linear_model.LogisticRegression"]},
    ),
}
Everlearn = Callable[..., Any]


def table(file: str, changes: dict[int, tuple[str, str]], classes: bool = False) -> None:
    """Write N rows of ``a, b, y``, with some cells replaced: row to column and text."""
    rng = np.random.default_rng(3)
    rows = [
        {"a": f"{a:.3f}", "b": f"{b:.3f}", "y": f"{2 * a - b:.3f}"}
        for a, b in rng.normal(size=(N, 2))
    ]
    for row in rows if classes else ():
        row["y"] = "up" if float(row["y"]) > 0 else "down"
    for at, (column, cell) in changes.items():
        rows[at][column] = cell
    Path(file).write_text("a,b,y\n" + "".join(f"{r['a']},{r['b']},{r['y']}\n" for r in rows))


def job(learner: dict[str, Any], **more: Any) -> Path:
    stream = {"kind": "recorded", "path": "t.csv", "label": "y", "batch_size": 16}
    stream |= more.pop("stream", {})
    content = {"name": "odd", "seed": 1, "stream": stream, "learner": learner, **more}
    Path("job.yaml").write_text(yaml.safe_dump(content))
    return Path("job.yaml")


@pytest.mark.skipif(not CASE.is_dir(), reason="the case's folder is not here")
def test_case_metric_not_finite_stops_in_one_line(everlearn: Everlearn) -> None:
    for file in ("job.yaml", "a.csv"):
        Path(file).write_bytes((CASE / file).read_bytes())
    done = everlearn("run", "job.yaml", "--set", "checkpoint.every_events=50", code=1)
    assert done.err.count("everlearn: ") == 1
    assert "learner 'river'" in done.line
    assert "a = 1e+300 in a.csv/250" in done.line
    assert "The state after 224 events is kept" in done.line
    (newest,) = (p for p in Path("runs/inf/checkpoints").iterdir() if p.name == f"{224:015d}")
    assert beyond_limits(learner_of(newest).model) is None


def learner_of(checkpoint: Path) -> RiverLearner:
    """Return the river learner in a checkpoint."""
    found = read(checkpoint)
    schema = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "regression")
    learner = RiverLearner(
        RiverConfig(kind="river", model="linear_model.LinearRegression"), schema, 1
    )
    learner.load(found.state["learner"])
    return learner


@pytest.mark.parametrize("column", ["a", "y"])
def test_run_huge_row_is_named_and_last_finite_model_served(
    column: str, everlearn: Everlearn
) -> None:
    """Mended, the run goes on from its checkpoint, and is that of the mended file."""
    table("t.csv", {300: (column, "-1e300")})
    model = "linear_model.LinearRegression" if column == "a" else "tree.HoeffdingTreeRegressor"
    file = job({"kind": "river", "model": model}, checkpoint={"every_events": 100})
    line = everlearn("run", file, "--run-dir", "run", code=1).line
    shown = "a" if column == "a" else "the label"
    assert f"{shown} = -1e+300 in t.csv/300" in line
    assert "kept; when mended, go on with the same command and --resume" in line
    server = CheckpointServer(Path("run"), ServeConfig(), pytest.fail)
    assert server.reload()
    assert server.events == 208
    with served(server) as client:
        (said,) = client.answer([{"a": 1, "b": 1}])["predictions"]
        assert math.isfinite(said)
    assert everlearn("run", file, "--run-dir", "run", "--resume", code=1).line.endswith(line[-80:])


def test_largest_number_is_no_category_and_no_time(everlearn: Everlearn) -> None:
    """Keys of categories and times are larger than it, and a number beside it is missing."""
    rows = ["a,c,w,y", *(f"{i % 9},n{i % 5},2024-05-01T12:00:00Z,{i % 3}.5" for i in range(N))]
    rows[20], rows[30] = ",n0,2024-05-01T12:00:00Z,0.5", "-4321.5,n1,2024-05-01T12:00:00Z,0.5"
    Path("t.csv").write_text("\n".join(rows) + "\n")
    optimizer = {"kind": "sgd", "lr": 1e30}
    job({"kind": "finetune", "optimizer": optimizer}, stream={"batch_size": 64})
    done = everlearn("run", "job.yaml", code=1)
    assert "the training diverged" in done.line
    assert "the largest number of late is a = -4321.5 in t.csv/29" in done.line


@pytest.mark.parametrize(
    ("learner", "word"),
    [
        (
            {"kind": "finetune", "optimizer": {"kind": "sgd", "lr": 1e6}},
            "lower learner.optimizer.lr",
        ),
        ({"kind": "own:Diverging"}, "predicts nan for t.csv/"),
        ({"kind": "own:Infinite"}, "predicts inf for t.csv/"),
    ],
    ids=["network", "nan", "infinity"],
)
def test_run_diverging_learner_is_no_abstention(
    learner: dict[str, Any], word: str, everlearn: Everlearn
) -> None:
    Path("own.py").write_text(OWN)
    table("t.csv", {})
    line = everlearn("run", job(learner), "--run-dir", "run", code=1).line
    assert learner["kind"] in line
    assert word in line
    assert " after it learned t.csv/" in line
    assert not list(Path("run/checkpoints").iterdir())


OWN = """
import numpy as np
from learners import Prediction
from learners.baselines import Prior

class Diverging(Prior):
    kind = "own:Diverging"
    turns = np.nan

    def predict(self, batch):
        said = super().predict(batch)
        value = np.where(self._targets < 100, said.value, self.turns)
        return Prediction(said.ids, said.kind, value, None, (), self.version, said.abstains)

class Infinite(Diverging):
    kind = "own:Infinite"
    turns = np.inf

class Silent(Prior):
    def predict(self, batch):
        said = super().predict(batch)
        abstains = batch.ids % 3 == 0
        value = np.where(abstains, np.nan, said.value)
        return Prediction(said.ids, said.kind, value, None, (), self.version, abstains)
"""


@pytest.mark.parametrize(
    ("learner", "abstained"),
    [
        ({"kind": "own:Silent"}, (N + 2) // 3),
        ({"kind": "river", "model": "own:rule"}, N // 2),
        ({"kind": "no-change"}, 1),
    ],
    ids=["marked", "river's None", "before the first label"],
)
def test_run_abstentions_are_counted_and_go_on(
    learner: dict[str, Any],
    abstained: int,
    everlearn: Everlearn,
    summary: Callable[[Path], dict[str, Any]],
) -> None:
    """What a learner cannot say yet, or marks, is no failure."""
    Path("own.py").write_text(OWN + RULE)
    table("t.csv", {})
    everlearn("run", job(learner), "--run-dir", "run")
    metrics = summary(Path("run"))["metrics"]
    assert abs(metrics["online/abstained"] - abstained) <= 40
    assert metrics["online/abstained"] >= 1
    assert math.isfinite(metrics["online/mae"])


RULE = """
from river import base

class Rule(base.Regressor):
    def __init__(self):
        self.n = 0

    def learn_one(self, x, y):
        self.n += 1

    def predict_one(self, x):
        return 1.0 if self.n % 2 else None

def rule():
    return Rule()
"""


def test_run_huge_targets_leave_metrics_without_a_value(
    everlearn: Everlearn, summary: Callable[[Path], dict[str, Any]]
) -> None:
    """Their squares are beyond float64: null in the summary, a dash in the table, no warning."""
    table("t.csv", dict.fromkeys((50, 51, 250), ("y", "1e300")))
    probes = {"probes": {"share": 0.1, "every_events": 100, "cut": {"events": 100}}}
    learner = {"kind": "finetune", "model": {"kind": "mlp", "hidden": [4]}}
    done = everlearn("run", job(learner, evaluate=probes), "--run-dir", "run")
    metrics = summary(Path("run"))["metrics"]
    assert metrics["online/rmse"] is None
    assert metrics["online/mae"] > 1e297
    assert re.search(r"RMSE +│ +- │", done.out)
    text = Path("run/summary.json").read_text() + Path("run/evaluations.jsonl").read_text()
    assert not re.search("NaN|Infinity", text)
    everlearn("report", "run")


@pytest.mark.parametrize("task", LINEAR)
def test_linear_model_after_any_number_is_finite_or_stops(task: str) -> None:
    """Any river model of the kind, with any number at any place: either finite predictions go on,
    or the run stops with a line that names the row. What was verified before can be served."""
    number = st.sampled_from(["1e300", "-1e308", "1e200", "1e160", "1e-320", "1e90"])

    @settings(max_examples=15)
    @given(st.sampled_from(LINEAR[task]), st.integers(0, N - 1), st.sampled_from("ab"), number)
    def run(model: Any, at: int, column: str, cell: str) -> None:
        table("t.csv", {at: (column, cell)}, task == "classification")
        parts = build(load(job({"kind": "river", "model": model})))
        kept = parts.loop.learner.state()
        stopped = ""
        try:
            for batch in parts.reader.read({}):
                prediction = parts.loop.step(batch).prediction
                assert prediction is not None
                assert not len(prediction.not_finite())
                parts.loop.verify()
                kept = parts.loop.learner.state()
        except NotFiniteError as error:
            stopped = str(error)
        assert not stopped or f"{column} = {float(cell):g} in t.csv/{at}" in stopped
        learner = build(load(Path("job.yaml"))).loop.learner
        learner.load(kept)
        assert beyond_limits(learner.model) is None  # type: ignore[attr-defined]

    run()
