"""Jobs: loading, overrides and fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.errors import JobError
from pipeline.config.job import differences, load, override

WriteJob = Callable[..., Path]


def test_load_reads_an_exponent_without_a_dot_as_a_number(write_job: WriteJob) -> None:
    job = write_job()
    text = job.read_text().replace("lr: 0.001", "lr: 1e-3")
    assert "1e-3" in text
    job.write_text(text)
    assert load(job).job.learner.optimizer.lr == 0.001  # type: ignore[attr-defined]


def test_load_applies_overrides_at_every_depth(write_job: WriteJob) -> None:
    loaded = load(
        write_job(),
        ["seed=11", "learner.model.hidden=[4, 4]", "evaluate.probes.share=0.1", "name=other"],
    )
    assert loaded.job.seed == 11
    assert loaded.job.name == "other"
    assert loaded.job.learner.model.hidden == (4, 4)  # type: ignore[attr-defined]
    assert loaded.job.evaluate.probes.share == 0.1


def test_an_override_goes_into_what_a_name_is_short_for(write_job: WriteJob) -> None:
    loaded = load(write_job(), ["learner=dkvb", "learner.lr=0.5"])
    assert loaded.raw["learner"] == {"kind": "dkvb", "lr": 0.5}
    encoder = {"kind": "minilm", "layers": 1}
    raw: dict[str, Any] = {"stream": {"encoder": "minilm"}}
    override(raw, "stream.encoder.layers=1")
    assert raw == {"stream": {"encoder": encoder}}
    raw = {"stream": {"encoder": {"note": "minilm"}}}
    override(raw, "stream.encoder.note.layers=1")
    assert raw == {"stream": {"encoder": {"note": encoder}}}


def test_fingerprint_has_only_the_keys_that_shape_the_state(write_job: WriteJob) -> None:
    base = load(write_job()).fingerprint()
    same = load(write_job(), ["name=x", "checkpoint.keep=9", "checkpoint.every_events=1"])
    assert same.fingerprint() == base
    for setting in (
        "seed=8",
        "threads=2",
        "stream.batch_size=8",
        "stream.label_delay={events: 4}",
        "learner.steps=3",
        "learner.model.hidden=[3]",
        "learner.buffer.capacity=7",
        "evaluate.window=9",
        "evaluate.probes.share=0.5",
    ):
        changed = load(write_job(), [setting]).fingerprint()
        assert len(differences(base, changed)) >= 1, setting


def test_fingerprint_ignores_defaults_written_out(write_job: WriteJob) -> None:
    base = load(write_job()).fingerprint()
    explicit = load(write_job(), ["stream.lateness=0.0", "learner.model.activation=relu"])
    assert differences(base, explicit.fingerprint()) == []


def test_load_reports_every_problem(write_job: WriteJob) -> None:
    job = write_job(learner={"steps": 0, "replay_size": "many"}, evaluate={"window": -1})
    with pytest.raises(JobError) as error:
        load(job)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    for place in ("learner.steps", "learner.replay_size", "evaluate.window"):
        assert any(f"{job}: {place}: " in line for line in lines)


def test_differences_treat_an_absent_key_as_null() -> None:
    assert differences({"a": 1}, {"a": 1, "learner.augment": None}) == []
    assert differences({"a": 1}, {"a": 1, "learner.augment": "weak"}) == [
        "learner.augment: not set in the checkpoint, weak in the job"
    ]
