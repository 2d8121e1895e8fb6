"""A servable answers what the loop predicts, and stays as it was when the loop goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import learners
from learners.base import Learner, LearnerError
from learners.registry import find
from learners.results import Prediction
from pipeline.config.job import load
from pipeline.models.delta import DeltaEncoder
from pipeline.models.recipe import model_states, schema_of, states_of
from pipeline.models.snapshot import InferenceModel, Snapshot
from pipeline.training.builder import Parts, build
from streams.core.batch import Batch
from streams.core.state_dict import digest

LEARNERS = {kind: find(learners.KINDS, Learner, kind) for kind in learners.KINDS}  # type: ignore[type-abstract]
SIZE, STOP, N = 16, 96, 192
CASES = [
    (kind, task, scaled)
    for kind, cls in sorted(LEARNERS.items())
    for task in ("classification", "regression")
    for scaled in (False, True)
    if not (scaled and cls.example_column == "text")  # there is nothing to scale
    if task in cls.handles or (task == "classification" and "binary" in cls.handles)
]


def parts_of(kind: str, task: Any, scaled: bool, aggregates: Any = None) -> Parts:
    """A built job over N events. No label becomes known from event ``STOP`` to the micro-batch
    after it, so that a learner that interleaves has learned nothing within it either."""
    cls = LEARNERS[kind]
    rng = np.random.default_rng(4)
    x = rng.normal(3, 2, size=(N, 4))
    classes = 3 if "classification" in cls.handles else 2
    code = np.concatenate([np.arange(classes), rng.integers(0, classes, N)])[:N]
    x[np.arange(N), code] += 5
    y = x[:, 0] * 5 - x[:, 1] if task == "regression" else np.array(["a", "b", "c"])[code]
    time = np.arange(N) * 60.0
    time[STOP:] -= 59.9 + 59.99 * np.minimum(np.arange(N - STOP), SIZE - 1)
    columns = {f"x{i}": x[:, i] for i in range(4)} | {"t": time, "y": y}
    if cls.example_column == "text":
        words = [" ".join(f"x{i}:{v:.0f}" for i, v in enumerate(row)) for row in x]
        columns = {"text": words, "t": time, "y": y}
    if aggregates is not None:
        columns["c"] = np.array(["u", "v", "w"])[rng.integers(0, 3, N)]
    pq.write_table(pa.table(columns), "data.parquet")
    stream = {"kind": "recorded", "path": "data.parquet", "label": "y", "time": "t"}
    stream |= {"batch_size": SIZE, "label_delay": {"seconds": 1000}}
    if cls.example_column == "text":
        stream["features"] = {"text": ["text"]}
    if aggregates is not None:
        stream["aggregates"] = aggregates
    if scaled:
        stream["standardise"] = {"half_life": 30}
    job = {"name": "case", "seed": 3, "stream": stream, "learner": cls.example(task)}
    Path("job.yaml").write_text(yaml.safe_dump(job))
    return build(load(Path("job.yaml")))


def said(parts: Parts, batches: Iterator[Batch], count: int | None = None) -> list[Prediction]:
    """What the loop predicts for the next micro-batches."""
    learner, heard = parts.loop.learner, []
    step = type(learner).step

    def listening(batch: Batch, revealed: Any) -> Prediction:
        heard.append(step(learner, batch, revealed))
        return heard[-1]

    learner.step = listening  # type: ignore[method-assign]
    for batch in islice(batches, count):
        parts.loop.step(batch)
    return heard


def same(one: Prediction, other: Prediction) -> bool:
    proba = (one.proba is None) == (other.proba is None)
    if one.proba is not None and other.proba is not None:
        proba = one.proba.tobytes() == other.proba.tobytes()
    known = (one.kind, one.classes, one.version) == (other.kind, other.classes, other.version)
    return proba and known and one.value.tobytes() == other.value.tobytes()


@pytest.mark.parametrize(("kind", "task", "scaled"), CASES)
def test_inference_model_predicts_as_the_loop_and_is_frozen(
    kind: str, task: Any, scaled: bool
) -> None:
    parts = parts_of(kind, task, scaled)
    batches = parts.reader.read({})
    said(parts, batches, STOP // SIZE)
    snapshot = parts.snapshot({"online/accuracy": 0.5})
    made = json.loads(json.dumps(parts.recipe))  # as it stands in a checkpoint
    servable = InferenceModel(made, snapshot)
    question = next(parts.reader.read({"0": STOP}))
    asked = servable.answer(question)
    assert asked.version > 0
    predicted = said(parts, batches)
    assert same(asked, predicted[0])
    assert parts.loop.learner.version > servable.version == asked.version
    # What the loop has learned since has changed neither the model nor what it was made from.
    assert same(servable.answer(question), asked)
    assert same(InferenceModel(made, snapshot).answer(question), asked)
    whole = Snapshot({**snapshot.state, "learner": parts.loop.learner.state()}, 0, 0)
    assert InferenceModel(made, whole).answer(question).version == parts.loop.learner.version


def test_models_of_all_versions_share_the_backbone_of_a_learner() -> None:
    """They answer on a thread of a server: a text takes milliseconds."""
    parts = parts_of("adapter", "classification", False)
    learner, models = parts.loop.learner, []
    for batch in islice(parts.reader.read({}), 8):
        parts.loop.step(batch)
        models.append(InferenceModel(parts.recipe, parts.snapshot({})))
    assert {id(model._learner.backbone) for model in models} == {id(learner.backbone)}  # type: ignore[attr-defined]
    assert all(model.encodes for model in models)
    parts = parts_of("slda", "classification", False)
    assert not InferenceModel(parts.recipe, parts.snapshot({})).encodes


OF_LABELS = [{"by": "c", "mean": "label"}, {"by": ["c", "x0"], "mean": "label", "scales": [20]}]
OF_EVENTS = [{"by": "c", "count": True, "mean": "x1", "since_last": True}]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("aggregates", [OF_LABELS, OF_EVENTS, "auto"])
def test_aggregates_are_served_as_they_are_learned(
    aggregates: Any, task: Any, scaled: bool
) -> None:
    """Counts also know the events before of their own micro-batch: the first row is compared."""
    parts = parts_of("finetune", task, scaled, aggregates)
    batches = parts.reader.read({})
    said(parts, batches, STOP // SIZE)
    model = InferenceModel(json.loads(json.dumps(parts.recipe)), parts.snapshot({}))
    asked = model.answer(next(parts.reader.read({"0": STOP})))
    predicted = said(parts, batches)[0]
    rows = 1 if aggregates is OF_EVENTS else SIZE
    assert asked.value[:rows].tobytes() == predicted.value[:rows].tobytes()
    learner = parts.loop.learner
    assert [f.name for f in learner.schema.features][-1] == "aggregates"
    assert [f.name for f in model.schema.features] == ["x0", "x1", "x2", "x3", "c"]


def test_a_checkpoint_gives_the_states_of_the_model() -> None:
    parts = parts_of("finetune", "classification", True, OF_LABELS)
    said(parts, parts.reader.read({}), 3)
    names = ["aggregates", "standardise"]
    question, answers = next(parts.reader.read({"0": STOP})), []
    for found in (model_states(parts.state()["operators"]), states_of(parts.loop.operators)):
        assert list(found) == names
        whole = {**found, "learner": parts.loop.learner.servable()}
        model = InferenceModel(parts.recipe, Snapshot(whole, parts.loop.learner.version, 0))
        answers.append(model.answer(question))
    assert same(*answers)


@pytest.mark.parametrize(
    ("kind", "aggregates"),
    [("prior", None), ("replay", None), ("finetune", OF_LABELS), ("finetune", OF_EVENTS)],
)
def test_snapshot_of_changed_rows_is_the_whole_model(kind: str, aggregates: Any) -> None:
    """Where every array has a base, and arrays grow, as with a class that is new."""
    parts = parts_of(kind, "classification", True, aggregates)
    parts.loop._deltas = DeltaEncoder(large=1)
    taken, wanted = [], []
    for batch in parts.reader.read({}):
        parts.loop.step(batch)
        taken.append(parts.snapshot({}))
        whole = {"learner": parts.loop.learner.servable(), **states_of(parts.loop.operators)}
        wanted.append(digest(whole))
    assert [digest(snapshot.whole()) for snapshot in taken] == wanted
    question = next(parts.reader.read({"0": STOP}))
    asked = InferenceModel(parts.recipe, taken[-1]).answer(question)
    copy = Snapshot(taken[-1].whole(), taken[-1].version, taken[-1].events)
    assert same(asked, InferenceModel(parts.recipe, copy).answer(question))


def test_inference_model_describes_itself() -> None:
    parts = parts_of("replay", "classification", True)
    said(parts, parts.reader.read({}), STOP // SIZE)
    servable = InferenceModel(parts.recipe, parts.snapshot({"online/accuracy": 0.5}))
    assert servable.events == STOP
    assert servable.classes == ("a", "b", "c")
    assert servable.metrics == {"online/accuracy": 0.5}
    assert schema_of(json.loads(json.dumps(parts.recipe))) == parts.stream.schema


def test_inference_model_unknown_learner_is_named() -> None:
    parts = parts_of("prior", "classification", False)
    elsewhere = {**parts.recipe, "learner": {"kind": "nowhere_at_all:Best"}}
    with pytest.raises(LearnerError, match="no module named 'nowhere_at_all'"):
        InferenceModel(elsewhere, parts.snapshot({}))
