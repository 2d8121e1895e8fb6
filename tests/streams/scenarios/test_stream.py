"""The stream of kind ``scenario``: from any position, by a job, and what is tested on."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.batch import Array, Batch, Ragged
from streams.core.errors import StreamError
from streams.core.schema import Feature
from streams.operators.label_encoder import LabelEncoder
from streams.scenarios.catalog import SCENARIOS
from streams.scenarios.datasets import load
from streams.scenarios.stream import ScenarioConfig, ScenarioStream

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("EVERLEARN_DATA") or ROOT.parent / "shared" / "data")
GRADUAL = {
    "dataset": "digits",
    "tasks": {
        "kind": "drift",
        "shape": "gradual",
        "concepts": 3,
        "width": 150,
        "changes": "features",
    },
    "label_noise": 0.1,
}
RELABELLED = {"dataset": "digits", "tasks": {"kind": "drift", "concepts": 2}}

LEARNER = {
    "kind": "finetune",
    "model": {"kind": "mlp", "hidden": [16]},
    "optimizer": {"kind": "adam", "lr": 0.01},
    "steps": 4,
}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no data sets in {DATA}")
    monkeypatch.setenv("EVERLEARN_DATA", str(DATA))


def scenario(**given: Any) -> ScenarioStream:
    return ScenarioStream(ScenarioConfig(kind="scenario", **given), Path())


def array(batch: Batch) -> Array:
    assert isinstance(batch.x, np.ndarray)
    return batch.x


def labels(batch: Batch) -> list[int]:
    assert batch.y is not None
    return list(batch.y.tolist())


def test_events_are_the_rows_of_the_plan() -> None:
    stream = scenario(name="split-digits")
    (whole,) = stream.read({}, 10_000)
    plan = stream.plan
    assert len(whole) == len(stream) == len(plan) == 1343
    assert isinstance(stream.data.train_x, np.ndarray)
    assert (array(whole) == stream.data.train_x[plan.index]).all()
    assert labels(whole) == stream.data.train_y[plan.index].tolist()
    assert whole.ids.tolist() == whole.offset.tolist() == list(range(1343))
    assert whole.time.tolist() == list(range(1343))
    assert whole.segment is not None
    for task in range(5):
        rows = whole.segment == task
        assert {labels(whole)[i] for i in np.flatnonzero(rows)} == {2 * task, 2 * task + 1}
    assert array(whole).dtype == np.float32
    assert stream.dtype == "float32"
    assert stream.schema.features == (Feature("pixels", "vector", (64,)),)
    assert stream.schema.classes == whole.classes == tuple("0123456789")
    assert stream.gapless
    assert not stream.has_ids
    assert not stream.has_time


@given(st.integers(1, 700), st.integers(0, 1400))
@settings(max_examples=40)
def test_any_cursor_goes_on_exactly(size: int, at: int) -> None:
    stream = scenario(**GRADUAL)
    (whole,) = stream.read({}, 10_000)
    blocks = list(stream.read({"0": at}, size))
    assert all(len(block) == size for block in blocks[:-1])
    if at >= len(whole):
        assert not blocks
        return
    rest, expected = Batch.concat(blocks), whole[at:]
    for name in ("ids", "time", "x", "partition", "offset", "y", "segment"):
        assert getattr(rest, name).tolist() == getattr(expected, name).tolist()
        assert getattr(rest, name).dtype == getattr(expected, name).dtype


def test_text(published: None) -> None:
    stream = scenario(name="clinc150", events=300)
    first, *rest = stream.read({}, 256)
    assert isinstance(first.x, dict)
    column = first.x["text"]
    assert isinstance(column, Ragged)
    texts = stream.data.train_x
    assert isinstance(texts, Ragged)
    assert column.texts()[:3] == [texts.texts()[i] for i in stream.plan.index[:3]]
    assert sum(map(len, rest)) == 3000 - 256
    asked = stream.segment_test(0, 300, 40)
    assert isinstance(asked.x, dict)
    assert len(asked.x["text"]) == 40
    assert set(labels(asked)) <= set(range(15))


def test_contexts_share_labels(published: None) -> None:
    """The ten domains of CLINC150, each twice, with five labels of three intents each."""
    stream = scenario(name="clinc150-contexts", events=50, validation="published")
    assert stream.schema.classes == ("0", "1", "2", "3", "4")
    assert [task for _, task in stream.begins] == [*range(10), *range(10)]
    (block,) = stream.read({}, 2000)
    assert len(block) == 1000
    assert set(labels(block)) == set(range(5))
    for task in range(10):
        test = stream.task_test(task)
        assert len(test) == 15 * 20
        assert np.bincount(labels(test)).tolist() == [60] * 5
        assert test.classes == stream.schema.classes
    asked = stream.segment_test(0, 50, 40)
    assert set(labels(asked)) <= set(range(5))


def test_task_test_is_of_its_classes() -> None:
    stream = scenario(name="permuted-digits")
    assert stream.tasks == 5
    batch = stream.task_test(2)
    test_x = stream.data.test_x
    assert isinstance(test_x, np.ndarray)
    places = stream.plan.transform.places[2]  # type: ignore[union-attr]
    assert (array(batch) == test_x[:, places]).all()
    assert (array(stream.task_test(0)) == test_x).all()
    assert labels(batch) == stream.data.test_y.tolist()
    assert batch.segment is not None
    assert set(batch.segment.tolist()) == {2}
    assert len(set(batch.ids.tolist())) == len(batch) == 454
    assert (batch.ids < 0).all()
    assert set(batch.partition.tolist()) == {-1}


def test_a_test_of_any_span_of_time() -> None:
    """Rows 200 to 500 of split-digits lie in tasks 0 and 1, that is in classes 0 to 3."""
    stream = scenario(name="split-digits")
    rows = stream.data.train_y[stream.plan.index[200:500]]
    shares = np.bincount(rows, minlength=10) / 300
    batch = stream.segment_test(200, 500, 100, seed=1)
    found = np.bincount(labels(batch), minlength=10)
    assert found.sum() == 100
    assert np.abs(found - 100 * shares).max() < 1
    assert set(np.flatnonzero(found)) == {0, 1, 2, 3}
    assert len({row.tobytes() for row in array(batch)}) == 100, "one comes twice"
    assert not (np.diff(labels(batch)) >= 0).all(), "in the order of classes"
    again, other = (stream.segment_test(200, 500, 100, seed=seed) for seed in (1, 2))
    assert (array(again) == array(batch)).all()
    assert (array(other) != array(batch)).any()


def test_task_test_rows_follow_the_concept() -> None:
    """120 events for 120 rows around a change: of each class under each concept just as many."""
    stream = scenario(**GRADUAL)
    plan, test_x = stream.plan, stream.data.test_x
    assert isinstance(test_x, np.ndarray)
    assert plan.transform is not None
    known = {}
    for concept in range(3):
        seen = plan.transform(test_x, np.full(len(test_x), concept))
        for row, code in zip(seen, stream.data.test_y.tolist(), strict=True):
            known[row.tobytes()] = concept, code
    span = slice(388, 508)  # a phase is 1343 // 3 rows long
    batch = stream.segment_test(span.start, span.stop, 120)
    assert labels(batch) == [known[row.tobytes()][1] for row in array(batch)]
    codes = stream.data.train_y[plan.index[span]].tolist()
    wanted = Counter(zip(plan.concept[span].tolist(), codes, strict=True))
    assert Counter(known[row.tobytes()] for row in array(batch)) == wanted
    assert {concept for concept, _ in wanted} == {0, 1}


def test_task_test_labels_follow_the_concept() -> None:
    stream = scenario(**RELABELLED)
    plan = stream.plan
    assert plan.relabel is not None
    test_x = stream.data.test_x
    assert isinstance(test_x, np.ndarray)
    code_of = {
        row.tobytes(): code for row, code in zip(test_x, stream.data.test_y.tolist(), strict=True)
    }
    span = slice(611, 731)  # half of it before the change at row 671
    batch = stream.segment_test(span.start, span.stop, 120)
    found = zip([code_of[row.tobytes()] for row in array(batch)], labels(batch), strict=True)
    wanted = zip(stream.data.train_y[plan.index[span]].tolist(), plan.y[span].tolist(), strict=True)
    assert Counter(found) == Counter(wanted)


def test_more_than_there_are() -> None:
    stream = scenario(name="split-digits")
    batch = stream.segment_test(0, 10, 1000)
    assert len(batch) == 1000
    assert len({row.tobytes() for row in array(batch)}) <= 91
    with pytest.raises(ValueError, match="no rows 5 to 5 in a stream of 1343"):
        stream.segment_test(5, 5, 10)


def test_classes_are_found_in_the_stream() -> None:
    stream = scenario(name="split-digits", known_classes=False)
    assert stream.schema.classes == ()
    vocabulary = LabelEncoder()
    blocks = [vocabulary.apply(block) for block in stream.read({}, 100)]
    assert set(blocks[0].classes) == {"0", "1"}
    names = [block.classes[code] for block in blocks for code in labels(block)]
    assert names == [str(code) for code in stream.plan.y]


def test_without_boundaries() -> None:
    (block,) = scenario(name="split-digits", boundaries=False).read({}, 2000)
    assert block.segment is None


@pytest.mark.parametrize(
    ("name", "dataset"), [("split-digits", "digits"), ("clinc150", "clinc150")]
)
def test_validation_rows_are_not_in_the_stream(
    name: str, dataset: str, request: pytest.FixtureRequest
) -> None:
    if dataset != "digits":
        request.getfixturevalue("published")
    whole, tuned = load(dataset), scenario(name=name, validation=0.2)
    for code in range(len(whole.classes)):
        rows = np.flatnonzero(whole.train_y == code)
        kept = len(rows) - round(0.2 * len(rows))
        for part, own in (("train", rows[:kept]), ("test", rows[kept:])):
            x, y = getattr(tuned.data, f"{part}_x"), getattr(tuned.data, f"{part}_y")
            there = np.flatnonzero(y == code)
            ours, theirs = (
                rows.take(index) if isinstance(rows, Ragged) else rows[index]
                for rows, index in ((x, there), (whole.train_x, own))
            )
            if isinstance(ours, Ragged):
                assert ours.texts() == theirs.texts()
            else:
                np.testing.assert_array_equal(ours, theirs)
    assert len(tuned) == len(tuned.data.train_y)
    assert sum(len(test.y) for test in tuned.plan.tests) == len(tuned.data.test_y)


def test_published_validation_replaces_the_test_rows(published: None) -> None:
    whole, tuned = load("clinc150"), scenario(name="clinc150", validation="published")
    assert whole.validation is not None
    assert isinstance(tuned.data.test_x, Ragged)
    assert isinstance(whole.test_x, Ragged)
    assert len(tuned) == len(whole.train_y)
    assert np.bincount(tuned.data.test_y).tolist() == [20] * 150
    assert not {*tuned.data.test_x.texts()} & {*whole.test_x.texts()}


def test_published_validation_needs_published_rows() -> None:
    with pytest.raises(StreamError, match="validation: no validation rows of 'digits' were publ"):
        scenario(name="split-digits", validation="published")


@pytest.mark.parametrize(
    ("share", "left"), [(0.999, "none to learn from"), (0.0001, "none to test on")]
)
def test_validation_share_leaves_rows_of_each_class(share: float, left: str) -> None:
    with pytest.raises(StreamError, match=f"stream.validation: {share} .* {left}"):
        scenario(name="split-digits", validation=share)


def test_setting_overrides_the_named_scenario() -> None:
    named = ScenarioConfig(kind="scenario", name="permuted-mnist")
    assert (named.dataset, named.events, named.tasks.tasks) == ("mnist", 6000, 10)  # type: ignore[union-attr]
    tasks: Any = {"tasks": 3}
    config = ScenarioConfig(
        kind="scenario", name="permuted-mnist", dataset="digits", events=None, tasks=tasks
    )
    assert config.tasks is not None
    assert config.tasks.model_dump() == {"kind": "permuted", "tasks": 3}
    assert (config.dataset, config.events) == ("digits", None)
    tasks = {"kind": "split"}
    config = ScenarioConfig(kind="scenario", name="permuted-mnist", tasks=tasks)
    assert config.tasks is not None
    assert config.tasks.model_dump() == {"kind": "split", "tasks": 5, "shuffle_classes": False}
    # What a job says with every default spelt out means the same.
    for name in SCENARIOS:
        config = ScenarioConfig(kind="scenario", name=name)
        assert ScenarioConfig.model_validate(config.model_dump(mode="json")) == config


SIZES = {
    "split-mnist": 60_000,
    "permuted-mnist": 60_000,
    "rotated-mnist": 60_000,
    "split-cifar-10": 50_000,
    "split-digits": 1_343,
    "permuted-digits": 6_715,
    "outdoor": 2_800,
    "clinc150": 15_000,
    "clinc150-contexts": 15_000,
    "blurry-mnist": 60_000,
    "power-law-mnist": 44_017,
    "sudden-drift-mnist": 20_000,
    "gradual-drift-mnist": 20_000,
    "recurring-drift-mnist": 27_000,
    "noisy-mnist": 60_000,
    "iid-mnist": 60_000,
}


@pytest.mark.parametrize("name", sorted(SIZES.keys() - {"split-cifar-10"}))
def test_named_scenarios(name: str, published: None) -> None:
    stream = scenario(name=name)
    assert len(stream) == SIZES[name]
    first = next(stream.read({"0": len(stream) // 2}, 64))
    assert len(first) == 64
    assert len(stream.task_test(stream.tasks - 1)) >= 89
    page = (ROOT / "docs" / "scenarios.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` | `")]
    assert row.endswith(f"| {SIZES[name]:,} |")


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (
            {"name": "split-mnst"},
            "stream.name: unknown scenario 'split-mnst': did you mean 'split-m",
        ),
        (
            {"dataset": "digit", "tasks": {"kind": "iid"}},
            "stream.dataset: unknown data set 'digit'",
        ),
        ({"dataset": "digits"}, "stream: state the name of a scenario, or dataset and tasks"),
        ({}, "stream: state the name of a scenario, or dataset and tasks"),
        (
            {"name": "split-digits", "tasks": {"task": 2}},
            "unknown key 'task': did you mean 'tasks'",
        ),
        (
            {"name": "split-digits", "tasks": {"kind": "splitt"}},
            "stream.tasks.kind: 'splitt': did you mean 'split'? There are: split, permuted, rot",
        ),
        ({"dataset": "digits", "tasks": {}}, "stream.tasks.kind"),
        ({"dataset": "digits", "tasks": "split"}, "stream.tasks: expected a mapping with a kind"),
        ({"name": "split-digits", "tasks": {"tasks": 11}}, "stream.tasks.tasks: 11 tasks, but dig"),
        ({"name": "split-digits", "tasks": {"kind": "rotated"}}, "'rotated' turns images, but dig"),
        (
            {"name": "split-digits", "label_noise": 1.5},
            "stream.label_noise: expected a number below 1",
        ),
        ({"name": "split-digits", "seed": -1}, "stream.seed: expected a number of at least 0"),
        ({"name": "split-digits", "events": 0}, "stream.events: expected a number above 0, got 0"),
    ],
)
def test_scenario_error_names_the_place(
    stream: dict[str, Any], message: str, everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "job.yaml"
    job = {"name": "small", "stream": {"kind": "scenario", **stream}, "learner": LEARNER}
    file.write_text(yaml.safe_dump(job))
    outcome = everlearn("run", file, code=2)
    assert message in outcome.line


def test_avalanche_job_resumes_from_the_middle(
    everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "job.yaml"
    stream = {"kind": "scenario", "name": "split-digits", "batch_size": 8}
    job = {
        "name": "small",
        "stream": stream,
        "learner": LEARNER,
        "evaluate": {"probes": {"share": 0.1}},
    }
    file.write_text(yaml.safe_dump(job))

    def summary(folder: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / folder / "summary.json").read_text())
        return found

    everlearn("run", file, "--run-dir", tmp_path / "whole")
    everlearn("run", file, "--run-dir", tmp_path / "parts", "--max-events", 640)
    everlearn("run", file, "--run-dir", tmp_path / "parts", "--resume")
    whole, parts = summary("whole"), summary("parts")
    assert whole["events"] == 1343
    assert whole["fates"]["learned"] + whole["fates"]["probe"] == 1343
    assert parts["state_digest"] == whole["state_digest"]
    assert whole["metrics"]["online/accuracy"] > whole["metrics"]["online/no_change_accuracy"]
