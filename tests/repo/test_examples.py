"""The examples run, and learn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("example", "accuracy"), [("own_learner.py", 0.6), ("own_stream.py", 0.9)])
def test_example_runs_and_learns(example: str, accuracy: float, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "experiments" / "examples" / example)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    words = output.stdout.split()
    assert words[:2] == ["online", "accuracy"]
    assert float(words[2]) > accuracy
