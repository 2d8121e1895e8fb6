"""The job of a cell, and when its earlier result is still valid."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import pipeline.bench.cell
from learners.pretrained.encoders.random_features import RandomFeatureEncoder
from pipeline.bench.cell import (
    FEATURES,
    Cell,
    build_cell,
    fingerprint,
    job_of,
    read_result,
    run_cell,
)
from pipeline.bench.measure import Budget
from pipeline.config.errors import JobError
from pipeline.training.errors import RunError
from streams.core.batch import Array

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EVERLEARN_DATA") or ROOT.parent / "shared" / "data")
DIGITS = "kind: scenario\ndataset: digits\ntasks: {kind: split, tasks: 2}\n"
RECORDED = "kind: recorded\npath: rows.csv\nlabel: y\n"
FAILING = """
from learners.baselines.finetune import Finetune

class Failing(Finetune):
    kind = "failing"

    def learn(self, batch):
        if batch.ids[0] >= 300:
            raise {what}
        super().learn(batch)
"""


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("mine", "other"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def values(scenario: str, learner: str, *overrides: str, seed: int = 0) -> dict[str, Any]:
    return job_of(Cell(scenario, learner, seed), overrides).values()


def test_job_of_shares_network_optimizer_and_buffer() -> None:
    replay, finetune = (values("split-digits", name) for name in ("replay", "finetune"))
    for key in ("model.hidden", "optimizer.kind", "optimizer.lr", "steps"):
        assert replay[f"learner.{key}"] == finetune[f"learner.{key}"]
    assert replay["learner.buffer.capacity"] == 100
    assert replay["learner.replay_size"] == replay["stream.batch_size"] == 10
    assert values("split-fashion-mnist", "replay")["learner.model.hidden"] == [512]
    assert values("split-cifar-10", "replay")["learner.model.kind"] == "conv"


def test_job_of_encoded_columns_has_a_network_for_vectors() -> None:
    encoder = "stream.encoder=identity"
    replay = values("split-cifar-10", "replay", encoder)
    assert (replay["learner.model.kind"], replay["learner.model.hidden"]) == ("mlp", [128])
    assert replay["learner.buffer.capacity"] == 1000
    assert values("split-cifar-10", "finetune", encoder)["learner.model.hidden"] == [128]


def test_job_of_leaves_a_linear_probe_its_model() -> None:
    probe = values("split-digits", "linear-probe")
    assert probe["learner.model.hidden"] == []
    assert probe["learner.optimizer.lr"] == 0.1


def test_job_of_leaves_point_processes_their_defaults() -> None:
    settings = values("recurring-hawkes", "tpp")
    assert settings["learner.optimizer.kind"] == "adam"
    assert settings["learner.replay_size"] == 0


def test_job_of_leaves_prompts_and_adapters_their_optimizer() -> None:
    from learners.pretrained.adapters.adapter_first import AdapterFirstConfig

    settings = values("clinc150", "adapter-first")
    own = AdapterFirstConfig(kind="adapter-first").optimizer
    assert settings["learner.optimizer.kind"] == own.kind
    assert settings["learner.optimizer.lr"] == own.lr


def test_job_of_keeps_settings_of_one_learner_apart() -> None:
    mine = (
        "replay:model.hidden=[64,32],optimizer={kind: adam, betas: [0.8, 0.9], lr: 0.01},"
        "buffer.capacity=7"
    )
    before = values("split-digits", "finetune")
    settings = values("split-digits", mine)
    assert settings["learner.model.hidden"] == [64, 32]
    assert (settings["learner.optimizer.kind"], settings["learner.optimizer.lr"]) == ("adam", 0.01)
    assert settings["learner.buffer.capacity"] == 7
    assert values("split-digits", "finetune") == before
    assert values("split-digits", "replay:model.hidden=[8]")["learner.model.hidden"] == [8]
    assert values("split-digits", "replay")["learner.model.hidden"] == [128]


def test_job_of_seeds_the_learner_and_the_order() -> None:
    settings = values("split-digits", "replay", seed=4)
    assert (settings["seed"], settings["stream.seed"]) == (4, 4)
    settings = values("split-digits", "replay", "stream.seed=1", seed=4)
    assert (settings["seed"], settings["stream.seed"]) == (4, 1)


def test_job_of_applies_overrides_last() -> None:
    settings = values("split-digits", "replay:steps=2", "learner.steps=3", "stream.batch_size=5")
    assert (settings["learner.steps"], settings["stream.batch_size"]) == (3, 5)


def test_job_of_a_file_resolves_import_paths_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "mine.py").write_text(FAILING.format(what="ValueError"))
    (folder / "two.yaml").write_text(DIGITS)
    settings = values("deep/two.yaml", "mine:Failing:steps=2", seed=2)
    assert settings["stream.tasks.tasks"] == 2
    assert settings["stream.seed"] == 2
    assert (settings["learner.kind"], settings["learner.steps"]) == ("mine:Failing", 2)
    assert settings["learner.model.hidden"] == [128]  # of the data set


def test_job_of_a_name_resolves_import_paths_here(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(FAILING.format(what="ValueError"))
    assert values("split-digits", "other:Failing")["learner.kind"] == "other:Failing"


@pytest.mark.parametrize(
    ("scenario", "learner", "overrides", "message"),
    [
        ("split-digit", "replay", [], "unknown scenario 'split-digit': did you mean 'split-digi"),
        ("split-digits", "replai", [], "learner.kind: 'replai': did you mean 'replay'?"),
        ("split-digits", "replay:buffr.capacity=3", [], "unknown key 'buffr': did you mean 'buf"),
        ("split-digits", "replay:buffer", [], "no module named 'replay'"),
        ("split-digits", "replay:steps=1,buffer", [], "learner.buffer: expected key=value"),
        ("split-digits", "replay:steps=0", [], "learner.steps: expected a number above 0"),
        ("split-digits", "nowhere:Learner", [], "no module named 'nowhere'"),
        ("split-digits", "replay", ["stream.tasks.tasks"], "expected key=value"),
        ("no.yaml", "replay", [], "no.yaml: No such file"),
        ("list.yaml", "replay", [], "list.yaml: expected a mapping, the contents of stream:"),
        ("kindless.yaml", "replay", [], "expected a mapping with a kind"),
        ("recorded.yaml", "replay", [], "a recorded stream has no tasks to test on"),
    ],
)
def test_job_of_reports_an_invalid_cell_in_one_line(
    tmp_path: Path, scenario: str, learner: str, overrides: Sequence[str], message: str
) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "kindless.yaml").write_text("name: split-digits\n")
    (tmp_path / "recorded.yaml").write_text(RECORDED)
    with pytest.raises(JobError) as error:
        job_of(Cell(scenario, learner, 0), overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_build_cell_reports_what_cannot_be_built(tmp_path: Path) -> None:
    (tmp_path / "turned.yaml").write_text(DIGITS.replace("split, tasks: 2", "rotated"))
    with pytest.raises(JobError, match="'rotated' turns images"):
        build_cell(job_of(Cell("turned.yaml", "replay", 0)))


def test_folder_of_each_cell_is_valid() -> None:
    assert Cell("split-digits", "replay", 3).folder == Path("split-digits/replay-seed-3")
    odd = Cell("../a b/c.yaml", "my_mod:Class:x=[1,2]", 0).folder
    assert odd == Path("a-b-c.yaml/my_mod-Class-x--1-2-seed-0")
    long, longer = (Cell("x.yaml", "replay:" + "a" * n, 0).folder.name for n in (300, 301))
    assert long != longer
    assert len(long) < 120


def test_fingerprint_covers_all_that_shapes_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "mine.py"
    source.write_text(FAILING.format(what="ValueError"))
    cell = Cell("split-digits", "mine:Failing", 0)

    def mark(*overrides: str, budget: Budget | None = None) -> str:
        return fingerprint(job_of(cell, overrides), budget or Budget())

    first = mark()
    assert mark() == first
    assert mark("name=other") == first
    others = [
        mark("learner.steps=2"),
        mark("stream.label_noise=0.1"),
        mark(budget=Budget(every=7)),
        mark(budget=Budget(tests=7)),
    ]
    source.write_text(source.read_text() + "# changed\n")
    others.append(mark())
    monkeypatch.setattr(pipeline.bench.cell, "versions", lambda: {"torch": "0"})
    others.append(mark())
    assert len({first, *others}) == len(others) + 1


def test_fingerprint_covers_the_weights_of_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other weights in the same place make another cell."""
    cell = Cell("split-digits", "prototype", 0)
    (tmp_path / "model").mkdir()
    file, folder = tmp_path / "resnet18.pt", tmp_path / "model"

    def mark(encoder: str) -> str:
        return fingerprint(job_of(cell, [f"stream.encoder={encoder}"]), Budget())

    def marks() -> list[str]:
        return [
            mark(f"{{kind: torchvision, model: resnet18, weights: {file}}}"),
            mark(f"{{kind: transformers, model: {folder}}}"),
        ]

    file.write_bytes(b"some")
    (folder / "model.safetensors").write_bytes(b"some")
    first = marks()
    assert marks() == first
    file.write_bytes(b"other weights")
    (folder / "model.safetensors").write_bytes(b"other weights")
    second = marks()
    assert not set(first) & set(second)
    packaged = [mark("minilm"), mark("efficientnet-lite0")]
    monkeypatch.setattr("pipeline.bench.encoder_contents.version", lambda name: "0.0")
    assert not set(packaged) & {mark("minilm"), mark("efficientnet-lite0")}


