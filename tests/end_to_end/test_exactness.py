"""One state digest, whatever happens on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def command(job: Path, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", "run", str(job), "--run-dir", str(folder), *more]


def run(job: Path, folder: Path, *more: str) -> dict[str, Any]:
    done = subprocess.run(
        command(job, folder, *more), cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "summary.json").read_text())


def checkpoints(folder: Path) -> set[str]:
    """Names in the checkpoint folder, a half-written one among them."""
    try:
        return {entry.name for entry in os.scandir(folder / "checkpoints")}
    except FileNotFoundError:
        return set()


def killed_run(
    job: Path,
    folder: Path,
    kills: int,
    seed: int,
    *settings: str,
    signals: Sequence[int] = (signal.SIGKILL,),
) -> tuple[dict[str, Any], list[str]]:
    """Runs the job, killing it ``kills`` times by the signals in turn, and resuming each time.

    The moments are drawn: some after a random time, some just when a checkpoint begins to be
    written, some just after one has got its name, some while the process still starts or resumes.
    """
    chance = random.Random(seed)
    moments: list[str] = []
    for kill in range(kills):
        moment = ("starting", "writing", "written", "later")[kill % 4]
        before = checkpoints(folder)
        process = subprocess.Popen(
            command(job, folder, *settings, *(["--resume"] if before else [])),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if moment == "starting":
                time.sleep(chance.uniform(0.2, 1.2))
            else:
                while process.poll() is None:
                    new = checkpoints(folder) - before
                    if moment == "writing" and any(n.startswith(".writing-") for n in new):
                        break
                    if moment != "writing" and any(n.isdigit() for n in new):
                        break
                    time.sleep(0.0005)  # a wait without it takes the core that the run needs
                if moment == "later":
                    time.sleep(chance.uniform(0.0, 0.3))
            if process.poll() is None:
                process.send_signal(signals[kill % len(signals)])
                moments.append(moment)
        finally:
            process.wait(30)
        if process.returncode == 0:
            break
    more = ["--resume"] if checkpoints(folder) else []
    return run(job, folder, *settings, *more), moments


@pytest.fixture
def job(write_job: Callable[..., Path]) -> Path:
    return write_job(
        checkpoint={"every_events": 1000},
        evaluate={"probes": {"share": 0.02}, "once_seen": {"share": 0.02}},
        learner={"steps": 4, "buffer": {"capacity": 2000, "admission": "reservoir"}},
    )


def test_killed_three_times_and_resumed_gives_the_same_bytes(
    job: Path,
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    settings = ("--set", "learner.steps=1", "--max-events", "16000")
    everlearn("run", job, "--run-dir", tmp_path / "whole", *settings)
    whole = summary(tmp_path / "whole")
    broken, moments = killed_run(job, tmp_path / "broken", 4, 1, *settings)
    assert len(moments) >= 3
    same(whole, broken)


AGGREGATES = (
    "[{by: [period, vicprice], mean: label, scales: [100, null]}, {by: nswprice, mean: label}, "
    "{by: period, count: true, mean: transfer}]"
)


def test_aggregates_are_the_same_after_kills_and_resumes(
    job: Path,
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    settings = ("--set", "learner.steps=1", "--set", f"stream.aggregates={AGGREGATES}")
    settings += ("--max-events", "8000")
    everlearn("run", job, "--run-dir", tmp_path / "whole", *settings)
    everlearn("run", job, "--run-dir", tmp_path / "none", *settings[:2], *settings[4:])
    whole = summary(tmp_path / "whole")
    broken, moments = killed_run(job, tmp_path / "broken", 3, 2, *settings)
    assert moments
    for name in ("state_digest", "fates", "cursor"):
        assert broken[name] == whole[name]
    assert online(broken) == online(whole) != online(summary(tmp_path / "none"))


MEMORY = (
    "{kind: segment-residuals, by: [period], base: {kind: error-memory, learn_every: 100, "
    "keys: {sample: 64, check_every: 100, moved: 1.0e-6}, memory: {capacity: 300}, base: replay}}"
)


def test_error_memories_are_the_same_after_kills_and_resumes(
    job: Path,
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Events wait for labels and for the base at each checkpoint, and keys have moved."""
    settings = ("--set", f"learner={MEMORY}", "--set", "stream.label_delay={events: 48}")
    settings += ("--max-events", "4000")
    everlearn("run", job, "--run-dir", tmp_path / "whole", *settings)
    whole = summary(tmp_path / "whole")
    broken, moments = killed_run(job, tmp_path / "broken", 2, 5, *settings)
    assert moments
    for name in ("state_digest", "fates", "cursor"):
        assert broken[name] == whole[name]
    assert online(broken) == online(whole)


