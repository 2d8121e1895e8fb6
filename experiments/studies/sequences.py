"""Compare learners of event sequences: point processes with a network, and their controls.

    python -m experiments.studies.sequences                        # all scenarios
    python -m experiments.studies.sequences taobao --seeds 1

One pass in the order of time, in micro-batches of 32 events. After each of 8 slices of the time all
slices so far are tested on users who are not in the stream. The learning rate is the best of
``RATES`` for plain ``tpp`` by the likelihood of the first 20,000 events of Taobao, each before it
is learned, with another seed: ``--tune`` prints these. All networks share it; all else is at its
defaults. ``replay`` is the same network with a buffer of as many bytes as the pools of prompts and
what Adam keeps of them. ``static`` stops learning after the first slice.

Writes experiments/results/sequences.md. A run that was stopped continues with --out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev

import torch
import yaml
from rich.console import Console

from learners.sequences.prompt_tpp import PromptTpp
from learners.sequences.tpp import Tpp, TppConfig
from pipeline.bench.bench import Bench, Results
from pipeline.bench.measure import Budget
from pipeline.config import job as jobs
from pipeline.training.builder import build
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.stream_config import SequenceConfig
from streams.operators.features.sequences import Sequences

RESULT = Path(__file__).parents[1] / "results" / "sequences.md"
BATCH, RATE, RATES = 32, 0.003, (0.001, 0.003, 0.01)
TUNED_ON, TUNING_SEED, TYPES = 20_000, 101, 17
LABELS_OF_SLICE = {"taobao": 11_000, "drifting-hawkes": 2_900, "recurring-hawkes": 2_900}
"""Labels after which ``static`` stops: nearly those of a slice."""
OVERRIDES = (f"stream.batch_size={BATCH}",)


class StaticConfig(TppConfig):
    """Settings of ``static``.

    Attributes:
        labels: after which it stops learning.
    """

    labels: int = 10_000


class Static(Tpp):
    """``tpp`` that stops learning after some labels. The rest of its state stays."""

    kind = "static"
    Config = StaticConfig
    config: StaticConfig

    def learn(self, batch: Batch) -> None:
        if self.scale.count < self.config.labels:
            super().learn(batch)


def capacity() -> int:
    """Return the capacity of a buffer that has as many bytes as the prompts of the defaults."""
    users = Schema((Feature("user", "categorical"),), "classification", tuple(range(TYPES)))
    settings = SequenceConfig(by="user")
    schema = Sequences(settings, users).schema(users)
    prompts = PromptTpp(PromptTpp.Config(kind="prompt-tpp"), schema, 0)
    plain = Tpp(TppConfig(kind="tpp"), schema, 0)
    row = 2 * 4 * settings.length + 3 * 8  # types and gaps; label, wait and id
    return (prompts.memory_bytes() - plain.memory_bytes()) // row


def learners(scenario: str) -> Mapping[str, str]:
    """Return the learners of a scenario by the names in the tables."""
    rate = f"optimizer.lr={RATE}"
    stop = LABELS_OF_SLICE[scenario]
    return {
        "poisson": "poisson",
        "popular-type": "popular-type",
        "last-type": "last-type",
        "recent-history": "recent-history",
        "hawkes": "hawkes",
        "tpp": f"tpp:{rate}",
        "tpp, static": f"experiments.studies.sequences:Static:{rate},labels={stop}",
        "tpp, replay": f"tpp:{rate},replay_size={BATCH},buffer.capacity={capacity()}",
        "tpp, log-normal-mixture": f"tpp:{rate},model.kind=log-normal-mixture",
        "tpp, rmtpp": f"tpp:{rate},model.kind=rmtpp",
        "tpp, point": f"tpp:{rate},model.kind=point",
        "prompt-tpp": f"prompt-tpp:{rate}",
        "prompt-tpp, learned time": f"prompt-tpp:{rate},estimate=learned",
        "prompt-tpp, vote": f"prompt-tpp:{rate},vote=true",
        "prompt-tpp, no refresh schedule": f"prompt-tpp:{rate},refresh_every=1",
    }


def tune() -> None:
    """Print the likelihood of plain ``tpp`` on the first events for each learning rate."""
    for rate in RATES:
        job = {
            "name": "tune",
            "seed": TUNING_SEED,
            "stream": {"kind": "taobao", "batch_size": BATCH},
            "learner": {"kind": "tpp", "optimizer": {"lr": rate}},
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "job.yaml")
            path.write_text(yaml.safe_dump(job))
            parts = build(jobs.load(path))
        for batch in parts.reader.read({}):
            parts.loop.step(batch)
            if parts.loop.events >= TUNED_ON:
                break
        print(f"lr {rate}: {parts.loop.results()['online/nll']:.4f} nats", flush=True)


def row(name: str, runs: Results, plain: Results) -> str:
    """Return a line of the table: mean and deviation over seeds, and what differs from ``tpp``."""
    last = [[-nats for nats in run["matrix"][-1]] for run in runs]
    base = [[-nats for nats in run["matrix"][-1]] for run in plain]
    early = [mean(values[:4]) for values in last]
    newest = [values[-1] for values in last]
    differences = [
        _text([a - b for a, b in zip(mine, theirs, strict=False)], sign="+")
        for mine, theirs in (
            (early, [mean(values[:4]) for values in base]),
            (newest, [values[-1] for values in base]),
        )
    ]
    online = [run["metrics"]["online_nll"] for run in runs if "online_nll" in run["metrics"]]
    accuracy = [100 * run["metrics"]["online_accuracy"] for run in runs]
    cells = [
        name,
        _text(online),
        f"{mean(accuracy):.1f}",
        _text(early),
        differences[0],
        _text(newest),
        differences[1],
        f"{mean(run['cpu_seconds'] for run in runs):.0f}",
        f"{runs[0]['memory_bytes'] / 1e6:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _text(values: list[float], sign: str = "") -> str:
    if not values or not all(value == value for value in values):
        return ""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.3f}{spread}"


def section(scenario: str, seeds: int, out: Path, names: list[str] | None) -> list[str]:
    """Run a scenario; return its lines."""
    chosen = {n: k for n, k in learners(scenario).items() if names is None or n in names}
    bench = Bench(
        [scenario], list(chosen.values()), seeds, out, OVERRIDES, Budget(every=1 << 30, tests=1000)
    )
    results = bench.run(Console(stderr=True), print)
    by_name = {
        name: [run for run in results if run["learner"] == kind] for name, kind in chosen.items()
    }
    lines = [
        f"## {scenario}",
        "",
        "| learner | online NLL | accuracy, % | NLL, slices 1-4 | minus tpp | NLL, slice 8 "
        "| minus tpp | CPU s | state, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    plain = by_name["tpp"]
    lines += [row(name, runs, plain) for name, runs in by_name.items() if runs]
    print("\n".join(lines))
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenarios", nargs="*", default=list(LABELS_OF_SLICE))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("sequences"))
    parser.add_argument("--learners", type=json.loads, default=None, help="a JSON list of names")
    parser.add_argument("--tune", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.tune:
        tune()
        return
    lines = [
        "# Event sequences",
        "",
        f"{given.seeds} seeds: mean ± standard deviation. NLL in nats an event, times in seconds, "
        "of users who are not in the stream, after the last slice; differences are paired by seed. "
        "Printed by `python -m experiments.studies.sequences`, which says how.",
        "",
    ]
    for scenario in given.scenarios:
        lines += section(scenario, given.seeds, given.out / scenario, given.learners)
        (given.out / "sequences.md").write_text("\n".join(lines))
    if given.learners is None and len(given.scenarios) == len(LABELS_OF_SLICE):
        RESULT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
