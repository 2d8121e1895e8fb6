"""Learners that train their parts on the first events only, unless a job says otherwise."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import PositiveInt

from learners.pretrained.kept_rows import joined
from learners.pretrained.tuned.base import TunedConfig, TunedLearner
from streams.core.batch import Array, Batch, Ints
from streams.core.schema import Schema
from streams.core.state_dict import State, copied
from streams.operators.label_join import Revealed

_ROWS = 64  # that a new head learns at once


class FirstEventsConfig(TunedConfig):
    """Settings of a learner that trains on the first events only, unless a job says otherwise.

    Attributes:
        train_for: labelled events that the parts are trained on; their rows are kept until then.
            None: the parts are trained on all events, and no row is kept.
    """

    train_for: PositiveInt | None = 1500


class FirstEventsLearner(TunedLearner):
    """Train parts on the first events, and from then on let only the head learn.

    The sums of a head hold features as they were when events came. While parts move, these no
    longer are what the parts give for the same events. So at the end of the first events a new head
    learns all of their rows, through the parts as they stay, and the rows are dropped. That call
    takes as long as the prediction of ``train_for`` events. Before, the head predicts from features
    of the time.

    Without ``train_for`` parts are trained for ever, as those of ``TunedLearner`` are.
    """

    Config: ClassVar[type[TunedConfig]] = FirstEventsConfig

    def __init__(self, config: TunedConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        super().__init__(config, schema, seed, device)
        self._draws = np.random.Generator(np.random.PCG64(seed))
        self._seen = self._steps = 0
        self._kept: dict[str, Array] = {}

    @property
    def passes(self) -> int:
        """How often parts are trained on as many rows as the first events are."""
        return 1

    @property
    def trains(self) -> bool:
        """Whether parts are still trained."""
        return self.config.train_for is None or self._seen < int(self.config.train_for)

    def learn(self, batch: Batch) -> None:
        first = len(batch)
        if self.config.train_for is not None:
            first = max(int(self.config.train_for) - self._seen, 0)
        if len(part := batch[:first]):
            self.learn_first(part)
            self._seen += len(part)
            if not self.trains:
                self._teach_again()
        if len(part := batch[first:]):
            self.teach_head(part, self.features(self.rows(part)))

    def learn_first(self, batch: Batch) -> None:
        """Learn m >= 1 events with labels that parts are trained on."""
        assert batch.y is not None
        rows = self.rows(batch)
        if self.config.train_for is not None:
            self._keep(batch.ids, rows, batch.y)
        features = self.train(rows, batch.y)
        self._replay(len(rows))
        self.teach_head(batch, self.beside(rows, features))

    def beside(self, rows: Array, features: Array) -> Array:
        """Return what the head gets of rows with features (n, width)."""
        return features

    def _replay(self, count: int) -> None:
        """Take ``passes`` - 1 steps on as many rows, drawn from those kept."""
        if self.passes == 1:
            return
        replayed = np.flatnonzero(~self._kept["once"])
        for _ in range(self.passes - 1 if len(replayed) else 0):
            drawn = self._draws.choice(replayed, count)
            self.train(self._kept["rows"][drawn], self._kept["y"][drawn])

    def train(self, rows: Array, y: Ints) -> Array:
        self._steps += int(self.config.steps)
        return super().train(rows, y)

    def _keep(self, ids: Ints, rows: Array, y: Ints) -> None:
        once = np.zeros(len(ids), np.bool_) if self.never_buffer is None else self.never_buffer(ids)
        self._kept = joined(self._kept, {"ids": ids, "rows": rows, "y": y, "once": once})

    def _teach_again(self) -> None:
        """Let a new head learn the rows kept, through the parts as they stay. Drop the rows."""
        self.head = self.new_head()
        kept, self._kept = self._kept, {}
        for start in range(0, len(kept["y"]), _ROWS):
            ids, rows, y = (kept[name][start : start + _ROWS] for name in ("ids", "rows", "y"))
            none = np.zeros(len(ids), np.int64)
            events = Batch(ids, none.astype(np.float64), none, none, none, y, classes=self.classes)
            self.teach_head(events, self.features(rows))

    def correct(self, ids: Ints, y: Array) -> None:
        """Correct the labels of rows that are still kept."""
        if not self._kept:
            return
        place = {int(known): i for i, known in enumerate(self._kept["ids"])}
        for known, label in zip(ids.tolist(), y.tolist(), strict=True):
            if known in place:
                self._kept["y"][place[known]] = label

    def _correct(self, revealed: Revealed) -> None:
        super()._correct(revealed)
        if revealed.corrected is not None:
            self._register_classes(revealed.corrected[1], revealed.batch.classes)
            self.correct(*revealed.corrected)

    @property
    def gradient_steps(self) -> int:
        return self._steps

    def metrics(self) -> dict[str, float]:
        kept = {"kept_rows": float(len(self._kept.get("y", ())))}
        return super().metrics() | ({} if self.config.train_for is None else kept)

    def state(self) -> State:
        return {**super().state(), "first": self._first_state()}

    def _first_state(self) -> State:
        state: State = {"seen": self._seen, "steps": self._steps}
        if self.trains and self.config.train_for is not None:
            state |= {"random": self._draws.bit_generator.state, "kept": dict(self._kept)}
        return state

    def load(self, state: State) -> None:
        super().load(state)
        first = state["first"]
        self._seen, self._steps = first["seen"], first["steps"]
        self._kept = copied(first.get("kept", {}))
        if "random" in first:
            self._draws.bit_generator.state = first["random"]
