"""Reading the folder of a run or of a bench: what is whole counts, what is broken does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.report.run_data import (
    EVALUATIONS,
    Calibration,
    Mark,
    OnceSeenBin,
    SegmentCurve,
    read_bench,
    read_run,
)
from pipeline.storage.metric_log import MetricLog


def write_rows(file: Path, rows: dict[int, dict[str, float]]) -> None:
    writing = MetricLog(file, print)
    for step, metrics in rows.items():
        writing.write(step, metrics)
    writing.close()


def segment(begin: int, end: int, score: float | None = 0.5, **more: Any) -> dict[str, Any]:
    return {"begin": begin, "end": end, "probes": 7, "score": score} | more


def write_evaluations(folder: Path, *evaluations: Any) -> None:
    text = "".join(json.dumps(evaluation) + "\n" for evaluation in evaluations)
    (folder / "evaluations.jsonl").write_text(text)


def test_read_run_curves_join_rows_of_all_files(tmp_path: Path) -> None:
    write_rows(tmp_path / "metrics.jsonl", {100: {"a": 0.1, "b": 1}, 200: {"b": 2}, 300: {"a": 3}})
    write_rows(tmp_path / "served.jsonl", {250: {"served/accuracy": 0.75}})
    write_rows(tmp_path / "stability.jsonl", {150: {"stability/forgetting": 0.25}})
    run = read_run(tmp_path)
    assert run.curves["a"].steps.tolist() == [100, 300]
    assert run.curves["a"].values.tolist() == [0.1, 3]
    assert run.curves["b"].values.tolist() == [1, 2]
    assert run.last("served/accuracy") == 0.75
    assert run.last("stability/forgetting") == 0.25
    assert run.last("never") is None
    assert run.events == 300
    assert (run.job, run.summary, run.evaluations, run.marks) == ({}, {}, [], [])


def test_read_run_once_seen_belongs_to_its_evaluation(tmp_path: Path) -> None:
    bins = [{"first": 5, "last": 9, "since": 6.5, "asked": 4, "right": 3}]
    write_evaluations(
        tmp_path,
        {"events": 100, "segments": [segment(0, 100)]},
        {"events": 200, "segments": [], "once_seen": bins},
        {"events": 300, "segments": [], "once_seen": [{"first": 5}]},  # broken
    )
    run = read_run(tmp_path).evaluations
    assert [evaluation.events for evaluation in run] == [100, 200]
    assert run[0].once_seen == ()
    assert run[1].once_seen == (OnceSeenBin(5, 9, 6.5, 4, 3),)


def test_read_run_has_histograms_of_the_buffer(tmp_path: Path) -> None:
    assert read_run(tmp_path).histograms == {}
    write_rows(tmp_path / "replay.jsonl", {100: {"interval/8:16": 3}, 200: {"interval/16:32": 1}})
    run = read_run(tmp_path).histograms["interval"]
    assert run.counts.tolist() == [[3, 0], [0, 1]]


def test_read_run_skips_a_broken_line(tmp_path: Path) -> None:
    row = '{"step": %d, "time": 1, "metrics": {"a": %s}}\n'
    text = row % (1, "0.5") + "{half\n" + row % (2, "null") + "\n[]\n" + row % (3, "NaN")
    (tmp_path / "metrics.jsonl").write_text(text + row % (4, "1.5") + '{"step": 5, "ti')
    curve = read_run(tmp_path).curves["a"]
    assert curve.steps.tolist() == [1, 3, 4]
    np.testing.assert_array_equal(curve.values, [0.5, np.nan, 1.5])


def test_last_falls_back_to_the_summary(tmp_path: Path) -> None:
    metrics = {"online/accuracy": 0.25, "online/kappa": None}
    (tmp_path / "summary.json").write_text(json.dumps({"events": 70, "metrics": metrics}))
    run = read_run(tmp_path)
    assert (run.last("online/accuracy"), run.last("online/kappa")) == (0.25, None)
    assert run.events == 70


CONFUSION = {"classes": ["no", True], "matrix": [[7, 1], [1, 1]]}
CALIBRATION = {"class": "yes", "predicted": [0.25], "observed": [0.5], "events": [4]}


def test_read_run_has_the_classes_of_the_summary(tmp_path: Path) -> None:
    summary = {"confusion": CONFUSION, "calibration": CALIBRATION}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    run = read_run(tmp_path)
    assert run.confusion is not None
    assert run.confusion.classes == ("no", "True")
    assert run.confusion.matrix.tolist() == [[7, 1], [1, 1]]
    assert run.confusion.unequal
    assert run.calibration == Calibration("yes", (0.25,), (0.5,), (4,))


@pytest.mark.parametrize(
    ("confusion", "calibration"),
    [
        (None, None),
        (7, [1]),
        ({"classes": ["a"]}, {"class": None}),
        (CONFUSION | {"classes": ["a"]}, CALIBRATION | {"observed": []}),
        (CONFUSION | {"matrix": [[1, 2], [3]]}, CALIBRATION | {"events": [0]}),
        (CONFUSION | {"matrix": [[1, 2], [3, -1]]}, CALIBRATION | {"predicted": [1.5]}),
        ({"classes": [], "matrix": []}, CALIBRATION | {"observed": [None]}),
    ],
)
def test_read_run_skips_broken_classes(
    tmp_path: Path, confusion: object, calibration: object
) -> None:
    summary = {"confusion": confusion, "calibration": calibration, "events": 5}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    run = read_run(tmp_path)
    assert (run.confusion, run.calibration, run.events) == (None, None, 5)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{half", "a: [", b"\xff\xfe\x00"])
def test_read_run_of_a_broken_job_or_summary_is_empty(tmp_path: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "job.yaml").write_bytes(data)
    (tmp_path / "summary.json").write_bytes(data)
    run = read_run(tmp_path)
    assert (run.job, run.summary) == ({}, {})


def test_read_run_sorts_evaluations_and_keeps_the_newest(tmp_path: Path) -> None:
    write_evaluations(
        tmp_path,
        {"events": 20, "segments": [segment(0, 20, 0.1)]},
        {"events": 10, "segments": [segment(0, 10, None, low=None)]},
        {"events": 20, "segments": [segment(0, 20, 0.9, low=0.8, high=1)]},
        {"events": 1e999, "segments": []},
        {"events": 30, "segments": [{"begin": 0}]},
        {"events": 40},
        7,
    )
    first, second = read_run(tmp_path).evaluations
    assert (first.events, second.events) == (10, 20)
    assert np.isnan(first.segments[0][2:5]).all()
    assert second.segments == (SegmentCurve(0, 20, 0.9, 0.8, 1.0, 7),)


def test_read_run_thins_evaluations_and_keeps_the_last(tmp_path: Path) -> None:
    n = 5 * EVALUATIONS + 3
    drift = segment(0, 30, cut="drift")  # of evaluations that are not kept too
    write_evaluations(
        tmp_path, *({"events": i, "segments": [drift] if i == 31 else []} for i in range(n))
    )
    run = read_run(tmp_path)
    events = [evaluation.events for evaluation in run.evaluations]
    assert EVALUATIONS <= len(events) <= 2 * EVALUATIONS + 1
    assert (events[0], events[-1]) == (0, n - 1)
    assert len(set(np.diff(events)[:-1])) == 1
    assert run.marks == [Mark(30, "drift", "drift")]


def test_read_run_marks_a_drift_at_each_segment(tmp_path: Path) -> None:
    write_evaluations(
        tmp_path,
        {"events": 9, "segments": [segment(0, 5), segment(5, 9)]},
        {"events": 20, "segments": [segment(0, 12), segment(12, 20)]},
    )
    assert read_run(tmp_path).marks == []
    (tmp_path / "job.yaml").write_text("evaluate: {probes: {cut: {events: null, drift: 0.002}}}")
    assert [(mark.at, mark.kind) for mark in read_run(tmp_path).marks] == [
        (5, "drift"),
        (12, "drift"),
    ]


def test_read_run_marks_alerts_where_they_start(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "track: {alerts: [{metric: a, below: 0.5, after_events: 2, webhook: null}, {metric: a}]}"
    )
    values = {1: 0.1, 2: 0.6, 3: 0.4, 4: 0.3, 5: 0.7, 6: 0.2}
    write_rows(tmp_path / "metrics.jsonl", {step: {"a": value} for step, value in values.items()})
    marks = read_run(tmp_path).marks
    assert marks == [Mark(3, "alert", "a below 0.5"), Mark(6, "alert", "a below 0.5")]


def test_read_bench_results(tmp_path: Path) -> None:
    whole = {
        "scenario": "split",
        "learner": "replay",
        "seed": 3,
        "metrics": {"acc": 0.5, "fwt": None, "bwt": float("nan")},
        "matrix": [[0.9], [0.5, None]],
        "evaluations": {"events": [10, 20, 30], "accuracy": [[0.1, None], [0.2, 0.4]]},
        "seconds": 2.5,
        "state_bytes": 10,
        "buffer_bytes": 2000000,
        "gradient_steps": 40,
        "events": 30,
    }
    bare = {"scenario": "split", "learner": "finetune", "seed": 0, "metrics": {}}
    file = tmp_path / "results.json"
    broken = [7, {"scenario": "x"}, whole | {"matrix": 3}, whole | {"metrics": None}]
    file.write_text(json.dumps([whole, *broken, bare]))
    first, second = read_bench(file)
    assert (first.scenario, first.learner, first.seed) == ("split", "replay", 3)
    expected = {"acc": 0.5, "seconds": 2.5, "buffer_bytes": 2e6, "gradient_steps": 40.0}
    assert first.metrics == expected | {"state_bytes": 10}
    np.testing.assert_array_equal(first.matrix, [[0.9, np.nan], [0.5, np.nan]])
    np.testing.assert_array_equal(first.events, [10, 20])
    np.testing.assert_array_equal(first.accuracy, [[0.1, np.nan], [0.2, 0.4]])
    assert (second.metrics, second.matrix.shape, second.events.shape) == ({}, (0, 0), (0,))


@pytest.mark.parametrize("text", ["{}", "[", "7"])
def test_read_bench_refuses_what_is_not_a_list(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(ValueError):
        read_bench(file)
