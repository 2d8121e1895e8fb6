"""River's data sets as streams: the same events as river gives, from any position."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import datasets
from river.datasets import synth

from streams.core.batch import Batch, Ragged
from streams.core.errors import StreamError
from streams.integrations.river import RiverStream, RiverStreamConfig

HERE = Path()


def river(dataset: str, **settings: Any) -> RiverStream:
    return RiverStream(RiverStreamConfig(kind="river", dataset=dataset, **settings), HERE)


def test_events_are_rivers_own() -> None:
    stream = river("Phishing")
    blocks = list(stream.read({}, 500))
    expected = list(datasets.Phishing())
    assert len(stream) == len(expected) == sum(map(len, blocks)) == 1_250
    assert stream.schema.task == "classification"
    assert [f.name for f in stream.schema.features] == list(expected[0][0])
    x = np.concatenate([b.x for b in blocks])  # type: ignore[misc]
    assert x.tolist() == [list(row.values()) for row, _ in expected]
    names = [b.classes[code] for b in blocks for code in b.y]  # type: ignore[union-attr]
    assert names == [y for _, y in expected]


def test_river_generator_is_endless_and_seeded() -> None:
    stream = river("synth.Agrawal")
    first = Batch.concat(list(islice(stream.read({}, 100), 3)))
    expected = list(synth.Agrawal(seed=0).take(300))
    assert [first.classes[code] for code in first.y.tolist()] == [y for _, y in expected]  # type: ignore[union-attr]
    with pytest.raises(TypeError):
        len(stream)
    assert not stream.has_time


def test_regression_and_dates() -> None:
    stream = river("AirlinePassengers")
    (block,) = stream.read({}, 1_000)
    assert stream.schema.task == "regression"
    assert block.y is not None
    assert isinstance(block.x, np.ndarray)
    assert block.y[:3].tolist() == [112, 118, 132]
    assert block.x[0, 0] == -662688000.0


def test_words_are_categorical() -> None:
    stream = river("synth.Agrawal", limit=5)
    assert all(f.kind == "numeric" for f in stream.schema.features)
    stream = river("Bikes") if datasets.Bikes().is_downloaded else None  # type: ignore[assignment]
    if stream is None:
        pytest.skip("the data set Bikes is not on this machine")
    (block,) = islice(stream.read({}, 10), 1)
    assert isinstance(block.x, dict)
    assert isinstance(block.x["station"], Ragged)


@pytest.mark.parametrize("dataset", ["Phishing", "synth.LEDDrift", "synth.Hyperplane"])
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(0, 200))
def test_any_cursor_goes_on_exactly(dataset: str, size: int, at: int) -> None:
    settings: dict[str, Any] = {"limit": 150}
    (whole,) = river(dataset, **settings).read({}, 1_000)
    stream = river(dataset, **settings)
    rest = list(stream.read({"0": at}, size))
    assert [i for b in rest for i in b.offset.tolist()] == list(range(at, 150))
    assert [t for b in rest for t in b.time.tolist()] == list(range(at, 150))
    x = [row for b in rest for row in b.x.tolist()]  # type: ignore[union-attr]
    assert x == whole.x[at:].tolist()  # type: ignore[index]
    names = [b.classes[code] for b in rest for code in b.y.tolist()]  # type: ignore[union-attr]
    assert names == [whole.classes[code] for code in whole.y[at:].tolist()]  # type: ignore[index]


def test_feature_left_out_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def events(self: Any) -> Any:
        yield {"a": 1.0, 2: True, "c": "x"}, 1
        yield {"a": 1.0, "c": "x"}, 0
        yield {"a": "one", 2: False, "c": "x"}, 0
        yield {"a": 1.0, 2: False, "c": "y"}, None

    monkeypatch.setattr(datasets.Phishing, "__iter__", events)
    (block,) = river("Phishing").read({}, 10)
    assert block.offset.tolist() == [0, 1, 3]
    assert [(d.offset, d.reason) for d in block.dead] == [
        (2, "column 'a' holds 'one'; expected a finite number"),
    ]
    assert isinstance(block.x, dict)
    np.testing.assert_array_equal(np.asarray(block.x["2"]), [1, math.nan, 0])
    assert block.y is not None
    assert block.y.tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    ("dataset", "settings", "parts"),
    [
        ("Phish", {}, ["river has no data set 'Phish'; did you mean 'Phishing'?"]),
        ("agrawal", {}, ["did you mean 'synth.Agrawal'?"]),
        ("base", {}, ["river has no data set 'base'"]),
        ("SolarFlare", {}, ["made for Multi-output regression"]),
        (
            "synth.Agrawal",
            {"params": {"colour": 1}},
            ["stream.params: synth.Agrawal", "colour"],
        ),
    ],
)
def test_unreadable_file_error_is_one_line(
    dataset: str, settings: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(StreamError) as error:
        river(dataset, **settings)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_river_data_set_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.Elec2, "is_downloaded", False)
    monkeypatch.setattr(datasets.Elec2, "download", lambda *a, **k: pytest.fail("went online"))
    with pytest.raises(StreamError, match=r"Elec2 is not on this machine; download it once with"):
        river("Elec2")