def same(whole: dict[str, Any], broken: dict[str, Any]) -> None:
    assert broken["resumed_from"]
    assert broken["state_digest"] == whole["state_digest"]
    assert broken["fates"] == whole["fates"]
    assert broken["cursor"] == whole["cursor"]
    assert online(broken) == online(whole)
    assert sum(whole["fates"].values()) + whole["awaiting"] == whole["events"]
    assert whole["fates"]["probe"] > 200


def online(summary: dict[str, Any]) -> dict[str, float]:
    """What the loop has measured, which is exact; probes are scored beside it, as time allows."""
    return {k: v for k, v in summary["metrics"].items() if k.startswith("online/")}


@pytest.mark.soak
def test_killed_25_times_and_resumed_gives_the_same_bytes(job: Path, tmp_path: Path) -> None:
    whole = run(job, tmp_path / "whole")
    assert whole["events"] == 45_312
    kills = []
    for seed in range(40):  # a run that has come to its end cannot be killed: more runs, then
        folder = tmp_path / f"broken{seed}"
        broken, moments = killed_run(job, folder, kills=8, seed=seed)
        kills += moments
        if moments and broken["resumed_from"]:
            same(whole, broken)
        else:
            assert broken["state_digest"] == whole["state_digest"]
        if len(kills) >= 25:
            break
    assert len(kills) >= 25
    assert {"starting", "writing", "written", "later"} <= set(kills)


def test_stopping_at_max_events_leaves_no_trace(
    write_job: Callable[..., Path],
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    job = write_job(stream={"label_delay": {"events": 48}})
    everlearn("run", job, "--run-dir", tmp_path / "whole")
    for stop in (1, 33, 5000, 20_000):
        more = ["--resume"] if stop > 1 else []
        everlearn("run", job, "--run-dir", tmp_path / "cut", "--max-events", stop, *more)
        cut = summary(tmp_path / "cut")
        assert cut["events"] == stop  # exactly, in the middle of a micro-batch too
        assert cut["awaiting"] == min(48, cut["events"])  # nothing is released before the end
        assert sum(cut["fates"].values()) + cut["awaiting"] == cut["events"]
    everlearn("run", job, "--run-dir", tmp_path / "cut", "--resume")
    whole, cut = summary(tmp_path / "whole"), summary(tmp_path / "cut")
    assert cut["state_digest"] == whole["state_digest"]
    assert cut["fates"] == whole["fates"]


def test_unequal_classes_resume_to_the_same_bytes(
    write_job: Callable[..., Path],
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    job = write_job(
        learner={
            "class_weight": "balanced",
            "calibration": "temperature",
            "decision": {"rule": "f1"},
        }
    )
    everlearn("run", job, "--run-dir", tmp_path / "whole", "--max-events", 4000)
    everlearn("run", job, "--run-dir", tmp_path / "cut", "--max-events", 1700)
    everlearn("run", job, "--run-dir", tmp_path / "cut", "--max-events", 4000, "--resume")
    whole, cut = summary(tmp_path / "whole"), summary(tmp_path / "cut")
    assert cut["state_digest"] == whole["state_digest"]
    assert online(cut) == online(whole)


def test_another_seed_or_another_stream_gives_another_digest(
    write_job: Callable[..., Path],
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    job = write_job()
    digests = set()
    for i, override in enumerate(("seed=7", "seed=8", "stream.batch_size=16", "learner.steps=2")):
        folder = tmp_path / f"run{i}"
        everlearn("run", job, "--run-dir", folder, "--max-events", 640, "--set", override)
        digests.add(summary(folder)["state_digest"])
    assert len(digests) == 4


def test_opaque_learner_keeps_predictions_ledger_and_cursor(
    write_job: Callable[..., Path],
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    job = write_job(
        learner=None,
        stream={"standardise": None},
        checkpoint={"every_events": 500},
    )
    model = "learner={kind: river, model: {forest.ARFClassifier: {n_models: 3, seed: 1}}}"
    common = ("--set", model)
    everlearn("run", job, "--run-dir", tmp_path / "whole", "--max-events", 3000, *common)
    for stop in (700, 1900, 3000):
        more = ["--resume"] if stop > 700 else []
        everlearn("run", job, "--run-dir", tmp_path / "cut", "--max-events", stop, *common, *more)
    whole, cut = summary(tmp_path / "whole"), summary(tmp_path / "cut")
    assert cut["resumed_from"]
    assert cut["state_digest"] == whole["state_digest"]  # it has a hash of all predictions in it
    assert online(cut) == online(whole)
