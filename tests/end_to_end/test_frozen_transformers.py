"""Whole runs of learners inside a frozen transformer: resumed, killed, served, on Ray, and with
other weights."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from learners.pretrained.backbones import registry
from pipeline.config.job import load
from pipeline.config.sections import ServeConfig
from pipeline.serving.checkpoint_server import CheckpointServer, ServeError
from pipeline.training.builder import build
from pipeline.training.run import Run
from tests.end_to_end.test_exactness import killed_run
from tests.support.http import Client, ask, listening
from tests.support.ray_processes import Place

BACKBONE = """
from pathlib import Path
from learners.pretrained.backbones.random_transformer import (
    RandomTransformerBackbone,
    RandomTransformerConfig,
)
class Config(RandomTransformerConfig):
    location_keys = frozenset({"weights"})
    weights: Path
class Mine(RandomTransformerBackbone):
    Config = Config
    def __init__(self, config, feature):
        super().__init__(config, feature)
        self.fingerprint = config.weights.read_text()
"""
"""A backbone of a user's, whose weights are in a file."""
EVERY = {"learner.every": 50, "learner.most": 3, "learner.align_every": 40, "learner.epochs": 2}
FIRST = {"learner.train_for": 100}
KINDS: dict[str, dict[str, Any]] = {
    "adapter": {},
    "adapter-first": {**FIRST, "learner.head": "ranpac"},
    "mos": {**EVERY, "learner.merge": 0.1},
    "mos-sgd": {**EVERY, "learner.kind": "mos", "learner.alignment": "sgd"},
    "mos-drift": {
        **EVERY,
        "learner.kind": "mos",
        "learner.every": "drift",
        "learner.drift": 0.6,
    },
    "l2p": {**FIRST, "learner.frequency_penalty": True},
    "dual-prompt": {**FIRST, "learner.masks": "task", "learner.every": 40},
    "coda": FIRST,
}
SLOW = set(KINDS) - {"mos", "dual-prompt"}
"""They stop in no other way than those that are always tested."""
N = 240
Settings = dict[str, Any]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job on short texts of four classes, two of which come later; labels are late."""
    chance = random.Random(3)
    lines = ["text,intent"]
    for i in range(N):
        intent = chance.choice(["rain", "money", "music", "alarm"][: 2 if i < N // 2 else 4])
        words = " ".join(f"{chance.choice([intent, 'x', 'y'])}{chance.randrange(5)}" for _ in "abc")
        lines.append(f"{intent} {words},{intent}")
    (tmp_path / "requests.csv").write_text("\n".join(lines))
    stream = {
        "path": "requests.csv",
        "label": "intent",
        "features": {"text": ["text"]},
        "batch_size": 8,
        "label_delay": {"events": 20},
    }
    learner = {"kind": "adapter", "backbone": {"kind": "random-transformer"}, "cache_mb": 1}
    made = {"stream": stream, "learner": learner, "checkpoint": {"every_events": 30}}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(made))
    return file


def stated(kind: str) -> list[str]:
    """The settings of a kind, for the command line."""
    settings = {"learner.kind": kind, **KINDS[kind]}
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.soak] if k in SLOW else []) for k in KINDS]
)
def test_a_resumed_run_ends_in_the_same_state(
    kind: str, job: Path, everlearn: Callable[..., Any], summary: Callable[[Path], Any]
) -> None:
    everlearn("run", job, "--run-dir", "whole", *stated(kind))
    for stop in (45, 101, 153):  # in a segment, at the end of the first events, after a join
        more = ["--resume"] if stop > 45 else []
        everlearn("run", job, "--run-dir", "cut", "--max-events", stop, *stated(kind), *more)
    everlearn("run", job, "--run-dir", "cut", "--resume", *stated(kind))
    whole, cut = summary(Path("whole")), summary(Path("cut"))
    assert cut["state_digest"] == whole["state_digest"]
    assert cut["fates"] == whole["fates"]
    assert whole["metrics"]["online/accuracy"] > 0.6
    assert whole["metrics"].get("learner/adapters", 2) > 1


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_ends_in_the_same_state(
    kind: str,
    job: Path,
    everlearn: Callable[..., Any],
    summary: Callable[[Path], Any],
    tmp_path: Path,
) -> None:
    """By SIGKILL and by Ctrl-C, in turn."""
    everlearn("run", job, "--run-dir", "whole", *stated(kind))
    both = (signal.SIGKILL, signal.SIGINT, signal.SIGINT)
    settings = (*stated(kind), "--rate", "100")
    broken, moments = killed_run(job, tmp_path / "broken", 6, 1, *settings, signals=both)
    assert len(moments) >= 4
    assert broken["resumed_from"]
    whole = summary(Path("whole"))
    for key in ("state_digest", "fates", "cursor"):
        assert broken[key] == whole[key]


def local_answers(job: Path) -> dict[int, Any]:
    """The probabilities that a loop in this process predicts for the first events, by version."""
    parts = build(load(job))
    asked = next(parts.reader.read({}))[:8]
    answers = {}
    for batch in parts.reader.read({}):
        parts.loop.step(batch)
        answers[parts.loop.learner.version] = parts.loop.learner.predict(asked).proba
    return answers


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["mos", "l2p"])
def test_a_served_run_on_ray_is_the_local_run(
    kind: str,
    job: Path,
    everlearn: Callable[..., Any],
    summary: Callable[[Path], Any],
    place: Place,
    tmp_path: Path,
) -> None:
    """And while it learns it answers as the model of the version that it names."""
    made = yaml.safe_load(job.read_text())
    settings = {key.removeprefix("learner."): value for key, value in KINDS[kind].items()}
    made["learner"] |= {"kind": kind, **settings}
    made["evaluate"] = {"probes": {"share": 0.1}}
    job.write_text(yaml.safe_dump(made))
    everlearn("run", job, "--run-dir", "local")
    lines = (tmp_path / "requests.csv").read_text().splitlines()[1:9]
    asked = [{"text": line.split(",")[0]} for line in lines]
    driver = place.run(job, tmp_path / "ray", "--rate", 12, "--set", "serve.port=0")
    port = int(driver.says(r"serving at http://127\.0\.0\.1:(\d+)/predict")[1])
    wanted, seen = local_answers(job), set()
    while driver.running():
        with closing(Client(port)) as client, suppress(OSError, HTTPException):
            reply = client.predict(asked)
            if reply.status == 200:
                version = reply.body["model_version"]
                if version in wanted:  # the last labels come after the last event
                    found = np.array(reply.body["probabilities"])
                    np.testing.assert_allclose(found, wanted[version], atol=1e-5)
                    seen.add(version)
        time.sleep(0.1)
    driver.ends()
    assert len(seen) > 5
    whole, ray = summary(Path("local")), summary(tmp_path / "ray")
    for key in ("state_digest", "fates", "cursor"):
        assert ray[key] == whole[key]
    assert place.left() == []


def run(job: Path, folder: str, **how: Any) -> Any:
    return Run(load(job), Path(folder), print).run(**how)


@pytest.fixture
def own(job: Path) -> Path:
    """The same job with a backbone of a user's, by a path that starts from the job's folder."""
    (job.parent / "mine.py").write_text(BACKBONE)
    (job.parent / "weights").write_text("these")
    made = yaml.safe_load(job.read_text())
    made["learner"]["backbone"] = {"kind": "mine:Mine", "weights": "weights"}
    job.write_text(yaml.safe_dump(made))
    return job


def test_served_from_another_folder(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint answers, by the files that the run had."""
    run(own, "run", max_events=60)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    server = CheckpointServer(tmp_path / "run", ServeConfig(), pytest.fail)
    asked = [{"text": "money money1"}, {"text": ""}]
    with listening(server) as port:
        assert server.reload()
        first = ask(port, "/predict", asked).body
        assert first["predictions"][0] == "money"
        monkeypatch.chdir(tmp_path)
        run(own, "run", max_events=N, resume=True)
        monkeypatch.chdir(elsewhere)
        assert server.reload()
        second = ask(port, "/predict", asked).body
    assert second["model_version"] > first["model_version"]
    assert len(second["classes"]) == 4 > len(first["classes"])


def test_a_key_of_a_part_that_is_stated_by_its_name(job: Path) -> None:
    set_to = load(job, ["learner.head=slda", "learner.head.shrinkage=0.5"]).job.learner
    assert set_to.head.shrinkage == 0.5  # type: ignore[attr-defined]


def test_other_weights_are_refused(
    own: Path, everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    run(own, "run", max_events=60)
    (tmp_path / "weights").write_text("others")
    registry._LOADED.clear()  # as in another process
    refused = everlearn("run", own, "--run-dir", "run", "--resume", code=2)
    checkpoint = Path("run", "checkpoints", "000000000000060")
    assert f"{own}: {checkpoint}: learner.backbone: it is not the one" in refused.line
    assert "put those files back, or start another run" in refused.line
    warm = everlearn("run", own, "--run-dir", "warm", "--warm-from", checkpoint, code=2)
    assert f"--warm-from {checkpoint}: learner.backbone: " in warm.line
    server = CheckpointServer(tmp_path / "run", ServeConfig(), pytest.fail)
    with pytest.raises(ServeError, match=r"learner\.backbone: it is not the one"):
        server.reload()
