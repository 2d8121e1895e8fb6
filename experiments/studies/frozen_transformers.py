"""Compare learners inside a frozen transformer with learners on its vectors.

One pass in micro-batches of 10, over 600 events of each task of CLINC150: 40 an intent in the mean.
Both kinds see the last layer of all-MiniLM-L6-v2. Settings are defaults. Those that depend on the
data are the best on validation rows: see ``TRIED``. The rows are in frozen_transformers_rows.py.

    python experiments/studies/frozen_transformers.py                  # both scenarios
    python experiments/studies/frozen_transformers.py clinc150 --seeds 1

Writes experiments/results/frozen_transformers.md. A run that was stopped continues; --finished
prints what it has so far. Two processes share the work by two folders and --only; then
--finished --out FOLDER FOLDER prints both.

What the blocks below trained parts give is computed once for all rows, and kept in memory (1 GB).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from rich.console import Console

from experiments.studies.comparison import common, cost_table, difference, write_section
from experiments.studies.frozen_transformers_rows import BEST, QUERIED, SCENARIOS, TRIED, Setting
from learners.pretrained.backbones.trunk import Trunk
from learners.pretrained.tuned.base import TunedLearner
from pipeline.bench.bench import Bench, Results
from pipeline.bench.cell import Cell, build_cell, job_of
from pipeline.bench.measure import Budget
from pipeline.storage.run_folder import write_atomic

RESULT = Path(__file__).parents[1] / "results" / "frozen_transformers.md"
ENCODER = "stream.encoder={kind: minilm, layers: 1}"
KEPT = 1 << 30
"""Bytes for what the blocks below trained parts give."""
BELOW = "below.json"
PERCENT = {
    "acc": "ACC",
    "forgetting": "forgetting",
    "aaa": "AAA",
    "online_accuracy": "prequential",
}


class Study:
    """The cells of a scenario, in a folder.

    Args:
        setting: of the scenario.
        out: the folder of the study.
        more: folders of other processes, whose results are read.
    """

    def __init__(self, setting: Setting, out: Path, more: Sequence[Path] = ()) -> None:
        self._setting = setting
        self._folder = out / setting.scenario
        self._read = [folder / setting.scenario for folder in (out, *more)]
        self._cache = f"encoders.cache.folder={(out / 'cache').resolve()}"

    def run(self, seeds: int, only: Sequence[str] = ()) -> None:
        """Run the cells that are not finished: one seed after the other.

        Args:
            seeds: how many, counted from 0.
            only: the rows to run; empty: all.
        """
        for group in ("on_vectors", "inside"):
            stated = getattr(self._setting, group)
            arms = [name for name in stated if not only or name in only]
            for name in arms:
                if stated[name].startswith(BEST):
                    _, tried = TRIED[stated[name].removeprefix(BEST)]
                    self._bench("tried", tried, 1, "stream.validation=published")
            if arms:
                learners = [str(self.learner(name)) for name in arms]
                kept = self._blocks_below(learners, seeds) if group == "inside" else []
                self._bench(group, learners, seeds)
                del kept

    def _blocks_below(self, learners: Sequence[str], seeds: int) -> list[Trunk]:
        """Compute what the blocks below trained parts give for the events of all seeds.

        Learners of this process share it while the result is kept: no row has it in its seconds.
        """
        kept = []
        queried = {text.split(":")[0] in QUERIED for text in learners}
        for seed, needs_encoder in product(range(seeds), sorted(queried)):
            cell = Cell(self._setting.scenario, "l2p" if needs_encoder else "adapter", seed)
            parts = build_cell(job_of(cell, self._setting.overrides))
            learner = cast(TunedLearner, parts.loop.learner)
            kept.append(trunk := learner.trunk(KEPT))
            began = time.process_time()
            for batch in parts.reader.batches(parts.reader.blocks({})):
                trunk(torch.from_numpy(learner.rows(batch)))
            if not (seed or needs_encoder):
                self._folder.mkdir(parents=True, exist_ok=True)
                write_atomic(self._folder / BELOW, json.dumps(time.process_time() - began))
        return kept

    def below(self) -> float | None:
        """Return the CPU seconds of the blocks below trained parts, for all events, if known."""
        files = [folder / BELOW for folder in self._read if (folder / BELOW).exists()]
        return float(json.loads(files[0].read_text())) if files else None

    def learner(self, name: str) -> str | None:
        """Return the learner of a row, in the notation of ``everlearn bench``; None where it is the
        best of some, and none was tried yet."""
        stated = self._setting.arms[name]
        if not stated.startswith(BEST):
            return stated
        key, tried = TRIED[stated.removeprefix(BEST)]
        results = [result for result in self._results("tried") if result["learner"] in tried]
        best = max(results, key=lambda result: float(result["metrics"][key]), default=None)
        return best and str(best["learner"])

    def _results(self, group: str) -> Results:
        files = [file for at in self._read for file in (at / group).glob("*/*/result.json")]
        return [json.loads(file.read_text())["result"] for file in files]

    def _bench(self, group: str, learners: Sequence[str], seeds: int, *more: str) -> None:
        encoded = () if group == "inside" else (ENCODER, self._cache)
        overrides = [*self._setting.overrides, *encoded, *more]
        budget = Budget(every=10**9, tests=self._setting.tests)
        place = self._folder / group
        bench = Bench([self._setting.scenario], learners, seeds, place, overrides, budget)
        bench.run(Console(stderr=True), print)

    def encoding(self) -> float:
        """Return the CPU seconds of encoding the events of a stream once. Kept in a file."""
        file = self._folder / "encoding.json"
        if not file.exists():
            with TemporaryDirectory() as cold:
                cache = f"encoders.cache.folder={cold}"
                overrides = [*self._setting.overrides, ENCODER, cache]
                parts = build_cell(job_of(Cell(self._setting.scenario, "no-change", 0), overrides))
                began = time.process_time()
                for _ in parts.reader.batches(parts.reader.blocks({})):
                    pass
            file.write_text(json.dumps(time.process_time() - began))
        return float(json.loads(file.read_text()))

    def finished(self) -> dict[str, Results]:
        """Return the results of cells that have finished, by row and in order of seeds."""
        found: dict[str, Results] = {}
        for group in ("on_vectors", "inside"):
            results = self._results(group)
            for name in getattr(self._setting, group):
                learner = self.learner(name)
                mine = [result for result in results if result["learner"] == learner]
                if mine:
                    found[name] = sorted(mine, key=lambda result: int(result["seed"]))
        return found

    def section(self) -> list[str]:
        """Return the lines of the scenario in the results."""
        setting, found = self._setting, self.finished()
        stated = {name: self.learner(name) for name in found}
        events = next(iter(found.values()))[0]["events"]
        encoding, below = f"Encoding them takes {self.encoding():.0f} CPU s", self.below()
        if below is not None:
            encoding += f", the blocks below trained parts alone {below:.0f}"
        return [
            f"\n## {setting.title}\n",
            f"{setting.note}\n{events:,} events. {encoding}. No row has this in *CPU s*.",
            "",
            *cost_table(found, PERCENT, setting.base),
            *(
                f"| {name} {'| ' * (len(PERCENT) + 4)}| 0 |"
                for name in setting.arms
                if name not in found
            ),
            "",
            *differences(found, setting.pairs),
            "",
            *(f"* {name}: `{text}`" for name, text in stated.items() if name != text),
        ]


def differences(found: Mapping[str, Results], pairs: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return a row for each pair of arms that both have results of one seed."""
    lines = ["| difference in ACC | points | seeds |", "|---|---|---|"]
    for what, (arm, other) in pairs.items():
        points = difference(found.get(arm, []), found.get(other, []))
        if points:
            seeds = len(common(found[arm], found[other]))
            lines.append(f"| {what} | {points} | {seeds} |")
    return lines if len(lines) > 2 else []


