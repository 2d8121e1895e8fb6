"""The study of learners inside a frozen transformer: its rows and its tables."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.studies import frozen_transformers as study
from experiments.studies.comparison import cost_table, difference
from experiments.studies.frozen_transformers_rows import BEST, SCENARIOS, TRIED
from pipeline.bench.cell import Cell, job_of

Runs = list[dict[str, Any]]
ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EVERLEARN_DATA") or ROOT.parent / "shared" / "data")
DATA = DATA / "clinc150_full.json.gz"


def runs(*accuracies: float, learner: str = "slda") -> Runs:
    """Results with these ACC, of seeds from 0."""
    return [
        {
            "learner": learner,
            "seed": seed,
            "events": 6000,
            "metrics": {"acc": acc, "forgetting": 0.1, "aaa": 0.5, "online_accuracy": 0.4},
            "cpu_seconds": 2.0,
            "state_bytes": 10**6,
        }
        for seed, acc in enumerate(accuracies)
    ]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rows_are_jobs_and_pairs_are_rows(scenario: str) -> None:
    setting = SCENARIOS[scenario]
    for text in [
        *setting.arms.values(),
        *(text for _, tried in TRIED.values() for text in tried),
    ]:
        if not text.startswith(BEST):
            encoded = () if text in setting.inside.values() else (study.ENCODER,)
            job_of(Cell(scenario, text, 0), [*setting.overrides, *encoded])
        else:
            assert text.removeprefix(BEST) in TRIED
    assert {setting.base, *(arm for pair in setting.pairs.values() for arm in pair)} <= set(
        setting.arms
    )


def test_differences_are_paired_by_seed() -> None:
    assert difference(runs(0.7, 0.8), runs(0.6, 0.7, 0.1)) == "+10.0 [+10.0, +10.0]"
    assert difference(runs(0.7), runs(0.6)) == "+10.0"
    assert difference(runs(0.7), []) == ""
    found = {"one": runs(0.7, 0.8), "two": runs(0.6)}
    pairs = {"a gain": ("one", "two"), "not there": ("one", "three")}
    assert study.differences(found, pairs)[2:] == ["| a gain | +10.0 | 1 |"]
    assert study.differences(found, {}) == []


def test_table_lists_the_best_first() -> None:
    rows = cost_table({"low": runs(0.5, 0.7), "high": runs(0.8, 0.8)}, study.PERCENT, "low")[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| high", "| low"]
    assert rows[1] == "| low | 60.0±14 | 10.0±0.0 | 50.0±0.0 | 40.0±0.0 |  |  | 2.0 | 1.00 MB | 2 |"


def test_finished_cells_are_found_by_row(tmp_path: Path) -> None:
    setting = SCENARIOS["clinc150"]
    for group, learner in (("on_vectors", "slda"), ("inside", "l2p")):
        for result in runs(0.5, 0.6, learner=learner):
            folder = tmp_path / "clinc150" / group / "clinc150" / f"{learner}-{result['seed']}"
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps({"result": result}))
    found = study.Study(setting, tmp_path).finished()
    assert {name: [run["seed"] for run in mine] for name, mine in found.items()} == {
        "slda": [0, 1],
        "l2p": [0, 1],
    }


def test_a_section_lists_rows_that_have_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = study.Study(SCENARIOS["clinc150"], tmp_path)
    monkeypatch.setattr(there, "finished", lambda: {"slda": runs(0.5)})
    (tmp_path / "clinc150").mkdir()
    (tmp_path / "clinc150" / "encoding.json").write_text("20.0")
    rows = [line for line in there.section() if line.startswith("| ")]
    assert len({row.count("|") for row in rows}) == 1
    assert sum(row.endswith("| 0 |") for row in rows) == len(SCENARIOS["clinc150"].arms) - 1


def test_blocks_below_are_computed_once_for_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = "learner.backbone={kind: random-transformer, width: 64}"
    setting = replace(SCENARIOS["clinc150"], overrides=("stream.events=15", backbone))
    if not DATA.exists():
        pytest.skip(f"no {DATA.name} in {DATA.parent}: name its folder in EVERLEARN_DATA")
    monkeypatch.setenv("EVERLEARN_DATA", str(DATA.parent))
    there = study.Study(setting, tmp_path)
    plain, queried = there._blocks_below(["adapter", "l2p:top=2", "mos"], 1)
    assert plain.counts().misses == queried.counts().misses > 100
    assert (there.below() or 0) > 0
    with_seeds = there._blocks_below(["mos"], 2)
    assert with_seeds[0].counts().misses == 0
    assert with_seeds[1].counts().bytes > plain.counts().bytes / 2