def test_run_cell_runs_again_only_when_changed(tmp_path: Path) -> None:
    cell, budget = Cell("split-digits", "finetune", 0), Budget(every=10**6)
    calls: list[tuple[int, int]] = []

    def run(*overrides: str) -> dict[str, Any]:
        def progress(done: int, total: int) -> None:
            calls.append((done, total))

        return run_cell(cell, job_of(cell, overrides), budget, tmp_path, progress)

    first = run()
    assert [done for done, _ in calls] == [269, 538, 809, 1078, 1343]
    assert {total for _, total in calls} == {1343}
    assert run() == first
    assert len(calls) == 5
    rows = (tmp_path / cell.folder / "metrics.jsonl").read_text()
    other = run("learner.steps=2")
    assert len(calls) == 10
    assert other["gradient_steps"] == 2 * first["gradient_steps"]
    assert len((tmp_path / cell.folder / "metrics.jsonl").read_text().splitlines()) == len(
        rows.splitlines()
    )
    again = run()
    assert len(calls) == 15
    times = {"seconds": 0, "cpu_seconds": 0}
    assert {**again, **times} == {**first, **times}


def test_cells_with_encoders_share_a_cache_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests of tasks and events go through it: a second cell encodes nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    encoded: list[int] = []

    def counting(self: RandomFeatureEncoder, values: Array) -> Array:
        encoded.append(len(values))
        return encode(self, values)

    encode = RandomFeatureEncoder.encode
    monkeypatch.setattr(RandomFeatureEncoder, "encode", counting)
    monkeypatch.setattr(RandomFeatureEncoder, "costly", True)
    overrides = ["stream.encoder={kind: random-features, dimension: 32, seed: 1}"]
    digests = []
    for folder in ("one", "other"):
        cell = Cell("split-digits", "prior", 0)
        loaded = job_of(cell, overrides)
        assert loaded.job.encoders.cache.folder == str(tmp_path / "user" / "everlearn" / FEATURES)
        result = run_cell(cell, loaded, Budget(every=300), tmp_path / folder)
        digests.append(result["state_digest"])
        assert 1343 < sum(encoded) <= 1797  # each digit, of training or test, once
    assert digests[0] == digests[1]


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"format": 2}', '{"format": 0}'])
def test_read_result_of_a_broken_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    assert read_result(tmp_path, "x") is None
    whole = {"format": 2, "fingerprint": "x", "result": {"seed": 1}}
    (tmp_path / "result.json").write_text(json.dumps(whole))
    assert read_result(tmp_path, "x") == {"seed": 1}
    assert read_result(tmp_path, "y") is None


