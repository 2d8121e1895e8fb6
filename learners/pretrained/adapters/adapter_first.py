"""An adapter that is trained on the first events, under a closed form of all."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import PositiveInt
from torch import Tensor

from learners.networks.optimizer import Adam, OptimizerConfig
from learners.pretrained.adapters.adapter import Adapter, AdapterConfig
from learners.pretrained.backbones.base import Hidden
from learners.pretrained.tuned.base import TunedConfig
from streams.core.batch import Array, Batch, Ints
from streams.core.schema import Schema, Task
from streams.core.state_dict import State, copied
from streams.operators.label_join import Revealed

_ROWS = 64  # that a new head learns at once


class AdapterFirstConfig(AdapterConfig):
    """Settings of ``adapter-first``.

    Attributes:
        segment: labelled events that the adapter is trained on. Their rows are kept until then.
        passes: how often it is trained on as many rows as these are.
        concatenate: whether the head gets the features of the frozen backbone beside the adapted
            ones.
    """

    optimizer: OptimizerConfig = Adam(lr=3e-3)
    segment: PositiveInt = 1500
    passes: PositiveInt = 3
    concatenate: bool = False


class AdapterFirst(Adapter):
    """Train an adapter on the first segment of a stream, and from then on learn in closed form.

    This is APER with an adapter (Zhou et al. 2023, "Revisiting Class-Incremental Learning with
    Pre-Trained Models: Generalizability and Adaptivity are All You Need"), under any head. With
    ``head: ranpac`` it is RanPAC with its adaptation on the first task (McDonnell et al. 2023).

    During the segment each micro-batch of m labelled events takes a step on them, and then
    ``passes`` - 1 steps on m rows each that are drawn from those kept. At the end of the segment a
    new head learns all rows kept, through the adapter as it is then, and they are dropped. The
    adapter does not change any more, so that the sums of the head hold features of one adapter.
    Before, the head predicts from features of the time.

    Deviations: the authors train for many epochs, with a linear layer and cross-entropy, and keep
    class means. Here rows are drawn while the segment lasts, so that no call takes the time of an
    epoch. The call that ends the segment takes as long as the prediction of ``segment`` events. The
    loss is that of ``TunedLearner``. The authors concatenate features, which is ``concatenate``.
    """

    kind = "adapter-first"
    Config: ClassVar[type[TunedConfig]] = AdapterFirstConfig

    def __init__(self, config: TunedConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        super().__init__(config, schema, seed, device)
        self._draws = np.random.Generator(np.random.PCG64(seed))
        self._seen = self._steps = 0
        self._kept: dict[str, Array] = {}

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return super().example(task) | {"segment": 72, "passes": 2}

    @property
    def trains(self) -> bool:
        """Whether the first segment still lasts."""
        return self._seen < int(self.config.segment)

    @property
    def head_width(self) -> int:
        return self.backbone.width * (2 if self.config.concatenate else 1)

    def features(self, rows: Array) -> Array:
        return self._beside_frozen(rows, super().features(rows))

    def _beside_frozen(self, rows: Array, adapted: Array) -> Array:
        """Return adapted features (n, width), with those without an adapter where asked for."""
        if not self.config.concatenate:
            return adapted
        return np.concatenate([adapted, self.features_by(self._frozen, rows)], 1)

    def _frozen(self, hidden: Hidden, queries: Tensor | None) -> Tensor:
        for i in self._trunk.upper_blocks():
            hidden = self.backbone.block(i, hidden)
        return self.backbone.pool(hidden)

    def learn(self, batch: Batch) -> None:
        first = max(int(self.config.segment) - self._seen, 0)
        for part, learn in ((batch[:first], self._learn_first), (batch[first:], self._learn_later)):
            if len(part):
                learn(part)

    def _learn_first(self, batch: Batch) -> None:
        """Learn m >= 1 events of the first segment."""
        assert batch.y is not None
        rows = self.rows(batch)
        self._keep(batch.ids, rows, batch.y)
        features = self.train(rows, batch.y)
        replayed = np.flatnonzero(~self._kept["once"])
        for _ in range(self.config.passes - 1 if len(replayed) else 0):
            drawn = self._draws.choice(replayed, len(rows))
            self.train(self._kept["rows"][drawn], self._kept["y"][drawn])
        self._seen += len(rows)
        self.teach_head(batch, self._beside_frozen(rows, features))
        if not self.trains:
            self._teach_again()

    def train(self, rows: Array, y: Ints) -> Array:
        self._steps += int(self.config.steps)
        return super().train(rows, y)

    def _keep(self, ids: Ints, rows: Array, y: Ints) -> None:
        once = np.zeros(len(ids), np.bool_) if self.never_buffer is None else self.never_buffer(ids)
        new = {"ids": ids, "rows": rows, "y": y, "once": once}
        old = self._kept or {name: column[:0] for name, column in new.items()}
        self._kept = {name: np.concatenate([old[name], new[name]]) for name in new}

    def _teach_again(self) -> None:
        """Let a new head learn the rows kept, through the adapter as it stays. Drop the rows."""
        self.head = self.new_head()
        kept, self._kept = self._kept, {}
        for start in range(0, len(kept["y"]), _ROWS):
            ids, rows, y = (kept[name][start : start + _ROWS] for name in ("ids", "rows", "y"))
            none = np.zeros(len(ids), np.int64)
            events = Batch(ids, none.astype(np.float64), none, none, none, y, classes=self.classes)
            self.teach_head(events, self.features(rows))

    def _learn_later(self, batch: Batch) -> None:
        self.teach_head(batch, self.features(self.rows(batch)))

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
        return super().metrics() | {"kept_rows": float(len(self._kept.get("y", ())))}

    def state(self) -> State:
        return {**super().state(), "first": self._first_state()}

    def _first_state(self) -> State:
        state: State = {"seen": self._seen, "steps": self._steps}
        if self.trains:
            state |= {"random": self._draws.bit_generator.state, "kept": dict(self._kept)}
        return state

    def load(self, state: State) -> None:
        super().load(state)
        first = state["first"]
        self._seen, self._steps = first["seen"], first["steps"]
        self._kept = copied(first.get("kept", {}))
        if "random" in first:
            self._draws.bit_generator.state = first["random"]
