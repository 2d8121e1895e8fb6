"""Runs that learn from columns of times."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

Everlearn = Callable[..., Any]

JOB = """
stream:
  path: visits.csv
  label: open
  time: at
  time_zone: Europe/Vienna
  features: {{time: [booked, at], categorical: [shop]}}
{learner}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Visits, and whether the shop was open when they were booked: by local time, on weekdays from
    nine to five. One in twenty has no such time."""
    rng = np.random.default_rng(4)
    lines = ["at,booked,shop,open"]
    now = datetime(2024, 1, 1, tzinfo=UTC)
    for row in range(4000):
        now += timedelta(minutes=int(rng.integers(20)))
        booked = now - timedelta(minutes=int(rng.integers(60 * 24 * 30)))
        local = booked.astimezone(ZoneInfo("Europe/Vienna"))
        opened = local.weekday() < 5 and 9 <= local.hour < 17
        stamp = "" if row % 20 == 0 else f"{booked:%Y-%m-%dT%H:%M:%SZ}"
        lines.append(f"{now:%Y-%m-%dT%H:%M:%SZ},{stamp},s{row % 3},{['no', 'yes'][opened]}")
    (tmp_path / "visits.csv").write_text("\n".join(lines) + "\n")
    file = tmp_path / "visits.yaml"
    file.write_text(JOB.format(learner=""))
    return file


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_the_default_learner_learns_opening_hours(
    job: Path, everlearn: Everlearn, tmp_path: Path
) -> None:
    """Stopped and resumed, it ends in the same state."""
    everlearn("run", job, "--run-dir", tmp_path / "a", "--set", "evaluate.window=1000")
    whole = summary(tmp_path / "a")
    assert whole["fates"]["learned"] == 4000
    assert whole["metrics"]["online/accuracy_window"] > 0.9
    part = ("run", job, "--run-dir", tmp_path / "b", "--set", "evaluate.window=1000")
    everlearn(*part, "--max-events", 1500)
    everlearn(*part, "--resume")
    assert summary(tmp_path / "b")["state_digest"] == whole["state_digest"]


def test_river_gets_times_as_seconds(job: Path, everlearn: Everlearn, tmp_path: Path) -> None:
    job.write_text(
        JOB.format(
            learner="learner: {kind: river, model: [{compose.Discard: [shop]}, "
            "preprocessing.StandardScaler, linear_model.LogisticRegression]}"
        )
    )
    everlearn("run", job, "--run-dir", tmp_path / "a", "--max-events", 500)
    assert summary(tmp_path / "a")["fates"]["learned"] == 500
