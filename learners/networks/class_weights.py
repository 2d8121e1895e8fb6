"""Weights of classes in the loss, from the labels learned so far."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, PositiveFloat

from learners.base import LearnerError
from streams.core.batch import Array, ClassName
from streams.core.settings import unknown
from streams.core.state_dict import State

CAP = 100.0
"""Largest balanced weight. One event of a rare class counts at most as much as 100 others."""
EXTRA = 10
"""Labels that each class has for balanced weights, beside those learned."""


def class_text(name: Any) -> Any:
    """Return the name of a class as a key of a mapping: settings are stored as JSON, where a key is
    text. What cannot name a class is returned as it is."""
    if isinstance(name, bool):
        return "true" if name else "false"
    return str(name) if isinstance(name, int | float) else name


def _by_text(table: Any) -> Any:
    return {class_text(n): v for n, v in table.items()} if isinstance(table, dict) else table


ByClassName = BeforeValidator(_by_text)
"""Turns the keys of a mapping by class into text, as ``class_text`` does."""

ClassWeightConfig = Literal["balanced"] | Annotated[dict[str, PositiveFloat], ByClassName]
"""``balanced``, or the weight of each class by name; a class without one has weight 1."""


def check_names(setting: str, names: set[str], classes: tuple[ClassName, ...]) -> None:
    """Raise ``LearnerError`` where a setting names a class that is not one of the stated classes.

    Where no classes are stated, any class may still come.
    """
    known = [class_text(name) for name in classes]
    for name in sorted(names) if classes else ():
        if name not in known:
            raise LearnerError(f"{setting}: there is no class {unknown(name, known)}")


class ClassWeights:
    """Weigh each class, by its share of the labels learned so far or by stated weights.

    Balanced weights are those of scikit-learn, n / (k * n_c) for n labels of k classes, n_c of them
    of class c. Here each class has ``EXTRA`` labels more than were learned, and a weight is at most
    ``CAP``: the first labels, and a class that has just appeared, have weights of a moderate size.

    All weights are divided by their mean over the labels learned, so that this mean is 1. A
    weighted loss is the sum of w * loss divided by the number of events, not by the sum of their
    weights as in torch. That sum differs from one micro-batch to the next: most micro-batches have
    no event of a rare class, and division would cancel the small weights of all others. As it is,
    the expected gradient is that of the weighted loss of the stream, whatever the size of a
    micro-batch, and its size is that of the loss without weights.

    Args:
        config: the settings.
        classes: the stated classes.

    Raises:
        LearnerError: a weight is for a class that is not one of the stated classes.

    Attributes:
        counts: (k,) int64, labels learned by class code.
        values: (k,) float64, the weights.
    """

    def __init__(
        self, config: Literal["balanced"] | dict[str, float], classes: tuple[ClassName, ...]
    ) -> None:
        self._stated = None if config == "balanced" else dict(config)
        if self._stated is not None:
            check_names("learner.class_weight", set(self._stated), classes)
        self._classes = classes
        self.counts = np.zeros(len(classes), np.int64)
        self._weigh()

    def register(self, classes: tuple[ClassName, ...]) -> None:
        """Make room for the classes known by now, which begin with those known before."""
        if len(classes) > len(self.counts):
            self.counts = np.pad(self.counts, (0, len(classes) - len(self.counts)))
        self._classes = classes
        self._weigh()

    def update(self, y: Array) -> None:
        """Count the labels (m,) of classes that are known."""
        self.counts += np.bincount(y, minlength=len(self.counts))
        self._weigh()

    def _weigh(self) -> None:
        n, k = int(self.counts.sum()), len(self.counts)
        if self._stated is None:
            share = (self.counts + EXTRA) / (n + EXTRA * k)
            weights = np.minimum(1 / (k * share), CAP)
        else:
            stated = self._stated
            weights = np.array([stated.get(class_text(c), 1.0) for c in self._classes])
        mean = float(weights @ self.counts) / n if n else 1.0
        self.values = weights / mean

    def servable(self) -> State:
        return self.state()

    def state(self) -> State:
        return {"counts": self.counts}

    def load(self, state: State) -> None:
        """Load a ``state``, or start anew from an empty one. Then ``register`` the classes."""
        self.counts = np.array(state.get("counts", ()), np.int64)
