"""Run everlearn as in production, on one machine: what `make demo` runs.

Elec2 arrives at 1,000 events per second in a replay learner on Ray. A client sends the model a
hundred requests per second about events to come, while it learns. MLflow gets all metrics. A river
model learns the same stream for comparison. At the end there is a table.

Kill it at any time, also by `kill -9`, and run it again. It resumes, and the state digest at the
end equals that of an unbroken run.

    python experiments/demo/demo.py [--afresh] [--rate 1000]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from client import Client, elec2_events
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "experiments" / "jobs"
RUNS = Path("runs")
RIVER = ("learner.model=linear_model.LogisticRegression", "stream.standardise.half_life=10")
PORT = 8000


def short(path: Path) -> Path:
    """Return the path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def command(job: str, folder: Path, *more: str) -> list[str]:
    """Return the command that runs or resumes a job."""
    words = ["run", str(short(JOBS / f"{job}.yaml")), "--run-dir", str(folder), *more]
    if list(folder.glob("checkpoints/0*")):
        words.append("--resume")
    return [sys.executable, "-m", "everlearn", *words]


def start(words: list[str], quiet: bool = False) -> subprocess.Popen[str]:
    """Start a process that ends, with a checkpoint, if this one is killed. Hide its table."""

    def with_this_one() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

    print("$ " + " ".join(["everlearn", *words[3:]]), flush=True)
    no = subprocess.DEVNULL
    errors = no if quiet else None
    return subprocess.Popen(words, text=True, preexec_fn=with_this_one, stdout=no, stderr=errors)


def begin(folder: Path, afresh: bool) -> None:
    """Delete a finished run, or any run with ``afresh``. Delete the summary of a stopped one."""
    old = folder / "summary.json"
    if afresh or (old.exists() and json.loads(old.read_text())["finished"]):
        shutil.rmtree(folder, ignore_errors=True)
    old.unlink(missing_ok=True)  # of one that was stopped: the next is written at the end


def free_port() -> int:
    """Return the usual port, or another if it is taken."""
    for port in (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    sys.exit("no free port on this machine")


def end(process: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    """Wait for a run. Return its summary."""
    code = process.wait()
    if code:
        sys.exit(code)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--afresh", action="store_true", help="throw away an earlier demo")
    parser.add_argument("--rate", type=float, default=1000, help="events a second")
    given = parser.parse_args()
    ours, theirs = RUNS / "demo", RUNS / "demo-river"
    for folder in (ours, theirs):
        begin(folder, given.afresh)
    port = free_port()
    paced = ("--runner", "ray", "--rate", f"{given.rate:g}", "--set", f"serve.port={port}")
    live = start(command("elec2-live", ours, *paced))
    beside = start(
        command("elec2-river", theirs, *(word for o in RIVER for word in ("--set", o))), quiet=True
    )
    client = Client(f"http://127.0.0.1:{port}", 100, elec2_events(), pace=given.rate)
    if client.ready(until=lambda: live.poll() is not None):
        client.start()
        watched = ours / "summary.json"
        while live.poll() is None and not watched.exists():
            client.wait(0.05)  # the server ends with the run, so requests must end before
    asked = client.stop().summary()
    show(end(live, ours), end(beside, theirs), asked, port)


def results(ours: dict[str, Any], river: dict[str, Any], asked: dict[str, Any]) -> Table:
    """Return the table of both runs and of the requests, from their summaries."""
    title = "Elec2: 45,312 half-hours of an electricity market, labels one day late"
    table = Table("", title=title)
    table.add_column("everlearn replay", justify="right")
    table.add_column("river logistic", justify="right")

    def row(name: str, of: Any, *, both: bool = True) -> None:
        table.add_row(name, of(ours), of(river) if both else "")

    def number(metric: str, places: int = 4, unit: str = "") -> Any:
        def of(summary: dict[str, Any]) -> str:
            value = summary["metrics"].get(metric)
            return "-" if value is None else f"{value:,.{places}f}{unit}"

        return of

    def forgotten(summary: dict[str, Any]) -> str:
        metrics = summary["metrics"]
        if "stability/forgetting" not in metrics:
            return "-"
        low, high = (metrics[f"stability/forgetting_{end}"] for end in ("low", "high"))
        return f"{metrics['stability/forgetting']:.3f} ({low:.3f} to {high:.3f})"

    row("events", lambda s: f"{s['events']:,}")
    row("events/s (ours: as they came)", lambda s: f"{s['events_per_s']:,.0f}")
    row("accuracy", number("online/accuracy"))
    row("no-change baseline", number("online/no_change_accuracy"))
    row("accuracy of what was served", number("served/accuracy"), both=False)
    row("   answers scored", number("served/scored", 0), both=False)
    row("forgotten of earlier segments", forgotten, both=False)
    table.add_section()
    for name, value in (
        ("requests answered", f"{asked['answered']:,}"),
        ("requests failed", f"{asked['failed']}"),
        ("versions that answered", f"{asked['versions']:,}"),
        ("request p50 / p99", f"{asked['p50_ms']:.1f} / {asked['p99_ms']:.1f} ms"),
    ):
        table.add_row(name, value, "")
    ages = [ours["metrics"].get(f"served/model_age_{p}_s") for p in ("p50", "p99")]
    shown = " / ".join("-" if age is None else f"{age:.2f}" for age in ages)
    table.add_row("age of the model p50 / p99", f"{shown} s", "")
    table.add_section()
    row("learned / dead / awaiting", lambda s: (
        f"{s['fates']['learned']:,} / {s['fates']['dead']} / {s['awaiting']}"
    ))  # fmt: skip
    row("state digest", lambda s: s["state_digest"][:16])
    return table


def show(ours: dict[str, Any], river: dict[str, Any], asked: dict[str, Any], port: int) -> None:
    """Print the results, and what to do next."""
    console = Console()
    console.print(results(ours, river, asked))
    if asked["first_failure"]:
        console.print(f"the first failure: {asked['first_failure']}", highlight=False)
    console.print(
        "Both see the features relative to the recent past (stream.standardise), and most of the "
        "lead over the\nbaseline comes from that: experiments/results/elec2.md has each with and "
        "without. A day of this market\ngoes by in 48 events, so a model that is a tenth of a "
        "second old is days behind when it answers.\n",
        highlight=False,
        soft_wrap=True,
    )
    bin_ = short(Path(sys.executable).parent)
    console.print("Next:", style="bold")
    for what, text in (
        ("see it on MLflow", f"{bin_}/mlflow ui --backend-store-uri sqlite:///mlflow.db"),
        ("what it forgot, on one page", "runs/demo/report.html"),
        ("serve the finished run", f"{bin_}/everlearn serve runs/demo --port {port}"),
        ("ask it", f"curl http://127.0.0.1:{port}/model   (and /docs)"),
        (
            "run it, kill it (-9), go on",
            f"{bin_}/everlearn run experiments/jobs/elec2-live.yaml --runner ray --resume",
        ),
        ("on one core, at full speed", f"{bin_}/everlearn run experiments/jobs/elec2.yaml"),
        ("what this machine has", f"{bin_}/everlearn doctor"),
        ("your own data", "docs/run-a-job.md"),
    ):
        console.print(f"  {what:28s} {text}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
