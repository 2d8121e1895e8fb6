"""Merge trained parameters that started from one ancestor: adapters, prompts, or whole networks.

A state maps names to arrays, as ``module_state`` returns it. All states that are merged have the
same shapes and names, in any order. Nothing here changes what it is given. Sums are in float64, and
results in the dtypes of the first state. A state that is not finite is refused: it would make all
that is merged with it worthless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from learners.base import LearnerError, NotFiniteError
from streams.core.batch import Array

Parameters = Mapping[str, Array]


def average(states: Sequence[Parameters]) -> dict[str, Array]:
    """Return the mean of k >= 1 states (Wortsman et al. 2022, "Model soups").

    Raises:
        LearnerError: they differ in names or shapes, or there is none.
        NotFiniteError: one is not finite.
    """
    return weighted(states, [1.0] * len(states))


def weighted(states: Sequence[Parameters], weights: Sequence[float]) -> dict[str, Array]:
    """Return the weighted mean of k >= 1 states, as by the events that each has learned.

    Args:
        states: k states.
        weights: k numbers >= 0, not all 0, with a finite sum. They are divided by it.

    Raises:
        LearnerError, NotFiniteError: as for ``average``; or weights do not fit.
    """
    _check(states)
    total = sum(weights)
    if len(weights) != len(states) or min(weights) < 0 or not 0 < total < np.inf:
        raise LearnerError(
            f"merge takes one weight >= 0 for each of {len(states)} states, not all 0, with a "
            f"finite sum: {weights}"
        )
    shares = [weight / total for weight in weights]
    merged = {}
    for name, array in states[0].items():
        mean = np.zeros(array.shape)
        for share, state in zip(shares, states, strict=True):
            mean += share * state[name].astype(np.float64)
        merged[name] = mean.astype(array.dtype)
    return merged


def ties(
    ancestor: Parameters, states: Sequence[Parameters], density: float = 0.2, strength: float = 1.0
) -> dict[str, Array]:
    """Merge k >= 1 states by what each has changed of their ancestor.

    This is TIES (Yadav et al. 2023, "TIES-Merging: Resolving Interference When Merging Models").
    With t_i = state_i - ancestor, over all parameters as one vector,

    1. *trim*: of each t_i the share ``density`` of largest magnitude stays, the rest is 0;
    2. *elect*: the sign of a parameter is that of sum_i t_i;
    3. *disjoint mean*: m is the mean of those t_i that are not 0 and have this sign.

    The result is ancestor + strength * m. Of equal magnitudes at the limit the first stay. A
    parameter whose changes cancel stays at the ancestor.

    Args:
        ancestor: the state that all started from.
        states: k states.
        density: the share that stays, in (0, 1].
        strength: lambda in the paper.

    Raises:
        LearnerError, NotFiniteError: as for ``average``; or a setting is out of range.
    """
    _check([ancestor, *states])
    if not states or not 0 < density <= 1 or not np.isfinite(strength):
        raise LearnerError(
            f"ties takes states, a density in (0, 1] and a finite strength: {density}, {strength}"
        )
    if not ancestor:
        return {}
    names = list(ancestor)
    start = _flat(ancestor, names)
    changes = np.stack([_trimmed(_flat(state, names) - start, density) for state in states])
    sign = np.sign(changes.sum(0))
    agreed = (changes != 0) & (np.sign(changes) == sign)
    mean = np.where(agreed, changes, 0).sum(0) / np.maximum(agreed.sum(0), 1)
    return _unflat(start + strength * mean, ancestor)


class History:
    """The mean of earlier states, and the merge of MOS towards it (Sun et al. 2025, "MOS: Model
    Surgery for Pre-Trained Model-Based Class-Incremental Learning"):

        A <- (1 - alpha) A + alpha / k * (A_1 + ... + A_k)

    A prefix sum is kept, so that a merge costs the same after any number of states. ``merged`` is
    for one step of an optimizer: n steps retain (1 - alpha)**n of what A was. The authors' code
    merges again for each block of each forward pass, also in evaluation, which changes its
    adapters as test batches pass.

    Attributes:
        count: k, the states added.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Array] = {}

    def add(self, state: Parameters) -> None:
        """Add a state that has been trained."""
        _check([self._sums, state] if self.count else [state])
        for name, array in state.items():
            self._sums[name] = self._sums.get(name, 0.0) + array.astype(np.float64)
        self.count += 1

    def mean(self) -> dict[str, Array]:
        """Return the mean of k >= 1 states, in float64."""
        if not self.count:
            raise LearnerError("there is no earlier state to merge with: add one")
        return {name: total / self.count for name, total in self._sums.items()}

    def merged(self, state: Parameters, alpha: float) -> dict[str, Array]:
        """Return A moved by the share ``alpha`` towards the mean; a copy where k or alpha is 0."""
        if not self.count or not alpha:
            return {name: array.copy() for name, array in state.items()}
        return weighted([state, self.mean()], [1 - alpha, alpha])


def _check(states: Sequence[Parameters]) -> None:
    """Raise ``LearnerError`` where states have not the same names and shapes, ``NotFiniteError``
    where one is not finite."""
    if not states:
        raise LearnerError("merge takes at least one state")
    first = {name: array.shape for name, array in states[0].items()}
    for i, state in enumerate(states[1:], 1):
        shapes = {name: array.shape for name, array in state.items()}
        if shapes != first:
            name = min(name for name, _ in first.items() ^ shapes.items())
            raise LearnerError(
                f"merge takes states of one ancestor: {name!r} is {first.get(name)} in the first, "
                f"and {shapes.get(name)} in state {i}: train them with the same settings"
            )
    for i, state in enumerate(states):
        for name, array in state.items():
            if not np.isfinite(array).all():
                raise NotFiniteError(f"merge: {name!r} of state {i} is not finite: leave it out")


def _flat(state: Parameters, names: Sequence[str]) -> Array:
    return np.concatenate([state[name].ravel() for name in names]).astype(np.float64)


def _unflat(vector: Array, like: Parameters) -> dict[str, Array]:
    parts = np.split(vector, np.cumsum([array.size for array in like.values()])[:-1])
    return {
        name: part.reshape(array.shape).astype(array.dtype)
        for part, (name, array) in zip(parts, like.items(), strict=True)
    }


def _trimmed(change: Array, density: float) -> Array:
    """Return a change (d,) with all but the share of largest magnitude at 0."""
    kept = np.argsort(-np.abs(change), kind="stable")[: max(round(density * len(change)), 1)]
    trimmed = np.zeros_like(change)
    trimmed[kept] = change[kept]
    return trimmed
