import numpy as np
import pytest

from buffers.store import ColumnStore


def rows(n: int, start: int = 0) -> dict[str, np.ndarray]:
    x = np.arange(start, start + n * 6, dtype=np.float32).reshape(n, 2, 3)
    return {"x": x, "y": np.arange(start, start + n)}


def test_gather_returns_put_rows() -> None:
    store = ColumnStore(10)
    put = rows(4)
    store.put(np.array([7, 0, 3, 9]), put)
    got = store.gather(np.array([9, 9, 7]))
    np.testing.assert_array_equal(got["x"], put["x"][[3, 3, 0]])
    np.testing.assert_array_equal(got["y"], put["y"][[3, 3, 0]])


def test_gather_copies_and_fills_out() -> None:
    store = ColumnStore(4)
    store.put(np.arange(4), rows(4))
    got = store.gather(np.arange(2))
    got["y"][:] = -1
    out: dict[str, np.ndarray] = {"x": np.empty((2, 2, 3), np.float32), "y": np.empty(2, np.int64)}
    again = store.gather(np.arange(2), out)
    assert again["x"] is out["x"]
    np.testing.assert_array_equal(out["y"], [0, 1])
    np.testing.assert_array_equal(out["x"], rows(2)["x"])


def test_move_copies_rows() -> None:
    store = ColumnStore(5)
    store.put(np.arange(5), rows(5))
    store.move(np.array([4, 3]), np.array([0, 1]))
    np.testing.assert_array_equal(store.gather(np.arange(3))["y"], [4, 3, 2])


def test_memory_bytes_is_of_full_capacity() -> None:
    store = ColumnStore(1000)
    assert store.memory_bytes() == 0
    store.put(np.array([1]), rows(1))
    assert store.memory_bytes() == 1000 * (6 * 4 + 8)


def test_state_has_filled_rows_only() -> None:
    store = ColumnStore(10**6)
    store.put(np.arange(3), rows(3))
    state = store.state(3)
    assert {name: column.shape for name, column in state.items()} == {"x": (3, 2, 3), "y": (3,)}
    state["x"].flags.writeable = False
    other = ColumnStore(10**6)
    other.load(state)
    other.put(np.array([3]), rows(1, 50))
    np.testing.assert_array_equal(other.gather(np.arange(4))["y"], [0, 1, 2, 50])
    np.testing.assert_array_equal(store.columns["y"][:4], [0, 1, 2, 0])


BAD = {
    "row shape": ({"x": np.zeros((2, 3)), "y": np.zeros(2)}, r"'x': shape \(2, 3\).*\(2, 6\)"),
    "number of rows": ({"x": np.zeros((2, 6)), "y": np.zeros(3)}, r"'y': shape \(3,\).*\(2,\)"),
    "missing column": ({"x": np.zeros((2, 6))}, "columns x were given, x, y are expected"),
    "other column": ({"x": np.zeros((2, 6)), "z": np.zeros(2)}, "x, z were given"),
    "kind": ({"x": np.zeros((2, 6), complex), "y": np.zeros(2)}, "'x': dtype complex128.*float32"),
}


@pytest.mark.parametrize(("columns", "message"), BAD.values(), ids=BAD.keys())
def test_unfit_rows_raise_with_column(columns: dict[str, np.ndarray], message: str) -> None:
    store = ColumnStore(10)
    store.put(np.arange(2), {"x": np.ones((2, 6), np.float32), "y": np.ones(2)})
    with pytest.raises(ValueError, match=message):
        store.put(np.arange(2), columns)
    assert (store.gather(np.arange(2))["x"] == 1).all()


@pytest.mark.parametrize("first", [np.array(1.0), np.zeros(3), np.array([[1], [1, 2]], object)])
def test_first_rows_of_wrong_shape_raise(first: np.ndarray) -> None:
    store = ColumnStore(10)
    with pytest.raises(ValueError, match="column 'x'"):
        store.put(np.arange(2), {"x": first})
    store.put(np.arange(2), {"x": np.zeros((2, 4))})


def test_put_casts_within_kind_but_not_longer_strings() -> None:
    store = ColumnStore(4)
    store.put(np.array([0]), {"x": np.zeros(1, np.float32), "s": np.array(["abc"])})
    store.put(np.array([1]), {"x": np.ones(1, np.float64), "s": np.array(["d"])})
    assert store.gather(np.array([1]))["x"].dtype == np.float32
    with pytest.raises(ValueError, match="'s'"):
        store.put(np.array([2]), {"x": np.ones(1), "s": np.array(["abcd"])})


def test_widened_rows_have_nan_in_new_numbers() -> None:
    store = ColumnStore(5)
    store.put(np.arange(3), {"z": np.arange(6, dtype=np.float32).reshape(3, 2)})
    store.widen("z", 4, 3)
    store.put(np.array([3]), {"z": np.ones((1, 4), np.float32)})
    got = store.gather(np.arange(4))["z"]
    np.testing.assert_array_equal(got[:3, :2], [[0, 1], [2, 3], [4, 5]])
    assert np.isnan(got[:3, 2:]).all()
    np.testing.assert_array_equal(got[3], np.ones(4))
    with pytest.raises(ValueError, match="expected"):
        store.put(np.array([4]), {"z": np.ones((1, 2), np.float32)})
