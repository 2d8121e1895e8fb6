"""The cache of encoded values, in memory and in a file that processes share."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from learners.base import LearnerError
from learners.pretrained.encoders import feature_table
from learners.pretrained.encoders.base import Encoder
from learners.pretrained.encoders.cache import FeatureCache
from learners.pretrained.encoders.feature_table import FeatureTable
from learners.pretrained.encoders.registry import load_encoder
from streams.core.batch import Array, Column, Ragged
from streams.core.schema import Feature
from tests.support import encoders as support
from tests.support import feature_tables as tables

ROOT = Path(__file__).parents[4]
DIMENSION = 24
SIZE = 1 << 20


class Counting:
    """A real encoder of vectors, that lists how many values it was given."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.given: list[int] = []
        encode = encoder.encode

        def counted(values: Column) -> Array:
            self.given.append(len(values))
            return encode(values)

        encoder.encode = counted  # type: ignore[method-assign]


@pytest.fixture
def counting() -> Counting:
    settings = {"kind": "random-features", "dimension": DIMENSION}
    return Counting(load_encoder(settings, Feature("v", "vector", (5,)), 0))


@pytest.fixture(params=["memory", "disk"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where vectors are kept; None: in memory."""
    return None if request.param == "memory" else tmp_path / "features"


def vectors(n: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(n, 5))


def test_values_are_encoded_once(counting: Counting, folder: Path | None) -> None:
    cache = FeatureCache(counting.encoder, SIZE, folder)
    x = vectors(100)
    expected = counting.encoder.encode(x)
    repeated = np.concatenate([x[:60], x[20:50], x[::2]])
    rows = np.concatenate([np.arange(60), np.arange(20, 50), np.arange(0, 100, 2)])
    counting.given.clear()
    np.testing.assert_array_equal(cache.encode(repeated), expected[rows])
    assert counting.given == [80]
    np.testing.assert_array_equal(cache.encode(x[::-1]), expected[::-1])
    assert counting.given == [80, 20]
    np.testing.assert_array_equal(cache.encode(x), expected)
    assert cache.encode(x[:0]).shape == (0, DIMENSION)
    assert counting.given == [80, 20]
    counts = cache.counts()
    assert counts._asdict() == {
        "hits": 60 + 80 + 100,
        "misses": 100,
        "entries": 100,
        "bytes": 100 * (4 * DIMENSION + 24),
        "unsaved": 0,
    }


def test_texts_and_images_have_keys_of_their_own(folder: Path | None) -> None:
    cache = FeatureCache(
        load_encoder("identity", Feature("p", "image", (1, 2, 3)), 0), SIZE, folder
    )
    x = np.arange(12, dtype=np.uint8).reshape(2, 1, 2, 3)
    np.testing.assert_array_equal(cache.encode(x), x.reshape(2, 6) / np.float32(255))
    texts = FeatureCache(support.LengthEncoder(), SIZE, folder)
    column = Ragged.of_text(["skipped", "", "a", "bb", "a", "\0", "\0\0"])
    np.testing.assert_array_equal(texts.encode(column[1:])[:, 0], [0, 1, 2, 1, 1, 2])
    assert texts.counts().misses == 5


def test_the_size_is_bounded_and_old_rows_give_way(counting: Counting, folder: Path | None) -> None:
    """Twice as many values as places: about half of the last ones are still there."""
    cache = FeatureCache(counting.encoder, SIZE, folder)
    places = SIZE // (4 * DIMENSION + 24)
    for start in range(0, 2 * places, 1000):
        cache.encode(vectors(1000, start))
    counts = cache.counts()
    assert 0.9 * places < counts.entries <= places
    assert counts.bytes <= SIZE
    before = counts.hits
    x = vectors(1000, start)
    np.testing.assert_array_equal(cache.encode(x), counting.encoder.encode(x))
    assert cache.counts().hits - before > 700


def test_another_fingerprint_has_a_file_of_its_own(counting: Counting, tmp_path: Path) -> None:
    x = vectors(10)
    FeatureCache(counting.encoder, SIZE, tmp_path).encode(x)
    settings = {"kind": "random-features", "dimension": DIMENSION, "seed": 9}
    other = load_encoder(settings, Feature("v", "vector", (5,)), 0)
    cache = FeatureCache(other, SIZE, tmp_path)
    np.testing.assert_array_equal(cache.encode(x), other.encode(x))
    assert cache.counts().misses == 10
    assert len(list(tmp_path.iterdir())) == 2
    again = FeatureCache(counting.encoder, SIZE, tmp_path)
    again.encode(x)
    assert again.counts().hits == 10


def test_a_file_of_another_size_or_content_starts_anew(counting: Counting, tmp_path: Path) -> None:
    x = vectors(10)
    for size, damage in ((SIZE, False), (2 * SIZE, False), (2 * SIZE, True)):
        if damage:
            (file,) = tmp_path.iterdir()
            with file.open("r+b") as opened:
                opened.write(b"something else")
        cache = FeatureCache(counting.encoder, size, tmp_path)
        cache.encode(x)
        assert cache.counts().misses == 10
        (file,) = tmp_path.iterdir()
        assert file.stat().st_size <= size


def test_damaged_rows_are_encoded_again(counting: Counting, tmp_path: Path) -> None:
    """Every byte of the rows and entries changes, one in each row."""
    x = vectors(300)
    expected = counting.encoder.encode(x)
    FeatureCache(counting.encoder, SIZE, tmp_path).encode(x)
    (file,) = tmp_path.iterdir()
    with file.open("r+b") as opened:
        data = np.frombuffer(opened.read(), np.uint8).copy()
        data[4096::7] ^= (data[4096::7] != 0).astype(np.uint8)
        opened.seek(0)
        opened.write(data.tobytes())
    cache = FeatureCache(counting.encoder, SIZE, tmp_path)
    np.testing.assert_array_equal(cache.encode(x), expected)
    assert cache.counts().misses == 300
    np.testing.assert_array_equal(cache.encode(x), expected)
    assert cache.counts().misses == 300


def test_a_full_disk_only_costs_time(
    counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(counting.encoder, SIZE, tmp_path)
    x = vectors(30)
    expected = counting.encoder.encode(x)
    write, left = os.pwrite, [21]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    np.testing.assert_array_equal(cache.encode(x), expected)
    np.testing.assert_array_equal(cache.encode(x), expected)
    counts = cache.counts()
    assert (counts.entries, counts.unsaved) == (10, 20 + 20)


def test_a_cache_that_cannot_be_is_refused(counting: Counting, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LearnerError, match=r"the cache .* cannot be made: "):
        FeatureCache(counting.encoder, SIZE, tmp_path / "file" / "folder")
    with pytest.raises(LearnerError, match="100 bytes are too few for a cache of rows of 24 num"):
        FeatureTable(DIMENSION, 100)


def test_processes_share_a_file_and_may_be_killed(tmp_path: Path) -> None:
    """Two write to the same places at once, and are killed at a moment that nothing chooses."""
    command = [sys.executable, "-m", "tests.support.feature_tables", str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(seed)], cwd=ROOT, stdout=subprocess.PIPE)
        for seed in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"filling\n"
        time.sleep(0.3)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2
    table = tables.table_of(tmp_path)
    assert len(table) > 0.9 * table.places
    for seed in range(2):
        keys = np.concatenate([tables.keys_of(seed, block) for block in range(tables.BLOCKS)])
        rows, of_key = table.get(keys)
        assert len(rows) > 50
        np.testing.assert_array_equal(rows, tables.rows_of(keys[of_key]))
    assert [file.name for file in tmp_path.iterdir()] == ["table"]


def test_a_torn_row_is_absent() -> None:
    """A row of one writer under the entry of another."""
    table = FeatureTable(4, SIZE)
    keys = np.array([[1, 2], [3, 4]], np.uint64)
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert table.put(keys, rows) == 2
    table._rows[feature_table.WAYS * 1] = 99
    found, of_key = table.get(keys)
    assert of_key.tolist() == [1]
    np.testing.assert_array_equal(found, rows[1:])


@pytest.mark.parametrize("folder", [True, False])
def test_a_cache_that_is_larger_than_the_machine_is_refused(folder: bool, tmp_path: Path) -> None:
    file = tmp_path / "features" if folder else None
    with pytest.raises(LearnerError, match=r"cannot be made|no memory"):
        FeatureTable(384, 10**21 if folder else 10**17, file)
