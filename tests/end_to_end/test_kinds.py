"""Whole jobs over every kind of column, label and learner: all events accounted for, something
learned, and the same bytes when cut and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

N = 1500
rng = np.random.default_rng(5)


def images() -> dict[str, Any]:
    y = rng.integers(0, 3, N)
    pixels = rng.integers(0, 60, (N, 1, 8, 8))
    for i, row in enumerate(y):
        pixels[i, 0, 2 * row : 2 * row + 3] += 120  # a bar whose height is the class
    flat = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel(), pa.uint8()), 64)
    pq.write_table(pa.table({"pixels": flat, "y": y}), "data.parquet")
    return {
        "stream": {
            "kind": "recorded",
            "path": "data.parquet",
            "label": "y",
            "features": {"image": {"pixels": [1, 8, 8]}},
            "label_delay": {"events": 10},
        },
        "learner": {
            "kind": "replay",
            "model": {"kind": "conv", "channels": [4], "hidden": 16},
            "optimizer": {"kind": "adam", "lr": 0.01},
            "buffer": {"capacity": 200, "admission": "class-balanced"},
        },
    }


def mixed_columns() -> dict[str, Any]:
    kinds = rng.choice(["press", "lathe", "drill"], N)
    notes = np.where(rng.random(N) < 0.5, "all is well", "loud noise again")
    heat = rng.normal(20, 5, N)
    failed = ((kinds == "press") & (notes == "loud noise again")) | (heat > 28)
    for part, rows in (("a.csv", slice(0, 700)), ("b.csv", slice(700, N))):
        columns = zip(kinds[rows], notes[rows], heat[rows], failed[rows], strict=True)
        text = "".join(f"{k},{n},{h},{'yes' if f else 'no'}\n" for k, n, h, f in columns)
        Path(part).write_text("kind,note,heat,failed\n" + text)
    return {
        "stream": {
            "kind": "recorded",
            "path": ["a.csv", "b.csv"],
            "label": "failed",
            "features": {"numeric": ["heat"], "categorical": ["kind"], "text": ["note"]},
        },
        "learner": {"kind": "replay", "optimizer": {"kind": "adam", "lr": 0.01}, "steps": 4},
    }


def regression_by_time() -> dict[str, Any]:
    time = np.cumsum(rng.exponential(10, N))
    x = rng.normal(size=(N, 3))
    table = {"t": time, "a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": 1000 + 50 * x[:, 0]}
    pq.write_table(pa.table(table), "data.parquet")
    return {
        "stream": {
            "kind": "recorded",
            "path": "data.parquet",
            "label": "y",
            "time": "t",
            "label_delay": {"seconds": 300},
        },
        "learner": {
            "kind": "replay",
            "model": {"kind": "mlp", "hidden": [16]},
            "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
        },
    }


def labels_of_their_own() -> dict[str, Any]:
    time = np.arange(N) * 60.0
    x = rng.normal(size=N)
    pq.write_table(pa.table({"id": np.arange(N) + 7, "t": time, "x": x}), "events.parquet")
    known = time + rng.exponential(3000, N)
    order = np.argsort(known)[: N - 100]  # some labels never come
    columns = {"id": (np.arange(N) + 7)[order], "y": (x > 0)[order], "t": known[order]}
    pq.write_table(pa.table(columns), "labels.parquet")
    return {
        "stream": {
            "kind": "recorded",
            "path": "events.parquet",
            "id": "id",
            "time": "t",
            "labels": {"path": "labels.parquet", "id": "id", "label": "y", "time": "t"},
        },
        "learner": {"kind": "finetune", "optimizer": {"kind": "adam", "lr": 0.01}},
    }


def river_stream() -> dict[str, Any]:
    return {
        "stream": {"kind": "river", "dataset": "Phishing", "label_delay": {"events": 3}},
        "learner": {"kind": "replay", "optimizer": {"kind": "adam", "lr": 0.01}},
    }


def river_regressor() -> dict[str, Any]:
    return {
        "stream": {"kind": "river", "dataset": "TrumpApproval"},
        "learner": {
            "kind": "river",
            "model": ["preprocessing.StandardScaler", "linear_model.LinearRegression"],
        },
    }


CASES: dict[Callable[[], dict[str, Any]], tuple[str, float, int]] = {
    images: ("online/accuracy", 0.8, 0),
    mixed_columns: ("online/accuracy", 0.8, 0),
    regression_by_time: ("online/mae_window", -20.0, 0),  # no-change has 56
    labels_of_their_own: ("online/accuracy", 0.85, 100),
    river_stream: ("online/accuracy", 0.8, 0),
    river_regressor: ("online/mae", -2.0, 0),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_whole_job(
    case: Callable[[], dict[str, Any]],
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
) -> None:
    metric, at_least, unlabelled = CASES[case]
    job = Path("case.yaml")
    job.write_text(yaml.safe_dump({"name": "case", "seed": 1, **case()}))
    everlearn("run", job, "--run-dir", "whole")
    whole = summary(Path("whole"))
    assert whole["fates"]["unlabelled"] + whole["fates"]["expired"] == unlabelled
    assert whole["fates"]["learned"] == whole["events"] - unlabelled > 900
    value = whole["metrics"][metric]
    assert (value if at_least > 0 else -value) > at_least, whole["metrics"]
    for stop in (100, 777):
        more = ["--resume"] if stop > 100 else []
        everlearn("run", job, "--run-dir", "cut", "--max-events", stop, *more)
    everlearn("run", job, "--run-dir", "cut", "--resume")
    cut = summary(Path("cut"))
    assert cut["state_digest"] == whole["state_digest"]
    assert cut["fates"] == whole["fates"]
    assert cut["labels"] == whole["labels"]
