"""Checkpoints: whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.storage.checkpoints import CheckpointError, Checkpoints, read
from streams.core.state_dict import digest

STATE: dict[str, Any] = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.array(3.5),
    "empty": np.empty((0, 4), np.int16),
    "flags": np.array([True, False]),
    "wide": np.array([2**63], np.uint64),
    "inner": {"nothing": {}, "none": None, "list": [1, "two", [3.0]], "big": 2**130, "text": "é"},
}


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, messages: list[str]) -> Any:
    made = Checkpoints(tmp_path / "checkpoints", 3, messages.append)
    made.begin()
    yield made
    made.close()


def test_checkpoint_is_read_as_written(checkpoints: Checkpoints) -> None:
    checkpoints.write(70, STATE, {"job": "mine"})
    assert checkpoints.wait() is None
    found = read(checkpoints.all()[0])
    assert found.events == 70
    assert found.about["job"] == "mine"
    assert digest(found.state) == digest(STATE)
    assert found.state["inner"] == STATE["inner"]
    assert found.state["scalar"].shape == ()
    assert found.state["empty"].shape == (0, 4)


def test_checkpoint_copies_the_state_first(checkpoints: Checkpoints) -> None:
    moving = {"a": np.zeros(1000)}
    checkpoints.write(1, moving, {})
    moving["a"] += 1
    checkpoints.wait()
    assert not read(checkpoints.all()[0]).state["a"].any()


def test_checkpoints_keep_only_the_newest(checkpoints: Checkpoints) -> None:
    for events in (5, 10, 15, 20, 25):
        checkpoints.write(events, STATE, {})
    checkpoints.wait()
    assert [int(path.name) for path in checkpoints.all()] == [15, 20, 25]
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.events == 25


def test_checkpoints_begin_clears_partial_writes(checkpoints: Checkpoints, tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".writing-000000000000099"
    left.mkdir()
    (left / "arrays.safetensors").write_bytes(b"half of it")
    assert checkpoints.newest() is None
    checkpoints.begin()
    assert not left.exists()


def test_checkpoints_begin_renames_a_whole_one(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """It had cleared away an older checkpoint of that name, and not given the name to its own."""
    checkpoints.write(5, STATE, {})
    checkpoints.wait()
    whole = checkpoints.all()[0]
    whole.rename(whole.with_name(f".writing-{whole.name}"))
    assert checkpoints.newest() is None
    checkpoints.begin()
    newest = checkpoints.newest()
    assert newest is not None
    assert digest(newest.state) == digest(STATE)


def test_checkpoint_broken_twice_is_moved_aside_twice(checkpoints: Checkpoints) -> None:
    for _ in range(2):
        checkpoints.write(5, STATE, {})
        checkpoints.write(6, STATE, {})
        checkpoints.wait()
        (checkpoints.all()[-1] / "manifest.json").write_text("[]")
        newest = checkpoints.newest()
        assert newest is not None
        assert newest.events == 5


@pytest.mark.parametrize("odd", [np.array(["a"]), np.array([1j]), {1, 2}, object()])
def test_checkpoint_of_unsupported_state_names_it(checkpoints: Checkpoints, odd: object) -> None:
    with pytest.raises(CheckpointError, match="inner/odd"):
        checkpoints.write(5, {"inner": {"odd": odd}}, {})


def test_checkpoint_at_the_same_events_replaces_the_old(checkpoints: Checkpoints) -> None:
    checkpoints.write(5, {"a": np.zeros(1)}, {})
    checkpoints.write(5, {"a": np.ones(1)}, {})
    checkpoints.wait()
    assert read(checkpoints.all()[0]).state["a"] == 1


def test_checkpoint_with_any_flipped_byte_is_refused(
    checkpoints: Checkpoints, messages: list[str]
) -> None:
    checkpoints.write(5, {"a": np.arange(3), "b": "text"}, {"job": "mine"})
    checkpoints.wait()
    folder = checkpoints.all()[0]
    flips = 0
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        for at in range(0, len(data), 7):
            file.write_bytes(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
            try:
                found = read(folder)
            except CheckpointError as error:
                assert str(file) in str(error) or "format" in str(error)  # noqa: PT017
                flips += 1
            else:  # white space between the words of the manifest means nothing
                assert file.name == "manifest.json"
                assert data[at : at + 1].isspace()
                assert found.state["b"] == "text"
            file.write_bytes(data)
    assert flips > 50


def test_checkpoint_that_cannot_be_written_is_reported(
    checkpoints: Checkpoints, messages: list[str], tmp_path: Path
) -> None:
    checkpoints.write(5, STATE, {})
    checkpoints.wait()
    for events in (6, 7):
        (tmp_path / "checkpoints" / f".writing-{events:015d}").mkdir()  # in the way
        checkpoints.write(events, STATE, {})
    failure = checkpoints.wait()
    assert failure is not None
    assert failure.strerror == "File exists"
    assert len(messages) == 1, "said once, until one is written"
    assert "checkpoint not written: File exists" in messages[0]
    assert [int(path.name) for path in checkpoints.all()] == [5]
    checkpoints.write(8, STATE, {})
    assert checkpoints.wait() is None
