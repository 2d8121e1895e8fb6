"""The options of ``everlearn run``: what is resumed, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WriteJob = Callable[..., Path]
Everlearn = Callable[..., Any]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "runs/r (No such file or directory)"),
        ([], "runs/r (empty)"),
        (["a.csv", "b.csv", "c.csv", "d.csv"], "runs/r (a.csv, b.csv, c.csv and 1 more)"),
    ],
)
def test_resume_without_a_run_is_refused(
    write_job: WriteJob, everlearn: Everlearn, content: list[str] | None, said: str
) -> None:
    folder = Path("runs/r")
    if content is not None:
        folder.mkdir(parents=True)
        for name in content:
            (folder / name).touch()
    done = everlearn("run", write_job(), "--run-dir", folder, "--resume", code=2)
    assert f"--resume: no run in {said}: leave out --resume to begin one" in done.line
    assert not (folder / "job.yaml").exists()


def test_resume_if_begun_begins_and_then_resumes(
    write_job: WriteJob, everlearn: Everlearn, summary: Callable[..., Any]
) -> None:
    words = ("run", write_job(), "--run-dir", "r", "--resume-if-begun")
    everlearn(*words, "--max-events", 320)
    assert summary(Path("r"))["resumed_from"] is None
    everlearn(*words, "--max-events", 640)
    assert summary(Path("r"))["resumed_from"] is not None
    assert summary(Path("r"))["events"] == 640


def test_run_says_the_order_of_its_files(write_job: WriteJob, everlearn: Everlearn) -> None:
    Path("parts").mkdir()
    for number in (10, 9, 1):
        Path(f"parts/{number}.csv").write_text("a,y\n1,no\n2,yes\n")
    stream = {"path": "parts", "label": "y", "label_delay": {"events": 0}, "time": None}
    done = everlearn("run", write_job(stream=stream), "--run-dir", "r")
    assert "reads 3 files in this order: 1.csv, 9.csv, 10.csv" in done.err
