"""Whatever is wrong with a job is told before it starts: one line for each problem, status 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.errors import JobError
from pipeline.config.job import load
from pipeline.config.yaml_file import MAX_BYTES
from pipeline.training.builder import build

Everlearn = Callable[..., Any]
WriteJob = Callable[..., Path]


def refused(file: Path, *overrides: str, built: bool = False) -> str:
    """What is said of the job; each line is of one problem, and can be shown as it is."""
    start = (lambda: build(load(file, overrides))) if built else lambda: load(file, overrides)
    with pytest.raises(JobError) as error:
        start()
    told = str(error.value)
    assert all(line.isprintable() and len(line) < 1000 for line in told.split("\n")), told
    return told


BOMB = "\n".join(
    ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
)
# What a value may be written as, and what is said of it.
VALUES = {
    "an open list": ("[1", "not YAML"),
    "a list for a key": ("{? [a, b] : 1}", "a key must be a scalar"),
    "no date": ("2024-13-45", "month"),
    "too many digits": ("9" * 5000, "digits"),
    "too many hexadecimal digits": ("0x" + "f" * 5000, "bits"),
    "nested too deep": ("[" * 3000 + "]" * 3000, "nested"),
    "nested deep": ("[" * 150 + "]" * 150, "nested"),
    "no truth": ("!!bool perhaps", "perhaps"),
    "bytes": ("!!binary aGVsbG8=", "bytes"),
    "half a character": ('"\\ud800"', "Unicode"),
    "itself": ("&a [*a]", "nested"),
    "an unknown tag": ("!!python/name:os.system x", "could not determine a constructor"),
    "a control character": ("a\x07b", "not YAML"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_that_cannot_be_read(name: str, write_job: WriteJob, tmp_path: Path) -> None:
    value, says = VALUES[name]
    told = refused(write_job(), f"learner.replay_size={value}")
    assert told.startswith("--set learner.replay_size=")
    assert says in told
    assert "\n" not in told
    file = tmp_path / "written.yaml"
    file.write_text(f"name: {value}\n")
    told = refused(file)
    assert told.startswith(f"{file}: ")
    assert says in told
    assert "\n" not in told


def test_anchors_that_grow(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_text(BOMB)
    assert "more than 100,000 values" in refused(file)


@pytest.mark.parametrize("place", ["", "stream.", "learner.", "learner.optimizer."])
def test_keys_that_are_no_words(place: str, write_job: WriteJob) -> None:
    job = write_job()
    if place:
        told = refused(job, f"{place[:-1]}={{kind: replay, 1: 2, null: 3}}")
    else:
        job.write_text(job.read_text() + "\n1: 2\n")
        told = refused(job)
    assert f"{job}" in told


def test_an_override_that_is_wrong_is_named_in_one_line(write_job: WriteJob) -> None:
    assert refused(write_job(), "a\nb").startswith("--set a b: expected key=value")
    assert "has no keys in it" in refused(write_job(), "name.x=1")


@pytest.mark.timeout(20)
def test_only_a_small_regular_file_is_read(tmp_path: Path) -> None:
    assert "not a regular file" in refused(Path("/dev/zero"))
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "not a regular file" in refused(tmp_path / "pipe.yaml")
    assert "directory" in refused(tmp_path)
    large = tmp_path / "large.yaml"
    large.write_text("#" * (MAX_BYTES + 1))
    assert "more than 1,000,000 bytes" in refused(large)


@pytest.mark.parametrize(
    "override",
    [
        "threads=true",
        "threads=1025",
        "stream.batch_size=true",
        "stream.start=true",
        "seed=false",
        "learner.steps=true",
        "learner.model.hidden=[true]",
        "learner.optimizer.lr=true",
        "learner.optimizer.betas=[true, 0.9]",
        "evaluate.window=yes",
        "evaluate.probes.share=false",
    ],
)
def test_truth_is_no_number_and_numbers_have_bounds(write_job: WriteJob, override: str) -> None:
    job = write_job()
    place = override.partition("=")[0]
    told = refused(job, override)
    assert told.startswith(f"{job}: {place}")
    assert ": expected " in told
    assert ", got " in told
    assert "\n" not in told


def test_what_is_of_truth_may_be_true(write_job: WriteJob) -> None:
    job = load(write_job(), ["learner.scale=false", "stream.batch_size=4e1"]).job
    assert job.learner.scale is False  # type: ignore[attr-defined]
    assert job.stream.batch_size == 40


def test_the_usual_optimizer_and_model_need_no_kind(write_job: WriteJob) -> None:
    job = write_job(learner={"optimizer": None, "model": None})
    learner: Any = load(
        job, ["learner.optimizer.lr=0.01", "learner.model={hidden: [4]}"]
    ).job.learner
    assert (learner.optimizer.kind, learner.optimizer.lr) == ("adam", 0.01)
    assert (learner.model.kind, learner.model.hidden) == ("mlp", (4,))


def test_an_unknown_kind_of_optimizer_or_model_is_named(write_job: WriteJob) -> None:
    job = write_job()
    told = refused(job, "learner.optimizer={kind: adams}", "learner.model={kind: cnv}")
    assert told.splitlines() == [
        f"{job}: learner.model.kind: 'cnv': did you mean 'conv'? There are: mlp, conv, module:Name",
        f"{job}: learner.optimizer.kind: 'adams': did you mean 'adam'? There are: adam, sgd",
    ]
    told = refused(job, "learner.optimizer=adam")
    assert told == f"{job}: learner.optimizer: expected a mapping with a kind, got 'adam'"


@pytest.mark.parametrize("shape", [[1, 2], [1, 2, 3, 4], [0, 8, 8], "8x8", [True, 8, 8]])
def test_shapes_of_images(write_job: WriteJob, shape: Any) -> None:
    job = write_job(stream={"features": {"image": {"a": shape}}})
    told = refused(job)
    assert f"{job}: stream.features: the shape of image 'a' is " in told
    assert "[channels, height, width] is wanted" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "learner.model.hidden=[1000000000000]",
            "learner.model.hidden.0: expected a number of at most",
        ),
        (
            "learner.model.hidden=[100000000000000000000]",
            "learner.model.hidden.0: expected a number",
        ),
        ("learner.model={kind: 'os:getcwd', args: {x: 1}}", "learner.model: os:getcwd cannot be"),
        ("device=meta", "device: 'meta' cannot be used here"),
        ("device=cuda:99", "device: 'cuda:99' cannot be used here"),
        ("device=''", "device: '' cannot be used here"),
    ],
)
def test_networks_that_cannot_be(write_job: WriteJob, override: str, says: str) -> None:
    job = write_job()
    told = refused(job, override, built=True)
    assert told.startswith(f"{job}: {says}")
    assert "\n" not in told


LEARNER = """
from learners.baselines.prior import Prior
from learners.base import LearnerConfig
from pydantic import field_validator

