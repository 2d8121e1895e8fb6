"""What `make demo` runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    # Ray's sockets lie in this folder, and their paths must be short.
    folder = tempfile.mkdtemp(prefix="el", dir="/tmp")
    yield {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "RAY_TMPDIR": folder}
    shutil.rmtree(folder, ignore_errors=True)


def demo(environment: dict[str, str], rate: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "experiments" / "demo" / "demo.py"), "--rate", str(rate)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,  # so that the whole of it can be killed by its id
    )


@pytest.mark.claims
def test_the_demo_is_killed_run_again_and_ends_with_its_table(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    first = demo(environment, 2000)
    try:
        while first.poll() is None and not list(tmp_path.glob("runs/demo/checkpoints/0*")):
            time.sleep(0.01)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate(timeout=30)
    second = demo(environment, 5000)
    out, _ = second.communicate(timeout=280)
    assert second.returncode == 0, out
    assert "resumed after" in out
    for words in ("events/s", "no-change baseline", "0.6562", "river", "mlflow ui", "Next:"):
        assert words in out
    cells = dict(re.findall(r"│ +([^│]+?) +│ +([^│]+?) │", out.split("Elec2: 45,312")[1]))
    assert int(cells["requests answered"].replace(",", "")) > 100
    assert cells["requests failed"] == "0"
    assert int(cells["versions that answered"].replace(",", "")) > 3
    assert int(cells["answers scored"].replace(",", "")) > 50
    # Its digits are another processor's otherwise.
    summary = json.loads((tmp_path / "runs" / "demo" / "summary.json").read_text())
    assert cells["accuracy"] == f"{summary['metrics']['online/accuracy']:.4f}"
    assert 0.905 < float(cells["accuracy"]) < 0.918
    forgotten = cells["forgotten of earlier segments"]
    assert re.fullmatch(r"-?0\.\d{3} \(-?0\.\d{3} to -?0\.\d{3}\)", forgotten)
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 1_000_000
    assert (tmp_path / "mlflow.db").exists()
