"""The face of all networks of sequences: histories in, the distribution of the next event out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TABLES = (("embedding", 0.5, True), ("outputs", 0.02, False))
"""The parameters with a row for each type: name, standard deviation of the first values, and
whether there is a row for the unknown type before them. Embeddings pass tanh; by the outputs all
types are about as probable at first."""


class HistoryTensors(NamedTuple):
    """The last events of the keys of n events, the oldest first, as a network takes them.

    Times are in units of ``TimeScale``.

    Attributes:
        types: (n, length) int64; 0: a type that is not known, 1 + c: class c. Any value behind the
            last event.
        gaps: (n, length) units since the event before.
        ages: (n, length) units until the last event.
        lengths: (n,) int64, how many events there are.
    """

    types: Tensor
    gaps: Tensor
    ages: Tensor
    lengths: Tensor

    @property
    def present(self) -> Tensor:
        """(n, length) bool: where there is an event."""
        return torch.arange(self.types.shape[1], device=self.types.device) < self.lengths[:, None]


class Cells(NamedTuple):
    """The cells of time in which a forecast is constant.

    Attributes:
        starts: (cells,) units.
        widths: (cells,) units; infinite for the last.
        middles: (cells,) units, where the network is evaluated; 1 behind the last start.
    """

    starts: Tensor
    widths: Tensor
    middles: Tensor

    @classmethod
    def of(cls, starts: Tensor) -> Cells:
        """Return the cells that start at these units (cells,)."""
        widths = torch.diff(starts, append=starts.new_tensor([math.inf]))
        return cls(starts, widths, starts + torch.where(widths.isinf(), 1.0, widths / 2))


class Next(NamedTuple):
    """What came next to n keys.

    Attributes:
        elapsed: (n,) units until then.
        step: (n,) units of one resolution of time at that moment: the event came within it.
        types: (n,) int64 class codes; -1: nothing came until then.
    """

    elapsed: Tensor
    step: Tensor
    types: Tensor


class LogLikelihood(NamedTuple):
    """Logarithms of the probability of what came next (n,) each.

    Attributes:
        time: of the time: that it lies within ``step`` after ``elapsed``, or that nothing came
            until then.
        types: of the type, if an event comes then; 0 where nothing came.
    """

    time: Tensor
    types: Tensor


class Intensities(NamedTuple):
    """The conditional intensity of the next event of n keys, constant within cells.

    Attributes:
        total: (n, cells) events of any type per unit.
        types: (n, cells, types) the probabilities of types, or (n, 1, types) where they do not
            depend on the time.
    """

    total: Tensor
    types: Tensor


class SequenceNet(nn.Module, ABC):
    """A network that predicts the next event of a key from its history.

    What it predicts of one history depends on no other, and on nothing behind its last event.
    Types are a growing vocabulary: ``resize`` adds rows for new ones.

    Args:
        types: how many there are.
        seed: of the rows of types. Other weights are drawn from torch's global generator.

    Attributes:
        joint: whether the type of the next event depends on when it comes.
        count: how many types there are.
        seed: (), of the rows of types; part of the state, so that those to come stay the same.
        embedding: (1 + types, width) of types; row 0 is that of the unknown type.
        outputs: (types, width), by which a state gives what is predicted of each type.
    """

    joint: ClassVar[bool]
    seed: Tensor
    embedding: nn.Parameter
    outputs: nn.Parameter

    def __init__(self, types: int, seed: int) -> None:
        super().__init__()
        self.count = types
        self.register_buffer("seed", torch.tensor(seed))

    @abstractmethod
    def encode(self, histories: HistoryTensors) -> Any:
        """Return what the network keeps of n histories; the other methods take it."""

    @abstractmethod
    def log_likelihood(self, encoded: Any, event: Next, cells: Cells) -> LogLikelihood:
        """Return the log-likelihood of what came next to n histories."""

    @abstractmethod
    def intensities(self, encoded: Any, cells: Cells) -> Intensities:
        """Return the intensities of the next events of n histories in cells."""

    def _add_types(self, embedding: int, outputs: int) -> None:
        """Make the rows of all types, of these widths."""
        for (name, _, _), width in zip(_TABLES, (embedding, outputs), strict=True):
            setattr(self, name, nn.Parameter(torch.empty(0, width)))
        self.resize(self.count)

    def _drawn(self, width: int, std: float, type_: int) -> Tensor:
        """Return the row of a type: its bits depend on no other type, nor on when it came."""
        generator = torch.Generator().manual_seed(int(self.seed) * 1_000_003 + type_ + 1)
        return std * torch.randn(width, generator=generator)

    def resize(self, types: int) -> None:
        """Give the network ``types`` types: new ones have rows as drawn at the start.

        Parameters are replaced.
        """
        for name, std, unknown in _TABLES:
            old: Tensor = getattr(self, name).detach()
            rows = types + unknown
            new = [self._drawn(old.shape[1], std, i - unknown) for i in range(len(old), rows)]
            grown = torch.stack(new).to(old.device) if new else old[:0]
            setattr(self, name, nn.Parameter(torch.cat([old[:rows], grown])))
        self.count = types


def time_features(units: Tensor, width: int) -> Tensor:
    """Return (..., width) smooth functions of times in units (...), between -1 and 1.

    cos(pi j x) for j = 1, ..., width / 2 and x = t / (1 + t), then x = t / (16 + t): together they
    tell times near 0 apart, times like a usual wait, and times much longer.
    """
    scales = units.new_tensor([1.0, 16.0])
    shares = units[..., None] / (units[..., None] + scales)  # (..., 2)
    frequencies = torch.pi * torch.arange(1, width // 2 + 1, device=units.device)
    return torch.cos(shares[..., None] * frequencies).flatten(-2)


def log_mass(before: Tensor, within: Tensor) -> Tensor:
    """Return ln(exp(-before) - exp(-before - within)), of integrals of an intensity (...)."""
    return torch.log(-torch.expm1(-within.clamp(min=1e-30))) - before


def log_of_types(logits: Tensor, types: Tensor) -> Tensor:
    """Return (n,) the logarithms of softmax (n, types) at codes (n,); 0 where a code is -1."""
    if not logits.shape[1]:
        return logits.new_zeros(len(logits))
    chosen = F.log_softmax(logits, 1).gather(1, types.clamp(min=0)[:, None])[:, 0]
    return torch.where(types >= 0, chosen, 0.0)