@pytest.mark.parametrize(
    ("what", "message", "logged"),
    [
        ("LearnerError('no more')", "seed 0: no more", False),
        ("KeyError('k')", "seed 0: KeyError: 'k' (details: ", True),
        ("SystemExit(3)", "seed 0: SystemExit: 3 (details: ", True),
    ],
)
def test_run_cell_reports_a_failing_learner(
    tmp_path: Path, what: str, message: str, logged: bool
) -> None:
    text = "from learners.base import LearnerError\n" + FAILING.format(what=what)
    (tmp_path / "mine.py").write_text(text)
    cell = Cell("split-digits", "mine:Failing", 0)
    with pytest.raises(RunError) as error:
        run_cell(cell, job_of(cell), Budget(), tmp_path)
    assert f"bench split-digits mine:Failing, {message}" in str(error.value)
    folder = tmp_path / cell.folder
    assert not (folder / "result.json").exists()
    assert (folder / "error.log").exists() == logged


def test_run_cell_reports_divergence(tmp_path: Path) -> None:
    cell = Cell("split-digits", "finetune:optimizer.lr=1e30", 0)
    with pytest.raises(RunError, match="diverged"):
        run_cell(cell, job_of(cell), Budget(), tmp_path)


@pytest.mark.parametrize(
    ("scenario", "events", "file"),
    [
        ("split-digits", 1000, ""),
        ("outdoor", 1000, "outdoor.data.gz"),
        ("clinc150", 2000, "clinc150_full.json.gz"),
        ("split-mnist", 500, "mnist-train-images-idx3-ubyte.gz"),
    ],
)
def test_shared_settings_let_replay_learn_and_finetune_forget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str, events: int, file: str
) -> None:
    if file and not (DATA / file).exists():
        pytest.skip(f"no {file} in {DATA}")
    monkeypatch.setenv("EVERLEARN_DATA", str(DATA))
    budget, metrics = Budget(every=10**6, tests=300), {}
    for learner in ("replay", "finetune"):
        cell = Cell(scenario, learner, 0)
        loaded = job_of(cell, [f"stream.events={events}"])
        metrics[learner] = run_cell(cell, loaded, budget, tmp_path)["metrics"]
    replay, finetune = metrics["replay"], metrics["finetune"]
    assert replay["learning_accuracy"] > 0.5
    assert replay["acc"] > finetune["acc"] + 0.1
    assert finetune["forgetting"] > replay["forgetting"] + 0.1
