"""Rows that are kept until they can be learned."""

from __future__ import annotations

import numpy as np

from learners.pretrained.kept_rows import joined, length


def test_kept_rows_are_copies_in_order() -> None:
    x = np.arange(4.0).reshape(2, 2)
    kept = joined({}, {"x": x, "y": np.array([1, 0])})
    x[:] = 9
    kept = joined(kept, {"x": x[:1], "y": np.array([2])})
    assert length({}) == 0
    assert length(kept) == 3
    assert kept["x"].tolist() == [[0, 1], [2, 3], [9, 9]]
    assert kept["y"].tolist() == [1, 0, 2]
