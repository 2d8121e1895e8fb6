"""Jobs whose columns go through encoders: what they state, what is refused, and one digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from learners.pretrained.encoders.random_features import RandomFeatureEncoder
from pipeline.config.errors import JobError
from pipeline.config.job import load
from pipeline.training.builder import build
from pipeline.training.description import describe

FEATURES = {"kind": "random-features", "dimension": 64}


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Path]:
    def write(encoder: Any = FEATURES, name: str = "job.yaml", **more: Any) -> Path:
        """A job over the digits, a stream of vectors, which go through an encoder."""
        stream = {"kind": "scenario", "name": "split-digits", "batch_size": 16}
        stream |= {} if encoder is None else {"encoder": encoder}
        learner = {"kind": "replay", "buffer": {"capacity": 100}}
        file = tmp_path / name
        file.write_text(yaml.safe_dump({"seed": 5, "stream": stream, "learner": learner, **more}))
        return file

    return write


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("identiti", "stream.encoder: 'identiti': did you mean 'identity'?"),
        ({"kind": "random-features", "dimension": 0}, "stream.encoder.dimension: expected a numb"),
        ({"kind": "random-features", "size": 3}, "stream.encoder: unknown key 'size'"),
        ({"pixels": {"kind": "identiti"}}, "stream.encoder.pixels: 'identiti': did you mean"),
        ({"pixels": {"dimension": 3}}, "stream.encoder.pixels: expected the name of an e"),
        ("no.such:Encoder", "stream.encoder: no module named 'no.such'"),
        (7, "stream.encoder: expected a mapping, got 7"),
    ],
)
def test_an_encoder_that_is_none_is_refused_with_its_place(
    job: Callable[..., Path], encoder: Any, message: str
) -> None:
    with pytest.raises(JobError) as error:
        load(job(encoder))
    assert message in str(error.value)


def test_a_column_that_is_not_there_is_refused(
    job: Callable[..., Path],
) -> None:
    message = "stream.encoder: there is no feature 'pixel': did you mean 'pixels'"
    with pytest.raises(JobError, match=message):
        build(load(job({"pixel": "identity"})))


def test_a_job_without_encoders_has_the_fingerprint_of_before(job: Callable[..., Path]) -> None:
    assert not [key for key in load(job(None)).fingerprint() if "encoder" in key]


def test_what_encodes_is_in_the_fingerprint_and_where_is_not(
    job: Callable[..., Path],
) -> None:
    base = load(job()).fingerprint()
    assert base["stream.encoder.kind"] == "random-features"
    assert base["stream.encoder.features"] == "relu"  # a default, written out
    runs = {"workers": 3, "gpus": 0.5, "cache": {"folder": "features"}}
    assert load(job(encoders=runs)).fingerprint() == base
    assert load(job(encoders=3)).job.encoders.workers == 3
    assert load(job({**FEATURES, "dimension": 32})).fingerprint() != base
    assert load(job({"pixels": "identity"})).job.stream.encoder == {"pixels": {"kind": "identity"}}


def test_a_description_says_what_a_column_goes_through(job: Callable[..., Path]) -> None:
    loaded = load(job())
    described = describe(loaded, build(loaded))
    assert described.stream.columns[0].use == "vector of 64"
    assert described.encodings["pixels"].text.startswith("random-features: 64 numbers, ")


def test_one_digest_for_any_number_of_workers_and_after_a_resume(
    job: Callable[..., Path],
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    everlearn("run", job(), "--run-dir", "whole")
    everlearn("run", job(encoders=3), "--run-dir", "three")
    everlearn("run", job(), "--run-dir", "cut", "--max-events", 333)
    everlearn("run", job(), "--run-dir", "cut", "--resume", "--rate", 100_000)
    whole = summary(tmp_path / "whole")
    assert whole["events"] > 1000
    for other in ("three", "cut"):
        assert summary(tmp_path / other)["state_digest"] == whole["state_digest"]
    assert not list((tmp_path / "cut").rglob("*encoder*"))


def test_runs_share_a_cache_on_the_disk_and_give_one_digest(
    job: Callable[..., Path],
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RandomFeatureEncoder, "costly", True)
    file = job(encoders={"cache": {"folder": "features"}}, track={"every_events": 500})
    found = []
    for name in ("first", "second"):
        everlearn("run", file, "--run-dir", name)
        last = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
        found.append((summary(tmp_path / name), last["metrics"]))
    (first, encoded), (second, looked_up) = found
    assert second["state_digest"] == first["state_digest"]
    assert encoded["system/feature_cache_misses"] > 1000
    assert looked_up["system/feature_cache_misses"] == 0
    assert looked_up["system/feature_cache_hits"] == second["events"]
    assert looked_up["system/feature_cache_mb"] > 0.2  # of 1,343 vectors
    assert looked_up["system/encoder_rows_per_s"] > 0


ENCODER = """
from learners.pretrained.encoders.identity import IdentityEncoder
class Mine(IdentityEncoder):
    def __init__(self, config, feature, seed):
        super().__init__(config, feature, seed)
        self.fingerprint = "{}"
"""


def test_a_resume_with_another_encoder_is_refused(
    job: Callable[..., Path], everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(ENCODER.format("before"))
    everlearn("run", job("mine:Mine"), "--run-dir", "run", "--max-events", 200)
    import sys

    del sys.modules["mine"]
    (tmp_path / "mine.py").write_text(ENCODER.format("now, and longer"))
    refused = everlearn("run", job("mine:Mine"), "--run-dir", "run", "--resume", code=2)
    said = "encoder of pixels: before in the checkpoint, now, and longer in the job"
    assert said in refused.err
    assert "Set these back, or start another run" in refused.err
