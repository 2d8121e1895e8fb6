"""The log-likelihood of generated Hawkes processes under themselves, as the bench takes that of a
learner: on test users, mean over the slices of the time.

    python experiments/studies/sequence_truth.py
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev

from streams.integrations.sequences import SCENARIOS
from streams.integrations.sequences.hawkes import HawkesStream, HawkesStreamConfig

SEEDS = 3


def log_likelihood(scenario: str, seed: int) -> float:
    """Return nats an event: of its type and its time in seconds."""
    config = HawkesStreamConfig.model_validate({**SCENARIOS[scenario], "seed": seed})
    stream = HawkesStream(config, Path())
    of_time, of_type = stream.true_scores(stream.test)
    rows = [-1 - stream.task_test(task).ids for task in range(stream.tasks)]
    return mean(-float((of_time + of_type)[each].mean()) for each in rows)


def main() -> None:
    for scenario in ("drifting-hawkes", "recurring-hawkes"):
        values = [log_likelihood(scenario, seed) for seed in range(SEEDS)]
        print(f"{scenario}: {mean(values):.3f}±{stdev(values):.3f}, {SEEDS} seeds")


if __name__ == "__main__":
    main()
