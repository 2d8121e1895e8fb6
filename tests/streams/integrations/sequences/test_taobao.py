"""The stream of Taobao: from a small file of the same layout, and from the published one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from streams.core.batch import Batch
from streams.core.errors import StreamError
from streams.integrations.sequences.taobao import FILE, TaobaoConfig, TaobaoStream

DATA = Path(os.environ.get("EVERLEARN_DATA", "../shared/data"))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Write a file of 30 users, 20 of them in the split for training."""
    rng = np.random.default_rng(0)
    columns: dict[str, np.ndarray] = {}
    for split, users in (("train", 20), ("dev", 4), ("test", 6)):
        lengths = rng.integers(1, 9, users)
        n = int(lengths.sum())
        columns[f"{split}_len"] = lengths.astype(np.int32)
        columns[f"{split}_t"] = 151_154.0 + rng.uniform(0, 80, n)
        columns[f"{split}_k"] = rng.integers(0, 3, n).astype(np.int16)
    np.savez(tmp_path / FILE, **columns)
    monkeypatch.setenv("EVERLEARN_DATA", str(tmp_path))
    return columns


def stream() -> TaobaoStream:
    return TaobaoStream(TaobaoConfig(kind="taobao", slices=4), Path())


def test_users_are_merged_by_time(small: dict[str, np.ndarray]) -> None:
    made = stream()
    total = sum(int(small[f"{split}_len"].sum()) for split in ("train", "dev", "test"))
    assert len(made) + len(made.test) == total
    batch = Batch.concat(list(made.read({}, 7)))
    assert (np.diff(batch.time) >= 0).all()
    assert 1.51154e9 <= batch.time[0] <= 1.51155e9  # seconds
    assert batch.classes == ("0", "1", "2")
    assert not set(made.events.user) & set(made.test.user)
    assert {*made.events.user, *made.test.user} == set(range(30))


def test_broken_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_bytes(b"no archive")
    monkeypatch.setenv("EVERLEARN_DATA", str(tmp_path))
    with pytest.raises(StreamError, match=r"tpp_taobao.npz is broken"):
        stream()


def test_missing_file_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLEARN_DATA", str(tmp_path))
    with pytest.raises(StreamError, match="EVERLEARN_DATA"):
        stream()


def test_published_file_has_events_in_all_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (DATA / FILE).is_file():
        pytest.skip(f"{FILE} is not in EVERLEARN_DATA")
    monkeypatch.setenv("EVERLEARN_DATA", str(DATA))
    made = TaobaoStream(TaobaoConfig(kind="taobao"), Path())
    assert len(made) + len(made.test) == 115_397
    assert len(made.types) == 17
    assert min(len(made.task_test(i)) for i in range(8)) > 2000
