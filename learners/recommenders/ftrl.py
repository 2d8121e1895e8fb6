"""FTRL-proximal logistic regression on hashed features (McMahan et al. 2013, "Ad Click Prediction:
a View from the Trenches")."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat

from learners.base import Handles, Learner, LearnerConfig, NotFiniteError
from learners.networks.column_inputs import BINS, ColumnInputs
from learners.networks.embedding_table import load_sparse, sparse_state
from learners.networks.inputs import InputsConfig
from learners.results import Encoding, Prediction
from streams.core.batch import Array, Batch, Floats, Ints
from streams.core.schema import Schema, Task
from streams.core.state_dict import State

_MOST = 35.0  # log-odds beyond which probabilities are no longer told apart


class FtrlConfig(LearnerConfig):
    """Settings of FTRL-proximal.

    Attributes:
        alpha: the learning rate.
        beta: added to the root of the squared gradients in the rate.
        l1: keeps at 0 the weights of values that say little.
        l2: pulls weights to 0.
        bits: values are hashed to ``2**bits`` weights.
        bins: quantile bins of each number, beside the scaled number; 0: none.
        crosses: lists of categorical columns whose combinations are values too.
        scale: whether numbers are scaled by their running mean and deviation.
    """

    alpha: PositiveFloat = 0.1
    beta: NonNegativeFloat = 1.0
    l1: NonNegativeFloat = 0.0
    l2: NonNegativeFloat = 0.0
    bits: int = Field(18, ge=1, le=22)
    bins: int = Field(BINS, ge=0, le=255)
    crosses: tuple[tuple[str, ...], ...] = ()
    scale: bool = True


class Ftrl(Learner):
    """A weight for each number, and for each value of a category or bin by its hash.

    Weight i follows from two sums, z_i and n_i:

        w_i = 0 if |z_i| <= l1, else -(z_i - sign(z_i) l1) / ((beta + sqrt(n_i)) / alpha + l2).

    An event with probability p and label y has the gradient g_i = (p - y) x_i, and then

        z_i += g_i - (sqrt(n_i + g_i^2) - sqrt(n_i)) / alpha * w_i,    n_i += g_i^2.

    Labels that become known in one micro-batch have their gradients at the weights before it. The
    sums over them telescope: z_i += sum g_i - (sqrt(n_i + sum g_i^2) - sqrt(n_i)) / alpha * w_i. So
    the result is that of the updates one after the other with w_i held, in any order but for
    rounding. With micro-batches of one event it is the algorithm of the paper. How events were
    read in blocks does not matter. A value that comes twice in one event counts as x_i = 1 twice.

    Two values of one hash share a weight. The bias is a number that is always 1, without l1.

    Args:
        config: settings.
        schema: features and label of the stream.
        seed: not used; nothing is random.
    """

    kind = "ftrl"
    Config = FtrlConfig
    handles: ClassVar[frozenset[Handles]] = frozenset({"binary"})
    handles_missing = True
    takes_keys = True
    takes_aggregates = True
    remedy = "lower learner.alpha, or raise learner.beta, in a new run"

    def __init__(self, config: FtrlConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        self.config = config
        # Of these inputs the codes alone are used: each has a weight, and no embedding.
        settings = InputsConfig(
            bins=config.bins,
            rows=2**config.bits,
            compression="hashed",
            crosses=config.crosses,
        )
        self.inputs = ColumnInputs(schema, config.scale, settings)
        self._numbers = self.inputs.dense + 1  # and the bias
        weights = self._numbers + self.inputs.embeddings
        self._sums = np.zeros((weights, 2))  # z and n side by side: they are read together

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {"kind": cls.kind, "alpha": 0.3, "bits": 8}

    def _encode(self, batch: Batch) -> tuple[Floats, Ints]:
        """Return the numbers (n, k) with the bias last, and the places (n, codes) of the weights of
        values."""
        x = self.inputs.tensor(self.inputs.rows(batch)).numpy()
        numbers = np.ones((len(x), self._numbers))
        numbers[:, :-1] = x[:, : self.inputs.dense]
        return numbers, x[:, self.inputs.dense :].astype(np.int64) + self._numbers

    def _weights(self, rows: Ints | slice) -> Floats:
        """Return the weights at these places, in their shape."""
        sums, config = self._sums[rows], self.config
        z, n = sums[..., 0], sums[..., 1]
        shrunk = z
        if config.l1:
            shrunk = np.sign(z) * np.maximum(np.abs(z) - config.l1, 0)
            if isinstance(rows, slice):
                shrunk[-1] = z[-1]
        rate: Floats = (config.beta + np.sqrt(n)) / config.alpha + config.l2
        weights: Floats = -np.divide(shrunk, rate, out=np.zeros_like(z), where=rate > 0)
        return weights

    def _probability(self, numbers: Floats, weights: Floats, of_values: Floats) -> Floats:
        odds = (numbers * weights).sum(1) + of_values.sum(1)
        probability: Floats = 1 / (1 + np.exp(-np.clip(odds, -_MOST, _MOST)))
        return probability

    def predict(self, batch: Batch) -> Prediction:
        n = len(batch)
        proba = np.zeros((n, len(self.classes)), np.float32)
        value = np.full(n, -1)
        if n and len(self.classes) == 1:
            value[:], proba[:] = 0, 1
        elif n and self.classes:
            numbers, places = self._encode(batch)
            p = self._probability(
                numbers, self._weights(slice(self._numbers)), self._weights(places)
            )
            proba[:, 0], proba[:, 1] = 1 - p, p
            value = proba.argmax(1)
        return Prediction(batch.ids, "classification", value, proba, self.classes, self.version)

    def observe(self, batch: Batch) -> None:
        self.inputs.observe(batch)

    def learn(self, batch: Batch) -> None:
        assert batch.y is not None
        numbers, places = self._encode(batch)
        first = slice(self._numbers)
        weights, of_values = self._weights(first), self._weights(places)
        error = self._probability(numbers, weights, of_values) - batch.y
        gradients = error[:, None] * numbers
        self._move(first, weights, gradients.sum(0), np.square(gradients).sum(0))
        rows, index = np.unique(places, return_inverse=True)
        index = index.ravel()
        each = np.repeat(error, places.shape[1])
        sums = np.bincount(index, each).astype(np.float64)
        squares = np.bincount(index, each * each).astype(np.float64)
        self._move(rows, self._weights(rows), sums, squares)

    def _move(self, rows: Ints | slice, weights: Floats, sums: Floats, squares: Floats) -> None:
        """Add the sums of gradients and of their squares, (m,) each, at these places."""
        before = self._sums[rows, 1]
        roots = np.sqrt(before + squares) - np.sqrt(before)
        added = np.stack([sums - roots / self.config.alpha * weights, squares], 1)
        self._sums[rows] += added

    def verify(self) -> None:
        if not np.isfinite(self._sums).all():
            raise NotFiniteError(f"learner {self.kind!r}: the weights are no longer finite")

    def encodings(self) -> dict[str, Encoding]:
        return self.inputs.encodings()

    def metrics(self) -> dict[str, float]:
        """Return how many weights are not 0."""
        return {"weights": float(np.count_nonzero(np.abs(self._sums[:, 0]) > self.config.l1))}

    def weight_vector(self) -> Array:
        return self._weights(np.arange(len(self._sums)))

    def state(self) -> State:
        sums = sparse_state(torch.from_numpy(self._sums))
        return {**self.common_state(), "inputs": self.inputs.state(), "sums": sums}

    def servable(self) -> State:
        """Return all rows, in a view: snapshots find the few that have changed."""
        inputs = self.inputs.servable()
        return {**self.common_state(), "inputs": inputs, "sums": {"weights": self._sums}}

    def load(self, state: State) -> None:
        self.load_common(state)
        self.inputs.load(state["inputs"])
        if "weights" in state["sums"]:
            self._sums[:] = state["sums"]["weights"]
        else:
            load_sparse(torch.from_numpy(self._sums), state["sums"])
