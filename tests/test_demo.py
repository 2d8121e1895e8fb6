"""What `make demo` runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def demo() -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "experiments" / "demo.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,  # so that the whole of it can be killed by its id
    )


def test_the_demo_is_killed_run_again_and_ends_with_its_table(tmp_path: Path) -> None:
    first = demo()
    try:
        while first.poll() is None and not list(tmp_path.glob("runs/demo-replay/checkpoints/0*")):
            time.sleep(0.01)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate(timeout=30)
    second = demo()
    out, _ = second.communicate(timeout=280)
    assert second.returncode == 0, out
    assert "resumed after" in out
    for words in ("events/s", "accuracy", "no-change baseline", "0.6562", "river", "Next:"):
        assert words in out
