"""The table of record: its settings are jobs, its numbers are those of the results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from experiments.studies import record
from experiments.studies.comparison import write_section
from pipeline.bench.cell import Cell, build_cell, job_of

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EVERLEARN_DATA") or ROOT.parent / "shared" / "data")


@pytest.mark.parametrize("scenario", record.SCENARIOS)
def test_every_variant_is_a_job_and_none_comes_twice(scenario: str) -> None:
    for name in record.LEARNERS:
        texts = list(record.variants(name, scenario))
        assert len(set(texts)) == len(texts) >= len(record.SCENARIOS[scenario].rates)
        for text in texts:
            job_of(Cell(scenario, text, 0), record.SCENARIOS[scenario].overrides)


def test_all_have_the_bytes_of_a_thousand_events_of_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no data sets in {DATA}")
    monkeypatch.setenv("EVERLEARN_DATA", str(DATA))
    sizes = {}
    for text in ("replay:steps=1", "der++:alpha=0.1", "view-batch:views=2", "ewc:weight=1"):
        equal = record.equal_bytes(text, "split-mnist", ())
        parts = build_cell(job_of(Cell("split-mnist", equal, 0)))
        parts.loop.step(next(iter(parts.reader.batches(parts.reader.blocks({}, 64)))))
        sizes[text] = parts.loop.learner.buffer_bytes
    whole = sizes["replay:steps=1"]
    assert sizes.pop("ewc:weight=1") == 0
    assert all(0.998 * whole < size <= whole for size in sizes.values()), sizes


def result(learner: str, seed: int, acc: float, rank: float) -> dict[str, Any]:
    return {
        "learner": learner,
        "seed": seed,
        "metrics": {"acc": acc, "effective_rank": rank},
        "events": 1000,
        "gradient_steps": 100,
        "buffer_bytes": 8000,
        "seconds": 2.0,
    }


def test_the_table_by_hand() -> None:
    results = [result("a", 0, 0.5, 120.0), result("b", 0, 0.25, 2.0)]
    results += [result("a", 1, 0.6, 140.0), result("b", 1, 0.25, 3.0)]
    lines = record.table("split-mnist", {"replay": "a", "other": "b"}, results)
    assert "1,000 events, 2 seeds" in lines[1]
    assert "| ACC | 55.0±7.1 | 25.0±0.0 |" in lines
    assert "| effective rank | 130±14 | 2.5±0.707 |" in lines
    assert "| gradient steps | 100 |  |" in lines  # only our own learners tell
    assert not any(line.startswith("| forgetting") for line in lines)
    assert lines[-2:] == ["* replay: `a`", "* other: `b`"]


def test_a_section_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "record.md"
    for scenario, text in (
        ("permuted-mnist", "one"),
        ("split-mnist", "two"),
        ("permuted-mnist", "three"),
    ):
        lines = [f"\n## {scenario}\n", text]
        write_section(file, "# Head\n", scenario, lines, ["split-mnist", "permuted-mnist"])
    assert file.read_text() == "# Head\n\n## split-mnist\n\ntwo\n\n## permuted-mnist\n\nthree\n"
