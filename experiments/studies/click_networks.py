"""Compare networks of click models, with and without replay, on made clicks and on taxi trips.

    python experiments/studies/click_networks.py --taxi chicago_taxi.csv.gz [--seeds 3]

FILE of the taxi trips is the sample of 15,002 trips in Chicago that TensorFlow's tutorials use; its
label, a large tip, comes 100 events late. The made clicks are those of the first job of
docs/click-models.md. All learners predict micro-batches of 32 before the labels are known. Prints
the mean and the standard deviation over seeds, which draw weights alone, of metrics of the whole
pass, and writes them to experiments/results/click_networks.md.
"""

from __future__ import annotations

import argparse
import re
import runpy
import statistics
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.config import job as jobs
from pipeline.training.run import Run

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "experiments" / "results" / "click_networks.md"
METRICS = {"auc": "AUC", "gauc": "gAUC", "log_loss": "log-loss"}
BATCH = 32
CLICKS = {
    "as in the job": [],
    "without `history`": ["stream.history=null"],
    "`model: {kind: dcn-v2}`": ["learner.model.kind=dcn-v2"],
    "`negative_downsampling: 0.5`": ["learner.negative_downsampling=0.5"],
    "`ftrl` with `crosses: [[user, item]]`": [
        "stream.history=null",
        "learner.kind=ftrl",
        "learner.crosses=[[user, item]]",
    ],
}
NETWORKS = ("dnn", "dcn-v2", "deepfm", "fm")
TAXI = {
    **{
        f"`{kind}`": ["learner.kind=click-model", f"learner.model.kind={kind}"] for kind in NETWORKS
    },
    **{
        f"`{kind}`, `replay_size: 32`": [
            "learner.kind=click-model",
            f"learner.model.kind={kind}",
            "learner.replay_size=32",
        ]
        for kind in NETWORKS
    },
    "`ftrl`": ["learner.kind=ftrl"],
    "the default learner": [],
}


def taxi_job(file: Path, folder: Path) -> Path:
    """Write a job over the taxi trips; return its file."""
    stream = {
        "path": str(file.resolve()),
        "label": "big_tip",
        "time": "trip_start_timestamp",
        "label_delay": {"events": 100},
    }
    (folder / "taxi.yaml").write_text(yaml.safe_dump({"stream": stream}))
    return folder / "taxi.yaml"


def clicks_job(folder: Path) -> Path:
    """Write the first job of the documentation and its clicks; return its file."""
    page = (ROOT / "docs" / "click-models.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"<!-- file: (clicks\.\w+) -->\n```\w+\n(.*?)```", page, re.S):
        (folder / name).write_text(text, encoding="utf-8")
    with chdir(folder):
        runpy.run_path("clicks.py")
    return folder / "clicks.yaml"


def row(job: Path, name: str, settings: list[str], seeds: int, metrics: list[str]) -> str:
    """Return a row of a table: what a job with these settings scores."""
    found: list[dict[str, Any]] = []
    for seed in range(seeds):
        loaded = jobs.load(job, [f"stream.batch_size={BATCH}", f"seed={seed}", *settings])
        with tempfile.TemporaryDirectory() as folder:
            found.append(Run(loaded, Path(folder) / "run", lambda *_: None).run()["metrics"])
    cells = []
    for metric in metrics:
        values = [metrics[f"online/{metric}"] for metrics in found]
        spread = f" ± {statistics.stdev(values):.4f}" if seeds > 1 else ""
        cells.append(f"{statistics.mean(values):.4f}{spread}")
    return f"| {name} | {' | '.join(cells)} |"


def table(job: Path, rows: dict[str, list[str]], seeds: int, metrics: list[str]) -> list[str]:
    """Return the lines of a table."""
    lines = [f"| | {' | '.join(METRICS[metric] for metric in metrics)} |"]
    lines.append("|---" * (len(metrics) + 1) + "|")
    for name, settings in rows.items():
        lines.append(row(job, name, settings, seeds, metrics))
        print(lines[-1], flush=True)
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--taxi", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Networks of click models",
        "",
        f"{given.seeds} seeds, micro-batches of {BATCH}, one pass. Printed by `python"
        " experiments/studies/click_networks.py --taxi chicago_taxi.csv.gz`, which says how.",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        taxi, clicks = taxi_job(given.taxi, Path(folder)), clicks_job(Path(folder))
        lines += ["## 15,002 Chicago taxi trips, labels 100 events late", ""]
        lines += table(taxi, TAXI, given.seeds, ["auc", "log_loss"])
        lines += ["## 8,000 made clicks, labels 100 events late", ""]
        lines += table(clicks, CLICKS, given.seeds, ["auc", "gauc", "log_loss"])
    RESULT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
