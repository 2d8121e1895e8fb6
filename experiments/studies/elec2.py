"""Compare everlearn on Elec2 over five seeds with river's models, with labels 48 events late.

Every row goes through the same loop. River's estimators give there exactly what
``progressive_val_score(delay=48)`` gives (tests/learners/integrations/test_river.py). Rows marked
*standardised* get features relative to the recent past, with a half-life of 10 events that was
chosen on the first 10,000 events for the replay learner. They separate the effect of the scaling
from that of the learner.

    python experiments/studies/elec2.py

Prints a table and writes it to experiments/results/elec2.md.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from pipeline.config import job as jobs
from pipeline.training.builder import build

HERE = Path(__file__).parents[1]
RAW = "stream.standardise=null"
SCALED_LR = "[preprocessing.StandardScaler, linear_model.LogisticRegression]"
ROWS: list[tuple[str, str, list[str], tuple[int, ...]]] = [
    ("replay, standardised (the job)", "elec2", [], (1, 2, 3, 4, 5)),
    ("fine-tuning, standardised", "elec2-finetune", [], (1, 2, 3, 4, 5)),
    ("replay, running scale", "elec2", [RAW, "learner.scale=true"], (1, 2, 3, 4, 5)),
    (
        "river logistic regression, StandardScaler",
        "elec2-river",
        [f"learner.model={SCALED_LR}"],
        (1,),
    ),
    (
        "river logistic regression, standardised",
        "elec2-river",
        ["learner.model=linear_model.LogisticRegression", "stream.standardise.half_life=10"],
        (1,),
    ),
    ("river adaptive random forest of 10", "elec2-river", [], (1,)),
    (
        "river adaptive random forest of 10, standardised",
        "elec2-river",
        ["stream.standardise.half_life=10"],
        (1,),
    ),
]


def run(job: str, overrides: list[str], seed: int) -> tuple[dict[str, float], float]:
    """Return the metrics at the end of the stream, and events per second."""
    if job == "elec2-finetune":
        raw = jobs.load(HERE / "jobs" / "elec2.yaml").job
        learner = raw.learner.model_dump(mode="json", exclude={"buffer", "replay_size"})
        overrides = [*overrides, f"learner={learner | {'kind': 'finetune'}}"]
        job = "elec2"
    parts = build(jobs.load(HERE / "jobs" / f"{job}.yaml", [*overrides, f"seed={seed}"]))
    start = time.perf_counter()
    for batch in parts.reader.read({}):
        parts.loop.step(batch)
    parts.loop.finish(parts.reader.size)
    seconds = time.perf_counter() - start
    return parts.loop.results(), parts.loop.events / seconds


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        "# Elec2: 45,312 events, labels 48 events late",
        "",
        "Prequential accuracy (mean ± standard deviation over seeds) and events/s on one core."
        " Printed by `python experiments/studies/elec2.py`.",
        "",
        "| learner | accuracy | kappa | events/s | seeds |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(lines[-2:]))
    for name, job, overrides, seeds in ROWS:
        found = [run(job, overrides, seed) for seed in seeds]
        scores = [metrics["online/accuracy"] for metrics, _ in found]
        kappa = statistics.mean(metrics["online/kappa"] for metrics, _ in found)
        spread = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
        speed = statistics.median(rate for _, rate in found)
        lines.append(
            f"| {name} | {statistics.mean(scores):.4f}{spread} | {kappa:.3f} | {speed:,.0f} |"
            f" {len(seeds)} |"
        )
        print(lines[-1], flush=True)
    baseline = found[0][0]["online/no_change_accuracy"]
    lines.append(f"| no-change baseline | {baseline:.4f} | | | |")
    print(lines[-1])
    (HERE / "results" / "elec2.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
