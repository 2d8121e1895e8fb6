"""The discrete key-value bottleneck: its formulas, its keys, and what it forgets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from learners.base import LearnerError
from learners.pretrained.bottleneck import BottleneckConfig, DiscreteBottleneck
from learners.pretrained.bottleneck.codebooks import Codebooks, CodebooksConfig, MovingAverages
from learners.pretrained.bottleneck.values import ValueTable, gradient_of
from pipeline.models.delta import DeltaEncoder, RowChanges, decoded
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, Schema, Task
from streams.core.state_dict import copied, digest, leaves

WIDTH = 12
SMALL = {"count": 8, "keys": 16, "dimension": 3}


def learner(
    task: Task = "classification", classes: tuple[str, ...] = (), **settings: Any
) -> DiscreteBottleneck:
    """Return a small learner over unit vectors, whose keys come from the first 32 events."""
    settings = {"codebooks": SMALL, "keys": {"kind": "first", "events": 32}, **settings}
    schema = Schema((Feature("v", "vector", (WIDTH,), unit=True),), task, classes)
    return DiscreteBottleneck(BottleneckConfig(kind="dkvb", **settings), schema, 3)


def events(n: int, classes: int = 4, seed: int = 0, first: int = 0) -> Batch:
    """Return n events of classes that lie apart; no class has a code below ``first``."""
    rng = np.random.default_rng(seed)
    y = rng.integers(first, classes, n)
    y[: classes - first] = np.arange(first, classes)[:n]
    centres = np.random.default_rng(9).normal(size=(20, WIDTH))
    x = (centres[y] + 0.3 * rng.normal(size=(n, WIDTH))).astype(np.float32)
    at = np.arange(n, dtype=np.int64)
    names = tuple(f"c{i}" for i in range(classes))
    return Batch(at, at * 1.0, x, np.zeros(n, np.int32), at, y, classes=names)


def feed(model: DiscreteBottleneck, batch: Batch, size: int = 8) -> DiscreteBottleneck:
    """Observe and learn all events in micro-batches."""
    for part in batch.micro_batches(size):
        model._observe(replace(part, y=None))
        model._learn(part)
    return model


def accuracy(model: DiscreteBottleneck, batch: Batch) -> float:
    value = model.predict(replace(batch, y=None)).value
    return float((value == batch.y).mean())


def codes_of(model: DiscreteBottleneck, batch: Batch) -> Array:
    assert model.codebooks is not None
    return model.codebooks.nearest(model.rows.of(batch)).codes


# ---- codebooks ---------------------------------------------------------------------------------


def test_codes_are_the_nearest_keys_of_projections() -> None:
    books = Codebooks(CodebooksConfig(**SMALL), WIDTH, 1)
    matrix = books._projections.reshape(WIDTH, -1)
    assert np.allclose(np.linalg.norm(matrix, axis=0), 1, atol=1e-6)
    x = np.random.default_rng(0).normal(size=(300, WIDTH)).astype(np.float32)
    books.fit(x)
    assert books.keys is not None
    heads = books.project(x)[:, :, :-1].astype(np.float64)
    distances = ((heads[:, :, None] - books.keys[:, None].astype(np.float64)) ** 2).sum(3)
    found = books.nearest(x, errors=True)
    chosen = np.take_along_axis(distances, (found.codes % 16)[:, :, None], 2)[:, :, 0]
    assert np.allclose(chosen, distances.min(2), atol=1e-5)
    assert found.errors is not None
    assert np.allclose(found.errors, distances.min(2).mean(0), atol=1e-4)
    assert np.array_equal(found.codes // 16, np.arange(8)[:, None].repeat(300, 1))


def test_chunks_cut_a_row_into_pieces() -> None:
    books = Codebooks(CodebooksConfig(count=3, keys=4, projection="chunk"), 7, 1)
    x = np.arange(14, dtype=np.float32).reshape(2, 7)
    heads = books.project(x)
    assert heads.shape == (3, 2, 4)
    assert heads[:, 1, :-1].tolist() == [[7, 8, 9], [10, 11, 12], [13, 0, 0]]


def test_keys_are_moving_averages_of_their_projections() -> None:
    keys = np.array([[[0.0], [10.0]]])  # one codebook, two keys of one number
    average = MovingAverages(np.ones((1, 2)), keys)
    heads = np.array([[[1.0], [2.0], [9.0]]])
    found = average.update(np.array([[0, 0, 1]]), heads)
    counts = np.array([0.95 + 0.05 * 2, 0.95 + 0.05])
    sums = np.array([0.05 * 3, 0.95 * 10 + 0.05 * 9])
    total = counts.sum()
    expected = sums / ((counts + 1e-5) / (total + 2e-5) * total)
    assert np.allclose(average.counts, [counts])
    assert np.allclose(found[0, :, 0], expected)


def test_keys_that_fetch_nothing_are_replaced() -> None:
    # All rows are far from where keys start, so that without replacement one key takes all.
    x = 50 + np.random.default_rng(0).normal(size=(400, WIDTH)).astype(np.float32)
    books = Codebooks(CodebooksConfig(**SMALL), WIDTH, 1)
    books.fit(x)
    used = [len(np.unique(codes)) for codes in books.nearest(x).codes]
    assert min(used) >= 12  # of 16


def test_keys_stay_and_a_seed_makes_them_again() -> None:
    one, two = learner(), learner()
    feed(one, events(64))
    feed(two, events(64))
    assert one.codebooks is not None
    assert two.codebooks is not None
    assert one.codebooks.keys is not None
    before = one.codebooks.keys.copy()
    assert np.array_equal(before, two.codebooks.keys)
    feed(one, events(64, seed=1))
    assert np.array_equal(before, one.codebooks.keys)


# ---- values ------------------------------------------------------------------------------------


def test_the_gradient_equals_that_of_autograd() -> None:
    """With 3 classes that have come and 5 that have not, whose columns are one and the same."""
    rng = np.random.default_rng(0)
    out = rng.normal(size=(6, 4)).astype(np.float32)
    y = rng.integers(0, 3, 6)
    found = gradient_of(out, y, 5, 0.1)
    every = torch.from_numpy(np.concatenate([out[:, :3], np.repeat(out[:, 3:], 5, 1)], 1))
    every.requires_grad_()
    loss = F.cross_entropy(every, torch.from_numpy(y), reduction="sum", label_smoothing=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert every.grad is not None
    assert np.allclose(found, every.grad[:, :4], atol=1e-6)


def test_a_step_equals_that_of_autograd_through_the_mean() -> None:
    model = feed(learner(expected_classes=5, label_smoothing=0.1), events(64))
    assert model.values is not None
    batch = events(1, seed=5, first=3)
    codes = codes_of(model, batch)
    values = torch.from_numpy(model.values.values.copy()).requires_grad_()
    out = values[torch.from_numpy(codes[:, 0])].mean(0, keepdim=True)
    target = torch.from_numpy(np.array(batch.y))
    F.cross_entropy(out, target, label_smoothing=0.1).backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    expected = (values - model.config.rate * values.grad).detach().numpy()
    feed(model, batch)
    assert np.allclose(model.values.values, expected, atol=1e-5)


def test_a_step_touches_only_the_rows_that_events_fetch() -> None:
    model = feed(learner(), events(64))
    assert model.values is not None
    before = model.values.values.copy()
    batch = events(4, seed=6)
    fetched = np.unique(codes_of(model, batch))
    feed(model, batch)
    changed = np.flatnonzero((model.values.values != before).any(1))
    assert 0 < len(changed) <= len(fetched) < len(before)
    assert np.isin(changed, fetched).all()


def test_events_that_fetch_one_row_move_it_by_their_mean() -> None:
    table = ValueTable(4, 2, 1)
    codes = np.array([[0, 0, 1], [2, 3, 3]])
    table.step(codes, np.array([[1.0], [3.0], [5.0]], np.float32), 2.0)
    assert table.values[:, 0].tolist() == [-2, -5, -1, -4]  # -2 / 2 times the means
    assert np.allclose(table.outputs(codes)[:, 0], [-1.5, -3, -4.5])


def test_predictions_leave_out_keys_that_no_event_has_trained() -> None:
    model = learner(keys={"kind": "gaussian", "events": 32, "spread": 3.0})
    feed(model, events(64, classes=2))
    assert model.values is not None
    assert model.codebooks is not None
    trained = model.values.trained
    assert 0 < trained.sum() < len(trained)
    x = model.rows.of(events(200, seed=7))
    assert trained[model.codebooks.nearest(x, masked=True).codes].all()
    assert not trained[model.codebooks.nearest(x).codes].all()


def test_late_classes_are_learned_as_if_all_were_known() -> None:
    """Growth equals a table that has all columns from the start."""
    grown = learner(expected_classes=9)
    stated = learner(expected_classes=9, classes=("c0", "c1", "c2", "c3", "never"))
    for model in (grown, stated):
        feed(model, events(96, classes=2))
        feed(model, events(96, classes=4, seed=1, first=2))
    assert grown.values is not None
    assert stated.values is not None
    assert np.allclose(grown.values.values[:, :4], stated.values.values[:, :4], atol=1e-5)


def test_a_class_seen_once_is_predicted() -> None:
    books = {"count": 32, "keys": 64, "dimension": 4}
    model = feed(learner(codebooks=books), events(160, classes=3))
    one = events(1, classes=8, first=7, seed=3)
    feed(model, one)
    assert model.predict(replace(one, y=None)).value.tolist() == [7]


def test_tasks_in_turn_are_not_forgotten() -> None:
    model = learner(keys={"kind": "gaussian", "events": 32}, codebooks={"count": 32, "keys": 32})
    feed(model, events(300, classes=2, seed=1))
    alone = accuracy(model, events(200, classes=2, seed=4))
    feed(model, events(300, classes=4, seed=2, first=2))
    assert alone > 0.95
    assert accuracy(model, events(200, classes=4, seed=4)) > 0.9


def test_regression_learns_values_of_one_number() -> None:
    model = learner("regression", codebooks={"count": 32, "keys": 32, "dimension": 4})
    batch = events(1500, classes=1)
    assert isinstance(batch.x, np.ndarray)
    batch = replace(batch, y=100 + 20 * batch.x[:, 0].astype(np.float64))
    feed(model, batch[:1200])
    predicted = model.predict(replace(batch[1200:], y=None)).value
    assert batch.y is not None
    assert model.values is not None
    assert model.values.values.shape == (32 * 32, 1)
    assert np.square(predicted - batch.y[1200:]).mean() < 0.5 * batch.y.var()
    with pytest.raises(LearnerError, match="twice the number of codebooks"):
        learner("regression", lr=16.0)


# ---- keys --------------------------------------------------------------------------------------


def test_predictions_without_keys_are_the_class_frequencies() -> None:
    model = learner()
    feed(model, events(24, classes=3))
    assert model.codebooks is None
    assert model.metrics() == {}
    prediction = model.predict(replace(events(2), y=None))
    share = np.bincount(events(24, classes=3).y, minlength=3) / 24
    assert prediction.proba is not None
    assert np.allclose(prediction.proba, share)


def test_labels_before_the_keys_are_learned_with_them() -> None:
    model = learner()
    batch = events(32)
    model._learn(batch[:24])
    model._observe(replace(batch, y=None))  # as many as are needed
    assert model.codebooks is not None
    assert model._kept == {}
    assert accuracy(model, batch[:24]) > 0.9


def test_keys_of_the_first_task_alone_fail_and_say_so() -> None:
    """Rows of the first task lie close together, and those of others far from their keys."""
    poor = learner(keys={"kind": "first", "events": 100})
    good = learner(keys={"kind": "first", "events": 100})
    first = events(300, classes=2)
    near = np.random.default_rng(1).normal(size=(300, WIDTH)).astype(np.float32) / 50
    feed(poor, replace(first, x=near))
    assert poor.current_warnings() == ()
    feed(good, events(300, classes=18))
    for model in (poor, good):
        feed(model, events(600, classes=18, seed=2, first=2))
    test = events(300, classes=18, seed=3, first=2)
    assert 1 - accuracy(poor, test) > 2 * (1 - accuracy(good, test))
    assert good.current_warnings() == ()
    assert good.metrics()["key_error_ratio"] < 1.3
    assert poor.metrics()["key_error_ratio"] > 10
    (line_of_text,) = poor.current_warnings()
    assert "do not cover the events" in line_of_text
    assert "learner.keys" in line_of_text


def test_keys_come_from_a_file_without_labels(tmp_path: Path) -> None:
    x = events(200).x
    assert isinstance(x, np.ndarray)
    np.savez(tmp_path / "sample.npz", v=x)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), WIDTH)
    pq.write_table(pa.table({"v": vectors, "other": np.arange(200)}), tmp_path / "sample.parquet")
    models = []
    for name in ("sample.npz", "sample.parquet"):
        model = learner(keys={"kind": "file", "path": str(tmp_path / name)})
        assert model.warnings(()) == ()
        models.append(feed(model, events(40)))
    assert models[0].codebooks is not None
    assert models[1].codebooks is not None
    assert np.array_equal(models[0].codebooks.keys, models[1].codebooks.keys)
    state = models[1].state()
    np.savez(tmp_path / "sample.npz", v=x[:100])
    with pytest.raises(LearnerError, match="not the file that the keys"):
        models[0].load(models[0].state())
    (tmp_path / "sample.parquet").unlink()  # a checkpoint needs it no more
    models[1].load(state)
    assert digest(models[1].state()) == digest(state)


def test_columns_of_a_csv_file_give_the_scale_and_the_keys(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "sample.csv").write_text(
        "a,b\n" + "".join(f"{100 * a:.3f},{b:.3f}\n" for a, b in rng.normal(size=(300, 2)))
    )
    schema = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")
    keys = {"kind": "file", "path": str(tmp_path / "sample.csv")}
    config = BottleneckConfig(kind="dkvb", codebooks=SMALL, keys=keys)  # type: ignore[arg-type]
    model = DiscreteBottleneck(config, schema, 0)
    batch = replace(events(8), x=rng.normal(size=(8, 2)))
    model._observe(replace(batch, y=None))
    assert model.codebooks is not None
    assert model.rows.fixed
    rows = model.rows.of(batch)
    assert np.allclose(rows.std(0), [0.01 * batch.x[:, 0].std(), batch.x[:, 1].std()], rtol=0.1)


@pytest.mark.parametrize("name", ["gone.parquet", "other.npz", "bad.parquet"])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", w=np.zeros((3, 4)))
    pq.write_table(pa.table({"w": [1, 2]}), tmp_path / "bad.parquet")
    model = learner(keys={"kind": "file", "path": str(tmp_path / name)})
    with pytest.raises(LearnerError, match=r"learner\.keys\.path.*" + name.split(".")[0]):
        model._observe(replace(events(4), y=None))


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="gaussian"):
        learner(keys={"kind": "frist"})
    with pytest.raises(ValidationError, match="did you mean 'keys'"):
        learner(codebooks={"key": 3})


# ---- state -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [0, 16, 24, 32, 120])
def test_a_learner_continues_from_a_state(stop: int) -> None:
    batch = events(240)
    unbroken = feed(learner(), batch)
    first, second = feed(learner(), batch[:stop]), learner()
    second.load(copied(first.state()))
    feed(second, batch[stop:])
    assert digest(second.state()) == digest(unbroken.state())


def test_what_is_served_has_neither_waiting_rows_nor_coverage() -> None:
    model = feed(learner(), events(100))
    paths = [path for path, _ in leaves(model.servable())]
    assert not [path for path in paths if path.startswith(("kept", "observed", "coverage"))]


def test_a_snapshot_carries_the_values_that_have_changed() -> None:
    model = feed(learner(codebooks={"count": 16, "keys": 256}), events(100))
    encoder = DeltaEncoder(large=1 << 14)
    encoder.encode(model.servable())
    feed(model, events(4, seed=8))
    state, bases = encoder.encode(model.servable())
    changes = state["values"]
    assert isinstance(changes, RowChanges)
    assert 0 < len(changes.rows) <= 4 * 16
    assert not len(state["keys"].rows)
    assert digest(decoded(state, bases)) == digest(model.servable())
