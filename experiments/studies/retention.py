"""Measure how fast events are forgotten that were seen once.

After "Recognition, recall, and retention of few-shot memories in large language models" (Orhan
2023), at a small scale. Of a stream of MNIST, one event in ten is learned once and never buffered.
Later the model is tested on these, and on events of the same age that were never learned, one in
ten too. The difference is what it remembers of the events. The rest it knows from similar ones.

``one task``: all digits, shuffled. ``random labels``: the same with random labels, where only the
events themselves can be known. ``split``: two digits at a time.

    python experiments/studies/retention.py --seeds 3
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from pipeline.config.job import load
from pipeline.evaluation.decay_fits import better, error, fits
from pipeline.evaluation.once_seen import OnceSeenSample
from pipeline.evaluation.once_seen_curve import OnceSeenCurve
from pipeline.evaluation.retention import wilson
from pipeline.training.builder import Parts, build
from streams.core.batch import Array, Batch

EVENTS, EVERY, BATCH = 30_000, 200, 10
SHUFFLED = {"dataset": "mnist", "tasks": {"kind": "iid"}, "events": EVENTS}
STREAMS: dict[str, dict[str, Any]] = {
    "one task": SHUFFLED,
    "random labels": {**SHUFFLED, "label_noise": 0.9},
    "split": {"name": "split-mnist", "events": EVENTS // 5},
}
LEARNERS: dict[str, dict[str, Any]] = {
    "finetune": {},
    "replay": {"replay_size": 10, "buffer": {"capacity": 500}},
}
HEAD = (
    "| updates since | events | once seen, % | 95% interval | never learned, % | beyond, points |",
    "|" + "---|" * 6,
)
ABOUT = [
    "# How fast what was seen once is forgotten",
    "",
    f"MNIST, {EVENTS:,} events in micro-batches of {BATCH}, one gradient step each; MLP of 500, SGD"
    " 0.1; replay of 10 out of a buffer of 500. *Once seen*: accuracy on events that were learned"
    " once and kept out of the buffer, so many updates later. *Never learned*: on events held out,"
    " as old. *Beyond*: the difference, which is what is remembered of the events themselves, with"
    " a 95% interval. Each event is asked about once in each line. *Off*: squared distance of a fit"
    " to what was found, in standard errors; as many as there are times would be chance. Printed by"
    " `python experiments/studies/retention.py`, which says how.",
    "",
]
NAMES = {"power": "power law", "exponential": "exponential"}
RESULT = Path(__file__).parents[1] / "results" / "retention.md"


class Answers(NamedTuple):
    """By bin of updates since learning, each (n,): the geometric mean of updates, and answers and
    correct ones on events seen once and on events never learned.
    """

    since: Array
    asked: Array
    right: Array
    asked_never: Array
    right_never: Array

    @property
    def beyond(self) -> tuple[Array, Array]:
        """Accuracy on once-seen events beyond the others, and its standard error."""
        gain = self.right / self.asked - self.right_never / self.asked_never
        errors = error(self.right, self.asked), error(self.right_never, self.asked_never)
        return gain, np.hypot(*errors)


def answers(stream: str, learner: str, seeds: int, folder: Path) -> Answers:
    """Return the answers of all seeds together, in bins with answers on both kinds of events."""
    total: dict[int, Array] = {}
    for seed in range(seeds):
        for once, told in enumerate(asked(made(stream, learner, seed, folder))):
            for entry in told:
                sums = total.setdefault(entry["first"], np.zeros((2, 3)))
                log = entry["asked"] * np.log(max(entry["since"], 1))
                sums[once] += entry["asked"], entry["right"], log
    both = np.array([total[first] for first in sorted(total) if (total[first][:, 0] > 0).all()])
    never, seen = both[:, 0], both[:, 1]
    since = np.where(np.array(sorted(total)) > 0, np.exp(seen[:, 2] / seen[:, 0]), 0.0)
    return Answers(since, seen[:, 0], seen[:, 1], never[:, 0], never[:, 1])


def asked(parts: Parts) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return answers by bin over one run: on events never learned, and on events seen once."""
    loop, never, once = parts.loop, OnceSeenCurve(), OnceSeenCurve()
    assert loop.once_seen is not None
    for batch in parts.reader.read({}):
        loop.step(batch)
        if loop.events % EVERY == 0:
            version = loop.learner.version
            _, told_never = never.evaluate(loop.learner, held(parts), version, loop.events)
            _, told_once = once.evaluate(loop.learner, loop.once_seen.kept(), version, loop.events)
    return told_never, told_once


def held(parts: Parts) -> OnceSeenSample:
    """Return the probes as if they had been learned on arrival."""
    segments = [segment for segment in parts.loop.segments() if segment.rows is not None]
    rows = Batch.concat([segment.rows for segment in segments if segment.rows is not None])
    place = np.concatenate([segment.index for segment in segments])
    return OnceSeenSample(rows, place, place // BATCH + 1)


def made(stream: str, learner: str, seed: int, folder: Path) -> Parts:
    job: dict[str, Any] = {
        "name": "retention",
        "seed": seed,
        "stream": {"kind": "scenario", "batch_size": BATCH, "seed": seed, **STREAMS[stream]},
        "learner": {
            "kind": learner,
            "model": {"kind": "mlp", "hidden": [500]},
            "optimizer": {"kind": "sgd", "lr": 0.1},
            "steps": 1,
            **LEARNERS[learner],
        },
        "evaluate": {
            "once_seen": {"share": 0.1, "capacity": 5000},
            "probes": {"share": 0.1, "capacity": 5000},
        },
    }
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    return build(load(file))


def table(found: Answers) -> list[str]:
    lines = [*HEAD]
    gain, off = found.beyond
    for i, since in enumerate(found.since):
        n, share = int(found.asked[i]), found.right[i] / found.asked[i]
        low, high = wilson(share, n)
        lines.append(
            f"| {since:,.0f} | {n:,} | {100 * share:.1f} | {100 * low:.1f} to {100 * high:.1f} |"
            f" {100 * found.right_never[i] / found.asked_never[i]:.1f} |"
            f" {100 * gain[i]:.1f} ± {196 * off[i]:.1f} |"
        )
    return lines


def said(what: str, t: Array, share: Array, off: Array) -> str:
    """Return both fits in one line."""
    later = t >= 1
    found = fits(t[later], share[later], off[later])
    assert found is not None
    power, exponential = found
    best = better(power, exponential)
    verdict = "neither" if best is None else f"the {NAMES[best.kind]}"
    return (
        f"{what}: power law {power.scale:.3f} t^-{power.rate:.3f} (off by {power.off:.1f}),"
        f" exponential {exponential.scale:.3f} exp(-{exponential.rate:.2g} t) (off by"
        f" {exponential.off:.1f}), {int(later.sum())} times. Clearly better: {verdict}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for stream in STREAMS:
            for learner in LEARNERS:
                found = answers(stream, learner, args.seeds, Path(folder))
                off = error(found.right, found.asked)
                more = [
                    f"## {stream}, {learner}",
                    "",
                    *table(found),
                    "",
                    said("Once seen", found.since, found.right / found.asked, off),
                    "",
                    said("Beyond", found.since, *found.beyond),
                    "",
                ]
                print("\n".join(more), flush=True)
                lines += more
    args.out.write_text("\n".join([*ABOUT, f"{args.seeds} seeds together.", "", *lines]))


if __name__ == "__main__":
    main()
