"""The base of networks that read a history by a GRU and predict the type apart from the time."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from learners.sequences.networks.base import (
    Cells,
    HistoryTensors,
    Intensities,
    LogLikelihood,
    Next,
    SequenceNet,
    log_mass,
    log_of_types,
    time_features,
)
from streams.core.settings import Settings


class RecurrentConfig(Settings):
    """Settings of a network with a GRU.

    Attributes:
        hidden: width of the embedding of a type and of the state.
        times: width of the embedding of a gap, a multiple of 2.
    """

    hidden: PositiveInt = 32
    times: PositiveInt = Field(16, multiple_of=2)


class Recurrent(SequenceNet):
    """A state h of the history by a GRU (Cho et al. 2014) over types and gaps; 0 without events.

    The type of the next event has probabilities softmax(W h + b), whenever it comes. A subclass
    says what h tells of the time, by the integral of the intensity.

    Args:
        config: settings.
        types: how many there are.
        seed: of the rows of types.
    """

    joint = False

    def __init__(self, config: RecurrentConfig, types: int, seed: int) -> None:
        super().__init__(types, seed)
        self.config = config
        self._add_types(config.hidden, 1 + config.hidden)
        self.gru = nn.GRU(config.hidden + config.times, config.hidden, batch_first=True)

    def encode(self, histories: HistoryTensors) -> Tensor:
        """Return the states (n, hidden) of n histories."""
        times = time_features(histories.gaps, self.config.times)
        types = torch.tanh(self.embedding[histories.types])
        states, _ = self.gru(torch.cat([types, times], -1))
        last = (histories.lengths - 1).clamp(min=0)
        state: Tensor = states[torch.arange(len(last), device=last.device), last]
        return torch.where(histories.lengths[:, None] > 0, state, 0.0)

    def type_logits(self, encoded: Tensor) -> Tensor:
        """Return (n, types) the logits of the type of the next event."""
        return F.linear(encoded, self.outputs[:, 1:], self.outputs[:, 0])

    @abstractmethod
    def cumulative(self, encoded: Tensor, elapsed: Tensor) -> Tensor:
        """Return (n, m) the integral of the intensity over the first ``elapsed`` (m,) or (n, m)
        units."""

    def log_mass(self, encoded: Tensor, elapsed: Tensor, step: Tensor) -> Tensor:
        """Return (n,) the logarithm of the probability that the next event comes within ``step``
        (n,) units after ``elapsed`` (n,)."""
        bounds = torch.stack([elapsed, elapsed + step], 1)
        before, after = self.cumulative(encoded, bounds).unbind(1)
        return log_mass(before, after - before)

    def log_likelihood(self, encoded: Tensor, event: Next, cells: Cells) -> LogLikelihood:
        survived = -self.cumulative(encoded, event.elapsed[:, None])[:, 0]
        mass = self.log_mass(encoded, event.elapsed, event.step)
        time = torch.where(event.types >= 0, mass, survived)
        return LogLikelihood(time, log_of_types(self.type_logits(encoded), event.types))

    def intensities(self, encoded: Tensor, cells: Cells) -> Intensities:
        bounds = torch.cat([cells.starts, cells.starts[-1:] + 1])
        integral = torch.diff(self.cumulative(encoded, bounds), dim=1).clamp(min=0)
        widths = torch.where(cells.widths.isinf(), 1.0, cells.widths)
        total = torch.where(widths > 0, integral / widths.clamp(min=1e-30), 0.0)
        return Intensities(total, F.softmax(self.type_logits(encoded), 1)[:, None])
