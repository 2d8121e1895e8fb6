"""A mixture of log-normal distributions of the time of the next event."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from learners.sequences.networks.recurrent import Recurrent, RecurrentConfig

_NARROW = 0.1
"""Standard deviations within which the density of a component counts as constant: then the mass is
wrong by less than 1 in 1,000 within 3 standard deviations of the mean."""
_LEAST_SPREAD = 0.01
_LEAST_TIME = 1e-30


class LogNormalMixtureConfig(RecurrentConfig):
    """Settings of a GRU with a mixture of log-normals.

    Attributes:
        components: of the mixture.
    """

    kind: Literal["log-normal-mixture"]
    components: PositiveInt = 16


class LogNormalMixture(Recurrent):
    """The time t of the next event has the density (Shchur, Bilos and Guennemann 2020,
    "Intensity-Free Learning of Temporal Point Processes")

        sum over c of w_c / (t s_c sqrt(2 pi)) exp(-(ln t - m_c)^2 / (2 s_c^2)),

    with w = softmax, m and ln s linear in the state. Times are in units of ``TimeScale``. All is in
    closed form: the survival is the mixture of normal distribution functions of (m_c - ln t) / s_c.
    """

    def __init__(self, config: LogNormalMixtureConfig, types: int, seed: int) -> None:
        super().__init__(config, types, seed)
        self.mixture = nn.Linear(config.hidden, 3 * config.components)
        with torch.no_grad():  # spread over the logarithms of times with mean 1
            _, means, _ = self.mixture.bias.chunk(3)
            means.copy_(torch.linspace(-3, 1.5, config.components))

    def parameters_of(self, encoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln w, m and s, (n, components) each."""
        weights, means, spreads = self.mixture(encoded).chunk(3, 1)
        return F.log_softmax(weights, 1), means, spreads.clamp(-6, 4).exp() + _LEAST_SPREAD

    def cumulative(self, encoded: Tensor, elapsed: Tensor) -> Tensor:
        weights, means, spreads = (p[:, None] for p in self.parameters_of(encoded))
        place = (means - elapsed.clamp(min=_LEAST_TIME).log()[..., None]) / spreads
        survived = torch.logsumexp(weights + torch.special.log_ndtr(place), 2)
        came = torch.logsumexp(weights + torch.special.log_ndtr(-place), 2).exp()
        early = came < 0.5  # there the logarithm of what survived has few digits
        return torch.where(early, -torch.log1p(-torch.where(early, came, 0.0)), -survived)

    def log_mass(self, encoded: Tensor, elapsed: Tensor, step: Tensor) -> Tensor:
        """By components: the difference of two survivals would have no digits left."""
        weights, means, spreads = self.parameters_of(encoded)
        start = elapsed.clamp(min=_LEAST_TIME)[:, None]
        low = (start.log() - means) / spreads
        width = torch.log1p(step[:, None] / start) / spreads
        density = -0.5 * (low + width / 2).square() - 0.5 * math.log(2 * math.pi) + width.log()
        # Both bounds on the side where the distribution function is small.
        left = torch.where(low > 0, -low - width, low)
        wide = width.clamp(min=_NARROW)
        upper = torch.special.log_ndtr(left + wide)
        mass = upper + torch.log(-torch.expm1(torch.special.log_ndtr(left) - upper))
        return torch.logsumexp(weights + torch.where(width < _NARROW, density, mass), 1)
