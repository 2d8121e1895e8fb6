"""The numbers inside a river model: whether all of them are finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_CHECKED = tuple(
    f"river.{name}" for name in ("linear_model", "optim", "preprocessing", "facto", "neural_net")
)
"""Modules whose objects have finite numbers only. Others start from infinity, as a minimum does."""
_WALKED = (
    *_CHECKED,
    *(f"river.{name}" for name in ("compose", "multiclass", "ensemble", "imblearn")),
)
"""Modules whose objects are looked into. A forest, for one, would take longer than its pickle."""
_LIMIT = 1e100
"""No weight or moment is as large, unless one absurd value has spoilt it for all later events."""


def beyond_limits(model: Any) -> str | None:
    """Return where a model has a number that is not finite, or useless as it is beyond 1e100.

    Looked at are weights, moments and the state of optimizers: of the model, and of the models and
    optimizers in it. Constructor parameters are not, as a user may set them to infinity.

    Returns:
        The place and the number, as ``LinearRegression: weights has nan``; None where all is well.
    """
    for made in _objects(model, set()):
        if type(made).__module__.startswith(_CHECKED):
            parameters: dict[str, Any] = getattr(made, "_get_params", dict)()
            for name, value in vars(made).items():
                wrong = None if name in parameters else _first_beyond_limits(value)
                if wrong is not None:
                    return f"{type(made).__name__}: {name.strip('_')} has {wrong:g}"
    return None


def _objects(made: Any, known: set[int]) -> Iterator[Any]:
    """Yield an object and all objects that its attributes reach, each once."""
    if isinstance(made, Mapping | list | tuple):
        for value in made.values() if isinstance(made, Mapping) else made:
            yield from _objects(value, known)
    elif type(made).__module__.startswith(_WALKED) and id(made) not in known:
        known.add(id(made))
        yield made
        for value in getattr(made, "__dict__", {}).values():
            yield from _objects(value, known)


def _first_beyond_limits(value: Any) -> float | None:
    """Return the first number in a value that is beyond the limits: a number, a mapping of numbers
    or an array."""
    if isinstance(value, float):
        return None if abs(value) <= _LIMIT else value
    if isinstance(value, np.ndarray):
        wrong = value[~(np.abs(value) <= _LIMIT)] if value.dtype.kind == "f" else value[:0]
        return float(wrong.flat[0]) if wrong.size else None
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):
        return next((v for v in map(_first_beyond_limits, value.values()) if v is not None), None)
    return None
