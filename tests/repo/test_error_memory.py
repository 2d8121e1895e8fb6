"""The study of error memories: its rows are jobs, and its tables are right by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.studies import error_memory as study
from experiments.studies.click_scores import Predicted, difference_table, scored, scores

TINY = "digits-label-flips"


@pytest.mark.parametrize("stream", ["movielens", "elec2"])
def test_every_row_is_a_job_and_every_pair_has_rows(stream: str, tmp_path: Path) -> None:
    setting = study.streams_known()[stream]
    rows = study.rows_of(setting)
    for name, learner in rows.items():
        assert study.job_of(setting, learner, 0, tmp_path).job.learner.kind, name
    for pair in study.PAIRS.values():
        assert set(pair) <= rows.keys()


def test_scores_by_hand() -> None:
    y = np.array([0, 1, 0, 1])
    found = scores(Predicted(np.array([0.2, 0.4, 0.6, 0.8]), y, np.zeros(4, np.int64)))
    assert found["auc"] == 0.75
    assert found["calibration"] == 1.0
    assert found["log_loss"] == pytest.approx(-np.log([0.8, 0.4, 0.4, 0.8]).mean())
    assert "gauc" not in found
    grouped = Predicted(np.array([0.2, 0.4, 0.6, 0.8]), y, np.array([1, 1, 2, 2]))
    assert scores(grouped)["gauc"] == 1.0


def test_slots_begin_where_the_base_is_frozen() -> None:
    y = np.tile([0, 1], 100)
    proba = np.where(y == 1, 0.9, 0.1)
    proba[:100] = 0.5
    found = scored(Predicted(proba, y, np.zeros(200, np.int64)), 100)
    assert found["slots"] == [1.0] * 10
    assert found["metrics"]["auc"] == 1.0
    assert found["whole"]["auc"] == pytest.approx(0.75 + 0.125)


def test_differences_are_paired_by_seed() -> None:
    def runs(*values: float) -> list[dict[str, object]]:
        return [{"seed": i, "metrics": {"auc": v, "log_loss": -v}} for i, v in enumerate(values)]

    found = {"a": runs(0.7, 0.8), "b": runs(0.6, 0.7, 0.1)}
    lines = difference_table(found, {"a less b": ("a", "b"), "none": ("a", "c")})
    assert lines[2:] == [
        "| a less b | +0.1000 [+0.1000, +0.1000] | -0.1000 [-0.1000, -0.1000] | 2 |"
    ]


def test_a_cell_is_run_once_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = study.streams_known()[TINY]
    of_stream = study.Study(TINY, setting, tmp_path, most=640)
    of_stream.run(1, ["frozen", "frozen, memory"])
    first = of_stream.finished()
    assert list(first) == ["frozen", "frozen, memory"]
    assert len(first["frozen"][0]["slots"]) == 10
    assert capsys.readouterr().out.count("seed 0") == 2
    of_stream.run(1, ["frozen", "frozen, memory"])
    assert capsys.readouterr().out == ""
    assert of_stream.finished() == first
    lines = "\n".join(of_stream.section())
    assert "| frozen: memory | " in lines
    assert study.head_of({TINY: of_stream}).startswith(f"# Error memories\n\n{study.VERDICT}")
