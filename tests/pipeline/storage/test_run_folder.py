"""The lock of a run folder, and the atomic write of its files."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from filelock import Timeout

from pipeline.config.errors import JobError
from pipeline.storage.run_folder import (
    FolderLockedError,
    RunFolder,
    exclusive_lock,
    write_atomic,
)


def test_summary_has_a_line_for_each_row_of_a_matrix(tmp_path: Path) -> None:
    summary = {
        "metrics": {"a": 0.5, "b": float("inf"), "c": None},
        "confusion": {"classes": ["[x,\n", 'y"'], "matrix": [[1, 2], [3, 4]]},
        "cursor": {},
    }
    folder = RunFolder(tmp_path)
    folder.write_summary(summary)
    assert folder.summary() == summary | {"metrics": {"a": 0.5, "b": None, "c": None}}
    lines = (tmp_path / "summary.json").read_text().splitlines()
    assert lines[7:12] == [
        '    "classes": ["[x,\\n", "y\\""],',
        '    "matrix": [',
        "      [1, 2],",
        "      [3, 4]",
        "    ]",
    ]


def test_lock_excludes_a_second_run_until_released(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    second = RunFolder(tmp_path / "run")
    refused = pytest.raises(FolderLockedError, match="held by another run")
    with folder.lock(), refused, second.lock():
        pass
    with folder.lock():
        pass


def test_lock_and_plain_flock_exclude_each_other(tmp_path: Path) -> None:
    """An older version of this package held the same file by flock."""
    folder = RunFolder(tmp_path)
    with folder.lock(), (tmp_path / ".lock").open("r+") as old, pytest.raises(BlockingIOError):
        fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / ".lock").open("r+") as old:
        fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(FolderLockedError), folder.lock():
            pass


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from pipeline.storage.run_folder import exclusive_lock\n"
        "lock = exclusive_lock(Path(sys.argv[1])); lock.acquire()\n"
        "print('held', flush=True); time.sleep(60)"
    )
    file = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", code, file], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Timeout):
            exclusive_lock(file).acquire()
        holder.kill()
    with exclusive_lock(file):
        pass


@pytest.mark.parametrize("target", ["precious", "missing"])
def test_lock_never_follows_a_symbolic_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".lock").symlink_to(tmp_path / target)
    with pytest.raises(JobError, match="cannot write in"), RunFolder(tmp_path).lock():
        pass
    assert (tmp_path / "precious").read_text() == "kept"
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("fsync", [False, True])
def test_write_atomic_replaces_text_bytes_and_written_files(tmp_path: Path, fsync: bool) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "é", fsync)
    assert file.read_bytes() == "é".encode()
    write_atomic(file, b"\x00", fsync)
    assert file.read_bytes() == b"\x00"
    write_atomic(file, lambda opened: opened.write(b"by a function"), fsync)
    assert file.read_bytes() == b"by a function"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_write_atomic_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "old")

    def fail(opened: IO[bytes]) -> None:
        opened.write(b"half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_atomic(file, fail)
    assert file.read_text() == "old"


def test_write_atomic_flushes_file_and_folder_only_with_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    write_atomic(tmp_path / "a", "text")
    assert flushed == []
    write_atomic(tmp_path / "a", "text", fsync=True)
    assert len(flushed) == 2