class Settings(LearnerConfig):
    odd: int = 0

    @field_validator("odd")
    @classmethod
    def _check(cls, odd):
        return {}[odd] if odd else odd

class Mine(Prior):
    kind = "mine"
    Config = Settings

    def __init__(self, config, schema, seed):
        BODY
"""
STREAM = """
from streams.core.stream import Stream

class Mine(Stream):
    kind = "mine"

    def __init__(self, config, folder):
        BODY

    def read(self, cursor, block_size):
        yield
"""


@pytest.mark.parametrize("part", ["learner", "stream"])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise RuntimeError('one \\x1b[31mred\\nsecond')", "RuntimeError: one red"),
        ("raise SystemExit(4)", "SystemExit: 4"),
        ("raise KeyError()", "KeyError: KeyError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ValueError('bad')", "ValueError: bad"),
    ],
)
def test_a_constructor_that_fails(
    write_job: WriteJob, everlearn: Everlearn, tmp_path: Path, part: str, body: str, says: str
) -> None:
    source = (LEARNER if part == "learner" else STREAM).replace("BODY", body)
    (tmp_path / "own_part.py").write_text(source)
    job = write_job()
    overrides = [f"{part}={{kind: 'own_part:Mine'}}"]
    try:
        told = refused(job, *overrides, built=True)
        assert told == f"{job}: {part}.kind own_part:Mine: {says}"
        assert everlearn("run", job, "--set", overrides[0], code=2).line == f"everlearn: {told}"
    finally:
        sys.modules.pop("own_part", None)
        sys.path.remove(str(tmp_path))


def test_a_validator_that_fails(write_job: WriteJob, tmp_path: Path) -> None:
    (tmp_path / "own_part.py").write_text(LEARNER.replace("BODY", "pass"))
    try:
        told = refused(write_job(), "learner={kind: 'own_part:Mine', odd: 3}")
        assert told.endswith("learner: KeyError: 3")
    finally:
        sys.modules.pop("own_part", None)
        sys.path.remove(str(tmp_path))


def test_a_module_that_cannot_be_imported(
    write_job: WriteJob, everlearn: Everlearn, tmp_path: Path
) -> None:
    (tmp_path / "own_broken.py").write_text("class Mine(:\n")
    job = write_job()
    try:
        for part in ("learner", "stream"):
            said = everlearn("run", job, "--set", f"{part}={{kind: 'own_broken:Mine'}}", code=2)
            assert f"{job}: {part}.kind: module 'own_broken' cannot be imported: " in said.line
            assert "SyntaxError: " in said.line
    finally:
        sys.path.remove(str(tmp_path))
