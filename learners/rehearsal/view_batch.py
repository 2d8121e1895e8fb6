"""View-batch replay (Lee et al. 2025, "Do Your Best and Get Enough Rest for Continual
Learning")."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from learners.networks.augment import AugmentConfig, NamedViews
from learners.rehearsal.base import Examples, Rehearsal, RehearsalConfig
from learners.rehearsal.buffer_config import BufferConfig
from streams.core.batch import Batch, Ints
from streams.core.schema import Schema


class ViewBatchBuffer(BufferConfig):
    """Which events are stored. They are recalled when due, unless another rule is named."""

    recall: str | dict[str, Any] = Field("view-batch", validate_default=True)


class ViewBatchConfig(RehearsalConfig):
    """Settings of view-batch replay.

    Attributes:
        views: presentations of an event in each step that it takes part in.
        augment: draws the first view.
        strong: draws the other views.
        ssl: weight of the distance of the other views from the first.
    """

    buffer: ViewBatchBuffer = Field(default_factory=ViewBatchBuffer)
    augment: AugmentConfig | None = NamedViews(kind="weak")
    strong: AugmentConfig | None = NamedViews(kind="strong")
    views: PositiveInt = 4
    ssl: float = Field(1.0, ge=0)


class ViewBatch(Rehearsal):
    """Replay that trains on an event less often, but on several views of it at once.

        loss = CE(all views) + ssl * mean over i and j >= 2 of KL(p(i, 1) || p(i, j))

    p(i, j) is the output of the network for view j of event i. The first view is the teacher: no
    gradient flows through it. In regression the distance is half the squared difference, as the
    error is. With the recall rule "view-batch", ``views`` times as many presentations lie between
    two trainings on a stored event as in an epoch over the buffer.

    A step makes as many presentations as a step of replay. Recalled events get those of replay's
    recalled events: ``replay_size // views`` events are recalled. The n new events of a micro-batch
    get n presentations in each step. They share ``steps * n // views`` turns in all, at least one
    in each step, in the order of the stream. Where turns do not divide evenly, the events with one
    more are drawn at random.

    Where ``views`` does not divide the presentations, some events get one view more or less than
    others. All get fewer while the buffer is smaller than ``replay_size``. Presentations of events
    that the recall rule holds back are left out. With one view this is replay, bit for bit.
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
        """Take ``steps`` gradient steps, then offer the new events to the buffer."""
        new = self.examples(batch)
        for turn, old in zip(self._turns(len(new)), self.recall(new), strict=True):
            at = torch.from_numpy(turn).to(self.device)
            x, y, sizes = new.x[at], new.y[at], _shared_out(len(new), len(turn))
            if old is not None:
                x, y = torch.cat([x, old.x]), torch.cat([y, old.y])
                sizes = np.concatenate([sizes, self._sizes(old)])
            event = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(self.device)
            first = torch.from_numpy(np.cumsum(sizes) - sizes).to(self.device)
            views = self._views(x, event, first)
            if len(event) > len(first):
                out = self.forward(views)
                loss = self.error(out, y[event])
                self.optimizer.step(loss + self.ssl * self._distance(out, event, first))
            else:
                out = self.descend(views, y[event])
            self.update_recall(old, out[first[len(turn) :]])
        self.remember(batch, new.columns)

    def present(self, x: Tensor) -> Tensor:
        return x  # it is a view already

    def _turns(self, n: int) -> list[Ints]:
        """Return, for each step, which of n new events it presents, in the order of the stream."""
        turns = max(self.steps * n // self.views, self.steps)
        rounds, left = divmod(turns, n)
        events = np.tile(np.arange(n), rounds)
        if left:
            chosen = self.random.choice(n, left, replace=False, shuffle=False)
            events = np.concatenate([events, np.sort(chosen)])
        return np.array_split(events, self.steps)

    def _sizes(self, old: Examples) -> Ints:
        """Return the number of presentations of each recalled event: (m,)."""
        held_back = len(old) < min(max(self.replay_size // self.views, 1), len(self.buffer))
        slots = len(old) * self.views if held_back else self.replay_size
        return _shared_out(min(slots, len(self.buffer)), len(old))

    def _views(self, x: Tensor, event: Tensor, first: Tensor) -> Tensor:
        """Return views (slots, *shape) of inputs x (m, *shape).

        Args:
            x: the inputs.
            event: (slots,) the index of the event of each view.
            first: (m,) the index of the first view of each event. It is drawn by ``augment``, the
                others by ``strong``.
        """
        views = x[event]
        if self.augment is not None:
            views[first] = self.augment(x, self.random)
        if self.strong is not None and len(event) > len(first):
            others = _others(event, first)
            views[others] = self.strong(views[others], self.random)
        return views

    def _distance(self, out: Tensor, event: Tensor, first: Tensor) -> Tensor:
        """Return the mean distance of the other views' outputs from those of the first view."""
        others = _others(event, first)
        teacher, pupil = out.detach()[first][event[others]], out[others]
        if self.schema.task == "regression":
            return self.error(pupil, teacher[:, 0])
        logs = F.log_softmax(pupil, 1), F.log_softmax(teacher, 1)
        return F.kl_div(*logs, reduction="batchmean", log_target=True)


def _shared_out(slots: int, events: int) -> Ints:
    """Return the presentations of each event, (events,), ``slots`` in all, as equal as possible."""
    return slots // events + (np.arange(events) < slots % events).astype(np.int64)


def _others(event: Tensor, first: Tensor) -> Tensor:
    """Return the indices of views that are not the first of their event: (slots - m,)."""
    later = torch.ones(len(event), dtype=torch.bool, device=event.device)
    later[first] = False
    return later.nonzero()[:, 0]
