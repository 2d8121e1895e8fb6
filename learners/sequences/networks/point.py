"""A predicted time and type, without a distribution of the time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from learners.sequences.networks.base import Cells, Intensities, LogLikelihood, Next, log_of_types
from learners.sequences.networks.recurrent import Recurrent, RecurrentConfig


class PointConfig(RecurrentConfig):
    """Settings of a GRU that predicts a time."""

    kind: Literal["point"]


class Point(Recurrent):
    """Predict a time by the mean absolute error, and the type by cross-entropy.

    It is no point process: the time has no likelihood. The error is of x = t / (1 + t), with t in
    units of ``TimeScale``: like that of t itself it is least at the conditional median, and a wait
    a thousand times longer than usual does not outweigh all others. Where nothing came, a predicted
    time after that has no error.
    """

    def __init__(self, config: PointConfig, types: int, seed: int) -> None:
        super().__init__(config, types, seed)
        self.time = nn.Linear(config.hidden, 1)

    def units(self, encoded: Tensor) -> Tensor:
        """Return (n,) the predicted units until the next event."""
        units: Tensor = self.time(encoded)[:, 0].clamp(-15, 5).exp()
        return units

    def log_likelihood(self, encoded: Tensor, event: Next, cells: Cells) -> LogLikelihood:
        """Return in place of the log-likelihood of the time: minus the error."""
        early = _share(event.elapsed) - _share(self.units(encoded))
        error = torch.where(event.types >= 0, early.abs(), early.clamp(min=0))
        return LogLikelihood(-error, log_of_types(self.type_logits(encoded), event.types))

    def cumulative(self, encoded: Tensor, elapsed: Tensor) -> Tensor:
        raise NotImplementedError("a predicted time has no intensity")

    def intensities(self, encoded: Tensor, cells: Cells) -> Intensities:
        """Return no intensities, NaN (n, 1), and the probabilities of types."""
        types = torch.softmax(self.type_logits(encoded), 1)
        return Intensities(torch.full_like(types[:, :1], torch.nan), types[:, None])


def _share(units: Tensor) -> Tensor:
    return units / (1 + units)
