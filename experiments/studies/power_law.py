"""Compare rehearsal by a power law of age with uniform and exponential rehearsal.

After Gandhi et al., "Natural learning in power-law environments". Two streams at equal budget:
replay with a reservoir of 1,000, one step for each 10 new events and 10 recalled ones. *Permuted-
MNIST* has ten tasks that never return; all are tested at the end. *Power-law-MNIST* has five tasks
of two digits in 30 phases, which return the sooner the more recently they occurred: the environment
for which the method is made. There the online accuracy counts, because it tests a task as often as
the environment does.

    python experiments/studies/power_law.py [--seeds 5] [--out DIR]

Writes experiments/results/power_law.md. Results that DIR has are not computed again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from experiments.studies.comparison import Comparison, Difference, metric, table
from pipeline.bench.measure import Budget

RESULT = Path(__file__).parents[1] / "results" / "power_law.md"
BASE = "uniform"
ARMS = {
    BASE: "replay",
    "exponential, rate 3": "replay:buffer.recall=exponential",
    "power law, exponent 1": "replay:buffer.recall=power-law",
}
METRICS = {
    "acc": "ACC",
    "forgetting": "forgetting",
    "learning_accuracy": "learning accuracy",
    "online_accuracy": "online accuracy",
}
STREAMS = {"permuted-mnist": ("acc", 5000), "power-law-mnist": ("online_accuracy", 1000)}
"""What counts on each, and the events of a phase."""
ABOUT = [
    "# Rehearsal by a power law of age",
    "",
    "Replay with a reservoir of 1,000, 784-512-10, batch 10 + 10, one step; in %, mean and standard"
    " deviation over {seeds} seeds, and paired differences with 95% intervals. Printed by"
    " `python experiments/studies/power_law.py`, which says what is compared, and why.",
]


def compared(stream: str, seeds: int, out: Path, events: int, tests: int = 1000) -> list[str]:
    """Return the part of the results on one stream, with this many events in a phase."""
    what = STREAMS[stream][0]
    overrides, budget = [f"stream.events={events}"], Budget(10**9, tests)
    found = Comparison(stream, ARMS, overrides, budget).run(seeds, out)
    lines = ["", f"## {stream}, {found[BASE][0]['events']:,} events", ""]
    lines += [*table(found, METRICS, BASE, what), ""]
    reference = metric(found[BASE], what)
    for arm in ARMS:
        if arm != BASE:
            verdict = Difference.of(metric(found[arm], what), reference).verdict
            lines.append(f"- {METRICS[what]} of {arm} and of {BASE}: {verdict}.")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = [line.format(seeds=given.seeds) for line in ABOUT]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for stream, (_, events) in STREAMS.items():
            lines += compared(stream, given.seeds, given.out or Path(folder), events)
    print("\n".join(lines))
    print(f"{time.perf_counter() - start:.0f} s")
    RESULT.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
