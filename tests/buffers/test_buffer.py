import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffers.admission.ring import Ring
from buffers.buffer import Buffer
from buffers.recall.base import Ints, RecallOutcome, Uniform
from buffers.registry import ADMISSIONS, RECALLS
from tests.support.fuzz import examples

PAIRS = [(admission, recall) for admission in ADMISSIONS for recall in RECALLS]


def rows(start: int, n: int) -> dict[str, np.ndarray]:
    """Rows that tell their id: x[:, 0] == id, y == id % 3."""
    ids = np.arange(start, start + n)
    x = np.repeat(ids[:, None], 6, axis=1).astype(np.float32)
    return {"ids": ids, "x": x, "y": ids % 3}


def content(buffer: Buffer) -> dict[int, int]:
    """id -> y of everything stored."""
    columns = buffer.state()["columns"]
    if not columns:
        return {}
    np.testing.assert_array_equal(columns["x"][:, 0], columns["ids"])
    return dict(zip(columns["ids"].tolist(), columns["y"].tolist(), strict=True))


def through_json(state: Any) -> Any:
    """The state as a checkpoint would give it back: arrays read-only, all else through JSON."""
    if isinstance(state, dict):
        return {key: through_json(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        copy = state.copy()
        copy.flags.writeable = False
        return copy
    return json.loads(json.dumps(state))


def act(buffer: Buffer, action: tuple[str, int], clock: int) -> Any:
    kind, n = action
    if kind == "add":
        return buffer.add(**rows(clock, n))
    if kind == "delete":
        return buffer.delete(np.arange(max(0, clock - n), clock, 2))
    if kind == "relabel":
        return buffer.relabel(np.arange(max(0, clock - n), clock), np.arange(min(n, clock)) % 4)
    if buffer.recall.criterion is None:
        sample = buffer.sample(n, draws=2)
    else:
        sample = buffer.sample(n)
        sample = buffer.choose(sample, np.arange(min(n, len(sample.slots))))
    m = len(sample.slots)
    buffer.update(sample.slots, RecallOutcome(np.ones(m, np.float32), np.arange(m) % 2 == 0))
    return sample


Actions = st.lists(
    st.tuples(st.sampled_from(["add", "add", "sample", "delete", "relabel"]), st.integers(0, 60)),
    max_size=20,
)


@pytest.mark.parametrize(("admission", "recall"), PAIRS)
@examples(0.3)
@given(capacity=st.integers(1, 60), before=Actions, after=Actions, seed=st.integers(0, 9))
def test_load_continues_bit_for_bit(
    admission: str,
    recall: str,
    capacity: int,
    before: list[tuple[str, int]],
    after: list[tuple[str, int]],
    seed: int,
) -> None:
    buffer, other = (Buffer(capacity, admission, recall, seed=s) for s in (seed, seed + 1))
    clock = 0
    for action in before:
        act(buffer, action, clock)
        clock += 60
    other.load(through_json(buffer.state()))
    for action in after:
        np.testing.assert_equal(act(other, action, clock), act(buffer, action, clock))
        clock += 60
    np.testing.assert_equal(other.state(), buffer.state())


@pytest.mark.parametrize(("admission", "recall"), PAIRS)
@examples(0.3)
@given(capacity=st.integers(1, 60), actions=Actions)
def test_rows_stay_whole_under_any_operations(
    admission: str, recall: str, capacity: int, actions: list[tuple[str, int]]
) -> None:
    buffer = Buffer(capacity, admission, recall)
    clock = 0
    for kind, n in actions:
        before = content(buffer)
        result = act(buffer, (kind, n), clock)
        after = content(buffer)
        assert len(after) == len(buffer) <= capacity
        window = range(max(0, clock - n), clock)
        if kind == "delete":
            gone = set(window[::2])
            assert after == {i: y for i, y in before.items() if i not in gone}
            assert result == len(before) - len(after)
        elif kind == "relabel":
            new = {i: place % 4 for place, i in enumerate(window)}
            assert after == {i: new.get(i, y) for i, y in before.items()}
            assert result == len(before.keys() & new.keys())
        elif kind == "add":
            assert (
                after.items()
                <= {**before, **{clock + i: (clock + i) % 3 for i in range(n)}}.items()
            )
        else:
            assert after == before
        clock += 60


@given(cuts=st.lists(st.integers(0, 50), max_size=8), samples=st.integers(0, 3))
def test_kept_rows_are_independent_of_cuts_and_samples(cuts: list[int], samples: int) -> None:
    whole, cut = Buffer(30, seed=5), Buffer(30, seed=5)
    whole.add(**rows(0, 400))
    start = 0
    for n in [*cuts, 400 - sum(cuts)]:
        cut.add(**rows(start, n))
        start += n
        for _ in range(samples):
            cut.sample(4)
    np.testing.assert_equal(cut.state()["columns"], whole.state()["columns"])


def test_sample_has_independent_draws() -> None:
    buffer = Buffer(100, "ring", seed=1)
    buffer.add(**rows(0, 100))
    sample = buffer.sample(20, draws=3)
    draws = sample.slots.reshape(3, 20)
    assert all(len(set(draw)) == 20 for draw in draws.tolist())
    assert len({tuple(draw) for draw in draws.tolist()}) == 3
    np.testing.assert_array_equal(sample.columns["ids"], sample.slots)
    assert sample.columns["x"].shape == (60, 6)


def test_sample_of_few_rows_is_short() -> None:
    buffer = Buffer(100)
    assert len(buffer.sample(8).slots) == 0
    buffer.add(**rows(0, 5))
    assert sorted(buffer.sample(8).slots.tolist()) == [0, 1, 2, 3, 4]
    assert len(buffer.sample(8, draws=3).slots) == 15
    assert buffer.delete(np.arange(5)) == 5
    assert len(buffer) == 0
    assert buffer.sample(8).columns["x"].shape == (0, 6)


def test_deleted_row_is_never_sampled() -> None:
    buffer = Buffer(50, seed=2)
    buffer.add(**rows(0, 200))
    gone = buffer.sample(20).columns["ids"]
    assert buffer.delete(gone) == 20
    assert buffer.delete(gone) == 0
    for _ in range(200):
        assert not np.isin(buffer.sample(10).columns["ids"], gone).any()


def test_ids_may_be_strings_and_repeat() -> None:
    buffer = Buffer(10)
    buffer.add(np.array(["a", "b", "a"]), y=np.array([1, 2, 3]))
    assert buffer.relabel(["a", "c", "a"], [7, 8, 9]) == 2
    assert sorted(buffer.sample(3).columns["y"].tolist()) == [2, 9, 9]
    assert buffer.delete(["a"]) == 2
    with pytest.raises(ValueError, match="'ids'"):
        buffer.add(np.array(["too long"]), y=np.array([1]))


def test_relabel_unfit_labels_raises() -> None:
    buffer = Buffer(10, "class-balanced")
    buffer.add(np.arange(4), y=np.array([0, 1, 0, 1]))
    for bad in ([0.5, 0.5], [[0, 1], [1, 0]], [1], [1, -1]):
        with pytest.raises(ValueError, match="column 'y'"):
            buffer.relabel([0, 1], bad)
    assert buffer.sample(4).columns["y"].sum() == 2
    unlabelled = Buffer(10)
    unlabelled.add(np.arange(4), x=np.zeros(4))
    with pytest.raises(ValueError, match="no labels"):
        unlabelled.relabel([0], [1])
    assert unlabelled.relabel([], []) == 0


BAD_ROWS: dict[str, dict[str, Any]] = {
    "ids": {"ids": np.zeros((2, 1)), "x": np.zeros((2, 6)), "y": np.zeros(2, int)},
    "x": {"ids": np.zeros(2, int), "x": np.zeros((2, 5)), "y": np.zeros(2, int)},
    "y": {"ids": np.zeros(2, int), "x": np.zeros((2, 6)), "y": np.zeros(3, int)},
}


@pytest.mark.parametrize(
    ("column", "filled"), [("ids", 0), ("y", 0), ("ids", 20), ("x", 20), ("y", 20)]
)
def test_add_bad_rows_raises_and_changes_nothing(column: str, filled: int) -> None:
    buffer = Buffer(10, seed=3)
    buffer.add(**rows(0, filled))
    before = buffer.state()
    with pytest.raises(ValueError, match=f"column '{column}'"):
        buffer.add(**BAD_ROWS[column])
    np.testing.assert_equal(buffer.state(), before)
    buffer.add(**rows(20, 20))


def test_add_rows_refused_by_rule_changes_nothing() -> None:
    buffer = Buffer(10, "class-balanced")
    with pytest.raises(ValueError, match="'y'"):
        buffer.add([1, 2], y=[0.0, 1.0])
    buffer.add([1, 2], y=[0, 1])
    assert buffer.sample(2).columns["y"].dtype == np.int64


def test_unknown_rule_raises_with_nearest() -> None:
    with pytest.raises(ValueError, match="admission 'resevoir': did you mean 'reservoir'"):
        Buffer(10, "resevoir")
    with pytest.raises(ValueError, match="recall 'unifrom': did you mean 'uniform'"):
        Buffer(10, recall="unifrom")


def test_load_state_of_other_buffer_raises() -> None:
    state = Buffer(10).state()
    for other in (Buffer(11), Buffer(10, "ring")):
        with pytest.raises(ValueError, match="is expected"):
            other.load(state)


def test_memory_bytes_counts_columns_and_rules() -> None:
    buffer = Buffer(1000, "ring")
    buffer.add(**rows(0, 1))
    assert buffer.memory_bytes() == 1000 * (8 + 24 + 8) + Uniform(1000).memory_bytes()


class Noting(Uniform):
    """Notes what it is told."""

    name = "noting"
    needs_outcome = True

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.told: list[tuple[Any, ...]] = []

    def put(self, slots: Ints, now: int) -> None:
        self.told.append(("put", slots.tolist(), now))

    def move(self, source: Ints, target: Ints) -> None:
        self.told.append(("move", source.tolist(), target.tolist()))

    def update(self, slots: Ints, outcome: RecallOutcome) -> None:
        self.told.append(("update", slots.tolist(), outcome.loss.tolist()))


def test_recall_rule_is_notified_of_slot_changes() -> None:
    recall = Noting(4)
    buffer = Buffer(4, Ring(4), recall)
    assert buffer.needs_outcome
    buffer.add(**rows(0, 3))
    buffer.add(**rows(3, 2))
    buffer.delete([1])
    buffer.update(np.array([2]), RecallOutcome(np.array([0.5], np.float32), np.array([True])))
    assert recall.told == [
        ("put", [0, 1, 2], 3),
        ("put", [3, 0], 5),
        ("move", [3], [1]),
        ("update", [2], [0.5]),
    ]
    with pytest.raises(ValueError, match="ring of 5"):
        Buffer(4, Ring(5))
