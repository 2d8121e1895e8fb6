"""Draw the pictures of the README from a run of the demo.

Writes docs/images/demo.svg, the end of the terminal output, and docs/images/mlflow.png, the metrics
in MLflow (needs Chromium).

    python experiments/figures/picture.py
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "demo.svg"
PAGE = ROOT / "docs" / "images" / "mlflow.png"
WIDTH = 110


def capture(command: list[str]) -> str:
    """Return what the command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(WIDTH), "LINES": "60", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = bytearray()
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the terminal is closed: the command has ended
            break
        if not part:
            break
        written += part
    os.close(ours)
    if process.wait():
        sys.exit(written.decode())
    return written.decode()


def settled(written: str) -> str:
    """Return what remains on the screen, without progress bars that were overwritten."""
    kept = []
    for line in written.replace("\r\n", "\n").split("\n"):
        last = re.split(r"\x1b\[1A|\r", line)[-1]
        last = re.sub(r"\x1b\[\??\d*[A-JKhl]", "", last)
        if last.strip() or (kept and kept[-1].strip()):
            kept.append(last)
    return "\n".join(line for line in kept if "learning" not in line)


def main() -> None:
    text = settled(capture([sys.executable, "experiments/demo/demo.py", "--afresh"]))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ make demo", style="bold"))
    console.print(Text.from_ansi(text))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(PICTURE), title="everlearn")
    words = ["--db", "mlflow.db", "--experiment", "elec2", "--out", str(PAGE)]
    words += ["--metrics", "online/(accuracy|accuracy_window|no_change_accuracy)$"]
    words += ["served/(accuracy|accuracy_window|model_age_p99_s)$"]
    subprocess.run(
        [sys.executable, "experiments/figures/screenshot.py", *words], cwd=ROOT, check=True
    )


if __name__ == "__main__":
    main()
