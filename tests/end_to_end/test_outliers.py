"""One absurd value in a whole job: the scale, and what is learned, outlive it; and a long streak of
dead events can be cut short."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

N = 4000


def job(file: str, **changes: Any) -> Path:
    stream = {"kind": "recorded", "path": file, "label": "y", "batch_size": 16}
    learner = {
        "kind": "finetune",
        "model": {"kind": "mlp", "hidden": [8]},
        "optimizer": {"kind": "adam", "lr": 0.01},
    }
    stream |= changes.get("stream", {})
    content = {"name": "outliers", "seed": 1, "stream": stream, "learner": learner}
    path = Path(f"{file}.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("standardise", [None, {"half_life": 10}], ids=["learner", "standardise"])
@pytest.mark.parametrize("absurd", [1e39, -1e200])
def test_one_absurd_value(
    absurd: float,
    standardise: dict[str, Any] | None,
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
) -> None:
    a = np.random.default_rng(0).random(N)
    y = (a > 0.5).astype(int)
    found = {}
    for name, value in (("plain", a[500]), ("absurd", absurd)):
        a[500] = value
        pq.write_table(pa.table({"a": a, "y": y}), f"{name}.parquet")
        changes = {"standardise": standardise} if standardise else {}
        everlearn("run", job(f"{name}.parquet", stream=changes), "--run-dir", name)
        found[name] = summary(Path(name))["metrics"]["online/accuracy_window"]
    assert found["plain"] > 0.9
    assert found["absurd"] > found["plain"] - 0.03


def test_one_absurd_target(
    everlearn: Callable[..., Any], summary: Callable[[Path], dict[str, Any]]
) -> None:
    a = np.random.default_rng(0).normal(size=N)
    y = 3 * a
    y[500] = 1e39
    pq.write_table(pa.table({"a": a, "y": y}), "targets.parquet")
    everlearn("run", job("targets.parquet"), "--run-dir", "run")
    assert summary(Path("run"))["metrics"]["online/mae_window"] < 0.6  # the mean alone has 2.4


def test_a_long_streak_of_dead_events_is_cut_and_resumed(
    everlearn: Callable[..., Any], summary: Callable[[Path], dict[str, Any]]
) -> None:
    a = np.random.default_rng(0).random(20_000)
    y = (a > 0.5).astype(int)
    a[300:15_000] = np.nan
    pq.write_table(pa.table({"a": a, "y": y}), "dead.parquet")
    limits = {
        "label_delay": {"events": 20},
        "dead_letters": {"share": 1},
        "missing": {"a": "dead"},
    }
    file = job("dead.parquet", stream=limits)
    everlearn("run", file, "--run-dir", "whole")
    whole = summary(Path("whole"))
    assert whole["fates"]["dead"] == 14_700
    assert whole["fates"]["learned"] == 5_300
    everlearn("run", file, "--run-dir", "cut", "--max-events", 5000)
    assert summary(Path("cut"))["events"] < 10_000
    everlearn("run", file, "--run-dir", "cut", "--max-events", 9000, "--resume")
    everlearn("run", file, "--run-dir", "cut", "--resume")
    assert summary(Path("cut"))["state_digest"] == whole["state_digest"]
