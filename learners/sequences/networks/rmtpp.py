"""An intensity that rises or falls exponentially."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from learners.sequences.networks.base import log_mass
from learners.sequences.networks.recurrent import Recurrent, RecurrentConfig

_MOST = 15.0
"""The largest exponent: an intensity of 3 million per unit."""


class RmtppConfig(RecurrentConfig):
    """Settings of a recurrent marked temporal point process."""

    kind: Literal["rmtpp"]


class Rmtpp(Recurrent):
    """The intensity is exp(a + w t) at t after the last event (Du et al. 2016, "Recurrent Marked
    Temporal Point Processes: Embedding Event History to Vector"), in units of ``TimeScale``.

    a is linear in the state and w is one weight. The integral is exp(a) t (exp(w t) - 1) / (w t),
    also at w = 0. Where w < 0 there is with some probability no next event. w t counts as at most
    15, with an intensity that is constant from there on.
    """

    def __init__(self, config: RmtppConfig, types: int, seed: int) -> None:
        super().__init__(config, types, seed)
        self.level = nn.Linear(config.hidden, 1)
        self.slope = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            self.level.bias.zero_()

    def cumulative(self, encoded: Tensor, elapsed: Tensor) -> Tensor:
        level = self.level(encoded).clamp(-_MOST, _MOST)
        integral: Tensor = level.exp() * self._integral(elapsed)
        return integral

    def log_mass(self, encoded: Tensor, elapsed: Tensor, step: Tensor) -> Tensor:
        """The mass within the step, without a difference of two integrals."""
        level = self.level(encoded)[:, 0].clamp(-_MOST, _MOST)
        now = (level + (self.slope * elapsed).clamp(max=_MOST)).exp()
        within = now * step * growth((self.slope * step).clamp(max=_MOST))
        return log_mass(level.exp() * self._integral(elapsed), within)

    def _integral(self, elapsed: Tensor) -> Tensor:
        """Return the integral of exp(w t) over the first ``elapsed`` (...) units."""
        rising = elapsed
        rest = torch.zeros_like(elapsed)
        if self.slope > 0:
            rising = elapsed.minimum(_MOST / self.slope.detach())
            rest = (elapsed - rising) * torch.exp(self.slope * rising)
        return rising * growth(self.slope * rising) + rest


def growth(x: Tensor) -> Tensor:
    """Return (exp(x) - 1) / x, which is 1 at 0, with its gradient."""
    small = x.abs() < 0.05
    near = torch.where(small, x, 0.0)
    series = 1 + near / 2 * (1 + near / 3 * (1 + near / 4 * (1 + near / 5)))
    far = torch.where(small, 1.0, x)
    return torch.where(small, series, torch.expm1(far) / far)
