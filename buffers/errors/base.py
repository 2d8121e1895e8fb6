"""What an error memory keeps of each event, and what it returns for similar ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Keys = NDArray[np.floating]
"""Rows (n, width) of finite numbers, centred, about of unit scale."""


class LabelledKeys(NamedTuple):
    """m events whose label has become known.

    Attributes:
        ids: (m,) int64.
        keys: (m, width) float32.
        labels: (m,) class codes, or targets.
        base: (m, outputs) what the base model predicted: probabilities by class, or one target.
        weights: (m,) float64 > 0: how many events each stands for.
    """

    ids: Ints
    keys: Keys
    labels: NDArray[Any]
    base: Floats
    weights: Floats

    def take(self, rows: NDArray[Any] | slice) -> LabelledKeys:
        """Return the events at these indices, or where a mask is True."""
        ids, keys, labels, base, weights = self
        return LabelledKeys(ids[rows], keys[rows], labels[rows], base[rows], weights[rows])


class Recalled(NamedTuple):
    """What is known of events like each of n.

    Attributes:
        support: (n,) about how many events that is; 0: there is none.
        labels: (n, outputs) their mean label: shares of classes, or one target; 0 without any.
        base: (n, outputs) the mean of what the base model predicted for them.
    """

    support: Floats
    labels: Floats
    base: Floats


class ErrorMemory(ABC):
    """Recent labels, and what a model predicted before they were known, found by similar keys.

    Args:
        width: numbers of a key.
        targets: whether labels are targets, and not class codes.
        half_life: labels after which the weight of an event is halved; None: it stays.

    Attributes:
        outputs: classes known, or 1 for targets.
    """

    def __init__(self, width: int, targets: bool, half_life: float | None = None) -> None:
        if width < 1:
            raise ValueError(f"width: {width} was given, at least 1 is expected")
        if half_life is not None and half_life <= 0:
            raise ValueError(f"half_life: {half_life} was given, a number above 0 is expected")
        self.width = width
        self.targets = targets
        self.half_life = half_life
        self.outputs = int(targets)

    @abstractmethod
    def grow(self, outputs: int) -> None:
        """Let there be as many classes. No code changes."""

    @abstractmethod
    def write(self, events: LabelledKeys) -> None:
        """Add m >= 0 events, in the order in which their labels became known."""

    @abstractmethod
    def read(self, keys: Keys) -> Recalled:
        """Return what is known of events like those with keys (n, width). Pure.

        Row i depends on key i alone, bit for bit.
        """

    def relabel(self, ids: Ints, labels: NDArray[Any]) -> None:  # noqa: B027 (sums hold no ids)
        """Correct the labels (m,) of events ``ids`` (m,), as far as they are stored one by one."""

    @property
    def stored(self) -> int:
        """The number of events that are stored one by one; 0 where only their sums are."""
        return 0

    def replace_keys(self, keys: Keys) -> None:
        """Give the stored events other keys (stored, width), oldest first. Sums are cleared."""
        self.clear()

    @abstractmethod
    def clear(self) -> None:
        """Forget all events."""

    @property
    @abstractmethod
    def events(self) -> int:
        """The number of events written since the memory was empty."""

    @abstractmethod
    def memory_bytes(self) -> int:
        """Return the bytes of the memory: the same before the first event and after any number."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return arrays of fixed shape, as views, and numbers. Rows keep their places."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""


def one_hot(labels: NDArray[Any], outputs: int, targets: bool) -> Floats:
    """Return labels (m,) as rows (m, outputs): a 1 at the class, or the target."""
    if targets:
        return np.asarray(labels, np.float64)[:, None]
    rows = np.zeros((len(labels), outputs))
    rows[np.arange(len(labels)), labels] = 1.0
    return rows
