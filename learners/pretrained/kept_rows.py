"""Rows that a learner keeps until it can learn them: arrays of equal length, by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streams.core.batch import Array


def joined(old: Mapping[str, Array], new: Mapping[str, Array]) -> dict[str, Array]:
    """Return the rows of both, by name; copies."""
    if not old:
        return {name: np.array(column) for name, column in new.items()}
    return {name: np.concatenate([column, new[name]]) for name, column in old.items()}


def length(rows: Mapping[str, Array]) -> int:
    """Return how many rows there are."""
    return len(next(iter(rows.values()))) if rows else 0
