"""What the memory of a learner looks like: metrics and histograms, by hand and beside a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learners.base import LearnerConfig
from learners.baselines.prior import Prior
from learners.results import BufferSummary
from pipeline.callbacks.metric_writer import MetricWriter
from pipeline.config import job as jobs
from pipeline.evaluation.buffer_stats import BufferStats, quantile
from pipeline.training.run import Run
from streams.core.schema import Feature, Schema

WriteJob = Callable[..., Path]


class Remembers(Prior):
    """A learner with the buffer summary that the test sets."""

    kind = "remembers"
    seen: BufferSummary | None = None

    def __init__(self) -> None:
        schema = Schema((Feature("x", "numeric"),), "classification", ("a", "b"))
        super().__init__(LearnerConfig(kind="remembers"), schema, 0)

    def buffer_summary(self) -> BufferSummary | None:
        return self.seen


def intervals(**counts: int) -> Any:
    """Counts by the power of two, ``_3=5``: five of 8 to 15."""
    histogram = np.zeros(63, np.int64)
    for power, count in counts.items():
        histogram[int(power[1:])] = count
    return histogram


def test_buffer_stats_without_a_buffer_are_empty() -> None:
    learner = Remembers()
    stats = BufferStats(learner)
    assert not stats.has_buffer
    assert stats.read() == ({}, {})


def test_quantile_of_intervals_by_hand() -> None:
    counts = intervals(_3=10, _5=10)  # ten of 8 to 15, ten of 32 to 63
    assert quantile(counts, 0.25) == pytest.approx(8 * 2**0.5)
    assert quantile(counts, 0.5) == pytest.approx(16)
    assert quantile(counts, 0.75) == pytest.approx(32 * 2**0.5)
    assert quantile(counts, 1.0) == pytest.approx(64)
    assert quantile(intervals(_0=1), 0.5) == pytest.approx(2**0.5)


def test_read_counts_intervals_since_the_last_call() -> None:
    learner = Remembers()
    learner.seen = BufferSummary(5, intervals(_2=100), {})
    stats = BufferStats(learner)
    assert stats.read() == ({"replay/stored": 5}, {})
    learner.seen = BufferSummary(6, intervals(_2=100, _4=8, _20=2), {})
    metrics, histograms = stats.read()
    assert metrics["replay/stored"] == 6
    assert metrics["replay/interval_p50"] == pytest.approx(16 * 2 ** (5 / 8))
    assert metrics["replay/interval_p90"] == pytest.approx(2**20.5)
    assert histograms == {"interval/16:32": 8, "interval/1048576:2097152": 2}
    learner.seen = BufferSummary(6, intervals(_2=103, _4=8, _20=2), {})
    assert stats.read()[1] == {"interval/4:8": 3}


def test_read_values_of_buffered_events_by_hand() -> None:
    learner = Remembers()
    strength = np.array([1, 1, 2, 3, 4, 16], np.float32)
    retention = np.array([0.0, 0.04, 0.05, 0.5, 0.99, 1.0])
    learner.seen = BufferSummary(6, intervals(), {"strength": strength, "retention": retention})
    metrics, histograms = BufferStats(learner).read()
    assert metrics == pytest.approx(
        {
            "replay/stored": 6,
            "replay/strength_mean": 4.5,
            "replay/strength_p10": 1.0,
            "replay/strength_p50": 2.5,
            "replay/strength_p90": 10.0,
            "replay/retention_mean": 2.58 / 6,
            "replay/retention_p10": 0.02,
            "replay/retention_p50": 0.275,
            "replay/retention_p90": 0.995,
        }
    )
    assert histograms == {
        "strength/1.0:2.0": 2,
        "strength/2.0:4.0": 2,
        "strength/4.0:8.0": 1,
        "strength/16.0:32.0": 1,
        "retention/0.0:0.05": 2,
        "retention/0.05:0.1": 1,
        "retention/0.5:0.55": 1,
        "retention/0.95:1.0": 2,
    }


def test_read_of_an_empty_buffer_has_no_values() -> None:
    learner = Remembers()
    learner.seen = BufferSummary(0, intervals(), {"strength": np.empty(0)})
    assert BufferStats(learner).read() == ({"replay/stored": 0}, {})


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_run_writes_metrics_and_histograms_of_its_buffer(
    write_job: WriteJob, tmp_path: Path
) -> None:
    """A buffer of 200, replay of 32: by chance alike, the mean interval is 200 presentations, and
    the median 200 * ln 2."""
    job = write_job(
        learner={"replay_size": 32, "buffer": {"capacity": 200, "recall": "forgetting-curve"}}
    )
    folder = tmp_path / "run"
    Run(jobs.load(job), folder, print).run(callbacks=[MetricWriter(2000)], max_events=10_000)
    last = rows(folder / "metrics.jsonl")[-1]["metrics"]
    assert last["replay/stored"] == 200
    assert 100 < last["replay/interval_p50"] < 250
    assert last["replay/interval_p10"] < last["replay/interval_p50"] < last["replay/interval_p90"]
    assert 1 <= last["replay/strength_p10"] <= last["replay/strength_p90"] <= 16
    assert 0 < last["replay/retention_p10"] <= last["replay/retention_mean"] < 1
    histograms = rows(folder / "replay.jsonl")
    assert [row["step"] for row in histograms] == [2016, 4000, 6016, 8000, 10_000]
    for row in histograms:
        for name in ("strength", "retention"):
            counts = [v for k, v in row["metrics"].items() if k.startswith(f"{name}/")]
            assert sum(counts) == 200
    # 63 micro-batches of one draw each between two rows, of which about one in four is counted.
    counted = sum(v for k, v in histograms[2]["metrics"].items() if k.startswith("interval/"))
    assert counted in [draws * 32 for draws in range(13, 20)]


def test_read_of_a_large_buffer_takes_a_sample(write_job: WriteJob) -> None:
    from pipeline.training.builder import build

    job = write_job(learner={"buffer": {"capacity": 10_000, "recall": "forgetting-curve"}})
    parts = build(jobs.load(job))
    for batch in parts.reader.read({}):
        parts.loop.step(batch)
        if parts.loop.events >= 10_000:
            break
    seen = parts.loop.learner.buffer_summary()
    assert seen is not None
    assert seen.stored > 9000
    assert {name: len(each) for name, each in seen.values.items()} == {
        "strength": -(-seen.stored // 3),
        "retention": -(-seen.stored // 3),
    }


def test_run_without_a_buffer_writes_no_file(write_job: WriteJob, tmp_path: Path) -> None:
    job = write_job(learner={"kind": "finetune", "model": {"kind": "mlp", "hidden": [4]}})
    Run(jobs.load(job), tmp_path / "run", print).run(callbacks=[MetricWriter(500)], max_events=1000)
    assert not (tmp_path / "run" / "replay.jsonl").exists()


def test_resumed_run_writes_no_step_twice(write_job: WriteJob, tmp_path: Path) -> None:
    job = write_job(checkpoint={"every_events": 700})
    folder = tmp_path / "run"
    for resume, most in ((False, 2200), (True, 4000)):
        run = Run(jobs.load(job), folder, print)
        run.run(callbacks=[MetricWriter(500)], max_events=most, resume=resume)
    steps = [row["step"] for row in rows(folder / "replay.jsonl")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 4000
