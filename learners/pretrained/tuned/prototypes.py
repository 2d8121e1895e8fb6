"""Means of features by class, as the weights of a loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learners.pretrained.closed_form.statistics.base import ClassSums, unit_length
from streams.core.batch import Array, Ints
from streams.core.state_dict import State


class PrototypeLoss:
    """The cross-entropy of cosines between rows and the means of classes:

        - log softmax_c(scale * cos(f, m_c)) at the class of the row,

    over the classes seen. ``m_c`` is the mean of the rows of class c, each of length 1, as they
    were when they came. No gradient reaches the means: it trains what is below, towards the mean of
    the class and away from the others. So no weight of a class is moved by events of other classes,
    as those of a trained layer are.

    Args:
        width: of a row.
        scale: what cosines are multiplied by.
    """

    def __init__(self, width: int, scale: float) -> None:
        self._width = width
        self._sums = ClassSums(width)
        self._scale = scale

    def add(self, features: Tensor, y: Ints) -> None:
        """Add rows (n, width) to the means of their classes (n,)."""
        self._sums.grow(max(int(y.max()) + 1, len(self._sums.counts)))
        self._sums.add(unit_length(features.detach().cpu().numpy()), y)

    @property
    def means(self) -> Array:
        """The means of classes (k, width), of length 1."""
        return unit_length(self._sums.means)

    def join(self, codes: Ints) -> None:
        """Let class i be class ``codes[i]``, with the rows of all that have this code."""
        old, self._sums = self._sums, ClassSums(self._width)
        self._sums.grow(int(codes.max(initial=-1)) + 1)
        self._sums.merge(old, codes)

    def __call__(self, features: Tensor, y: Ints, without: Array | None = None) -> Tensor:
        """Return the mean loss of rows (n, width) whose classes (n,) have been added.

        Args:
            features: the rows.
            y: their classes.
            without: (n, k) bool, classes that do not count for a row; None: all count.
        """
        means = torch.from_numpy(self.means).to(features)
        cosines = F.normalize(features, dim=1) @ means.T
        unseen = self._sums.counts == 0
        masked = unseen if without is None else unseen | without
        hidden = torch.from_numpy(masked).to(features.device)
        scores = (self._scale * cosines).masked_fill(hidden, -torch.inf)
        return F.cross_entropy(scores, torch.from_numpy(y.copy()).to(features.device))

    def state(self) -> State:
        """Return the sums."""
        return self._sums.state()

    def load(self, state: State) -> None:
        """Restore what ``state`` returned."""
        self._sums.load(state)
