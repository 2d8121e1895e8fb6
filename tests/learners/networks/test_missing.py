"""Missing numbers in networks: imputed by the mean, and marked from the first one on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners.baselines.finetune import Finetune
from learners.checks.case import LearnerRun
from learners.networks.base import NetworkLearner
from learners.networks.column_inputs import ColumnInputs
from learners.networks.inputs import InputsConfig, MatrixInputs
from learners.regularization.ewc import Ewc
from learners.regularization.lwf import Lwf
from learners.rehearsal.replay import Replay
from streams.core.batch import Array, Batch, Ragged
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest

torch.set_num_threads(1)
TABLE = Schema(tuple(Feature(f"x{i}", "numeric") for i in range(3)), "classification")
NAN = np.nan


def batch_of(x: Array, y: Array | None = None) -> Batch:
    n, offset = len(x), np.arange(len(x))
    y = np.zeros(n, np.int64) if y is None else y
    return Batch(offset, offset / 1.0, x, np.zeros(n, np.int32), offset, y, classes=("a", "b"))


def learner(cls: type[NetworkLearner], **settings: Any) -> NetworkLearner:
    config = cls.Config.model_validate({**cls.example("classification"), **settings})
    return cls(config, TABLE, 1)


def gappy(n: int = 200, share: float = 0.3, seed: int = 0) -> Batch:
    """Events whose label says whether their first number is missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(4, 2, (n, 3))
    missing = rng.random(n) < share
    x[missing, 0] = NAN
    return batch_of(x, missing.astype(np.int64))


def test_inputs_missing_number_is_the_mean_and_marked() -> None:
    inputs = MatrixInputs(TABLE)
    rows = np.array([[1, 5, 0], [3, NAN, 0], [5, 9, 0]], np.float64)
    batch = batch_of(rows)
    assert inputs.observe(batch).missing == [1]
    tensor = inputs.tensor(inputs.rows(batch)).numpy()
    assert tensor.shape == (3, 3)
    assert tensor[1].tolist() == [0, 0, 0]
    inputs.marked = [1]
    assert inputs.observe(batch).missing == []
    assert inputs.tensor(inputs.rows(batch)).numpy()[:, 3].tolist() == [0, 1, 0]
    assert np.isnan(rows[1, 1]), "the rows to store keep their gaps"


def test_inputs_unscaled_missing_number_is_the_mean() -> None:
    inputs = MatrixInputs(TABLE, scale=False)
    rows = np.array([[1, 5, 0], [3, NAN, 0], [5, 9, 0]], np.float64)
    inputs.observe(batch_of(rows[:1]))
    assert inputs.state()["count"] == 0.0, "without gaps nothing is kept"
    inputs.observe(batch_of(rows))
    assert inputs.tensor({"x": rows}).numpy().tolist() == [[1, 5, 0], [3, 7, 0], [5, 9, 0]]


@pytest.mark.parametrize("bins", [0, 4])
def test_inputs_mixed_columns_tell_missing_numbers(bins: int) -> None:
    schema = Schema((Feature("c", "categorical"), Feature("n", "numeric")), "classification")
    inputs = ColumnInputs(schema, True, InputsConfig(bins=bins))
    x = {"c": Ragged.of_text(["a", "a"]), "n": np.array([2.0, NAN])}
    batch = replace(batch_of(np.zeros((2, 1))), x=x)
    inputs.observe(batch)
    tensor = inputs.tensor(inputs.rows(batch)).numpy()
    assert np.isfinite(tensor).all()
    differ = np.flatnonzero(tensor[0] != tensor[1])
    assert differ.tolist() == [1], "the indicator, or the code of the bin"
    assert tensor[1, 1] == (bins or 1)


@pytest.mark.parametrize("hidden", [[], [16], [16, 16]])
def test_network_first_gap_changes_no_output(hidden: list[int]) -> None:
    ours = learner(Replay, model={"hidden": hidden}, buffer={"capacity": 50})
    run = LearnerRun(ours).feed(batch_of(gappy(share=0).x, gappy().y))
    assert "marked" not in ours.inputs.state()
    before = copied(ours.state())
    whole = replace(gappy(20, share=0, seed=3), y=None)
    first = ours.predict(whole)
    gap = batch_of(np.array([[1, NAN, 2.0]]))
    ours._mark(ours.inputs.observe(gap).missing)
    ours.inputs.moments.load(before["inputs"])  # the scale alone moves them
    np.testing.assert_allclose(ours.predict(whole).proba, first.proba, atol=1e-7)  # type: ignore[arg-type]
    assert ours.inputs.marked == [1]
    run.feed(gappy(seed=4))
    assert ours.inputs.marked == [1, 0]


def test_network_learns_from_the_gaps_themselves() -> None:
    ours = learner(Replay, model={"hidden": [16]}, buffer={"capacity": 100}, steps=4)
    values = LearnerRun(ours).feed(gappy(400)).values()
    y = gappy(400).y
    assert y is not None
    assert (values[-200:] == y[-200:]).mean() > 0.95


@pytest.mark.parametrize("cls", [Finetune, Replay, Ewc, Lwf])
def test_network_snapshot_with_marks_predicts_the_same(cls: type[NetworkLearner]) -> None:
    """The loaded learner has marks too, and one that has more than the state loses them."""
    stream = gappy()
    assert isinstance(stream.x, np.ndarray)
    stream.x[100:, 2] = NAN  # the second column that is marked, after a task has ended
    ours = learner(cls)
    run = LearnerRun(ours).feed(stream[:80])
    early = copied(ours.state())
    run.feed(stream[80:])
    assert ours.inputs.marked == [0, 2]
    served = learner(cls)
    served.load_servable(copied(ours.servable()))
    question = replace(gappy(30, seed=9), y=None)
    np.testing.assert_array_equal(served.predict(question).value, ours.predict(question).value)
    late = copied(ours.state())
    ours.load(copied(early))
    assert digest(ours.state()) == digest(early)
    ours.load(copied(late))
    assert digest(ours.state()) == digest(late)


def test_network_of_a_user_gets_the_mean_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_for_gaps.py").write_text(
        "from torch import nn\ndef net(shape): return nn.Sequential(nn.Linear(3, 8), nn.ReLU())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    ours = learner(Finetune, model={"kind": "nets_for_gaps:net"})
    proba = [p.proba for p in LearnerRun(ours).feed(gappy()).predictions]
    assert all(np.isfinite(p).all() for p in proba if p is not None)
    assert ours.inputs.marked == []


@pytest.mark.parametrize("scale", [True, False])
def test_inputs_huge_numbers_beside_gaps_stay_finite(scale: bool) -> None:
    inputs = MatrixInputs(TABLE, scale)
    rows = np.array([[1.7e308, NAN, -1.7e308], [1.7e308, 1e300, -1.7e308]])
    inputs.marked = inputs.observe(batch_of(rows)).missing
    assert np.isfinite(inputs.tensor({"x": rows}).numpy()).all()
