"""Compare closed forms with replay on Elec2, which drifts, and show what forgetting buys.

Labels come 48 events late. All closed forms but ``prototype`` and ``knn`` learn from 500 random
Fourier features of the six numbers. Half-lives and the capacity of ``knn`` are chosen by the
accuracy on the first 10,000 events, for each way of scaling; the replay learner is that of the job,
whose settings were chosen on these events too. Numbers are scaled in two ways: by
``stream.standardise`` with a half-life of 10 events, as in the job, and by the learner, whose scale
stays after 1,000 events (that of replay follows all events).

    python experiments/studies/closed_form_drift.py

Prints two tables and writes them to experiments/results/closed_form_drift.md.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from pipeline.config import job as jobs
from pipeline.training.builder import build

HERE = Path(__file__).parents[1]
SEEDS = (1, 2, 3)
TUNED_ON, TUNING_SEED = 10_000, 101
FOURIER = {"features": {"kind": "fourier", "dimension": 500}}
HALF_LIVES = (100, 300, 1000, 3000, 10_000)
CAPACITIES = (100, 300, 1000, 3000, 10_000)
LEARNERS: dict[str, list[dict[str, Any]]] = {
    "prototype": [{"kind": "prototype", "distance": "euclidean"}],
    "slda": [{"kind": "slda", **FOURIER}],
    "ranpac": [{"kind": "ranpac", **FOURIER}],
    "rls": [{"kind": "rls", **FOURIER}],
    "rls with a half-life": [{"kind": "rls", "half_life": h, **FOURIER} for h in HALF_LIVES],
    "knn, ring": [
        {"kind": "knn", "metric": "euclidean", "admission": "ring", "capacity": c}
        for c in CAPACITIES
    ],
    "linear-probe": [{"kind": "linear-probe"}],
    "replay (the job)": [{}],
}
WAYS = {
    "Scaled relative to the recent past": [],
    "Scaled by the learner": ["stream.standardise=null"],
}


def run(
    learner: dict[str, Any], way: list[str], seed: int, events: int | None = None
) -> tuple[dict[str, float], float, float]:
    """Return the metrics, the CPU seconds and the megabytes of the state after ``events``."""
    scale = "true" if way else "false"
    changes = [f"learner={json.dumps(learner)}"] if learner else []
    path = HERE / "jobs" / "elec2.yaml"
    parts = build(jobs.load(path, [*way, *changes, f"learner.scale={scale}", f"seed={seed}"]))
    start = time.process_time()
    for batch in parts.reader.read({}):
        parts.loop.step(batch)
        if events is not None and parts.loop.events >= events:
            break
    else:
        parts.loop.finish(parts.reader.size)
    seconds = time.process_time() - start
    return parts.loop.results(), seconds, parts.loop.learner.memory_bytes() / 1e6


def chosen(candidates: list[dict[str, Any]], way: list[str]) -> dict[str, Any]:
    """Return the settings that are the most accurate on the first events."""
    if len(candidates) == 1:
        return candidates[0]
    scores = [
        run(learner, way, TUNING_SEED, TUNED_ON)[0]["online/accuracy"] for learner in candidates
    ]
    return candidates[scores.index(max(scores))]


def row(name: str, candidates: list[dict[str, Any]], way: list[str]) -> str:
    """Return a line of the table."""
    learner = chosen(candidates, way)
    runs = [run(learner, way, seed) for seed in SEEDS]
    cells = [name]
    if len(candidates) > 1:
        key = "half_life" if "half_life" in learner else "capacity"
        cells[0] += f", {key} {learner[key]:,}"
    for metric in ("online/accuracy", "online/kappa", "online/log_loss"):
        values = [metrics[metric] for metrics, _, _ in runs if metric in metrics]
        spread = f" ± {statistics.stdev(values):.4f}" if len(set(values)) > 1 else ""
        cells.append(f"{statistics.mean(values):.4f}{spread}" if values else "")
    cells.append(f"{statistics.median(seconds for _, seconds, _ in runs):.1f}")
    cells.append(f"{runs[0][2]:.2f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        "# Closed forms on Elec2, which drifts",
        "",
        "45,312 events, labels 48 events late, prequential, mean ± standard deviation over "
        f"{len(SEEDS)} seeds. Printed by `python experiments/studies/closed_form_drift.py`.",
    ]
    for title, way in WAYS.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| learner | accuracy | kappa | log-loss | CPU s | state, MB |",
            "|---|---|---|---|---|---|",
        ]
        print("\n".join(lines[-4:]))
        for name, candidates in LEARNERS.items():
            lines.append(row(name, candidates, way))
            print(lines[-1], flush=True)
    (HERE / "results" / "closed_form_drift.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
