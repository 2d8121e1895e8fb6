"""Compare view-batch replay with its base, on split-CIFAR-10 with a small residual network.

That is the claim of Lee et al. 2025, "Do Your Best and Get Enough Rest for Continual Learning".
They train a ResNet-18 for 50 epochs on each of five tasks. Here each event is in one micro-batch,
on which four gradient steps are taken: as many as there are views. All arms take as many steps, and
present as many new events and events of a reservoir in each. Other arms isolate the parts of the
method: *replay* with each augmentation, *view-batch* without the distance between views, and with
so many views that the recall interval is too long.

    python experiments/studies/view_batch.py [--seeds 3] [--events 3500] [--device cpu] [--out DIR]
    python experiments/studies/view_batch.py --smoke

Writes experiments/results/view_batch.md, after about twelve minutes on one core. With --smoke it
takes a few steps of each arm and writes nothing. Results that DIR has are not computed again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from experiments.studies.comparison import Comparison, Difference, metric, table
from pipeline.bench.measure import Budget

RESULT = Path(__file__).parents[1] / "results" / "view_batch.md"
BASE, STRONG = "replay, weak views", "replay, strong views"
FOUR, SIXTEEN = "view-batch, 4 views", "view-batch, 16 views"
ALONE = "view-batch, 4 views, no distance"
ARMS = {
    "replay, no views": "replay",
    BASE: "replay:augment=weak",
    STRONG: "replay:augment=strong",
    FOUR: "view-batch:views=4",
    ALONE: "view-batch:views=4,ssl=0",
    SIXTEEN: "view-batch:views=16",
}
SETTINGS = (
    "stream.batch_size=16",
    "learner.steps=4",
    "learner.replay_size=16",
    "learner.buffer.capacity=500",
    "learner.optimizer.lr=0.03",
    "learner.model={kind: experiments.studies.networks:SmallResNet, args: {stride: 2}}",
)
METRICS = {"acc": "ACC", "forgetting": "forgetting", "learning_accuracy": "learning accuracy"}
CLAIMS = (
    (FOUR, BASE, "the method over its base"),
    (FOUR, STRONG, "the method over its base with the same augmentation"),
    (FOUR, ALONE, "the distance between views"),
    (FOUR, SIXTEEN, "4 views over 16"),
)
"""What is to be higher, than what, and what that says."""


def compared(seeds: int, events: int, device: str, out: Path, tests: int) -> list[str]:
    """Return the lines of the results."""
    overrides = [*SETTINGS, f"stream.events={events}", f"device={device}"]
    comparison = Comparison("split-cifar-10", ARMS, overrides, Budget(10**9, tests))
    found = comparison.run(seeds, out)
    (steps,) = {result["gradient_steps"] for results in found.values() for result in results}
    lines = [
        "# View-batch replay over its base",
        "",
        f"Split-CIFAR-10, {5 * events:,} events in one pass, a residual network of 77,000 weights,"
        f" batch 16 + 16, buffer 500, {steps:,} gradient steps with every arm; in %, mean and"
        f" standard deviation over {seeds} seeds, and paired differences with 95% intervals."
        " Printed by `python experiments/studies/view_batch.py`.",
        "",
        *table(found, METRICS, BASE, "acc"),
        "",
    ]
    for better, worse, what in CLAIMS:
        d = Difference.of(metric(found[better], "acc"), metric(found[worse], "acc"))
        lines.append(f"- {what.capitalize()}: {d.points}, {d.verdict}.")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--events", type=int, default=3500, help="of each task")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder of the bench, kept")
    parser.add_argument("--smoke", action="store_true", help="does it work?")
    given = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder)
        if given.smoke:
            lines = compared(1, 32, given.device, out, tests=20)
        else:
            lines = compared(given.seeds, given.events, given.device, out, tests=2000)
            RESULT.write_text("\n".join([*lines, ""]))
    print("\n".join(lines))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
