"""A full disk, whatever is written when it fills up: one line, status 1, and a resume that is
exact, with no dead letter lost or doubled."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

CASE = Path(__file__).parents[2].parent / "shared" / "cases" / "disk-full-while-dead"
Everlearn = Callable[..., Any]
N = 30_000


@contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[None]:
    """Mount a file system of that size in memory; skip the test where that is not allowed."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "everlearn-test", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def grow(path: Path, kilobytes: int) -> None:
    """Give the file system more room."""
    options = f"remount,size={kilobytes}k"
    subprocess.run(["mount", "-o", options, str(path)], check=True, capture_output=True)


def table() -> None:
    """Write a file of which every second row after 3,000 is dead."""
    cells = (f"{'bad' if i % 2 and i > 3000 else i % 5},{'ab'[i % 2]}" for i in range(N))
    Path("a.csv").write_text("x,label\n" + "\n".join(cells) + "\n")


def job(**more: Any) -> Path:
    if CASE.is_dir():
        content = yaml.safe_load((CASE / "job.yaml").read_text())
    else:
        features = {"numeric": ["x"]}
        stream = {"kind": "recorded", "path": "a.csv", "label": "label", "features": features}
        content = {"name": "full", "stream": stream, "learner": {"kind": "no-change"}}
        content["checkpoint"] = {"every_events": 1000}
    Path("full.yaml").write_text(yaml.safe_dump(content | more))
    return Path("full.yaml")


def dead_positions(folder: Path) -> list[tuple[int, int]]:
    lines = (folder / "dead.jsonl").read_text().splitlines()
    return [(entry["partition"], entry["offset"]) for entry in map(json.loads, lines)]


NO_LIMIT = ("--set", "stream.dead_letters.share=1")
"""Half of the rows are dead on purpose."""


@pytest.mark.parametrize(
    ("kilobytes", "place"),
    [(600, "dead.jsonl"), (250, "dead.jsonl"), (1200, "")],
    ids=["dead letters", "dead letters, early", "anything"],
)
def test_full_disk_while_dead_keeps_state_and_letters(
    kilobytes: int, place: str, everlearn: Everlearn, summary: Callable[[Path], dict[str, Any]]
) -> None:
    table()
    everlearn("run", job(), *NO_LIMIT, "--run-dir", "whole")
    small = Path("small")
    with small_disk(small, kilobytes):
        folder = small / "r"
        done = everlearn("run", "full.yaml", *NO_LIMIT, "--run-dir", folder, code=1)
        assert "Nothing was started" not in done.err
        kept = max(int(path.name) for path in (folder / "checkpoints").iterdir())
        assert "No space left on device: small/r" in done.line
        assert place in done.line
        assert f"The state after {kept} events is kept; when mended, go on" in done.line
        assert done.line.endswith("--resume")
        grow(small, 20_000)
        everlearn("run", "full.yaml", *NO_LIMIT, "--run-dir", folder, "--resume")
        assert dead_positions(folder) == dead_positions(Path("whole"))
        ours, whole = summary(folder), summary(Path("whole"))
    for name in ("state_digest", "fates", "cursor"):
        assert ours[name] == whole[name]


def test_full_disk_at_the_last_checkpoint_is_said_once(everlearn: Everlearn) -> None:
    """Nothing dies, so that only checkpoints and the summary are written."""
    Path("a.csv").write_text("x,label\n" + "".join(f"{i % 5},{'ab'[i % 2]}\n" for i in range(3000)))
    with small_disk(Path("small"), 500):
        file = job(checkpoint={"every_events": 1024})
        everlearn("run", file, "--run-dir", "small/r", "--max-events", 1024)
        free = os.statvfs("small").f_bavail * os.statvfs("small").f_bsize
        Path("small/filler").write_bytes(b"0" * (free - 4096))
        done = everlearn("run", file, "--run-dir", "small/r", "--resume", code=1)
        assert done.line.startswith("everlearn: No space left on device: small/r/checkpoints. ")
        assert "The state after 1024 events is kept" in done.line
        Path("small/filler").unlink()
        everlearn("run", file, "--run-dir", "small/r", "--resume")


def test_full_disk_for_the_summary_keeps_the_end(everlearn: Everlearn) -> None:
    """The summary has no room: the run has ended, and a resume only writes the summary."""
    Path("a.csv").write_text("x,label\n" + "".join(f"{i % 5},{'ab'[i % 2]}\n" for i in range(3000)))
    file = job()
    Path("r").mkdir()
    Path("r/.summary.json").symlink_to("/dev/full")
    line = everlearn("run", file, "--run-dir", "r", code=1).line
    assert line.startswith("everlearn: No space left on device: r/summary.json. The state after")
    assert not Path("r/summary.json").exists()
    everlearn("run", file, "--run-dir", "r", "--resume")
    assert json.loads(Path("r/summary.json").read_text())["events"] == 3000
