"""Base and changes together are the whole state, bit for bit, whichever snapshots are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from learners.baselines.finetune import Finetune
from pipeline.models.delta import LARGE, Base, DeltaEncoder, RowChanges, changed_rows, decoded
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.state_dict import State, copied, digest, leaves
from streams.operators.label_join import Revealed

TABLES = {
    "floats": ((40, 3), np.float32),
    "doubles": ((30,), np.float64),
    "keys": ((50,), np.int64),
    "pixels": ((20, 2, 3), np.uint8),
    "marks": ((60,), np.bool_),
}
BITS = st.sampled_from([0, 1, 0x80, 0x7F, 0xFF])  # of a byte: among them NaN and minus zero


@st.composite
def steps(draw: st.DrawFn) -> list[State]:
    """A model's state after each step. Tables change in rows and in shape, and come and go."""
    tables = {name: np.zeros(*about) for name, about in TABLES.items()}
    states: list[State] = []
    for version in range(draw(st.integers(1, 5))):
        for name in draw(st.lists(st.sampled_from(sorted(TABLES)), max_size=4)):
            table = tables[name]
            if draw(st.integers(0, 9)) == 0:
                table = tables[name] = np.concatenate([table, table[:2]])
            rows = draw(st.lists(st.integers(0, len(table) - 1), max_size=6))
            raw = table.reshape(len(table), -1).view(np.uint8)
            raw[rows, draw(st.integers(0, raw.shape[1] - 1))] = draw(BITS)
            if table.dtype == np.bool_:
                raw &= 1
        gone = draw(st.sets(st.sampled_from(sorted(TABLES)), max_size=1))
        inner = {name: table for name, table in tables.items() if name not in gone}
        states.append(copied({"version": version, "small": np.ones(2), "net": inner, "none": {}}))
    return states


@given(steps())
def test_base_and_changes_are_the_whole_state(states: list[State]) -> None:
    """Each snapshot alone, decoded after all others were taken; live arrays change meanwhile."""
    encoder, encoded = DeltaEncoder(large=60), []
    for state in states:
        live = copied(state)
        encoded.append(encoder.encode(live))
        for _, leaf in leaves(live):
            if isinstance(leaf, np.ndarray):
                leaf.view(np.uint8)[...] = 1
    assert [digest(decoded(*one)) for one in encoded] == [digest(state) for state in states]


def nbytes(state: State) -> int:
    return sum(getattr(leaf, "nbytes", 0) for _, leaf in leaves(state))


def test_snapshot_is_as_large_as_the_rows_that_changed() -> None:
    """65,536 rows of eight numbers, of which 1,000 change again and again."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(65_536, 8)).astype(np.float32)
    encoder = DeltaEncoder()
    _, bases = encoder.encode({"table": table})
    base = bases["table"]
    for _ in range(20):
        table[rng.choice(1000, 1000, replace=False) * 65] += 1
        changes, bases = encoder.encode({"table": table})
        assert bases == {"table": base}, "no new base"
        assert nbytes(changes) == 1000 * (4 + 8 * 4) < table.nbytes / 50


def test_snapshot_of_a_network_carries_the_rows_it_learned() -> None:
    """2,000 values in a table of 65,536 embeddings, and 500 events between snapshots."""

    def network() -> Finetune:
        config = Finetune.Config.model_validate({"kind": "finetune", "inputs": {"dimension": 8}})
        return Finetune(config, Schema((Feature("c", "categorical"),), "classification"), 0)

    def events(first: int, n: int) -> Batch:
        category = np.random.default_rng(first).integers(2000, size=n)
        at = np.arange(first, first + n)
        x = {"c": category}
        return Batch(at, at * 1.0, x, at * 0, at, category % 2, classes=("even", "odd"))

    def learn(batch: Batch) -> None:
        for part in batch.micro_batches(100):
            ours.step(part, Revealed(part, np.arange(len(part))))

    ours, encoder = network(), DeltaEncoder()
    learn(events(0, 5000))
    _, first = encoder.encode(ours.servable())
    for start in range(5000, 7000, 500):
        learn(events(start, 500))
        state, bases = encoder.encode(ours.servable())
        assert bases == first
    whole = sum(base.array.nbytes for base in bases.values())
    assert len(bases) == 2
    assert nbytes(state) < whole / 20
    server = network()
    for base in bases.values():
        base.array.flags.writeable = False  # as they come out of the object store of Ray
    server.load_servable(decoded(state, bases))
    asked = replace(events(9000, 64), y=None)
    assert np.array_equal(server.predict(asked).proba, ours.predict(asked).proba)


def test_new_base_comes_once_changes_add_up_to_one() -> None:
    table = np.zeros((LARGE // 8, 1))
    encoder, numbers = DeltaEncoder(), []
    for step in range(12):
        table[: len(table) // 5] = step
        numbers.append(encoder.encode({"table": table})[1]["table"].number)
    # A fifth of the rows, each with its index, is 0.3 of the base.
    assert numbers == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]


def test_array_that_changes_as_a_whole_has_a_new_base() -> None:
    """It travels once, as a base, and not as changes beside it."""
    weights = np.zeros((1000, 100))
    encoder = DeltaEncoder()
    for step in range(3):
        weights += 1
        changes, bases = encoder.encode({"weights": weights, "bias": np.zeros(9)})
        assert nbytes(changes) == 9 * 8
        assert bases["weights"].number == step + 1


def test_small_arrays_travel_whole() -> None:
    encoder = DeltaEncoder()
    for _ in range(2):
        state, bases = encoder.encode({"weights": np.zeros((100, 100))})
        assert bases == {}
        assert state["weights"].shape == (100, 100)


def test_changed_rows_compares_bits() -> None:
    """NaN equals itself, minus zero is not zero, and arrays may lie in any order."""
    before = np.array([[0.0, np.nan], [0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]])
    after = before.copy()
    after[1, 0] = -0.0
    after[3, 1] = np.nan
    rows = changed_rows(before, after)
    assert rows is not None
    assert rows.tolist() == [1, 3]
    other_order = changed_rows(np.asfortranarray(before), after)
    assert other_order is not None
    assert other_order.tolist() == [1, 3]
    assert changed_rows(before, before + 1) is None
    assert changed_rows(before, before[:3]) is None
    assert changed_rows(before, before.view(np.int64)) is None


def test_changes_do_not_touch_their_base() -> None:
    base = Base(1, np.zeros((4, 2)))
    base.array.flags.writeable = False  # as it comes out of the object store of Ray
    changes = RowChanges(np.array([2], np.int32), np.array([[5.0, 6.0]]))
    assert changes.applied(base).tolist() == [[0, 0], [0, 0], [5, 6], [0, 0]]
    assert not base.array.any()
