"""DER++, dark experience replay (Buzzega et al. 2020, "Dark Experience for General Continual
Learning: a Strong, Simple Baseline")."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from learners.networks import modules as models
from learners.rehearsal.base import Examples, Rehearsal, RehearsalConfig
from streams.core.batch import Array, Batch
from streams.core.schema import Schema


class DerConfig(RehearsalConfig):
    """Settings of DER++.

    Attributes:
        alpha: weight of the distance to stored outputs.
        beta: weight of the cross-entropy of stored labels.
    """

    alpha: float = Field(0.2, ge=0)
    beta: float = Field(0.5, ge=0)


class DerPlusPlus(Rehearsal):
    """Replay that also stores the outputs of the network for an event when it is new.

        loss = CE(new events) + alpha * MSE(out(x'), z') + beta * CE(x'', y'')

    x' and x'' are two independent draws from the buffer. z' are the outputs (logits) of the network
    in training mode for x', just before the first gradient step on x' as a new event. With
    ``augment`` they are for the view of x' in that step.

    The mean of the squared distance is over events and outputs, as in the authors' program. It
    leaves out outputs that did not exist when an event arrived, as classes may appear at any time.

    The paper draws ``replay_size`` events twice. Here each draw is half of that, rounded down, but
    at least one. So a step sees no more stored events than a step of replay.
    """

    kind = "der++"
    Config = DerConfig
    handles = frozenset({"classification"})

    def __init__(self, config: DerConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        super().__init__(config, schema, seed, device)
        self.alpha, self.beta = config.alpha, config.beta
        self.steps = 2 * config.steps  # draws: two for each gradient step
        self.replay_size = max(config.replay_size // 2, 1)

    def learn(self, batch: Batch) -> None:
        """Take ``steps`` gradient steps, then offer the new events to the buffer."""
        new = self.examples(batch)
        first: Tensor | None = None
        draws = self.recall(new)
        for dark, old in zip(draws, draws, strict=True):
            x = torch.cat([part.x for part in (new, dark, old) if part is not None])
            sizes = [len(new), len(dark or ()), len(old or ())]
            out, out_dark, out_old = torch.split(self.forward(x), sizes)
            loss = self.error(out, new.y)
            if dark is not None:
                loss = loss + self.alpha * _distance(out_dark, dark.columns["logits"])
            if old is not None:
                loss = loss + self.beta * self.error(out_old, old.y)
            self.optimizer.step(loss)
            self._update_recall_once(dark, out_dark, old, out_old)
            first = out if first is None else first
        assert first is not None
        logits = _padded(models.array_of(first))
        self.buffer.widen("logits", logits.shape[1])
        self.remember(batch, new.columns, logits=logits)

    def _update_recall_once(
        self, dark: Examples | None, out_dark: Tensor, old: Examples | None, out_old: Tensor
    ) -> None:
        """Update the recall rule once per recalled event, also where it was in both draws."""
        self.update_recall(dark, out_dark)
        if dark is not None and old is not None and self.buffer.needs_outcome:
            assert dark.slots is not None
            assert old.slots is not None
            new = np.flatnonzero(~np.isin(old.slots, dark.slots))
            old, out_old = old.take(new), out_old[torch.from_numpy(new).to(out_old.device)]
        self.update_recall(old, out_old)


def _padded(logits: Array) -> Array:
    """Return logits (n, outputs) as (n, width) float32, NaN where there is no output.

    The width is a power of two, so that a new class seldom widens the buffer.
    """
    n, outputs = logits.shape
    padded = np.full((n, 1 << (outputs - 1).bit_length()), np.nan, np.float32)
    padded[:, :outputs] = logits
    return padded


def _distance(out: Tensor, logits: Array) -> Tensor:
    """Return the mean squared distance of (m, outputs) from stored (m, width), where not NaN."""
    known = min(out.shape[1], logits.shape[1])
    stored = torch.from_numpy(logits[:, :known]).to(out.device)
    return (out[:, :known] - stored)[~torch.isnan(stored)].square().mean()
