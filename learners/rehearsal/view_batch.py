"""View-batch replay (Lee et al. 2025, "Do Your Best and Get Enough Rest for Continual
Learning")."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from learners.networks.augment import AugmentConfig, Named
from learners.networks.base import NetworkLearner
from learners.rehearsal.base import Examples, Rehearsal, RehearsalConfig
from learners.rehearsal.buffer_config import BufferConfig
from streams.core.batch import Batch, Ints
from streams.core.schema import Schema


class ViewBatchBuffer(BufferConfig):
    """What is remembered: recalled when it is due, unless another rule is named."""

    recall: str | dict[str, Any] = Field("view-batch", validate_default=True)


class ViewBatchConfig(RehearsalConfig):
    """Settings of view-batch replay.

    Attributes:
        views: presentations of an event in a step that it takes part in.
        augment: draws the first of them.
        strong: draws the others.
        ssl: weight of the distance of these from the first.
    """

    buffer: ViewBatchBuffer = Field(default_factory=ViewBatchBuffer)
    augment: AugmentConfig | None = Named(kind="weak")
    strong: AugmentConfig | None = Named(kind="strong")
    views: PositiveInt = 4
    ssl: float = Field(1.0, ge=0)


class ViewBatch(Rehearsal):
    """Replay that trains on an event less often, and then on several views of it at once.

        loss = CE(all views) + ssl * mean over i and j >= 2 of KL(p(i, 1) || p(i, j))

    where p(i, j) is what the network gives for view j of event i. The first view is the teacher: no
    gradient flows through it. In regression the distance is half the squared difference, as the
    error is. With the rule "view-batch" there are ``views`` times as many presentations between two
    trainings on a remembered event as in an epoch over the buffer.

    A step makes as many presentations as one of replay. Those of remembered events go to
    ``replay_size // views`` of them. Those of the n new ones of a micro-batch, n in each step, go
    to ``steps * n // views`` turns in all, and at least one in each step; events take turns in the
    order of the stream, and where there are not as many for all, who has one more is drawn. Where
    ``views`` does not divide what there is to share out, some events get a view more or less than
    others, and all get fewer while the buffer is smaller than ``replay_size``. The presentations of
    events that the recall rule holds back are left out. With one view this is replay, to the bit.
    """

    kind = "view-batch"
    Config = ViewBatchConfig

    def __init__(
        self, config: ViewBatchConfig, schema: Schema, seed: int, device: str = "cpu"
    ) -> None:
        super().__init__(config, schema, seed, device, config.views)
        self.ssl = config.ssl
        self.strong = self.augmentation(config.strong, "strong")

    def learn(self, batch: Batch) -> None:
        """Takes ``steps`` gradient steps, then offers the new events to the buffer."""
        new = self.examples(batch)
        for turn, old in zip(self._turns(len(new)), self.recalled(new), strict=True):
            at = torch.from_numpy(turn).to(self.device)
            x, y, sizes = new.x[at], new.y[at], _shared_out(len(new), len(turn))
            if old is not None:
                x, y = torch.cat([x, old.x]), torch.cat([y, old.y])
                sizes = np.concatenate([sizes, self._sizes(old)])
            event = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(self.device)
            first = torch.from_numpy(np.cumsum(sizes) - sizes).to(self.device)
            out = self.forward(self._views(x, event, first))
            loss = self.error(out, y[event])
            if len(event) > len(first):
                loss = loss + self.ssl * self._distance(out, event, first)
            self.descent.step(loss)
            self.rehearsed(old, out[first[len(turn) :]])
        self.remember(batch, new.columns["x"])

    def forward(self, x: Tensor) -> Tensor:
        return NetworkLearner.forward(self, x)  # of views that are made already

    def _turns(self, n: int) -> list[Ints]:
        """For each step which of n new events it presents, in the order of the stream."""
        turns = max(self.steps * n // self.views, self.steps)
        rounds, left = divmod(turns, n)
        events = np.tile(np.arange(n), rounds)
        if left:
            chosen = self.random.choice(n, left, replace=False, shuffle=False)
            events = np.concatenate([events, np.sort(chosen)])
        return np.array_split(events, self.steps)

    def _sizes(self, old: Examples) -> Ints:
        """How many presentations there are of each recalled event."""
        held_back = len(old) < min(max(self.replay_size // self.views, 1), len(self.buffer))
        slots = len(old) * self.views if held_back else self.replay_size
        return _shared_out(min(slots, len(self.buffer)), len(old))

    def _views(self, x: Tensor, event: Tensor, first: Tensor) -> Tensor:
        """(slots, *shape) views of inputs x (m, *shape): one for each ``event`` (slots,), the
        ``first`` (m,) of an event drawn in one way, and its others in another."""
        views = x[event]
        if self.augment is not None:
            views[first] = self.augment(x, self.random)
        if self.strong is not None and len(event) > len(first):
            others = _others(event, first)
            views[others] = self.strong(views[others], self.random)
        return views

    def _distance(self, out: Tensor, event: Tensor, first: Tensor) -> Tensor:
        """Mean over all views but the first of how far they are from what the first gives."""
        others = _others(event, first)
        teacher, pupil = out.detach()[first][event[others]], out[others]
        if self.schema.task == "regression":
            return self.error(pupil, teacher[:, 0])
        logs = F.log_softmax(pupil, 1), F.log_softmax(teacher, 1)
        return F.kl_div(*logs, reduction="batchmean", log_target=True)


def _shared_out(slots: int, events: int) -> Ints:
    """(events,) presentations of each, ``slots`` in all, as equal as can be."""
    return slots // events + (np.arange(events) < slots % events).astype(np.int64)


def _others(event: Tensor, first: Tensor) -> Tensor:
    """(slots - m,): the slots that are not the first of their event."""
    later = torch.ones(len(event), dtype=torch.bool, device=event.device)
    later[first] = False
    return later.nonzero()[:, 0]
