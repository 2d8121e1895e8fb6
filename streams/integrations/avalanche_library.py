"""The lazy import of Avalanche, and random state of its own for it."""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from streams.core.errors import StreamError
from streams.integrations.torchvision_library import import_torchvision


@cache
def import_avalanche() -> ModuleType:
    """Return Avalanche, with its benchmarks, models and training.

    Raises ``StreamError`` if it is not installed, or cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of some forty packages that it depends on
            import_torchvision()
            library = importlib.import_module("avalanche")
            for part in ("benchmarks", "evaluation.metrics", "models", "training"):
                importlib.import_module(f"avalanche.{part}")
            return library
    except ModuleNotFoundError as error:
        if error.name not in ("avalanche", "torchvision"):
            raise StreamError(f"avalanche cannot be imported: {one_line(error)}") from error
        raise StreamError(
            f"{error.name} is not installed: pip install 'everlearn[avalanche]'"
        ) from None
    except Exception as error:  # whatever a package among the forty may raise
        raise StreamError(f"avalanche cannot be imported: {one_line(error)}") from error


class OwnRandom:
    """Random state of its own for code that draws from the global generators of torch, numpy and
    Python, as Avalanche does: ``within`` swaps it in."""

    def __init__(self, seed: int) -> None:
        import torch

        self.state: tuple[Any, ...] = (
            torch.Generator().manual_seed(seed).get_state(),
            np.random.RandomState(seed % 2**32).get_state(),
            random.Random(seed).getstate(),
        )

    @contextmanager
    def within(self) -> Iterator[None]:
        """Use this state in the global generators, and restore theirs at the end."""
        outside = _global_state()
        _set_global_state(self.state)
        try:
            yield
        finally:
            self.state = _global_state()
            _set_global_state(outside)


def _global_state() -> tuple[Any, ...]:
    import torch

    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def _set_global_state(state: tuple[Any, ...]) -> None:
    import torch

    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    random.setstate(state[2])


def one_line(error: BaseException | str) -> str:
    """Return the message of an error on one line, of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
