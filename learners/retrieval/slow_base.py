"""A base learner on its own cadence, or at rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from learners.base import Learner
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.state_dict import State, pack, unpack


class SlowBase:
    """Let a learner learn labels now and then, in the micro-batches in which they came.

    Args:
        base: the learner.
        every: labels after which it learns; None: at once.
        frozen_after: labels after which it learns no more; None: it always learns.
    """

    def __init__(self, base: Learner, every: int | None, frozen_after: int | None) -> None:
        self._base = base
        self._every = every or 1
        self._frozen_after = frozen_after
        self._seen = 0
        self._kept: list[Batch] = []

    @property
    def frozen(self) -> bool:
        """Whether it learns no more."""
        return self._frozen_after is not None and self._seen >= self._frozen_after

    def learn(self, batch: Batch) -> None:
        """Take m >= 1 events with labels."""
        if self._frozen_after is not None:
            batch = batch[: max(self._frozen_after - self._seen, 0)]
        if not len(batch):
            return
        self._seen += len(batch)
        self._kept.append(batch)
        if sum(map(len, self._kept)) >= self._every or self.frozen:
            for kept in self._kept:
                self._base._learn(kept)
            self._kept = []

    def correct(self, ids: Ints, y: Array, classes: tuple[ClassName, ...]) -> None:
        """Correct the labels (m,) of events ``ids`` (m,) that it has not learned yet.

        Args:
            ids: of the events; the last label of an id counts.
            y: their labels.
            classes: the names of the class codes.
        """
        labels = dict(zip(ids.tolist(), y.tolist(), strict=True))
        for i, batch in enumerate(self._kept):
            rows = np.flatnonzero(np.isin(batch.ids, ids))
            if len(rows):
                corrected = np.array(batch.y)
                corrected[rows] = [labels[id_] for id_ in batch.ids[rows].tolist()]
                self._kept[i] = replace(batch, y=corrected, classes=classes)

    def state(self) -> State:
        state: State = {"seen": self._seen}
        if self._kept:
            state["lengths"] = [len(batch) for batch in self._kept]
            state["kept"] = pack(Batch.concat(self._kept))
        return state

    def load(self, state: State, classes: tuple[ClassName, ...]) -> None:
        """Restore what ``state`` returned; ``classes`` are the names of the class codes."""
        self._seen, self._kept = state["seen"], []
        if "kept" in state:
            batch, start = unpack(state["kept"], classes), 0
            for length in state["lengths"]:
                self._kept.append(batch[start : start + length])
                start += length
