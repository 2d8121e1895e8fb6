"""Job keys under their former names: in job files, ``--set``, checkpoints and recordings."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.errors import JobError
from pipeline.config.job import check, differences, load
from streams.kafka.config import KafkaConfig

WriteJob = Callable[..., Path]
FORMER = {
    "stream.label_timeout_events": "stream.wait",
    "stream.label_timeout_seconds": "stream.within",
}
NOTICE = "stream.wait is now stream.label_timeout_events; the old name still works"


def renamed(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint with the key names of earlier versions."""
    return {FORMER.get(key, key): value for key, value in fingerprint.items()}


def give_former_names(checkpoint: Path) -> None:
    """Rewrite the manifest of a checkpoint as earlier versions wrote it."""
    file = checkpoint / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["seal"]
    manifest["fingerprint"] = renamed(manifest["fingerprint"])
    assert "stream.wait" in manifest["fingerprint"]
    seal = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({**manifest, "seal": seal}))


def test_former_and_current_names_give_one_fingerprint(write_job: WriteJob) -> None:
    old = load(write_job("old.yaml", stream={"wait": 70}))
    new = load(write_job("new.yaml", stream={"label_timeout_events": 70}))
    assert old.fingerprint() == new.fingerprint()
    assert old.fingerprint()["stream.label_timeout_events"] == 70
    assert old.text() == new.text()


@pytest.mark.parametrize("in_file", ["wait", "label_timeout_events"])
@pytest.mark.parametrize("override", ["wait", "label_timeout_events"])
def test_set_replaces_either_name(write_job: WriteJob, in_file: str, override: str) -> None:
    loaded = load(write_job(stream={in_file: 70}), [f"stream.{override}=80"])
    assert loaded.job.stream.label_timeout_events == 80
    assert check(loaded.raw, loaded.file, loaded.folder).fingerprint() == loaded.fingerprint()


def test_both_names_in_a_file_are_refused(write_job: WriteJob) -> None:
    job = write_job(stream={"wait": 70, "label_timeout_events": 70})
    with pytest.raises(JobError) as raised:
        load(job)
    assert str(raised.value) == (
        f"{job}: stream: label_timeout_events and wait: wait is the former name of "
        "label_timeout_events; keep only one"
    )


def test_wrong_value_is_reported_under_the_current_name(write_job: WriteJob) -> None:
    job = write_job(stream={"wait": 0})
    with pytest.raises(
        JobError, match=r"stream\.label_timeout_events: expected a number above 0, got 0"
    ):
        load(job)


def test_former_names_are_logged_once(
    write_job: WriteJob, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        load(write_job())
        assert not caplog.messages
        load(write_job(stream={"wait": 70}))
        assert caplog.messages == [NOTICE]
        load(write_job(), ["stream.wait=70", "stream.within=null"])
    assert caplog.messages[1:] == [
        "stream.wait is now stream.label_timeout_events, stream.within is now "
        "stream.label_timeout_seconds; the old names still work"
    ]


def test_kafka_ahead_is_max_future_seconds() -> None:
    stream = {"kind": "kafka", "servers": "h:1", "topic": "t", "label": "y"}
    config = KafkaConfig.model_validate({**stream, "features": {"numeric": ["a"]}, "ahead": 5})
    assert config.max_future_seconds == 5
    assert "max_future_seconds" in config.runtime_only_keys


def test_differences_match_former_names() -> None:
    old = {"stream.wait": 5, "stream.within": None, "a": 1}
    new = {"stream.label_timeout_events": 5, "stream.label_timeout_seconds": None, "a": 1}
    assert differences(old, new) == []
    assert differences(old, {**new, "stream.label_timeout_events": 6}) == [
        "stream.label_timeout_events: 5 in the checkpoint, 6 in the job"
    ]
    # A stream of somebody else may have a key of that name.
    assert differences({"stream.wait": 5}, {"stream.wait": 5}) == []


def test_run_with_former_names_resumes_to_the_same_state(
    write_job: WriteJob, everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    """A run folder of an earlier version goes on, and ends as a run that was never stopped."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    current = write_job("new.yaml", stream={"label_timeout_events": 70})
    former = write_job("old.yaml", stream={"wait": 70})
    everlearn("run", current, "--run-dir", whole, "--max-events", 1500)
    everlearn("run", former, "--run-dir", cut, "--max-events", 700)
    for checkpoint in (cut / "checkpoints").iterdir():
        give_former_names(checkpoint)
    other = tmp_path / "other"
    shutil.copytree(cut, other)
    for folder, job in ((cut, current), (other, former)):
        everlearn("run", job, "--run-dir", folder, "--resume", "--max-events", 1500)
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["resumed_from"]
        expected = json.loads((whole / "summary.json").read_text())["state_digest"]
        assert summary["state_digest"] == expected
    refused = everlearn(
        *("run", current, "--run-dir", cut, "--resume", "--set", "stream.wait=71"), code=2
    )
    assert "stream.label_timeout_events: 70 in the checkpoint, 71 in the job" in refused.err
