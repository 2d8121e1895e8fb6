"""Files of a folder or a pattern are read in the order in which people number them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.files.config import RecordedConfig
from streams.files.readers import natural_key
from streams.files.stream import FileStream

NUMBERS = [1, 2, 10, 9, 100, 11]


@pytest.mark.parametrize("pattern", ["parts", "parts/part-*.csv"])
def test_parts_are_read_by_their_number(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "parts").mkdir()
    for number in NUMBERS:
        (tmp_path / "parts" / f"part-{number}.csv").write_text(f"a,y\n{number},0\n")
    stream = FileStream(RecordedConfig(kind="recorded", path=pattern, label="y"), tmp_path)
    names = [f"part-{number}.csv" for number in sorted(NUMBERS)]
    assert stream.sources() == names
    blocks = list(stream.read({}, 10))
    assert np.concatenate([b.x for b in blocks]).ravel().tolist() == sorted(NUMBERS)


def test_parts_of_a_list_are_read_as_stated(tmp_path: Path) -> None:
    for name in ("part-1.csv", "part-10.csv", "part-2.csv"):
        (tmp_path / name).write_text("a,y\n1,0\n")
    stated = ["part-10.csv", "part-1.csv", "part-2.csv"]
    stream = FileStream(RecordedConfig(kind="recorded", path=stated, label="y"), tmp_path)
    assert stream.sources() == stated


@given(st.lists(st.integers(0, 10**30), unique=True), st.sampled_from(["", "day ", "7/é-"]))
def test_natural_key_sorts_numbers_by_value(numbers: list[int], before: str) -> None:
    paths = [Path(f"{before}{number}.csv") for number in numbers]
    assert sorted(paths, key=natural_key) == [Path(f"{before}{n}.csv") for n in sorted(numbers)]
