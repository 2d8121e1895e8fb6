"""What `make demo` runs: the Elec2 job, two river models beside it, and a table of all.

Kill it anywhere, `kill -9` included, and run it again: it goes on where it was, and the state
digest at the end is that of a run that was never broken.

    python experiments/demo.py [--afresh]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
JOBS = ROOT / "experiments" / "jobs"
RUNS = Path("runs")
MODELS = {  # title: name of the run, job, what is changed in it
    "everlearn replay": ("replay", "elec2"),
    "river logistic": (
        "logistic",
        "elec2-river",
        "learner.model=linear_model.LogisticRegression",
        "stream.standardise.half_life=10",
    ),
    "river forest of 10": ("forest", "elec2-river"),
}


def short(path: Path) -> Path:
    """The path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def run(job: str, folder: Path, overrides: tuple[str, ...]) -> dict[str, object]:
    """Runs a job, or goes on with it, and returns its summary."""
    command = [sys.executable, "-m", "everlearn", "run", str(short(JOBS / f"{job}.yaml"))]
    command += ["--run-dir", str(folder)]
    for override in overrides:
        command += ["--set", override]
    if list(folder.glob("checkpoints/*")):
        command.append("--resume")
    print("$ " + " ".join(["everlearn", *command[3:]]), flush=True)
    code = subprocess.run(command).returncode
    if code:
        sys.exit(code)
    return json.loads((folder / "summary.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--afresh", action="store_true", help="throw away an earlier demo")
    afresh = parser.parse_args().afresh
    console = Console()
    found = {}
    for title, (name, job, *overrides) in MODELS.items():
        folder = RUNS / f"demo-{name}"
        old = folder / "summary.json"
        if afresh or (old.exists() and json.loads(old.read_text())["finished"]):
            shutil.rmtree(folder, ignore_errors=True)
        found[title] = run(job, folder, tuple(overrides))

    table = Table(title="Elec2: 45,312 half-hours of an electricity market, labels one day late")
    table.add_column("")
    rows = {
        "events": lambda s: f"{s['events']:,}",
        "events/s": lambda s: f"{s['events_per_s']:,.0f}",
        "accuracy": lambda s: f"{s['metrics']['online/accuracy']:.4f}",
        "kappa": lambda s: f"{s['metrics']['online/kappa']:.4f}",
        "no-change baseline": lambda s: f"{s['metrics']['online/no_change_accuracy']:.4f}",
        "learned / dead / awaiting": lambda s: (
            f"{s['fates']['learned']:,} / {s['fates']['dead']} / {s['awaiting']}"
        ),
        "state digest": lambda s: s["state_digest"][:16],
    }
    for title in found:
        table.add_column(title, justify="right")
    for name, cell in rows.items():
        table.add_row(name, *(cell(summary) for summary in found.values()))
    console.print(table)
    console.print(
        "Replay and river's logistic regression see the features relative to the recent past "
        "(stream.standardise),\nthe forest sees them as they are. Most of the lead comes from "
        "that: experiments/results/elec2.md has each\nwith and without.\n",
        highlight=False,
    )
    shown = short(Path(sys.executable).parent / "everlearn")
    console.print("Next:", style="bold")
    job = f"{shown} run experiments/jobs/elec2.yaml"
    for what, command in (
        ("run it yourself", f"{job} --run-dir runs/mine"),
        ("kill it (-9) half-way, then go on", f"{job} --run-dir runs/mine --resume"),
        ("change a setting", f"{job} --run-dir runs/one-step --set learner.steps=1"),
        ("what this machine has", f"{shown} doctor"),
        ("your own data", "docs/run-a-job.md"),
    ):
        console.print(f"  {what:35s} {command}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