HEADER = """# Learners inside a frozen transformer

One pass, micro-batches of 10. Learners do not know where a task ends, unless their row says so.
ACC, forgetting, AAA and prequential accuracy are in %, mean ± standard deviation over seeds.
Differences are paired by seed, with 95% intervals where there are several. *CPU s* is learning and
prediction of the stream, on vectors of the encoder, or on what the blocks below trained parts give.
Either is computed once for all rows; `l2p`, `dual-prompt` and `coda` need both. *state* is all that
a checkpoint has of the learner. `joint` keeps every event. It is trained online and is no bound.
Rows with 0 seeds have not been run. Settings are defaults, or stand below the table. By
`python experiments/studies/frozen_transformers.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), metavar="scenario")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--out",
        type=Path,
        nargs="+",
        default=[Path("runs/frozen_transformers")],
        help="the folder of the study, and of other processes, whose results are read",
    )
    parser.add_argument("--only", nargs="*", default=[], help="rows to run")
    parser.add_argument("--finished", action="store_true", help="run nothing")
    given = parser.parse_args()
    if unknown := set(given.scenarios) - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    order = [setting.title for setting in SCENARIOS.values()]
    for name in given.scenarios:
        study = Study(SCENARIOS[name], given.out[0], given.out[1:])
        if not given.finished:
            study.run(given.seeds, given.only)
        lines = study.section()
        write_section(RESULT, HEADER, SCENARIOS[name].title, lines, order)
        print("\n".join(lines))


if __name__ == "__main__":
    main()
