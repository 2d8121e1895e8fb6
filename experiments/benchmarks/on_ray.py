"""Measure the cost of Ray, MLflow and an idle server, against the learner in a plain torch loop.

Three programs take turns, round by round, each alone on the machine and over the same events: the
*plain loop* of ``overhead.py``; the Elec2 job on Ray with all prequential metrics, probes,
checkpoints every 5,000 events and a server without requests; the same with MLflow (a row of metrics
every 1,000 events). Events/s are those of the trainer, from its first micro-batch to its last
checkpoint.

    python experiments/benchmarks/on_ray.py [--events 500000] [--rounds 5]

Prints each round and the medians of the ratios within a round. Writes both to
experiments/results/on_ray.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from overhead import ELEC2, JOB, plain

RESULT = Path(__file__).parents[1] / "results" / "on_ray.md"


def on_ray(data: Path, folder: Path, *more: str) -> float:
    """Return the events/s of the job on Ray."""
    words = ["run", str(JOB), "--runner", "ray", "--run-dir", str(folder)]
    settings = (
        f"stream.path={data}", "evaluate.probes.share=0.02", "serve.port=0", *more
    )  # fmt: skip
    for setting in settings:
        words += ["--set", setting]
    command = [sys.executable, "-m", "everlearn", *words]
    subprocess.run(command, check=True, capture_output=True, cwd=folder.parent)
    return float(json.loads((folder / "summary.json").read_text())["events_per_s"])


def by_hand(x: np.ndarray, y: np.ndarray) -> float:
    start = time.perf_counter()
    for _ in plain(x, y):
        pass
    return len(x) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = pq.read_table(ELEC2)
    table = pa.concat_tables([table] * -(-given.events // len(table))).slice(0, given.events)
    x = np.stack([table[name].to_numpy() for name in table.column_names[:6]], 1)
    y = (table["class"].to_numpy(zero_copy_only=False) == "UP").astype(np.int64)
    lines = [
        "# What Ray, MLflow and an idle server cost",
        "",
        f"The Elec2 learner over {given.events:,} events, batch 32, one thread each, events/s."
        " Printed by `python experiments/benchmarks/on_ray.py`, which says what each does.",
        "",
        "| plain loop | on Ray | on Ray, with MLflow | Ray / plain | with MLflow / plain |"
        " with MLflow / without |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines[4:]))
    ratios: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "elec2.parquet"
        pq.write_table(table, data)
        tracked = f'track={{uri: "sqlite:///{folder}/mlflow.db"}}'
        on_ray(data, folder / "first", tracked)  # sets up the database
        for i in range(given.rounds):
            a = by_hand(x, y)
            b = on_ray(data, folder / f"ray{i}")
            c = on_ray(data, folder / f"mlflow{i}", tracked)
            ratios.append((b / a, c / a, c / b))
            shown = " | ".join(f"{ratio:.3f}" for ratio in ratios[-1])
            lines.append(f"| {a:,.0f} | {b:,.0f} | {c:,.0f} | {shown} |")
            print(lines[-1], flush=True)
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    lines += ["", "Medians: " + ", ".join(f"{m:.3f}" for m in medians) + "."]
    print(lines[-1])
    RESULT.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
