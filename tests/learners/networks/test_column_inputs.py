"""Inputs of several kinds of columns, and networks over them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import learners
from learners.base import LearnerError
from learners.checks.case import LearnerRun
from learners.networks.base import NetworkLearner
from learners.networks.column_inputs import ColumnInputs
from learners.networks.embedding_table import EmbeddingTable
from learners.networks.inputs import InputsConfig
from learners.networks.modules import ColumnNet
from learners.registry import find
from streams.core.batch import Array, Batch, Ragged
from streams.core.hashing import hash_categories
from streams.core.schema import Feature, Schema, Task
from streams.core.state_dict import copied, digest

torch.set_num_threads(1)

FEATURES = (
    Feature("n", "numeric"),
    Feature("c", "categorical"),
    Feature("d", "categorical"),
    Feature("t", "text"),
    Feature("v", "vector", (3,)),
    Feature("u", "vector", (2,), unit=True),
    Feature("i", "image", (1, 2, 2)),
)
WIDTH = 1 + 3 + 2 + 4
NETWORKS = ["finetune", "replay", "view-batch", "der++", "er-ace", "joint", "ewc", "lwf"]


def schema(task: Task = "classification", *kinds: str) -> Schema:
    return Schema(tuple(f for f in FEATURES if not kinds or f.name in kinds), task)


def stream(n: int = 200, seed: int = 0, values: int = 20, task: Task = "classification") -> Batch:
    """Events of all kinds of columns; the label depends on the category alone."""
    rng = np.random.default_rng(seed)
    category = rng.integers(values, size=n)
    x = {
        "n": rng.normal(5, 2, n),
        "c": Ragged.of_text(f"value {c}" for c in category),
        "d": Ragged.of_text(str(d) for d in rng.integers(3, size=n)),
        "t": Ragged.of_text(rng.choice(["red cat", "", "blue"], n).tolist()),
        "v": rng.normal(100, 10, (n, 3)).astype(np.float32),
        "u": rng.normal(size=(n, 2)).astype(np.float32),
        "i": rng.integers(0, 256, (n, 1, 2, 2)).astype(np.uint8),
    }
    x["n"][::7] = np.nan
    y: Array = category % 2 if task == "classification" else 10.0 + category % 2
    at = np.arange(n)
    return Batch(at, at * 60.0, x, np.zeros(n, np.int32), at, y, classes=("even", "odd"))


def some(batch: Batch, *names: str) -> Batch:
    assert not isinstance(batch.x, np.ndarray)
    return replace(batch, x={name: batch.x[name] for name in names})


def learner(kind: str, columns: Schema, **settings: Any) -> NetworkLearner:
    cls = find(learners.KINDS, NetworkLearner, kind)
    config = cls.Config.model_validate({**cls.example(columns.task), **settings})
    return cls(config, columns, 1)


def test_row_holds_numbers_then_codes() -> None:
    config = InputsConfig(bins=4, text_places=64, rows=16)
    inputs = ColumnInputs(schema(), True, config)
    batch = stream(32)
    inputs.observe(batch)
    tensor = inputs.tensor(inputs.rows(batch)).numpy()
    assert tensor.shape == (32, *inputs.shape)
    assert tensor.dtype == np.float32
    assert (inputs.dense, inputs.codes) == (WIDTH + 64, 1 + 2)
    assert np.isfinite(tensor).all()
    np.testing.assert_allclose(tensor[:, 1:4].mean(0), 0, atol=1e-5)
    np.testing.assert_array_equal(tensor[:, 4:6], np.asarray(batch.x["u"]))  # type: ignore[index]
    pixels = np.asarray(batch.x["i"]).reshape(32, 4)  # type: ignore[index]
    np.testing.assert_allclose(tensor[:, 6:10], pixels / 255, atol=1e-6)
    codes = tensor[:, inputs.dense :]
    assert (codes == codes.astype(int)).all()
    assert codes.min() >= 0
    assert codes.max() < inputs.embeddings == 5 + 2 + 16


def test_first_value_has_the_prior_row_of_its_column() -> None:
    inputs = ColumnInputs(schema("classification", "c", "d"), True, InputsConfig())
    batch = some(stream(1), "c", "d")
    seen = []
    for _ in range(3):
        seen.append(inputs.tensor(inputs.rows(batch)).numpy()[0].tolist())
        observed = inputs.observe(batch)
        new = [] if observed.new is None else observed.new.prior.tolist()
        assert new == ([0, 1] if len(seen) == 2 else [])
    assert seen[0] == seen[1] == [0, 1]
    assert min(seen[2]) >= 2


def test_same_text_in_two_columns_has_two_embeddings() -> None:
    inputs = ColumnInputs(schema("classification", "c", "d"), True, InputsConfig(admit_after=1))
    same = Ragged.of_text(["a", "b"])
    batch = replace(stream(2), x={"c": same, "d": same})
    inputs.observe(batch)
    codes = inputs.tensor(inputs.rows(batch)).numpy()
    assert len(np.unique(codes)) == 4


def test_cross_tells_combinations_apart() -> None:
    columns = schema("classification", "c", "d")
    config = InputsConfig(admit_after=1, crosses=(("c", "d"),))
    inputs = ColumnInputs(columns, True, config)
    x = {"c": Ragged.of_text("aabb"), "d": Ragged.of_text("xyxy")}
    batch = replace(stream(4), x=x)
    inputs.observe(batch)
    codes = inputs.tensor(inputs.rows(batch)).numpy()
    assert codes.shape == (4, 3)
    assert [len(np.unique(codes[:, j])) for j in range(3)] == [2, 2, 4]


def test_cross_needs_two_categorical_columns() -> None:
    with pytest.raises(LearnerError, match=r"^learner\.inputs\.crosses\.0: there is no"):
        learner("replay", schema(), inputs={"crosses": [["c", "n"]]})
    with pytest.raises(LearnerError, match="two or more different"):
        learner("replay", schema(), inputs={"crosses": [["c", "c"]]})
    for name in ("n", "v"):  # tables that are one array
        with pytest.raises(LearnerError, match="there is no categorical column 'c'"):
            learner("replay", schema("classification", name), inputs={"crosses": [["c", "d"]]})


def test_indicators_tell_few_values_apart() -> None:
    settings: dict[str, Any] = {"inputs": {"categories": "indicators"}, "steps": 4}
    ours = learner("replay", schema("classification", "n", "c"), **settings)
    assert ours.inputs.shape == (1 + 32 + 1,)
    assert ours.inputs.encodings()["c"].places == 32
    run = LearnerRun(ours).feed(some(stream(600, values=6), "n", "c"))
    y = stream(600, values=6).y
    assert y is not None
    assert (run.values()[-200:] == y[-200:]).mean() > 0.95
    crosses = {"categories": "indicators", "crosses": [["c", "d"]]}
    with pytest.raises(LearnerError, match="indicators have none"):
        learner("replay", schema(), inputs=crosses)


def test_keys_of_a_block_predict_as_its_texts() -> None:
    columns = schema()
    ours = learner("replay", columns)
    batch = stream()
    LearnerRun(ours).feed(batch)
    asked = replace(stream(40, seed=9), y=None)
    hashed = hash_categories(asked, ["c", "d"])
    assert not isinstance(hashed.x, np.ndarray)
    assert np.asarray(hashed.x["c"]).dtype == np.int64
    np.testing.assert_array_equal(ours.predict(hashed).proba, ours.predict(asked).proba)


@pytest.mark.parametrize("kind", NETWORKS)
def test_network_learns_a_category(kind: str) -> None:
    segmented = {"every": 100} if kind in ("ewc", "lwf") else {}
    ours = learner(kind, schema("classification", "n", "c"), steps=4, **segmented)
    run = LearnerRun(ours).feed(some(stream(800), "n", "c"))
    y = stream(800).y
    assert y is not None
    assert (run.values()[-200:] == y[-200:]).mean() > 0.95


@pytest.mark.parametrize("kind", NETWORKS)
def test_network_of_mixed_columns_continues_bit_for_bit(kind: str) -> None:
    """Rows of the table are taken from one value and given to another meanwhile."""
    settings: dict[str, Any] = {"inputs": {"rows": 16, "admit_after": 1, "min_age": 3}}
    first = learner(kind, schema(), **settings)
    LearnerRun(first).feed(stream(160, values=60))
    saved = copied(first.state())
    other = learner(kind, schema(), **settings)
    other.load(copied(saved))
    assert digest(other.state()) == digest(saved)
    rest = stream(80, seed=3, values=60)
    runs = [LearnerRun(each).feed(rest) for each in (first, other)]
    assert np.array_equal(*(run.probabilities(2)[-80:] for run in runs))
    assert digest(other.state()) == digest(first.state())


@pytest.mark.parametrize("kind", NETWORKS)
def test_network_of_mixed_columns_serves_as_it_predicts(kind: str) -> None:
    ours = learner(kind, schema())
    LearnerRun(ours).feed(stream())
    served = learner(kind, schema())
    served.load_servable(copied(ours.servable()))
    asked = replace(stream(40, seed=9), y=None)
    np.testing.assert_array_equal(served.predict(asked).proba, ours.predict(asked).proba)


def test_regression_learns_a_category() -> None:
    ours = learner("replay", schema("regression", "c"), steps=4)
    run = LearnerRun(ours).feed(some(stream(800, task="regression"), "c"))
    y = stream(800, task="regression").y
    assert y is not None
    assert np.abs(run.values()[-200:] - y[-200:]).mean() < 0.1


def test_linear_part_is_beside_mixed_columns_alone() -> None:
    numbers = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")
    assert not isinstance(learner("replay", numbers).net, ColumnNet)
    wide = learner("replay", numbers, inputs={"wide": True}).net
    assert isinstance(wide, ColumnNet)
    assert wide.wide is not None
    mixed = learner("replay", schema()).net
    assert isinstance(mixed, ColumnNet)
    assert mixed.wide is not None
    alone = learner("replay", schema(), inputs={"wide": False}).net
    assert isinstance(alone, ColumnNet)
    assert alone.wide is None


def test_bins_of_a_numeric_table_tell_steps() -> None:
    """The label changes eight times along one number."""
    numbers = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")
    rng = np.random.default_rng(0)
    x = rng.random((2000, 2))
    at = np.arange(2000)
    y = (x[:, 0] * 8).astype(int) % 2
    batch = Batch(at, at * 1.0, x, np.zeros(2000, np.int32), at, y, classes=("a", "b"))
    settings: dict[str, Any] = {"optimizer": {"kind": "adam", "lr": 0.003}, "steps": 4}
    plain = LearnerRun(learner("replay", numbers, **settings)).feed(batch).values()
    binned = LearnerRun(learner("replay", numbers, inputs={"bins": 16}, **settings)).feed(batch)
    right = (binned.values()[-500:] == y[-500:]).mean()
    assert right > 0.85
    assert right > (plain[-500:] == y[-500:]).mean() + 0.2


def test_memory_is_bounded_however_many_values_come() -> None:
    settings: dict[str, Any] = {"inputs": {"rows": 64, "admit_after": 1, "min_age": 0}}
    ours = learner("finetune", schema("classification", "c"), **settings)
    run = LearnerRun(ours)
    sizes = []
    for part in some(stream(4000, values=4000), "c").micro_batches(400):
        run.feed(part)
        sizes.append(ours.memory_bytes())
    assert max(sizes[3:]) < 1.02 * min(sizes[3:])


def test_state_of_one_row_of_numbers_is_refused() -> None:
    ours = learner("replay", schema())
    state = copied(ours.state())
    state["inputs"] = {"count": 0.0, "mean": np.zeros(1), "m2": np.zeros(1)}
    with pytest.raises(LearnerError, match="no encoders of their own"):
        ours.load(state)


def test_views_change_no_code() -> None:
    ours = learner("view-batch", schema("classification", "n", "c"))
    assert ours.inputs.codes == 2
    x = ours.tensor(ours.inputs.rows(some(stream(8), "n", "c")))
    views = ours.augment(x, ours.random)  # type: ignore[attr-defined]
    assert torch.equal(views[:, -2:], x[:, -2:])
    assert not torch.equal(views[:, :-2], x[:, :-2])


def test_exact_integer_is_a_value_once_it_recurs() -> None:
    """Bins are known after 500 events; then an integer that comes again has its own embedding."""
    numbers = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")
    inputs = ColumnInputs(numbers, True, InputsConfig(bins=4, rows=64))
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(1000, size=520).astype(float), rng.random(520)], 1)
    x[500:, 0] = np.repeat(np.arange(5000, 5010), 2)
    at = np.arange(520)
    batch = Batch(at, at * 1.0, x, np.zeros(520, np.int32), at)
    for start in (*range(0, 500, 50), 500):
        inputs.observe(batch[start : start + 50])
    codes = inputs.tensor(inputs.rows(batch[500:])).numpy()[:, inputs.dense :]
    assert len(np.unique(codes[:, 0])) == 10, "each of the ten integers"
    assert codes[:, 0].min() >= inputs.embeddings_drawn
    assert codes[:, 1].max() < inputs.embeddings_drawn, "real numbers have bins alone"
    unseen = Batch(at[:1], at[:1] * 1.0, np.array([[7777.0, 0.5]]), np.zeros(1, np.int32), at[:1])
    code = inputs.tensor(inputs.rows(unseen)).numpy()[0, inputs.dense]
    assert code == 3, "an integer that is not known has its bin"


def test_bytes_are_those_that_the_docs_state() -> None:
    """docs/columns.md: of the table of embeddings, and of an event in the buffer."""
    replay = learner("replay", schema(), inputs={"rows": 1024})
    assert isinstance(replay.inputs, ColumnInputs)
    table, embeddings = replay.inputs._table, replay.net.table
    assert table is not None
    assert isinstance(embeddings, EmbeddingTable)
    r, d, drawn = table.rows, 8, replay.inputs.embeddings_drawn
    assert table.memory_bytes() == 16 * r + 16 * r
    assert embeddings.weight.nbytes == 4 * d * (r + drawn)
    rows = replay.inputs.rows(stream())
    bytes_of = {name: array[0].nbytes for name, array in rows.items()}
    assert bytes_of["numbers"] == 8
    assert bytes_of["keys"] == 2 * 8
    assert bytes_of["bags"] == 1024


def test_load_forgets_what_was_encoded() -> None:
    """The last batch is encoded anew by what was loaded."""
    config = InputsConfig(rows=16, text_places=64, admit_after=1)
    columns, batch = schema(), stream(8)
    learned = ColumnInputs(columns, True, config)
    learned.observe(batch)
    inputs = ColumnInputs(columns, True, config)
    inputs.tensor(inputs.rows(batch))
    inputs.load(learned.state())
    assert torch.equal(inputs.tensor(inputs.rows(batch)), learned.tensor(learned.rows(batch)))
