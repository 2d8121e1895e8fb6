"""State dicts: what each part of the pipeline saves and restores; their digest."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from streams.core.batch import COLUMNS, Batch, ClassName, Ragged

State = dict[str, Any]
"""Nested dictionary. Its leaves are numpy arrays, or JSON values: str, int, float, bool, None, and
lists of these. Keys are strings without a slash."""


def leaves(state: State, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every (path, leaf) in canonical order: keys sorted at each level, joined by slashes."""
    for key in sorted(state):
        if "/" in key:
            raise ValueError(f"the key {key!r} of a state has a slash in it")
        value = state[key]
        if isinstance(value, dict) and value:  # an empty one is a leaf, or it would be lost
            yield from leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def nested(flat: Mapping[str, Any]) -> State:
    """Return the state with these ``leaves``."""
    state: State = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        inner = state
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = leaf
    return state


def digest(state: State) -> str:
    """Return the SHA-256 over path, dtype, shape and bytes of every array, and over path and JSON
    of every other leaf."""
    sha = hashlib.sha256()
    for path, leaf in leaves(state):
        if isinstance(leaf, np.ndarray | np.generic):
            array = np.ascontiguousarray(leaf)
            if array.dtype.hasobject:
                raise ValueError(f"the state at {path!r} is an array of objects, not of numbers")
            dtype = array.dtype.newbyteorder("<")
            sha.update(f"{path}\0{dtype.str}\0{leaf.shape}\0".encode())
            sha.update(array.astype(dtype, copy=False).tobytes())
        else:
            sha.update(f"{path}\0json\0{json.dumps(leaf, sort_keys=True)}\0".encode())
    return sha.hexdigest()


def bytes_of(state: State) -> int:
    """Return the bytes of the arrays of a state, and of the rest as JSON."""
    return sum(
        leaf.nbytes if isinstance(leaf, np.ndarray | np.generic) else len(json.dumps(leaf))
        for _, leaf in leaves(state)
    )


def copied(state: State) -> State:
    """Return a deep copy, with arrays and lists of its own."""
    return {
        key: copied(value)
        if isinstance(value, dict)
        else np.array(value)
        if isinstance(value, np.ndarray | np.generic)
        else copy.deepcopy(value)
        for key, value in state.items()
    }


def pack(batch: Batch) -> State:
    """Return the rows of a batch as state, without side records."""
    state: State = {
        spec.name: column for spec in COLUMNS if (column := getattr(batch, spec.name)) is not None
    }
    if isinstance(batch.x, np.ndarray):
        return {**state, "x": batch.x}
    columns = [
        {"values": c.values, "bounds": c.bounds} if isinstance(c, Ragged) else c
        for c in batch.x.values()
    ]
    return {
        **state,
        "names": list(batch.x),
        "columns": {str(i): column for i, column in enumerate(columns)},
    }


def unpack(state: State, classes: tuple[ClassName, ...]) -> Batch:
    """Return the batch of a packed state; ``classes`` are the names of its codes."""
    x = state.get("x")
    if x is None:
        columns = (state["columns"][str(i)] for i in range(len(state["names"])))
        x = {
            name: Ragged(**column) if isinstance(column, dict) else column
            for name, column in zip(state["names"], columns, strict=True)
        }
    rows = {spec.name: state[spec.name] for spec in COLUMNS if spec.name in state}
    return Batch(x=x, classes=classes, **rows)
