"""Compare what may become of missing numbers: the mean with an indicator, zero, or a dead event.

    python experiments/studies/missing_values.py FILE [--label COLUMN] [--time COLUMN] [--seeds 5]

FILE is a CSV or Parquet file with gaps, such as the Chicago taxi sample (15,002 trips). Every arm
sees the same events in the same order with the same seeds; only ``stream.missing`` differs. Prints
the prequential accuracy and log-loss, the events learned and the CPU time of a run: mean and
standard deviation over seeds, and the paired difference to ``mean``. A column that is empty in the
sample is left out by all arms. With ``dead`` the scores are those of the complete events alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import job as jobs
from pipeline.training.builder import build
from pipeline.training.run import Run

POLICIES = ("mean", "zero", "dead")
LEARNER = {
    "kind": "replay",
    "model": {"kind": "mlp", "hidden": [32]},
    "optimizer": {"kind": "adam", "lr": 0.003},
    "buffer": {"capacity": 1000},
}


def job(arguments: argparse.Namespace, seed: int, missing: dict[str, str]) -> dict[str, Any]:
    """Return a job that learns the file with a policy for each of some columns."""
    stream = {
        "kind": "recorded",
        "path": str(arguments.file.resolve()),
        "label": arguments.label,
        "time": arguments.time,
        "label_delay": {"events": 100},
        "dead_letters": {"share": 1},
        "missing": missing,
    }
    return {"name": "missing", "seed": seed, "stream": stream, "learner": LEARNER}


def write(folder: Path, about: dict[str, Any]) -> Path:
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(about))
    return file


def policies(arguments: argparse.Namespace, policy: str) -> dict[str, str]:
    """Return the policy of each column; ``dead`` holds for all kinds, the others for numbers."""
    with tempfile.TemporaryDirectory() as folder:
        parts = build(jobs.load(write(Path(folder), job(arguments, 0, {})), []))
    features = parts.stream.schema.features
    return {f.name: policy for f in features if f.kind == "numeric" or policy == "dead"}


def run(arguments: argparse.Namespace, seed: int, missing: dict[str, str]) -> dict[str, float]:
    """Return the scores of one run."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = jobs.load(write(Path(folder), job(arguments, seed, missing)), [])
        begun = time.process_time()
        summary = Run(loaded, Path(folder) / "run", lambda line: None).run()
        metrics = summary["metrics"]
        return {
            "accuracy": metrics["online/accuracy"],
            "log-loss": metrics["online/log_loss"],
            "learned": summary["fates"]["learned"],
            "cpu_s": time.process_time() - begun,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--label", default="big_tip")
    parser.add_argument("--time", default="trip_start_timestamp")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    first: list[float] = []
    print("| missing numbers | accuracy | to mean | log-loss | learned | CPU s |")
    print("|---|---|---|---|---|---|")
    for policy in POLICIES:
        missing = policies(arguments, policy)
        runs = [run(arguments, seed, missing) for seed in range(arguments.seeds)]
        accuracy = [one["accuracy"] for one in runs]
        first = first or accuracy
        apart = [a - b for a, b in zip(accuracy, first, strict=True)]
        spread = statistics.stdev(accuracy), statistics.stdev(apart)
        print(
            f"| {policy} | {statistics.mean(accuracy):.4f} ± {spread[0]:.4f} "
            f"| {statistics.mean(apart):+.4f} ± {spread[1]:.4f} "
            f"| {statistics.mean(one['log-loss'] for one in runs):.4f} "
            f"| {runs[0]['learned']:,} | {statistics.mean(one['cpu_s'] for one in runs):.1f} |"
        )


if __name__ == "__main__":
    main()
