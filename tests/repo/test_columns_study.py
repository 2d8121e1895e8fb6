"""experiments/studies/columns.py: what its learners get, and when they get a label."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from river import evaluate, linear_model, metrics, preprocessing

from experiments.studies import columns
from experiments.studies.columns import ELEC2, Table, Task

CSV = "time,price,town,empty,label\n1,2.5,Ulm,,b\n2,,,,a\n3,4,Bonn,,b\n"


def test_a_table_is_read_with_its_gaps(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    table = Table.read(Task(tmp_path / "t.csv", "label", 1, "time"))
    assert table.names == ["price", "town"]
    assert table.y.tolist() == [1, 0, 1]
    events = list(table.events())
    assert events[0] == {"price": 2.5, "town": "Ulm"}
    assert events[1] == {"price": None, "town": ""}
    assert columns.marked(events[1]) == {"price missing": "", "town": ""}


def test_labels_come_when_river_reveals_them() -> None:
    table = Table.read(Task(ELEC2, "class", 48))
    events, y = list(islice(table.events(), 500)), table.y[:500]

    def model() -> columns.Model:
        return preprocessing.StandardScaler() | linear_model.LogisticRegression()

    proba = columns.river_model(model(), events, y, 48)
    pairs = zip(events, y.astype(bool).tolist(), strict=True)
    expected = evaluate.progressive_val_score(pairs, model(), metrics.LogLoss(), delay=48)
    assert columns.scores(proba, y)["log_loss"] == pytest.approx(expected.get(), rel=1e-6)


def test_every_learner_learns_from_categories(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    towns = rng.choice(["Ulm", "Bonn", "Kiel"], 1500).tolist()
    numbers = rng.random(1500).round(3).tolist()
    labels = ["yes" if town == "Bonn" else "no" for town in towns]
    rows = [f"{town},{n},{label}" for town, n, label in zip(towns, numbers, labels, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["town,number,label", *rows, ""]))
    task = Task(tmp_path / "t.csv", "label", 10)
    y = Table.read(task).y
    for name, learner in columns.LEARNERS.items():
        proba = learner(task, len(y), 0)
        assert columns.scores(proba[600:], y[600:])["auc"] > 0.95, name
