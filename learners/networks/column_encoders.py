"""Encode the columns of a batch as the float32 tensor that a network takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from learners.base import Encoding
from streams.core.batch import Array, Column, Features, Ints, Ragged
from streams.core.running_moments import RunningMoments
from streams.core.schema import Schema
from streams.core.state_dict import State

CATEGORY_BUCKETS = 32
TEXT_BUCKETS = 512

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_U64 = np.uint64
_MAX = float(np.finfo(np.float32).max)
_WHITE = np.float32(255)


class Inputs:
    """Encode events in two steps: rows to store, and tensors to learn from.

    ``rows`` returns what a buffer stores of n events: one array with the precision of the stream,
    so that an image stays uint8. ``tensor`` scales rows by the running mean and variance *at the
    time of the call*, so that old and new events are scaled alike. Without ``scale`` it only clips
    numbers to the range of float32.

    Columns of several kinds become one row of numbers. Numeric columns stay as they are. A
    categorical column becomes one of 32 hashed indicators. A text column becomes a hashed bag of
    words of 512 buckets, of length 1 (Weinberger et al. 2009, "Feature Hashing for Large Scale
    Multitask Learning"). Numbers and vectors are scaled, indicators and words are not. Pixels are
    scaled from 0..255 to 0..1: a background of -1 would starve hidden units of a perceptron.

    A missing number is NaN in a row, and the running mean in a tensor. Each of ``marked`` has an
    indicator at the end of a tensor's rows: 1 where the number is missing, else 0. A column is
    marked once a number of it was missing, so that nothing is added to streams without gaps.

    Args:
        schema: the features.
        scale: whether numbers and vectors are scaled.

    Raises:
        ValueError: a vector or an image is one of several features.

    Attributes:
        shape: of one encoded row.
        image: whether rows are images.
        moments: the running mean and variance.
        marked: the columns of a row that have an indicator, in the order of the indicators.
    """

    def __init__(self, schema: Schema, scale: bool = True) -> None:
        self.scale = scale
        self._features = schema.features
        kinds = [feature.kind for feature in schema.features]
        self.image = schema.matrix and kinds[0] == "image"
        if schema.matrix:
            self.shape = schema.row_shape
            scaled = () if self.image else self.shape
        else:
            unfit = [f.name for f in schema.features if f.kind in ("image", "vector")]
            if unfit:
                raise ValueError(
                    f"feature {unfit[0]!r} stands beside other columns, and a network here takes a "
                    "vector or an image alone: name it as the only feature of the stream"
                )
            self._numeric = [f.name for f in schema.features if f.kind == "numeric"]
            self._categorical = [f.name for f in schema.features if f.kind == "categorical"]
            self._text = [f.name for f in schema.features if f.kind == "text"]
            # Numbers are scaled in float64, so that large numbers that vary little lose nothing.
            self._dtype = np.float64 if self._numeric else np.float32
            scaled = (len(self._numeric),)
            width = len(self._numeric) + CATEGORY_BUCKETS * len(self._categorical)
            self.shape = (width + TEXT_BUCKETS * len(self._text),)
        self.moments = RunningMoments(scaled)
        self.marked: list[int] = []
        self._gaps = schema.may_miss_numbers

    def rows(self, x: Features) -> Array:
        """Return what a buffer stores of n events: (n, *shape).

        The array is in C order, because sums in another order are rounded differently.
        """
        if isinstance(x, np.ndarray):
            return np.ascontiguousarray(x.reshape(len(x), 1) if x.ndim == 1 else x)
        columns = [self._numbers(x)] if self._numeric else []
        columns += [_indicators(_ragged(x[name]), CATEGORY_BUCKETS) for name in self._categorical]
        columns += [_bag_of_words(_ragged(x[name]), TEXT_BUCKETS) for name in self._text]
        return np.concatenate(columns, axis=1, dtype=self._dtype)

    def encodings(self) -> dict[str, Encoding]:
        """Return how each feature is encoded, by name."""
        scaled = "scaled by its running mean and deviation" if self.scale else "as it is"
        by_kind = {
            "numeric": Encoding(scaled),
            "vector": Encoding(f"each number {scaled}"),
            "image": Encoding("pixels from 0 to 1"),
            "categorical": Encoding(f"1 of {CATEGORY_BUCKETS} hashed places", CATEGORY_BUCKETS),
            "text": Encoding(f"a bag of words in {TEXT_BUCKETS} hashed places"),
        }
        return {feature.name: by_kind[feature.kind] for feature in self._features}

    @property
    def observes(self) -> bool:
        """Whether ``observe`` has an effect."""
        return (self.scale or self._gaps) and not self.image

    def observe(self, x: Features) -> list[int]:
        """Update the running mean and variance with n >= 1 events.

        Without ``scale`` they are needed, and kept, from the first missing number on.

        Returns:
            The columns that have missing numbers and are not marked.
        """
        if not self.observes:
            return []
        if isinstance(x, np.ndarray):
            numbers = self.rows(x)
        elif self._numeric:
            numbers = self._numbers(x)
        else:
            return []
        missing: list[int] = []
        if self._gaps and (gaps := np.isnan(numbers)).any():
            missing = np.flatnonzero(gaps.any(axis=0)).tolist()
        if self.scale or missing or np.any(self.moments.count):
            self.moments.update(numbers)
        return [column for column in missing if column not in self.marked]

    def _numbers(self, x: Mapping[str, Column]) -> Array:
        return np.stack([np.asarray(x[name], np.float64) for name in self._numeric], axis=1)

    def tensor(self, rows: Array) -> Tensor:
        """Return the rows, scaled and without gaps: (n, *shape) float32, and the indicators."""
        if self.image:
            return torch.from_numpy(np.divide(rows, _WHITE, dtype=np.float32))
        scaled = self._scaled(rows)
        return torch.from_numpy(self._imputed(scaled) if self._gaps else scaled)

    def _scaled(self, rows: Array) -> Array:
        if not self.scale:
            return _float32(rows)
        scaled = self.moments.mean.shape[0]
        if scaled == rows.shape[1]:
            return self.moments.scale(rows)
        whole = np.empty(rows.shape, np.float32)
        whole[:, :scaled] = self.moments.scale(rows[:, :scaled])
        whole[:, scaled:] = rows[:, scaled:]
        return whole

    def _imputed(self, x: Array) -> Array:
        """Replace NaN by the mean in float32 rows, in place. Return them with the indicators."""
        numbers = x[:, : self.moments.mean.shape[0]]
        missing = np.isnan(numbers)
        if not self.marked and not missing.any():
            return x
        np.copyto(numbers, 0 if self.scale else _float32(self.moments.mean), where=missing)
        if not self.marked:
            return x
        return np.concatenate([x, missing[:, self.marked]], axis=1, dtype=np.float32)

    def state(self) -> State:
        marked = {"marked": list(self.marked)} if self.marked else {}
        return {**self.moments.state(), **marked}

    def load(self, state: State) -> None:
        self.moments.load(state)
        self.marked = list(state.get("marked", ()))


def _float32(rows: Array) -> Array:
    """Return a float32 copy. Numbers beyond the range become the largest float32."""
    if rows.dtype.kind == "f" and rows.itemsize > 4:
        rows = np.minimum(np.maximum(rows, -_MAX), _MAX)
    return np.array(rows, np.float32)


def _ragged(column: Array | Ragged) -> Ragged:
    if isinstance(column, Ragged):
        return column
    return Ragged.of_text(str(value) for value in column.tolist())


def _hashes(values: Array, starts: Ints, lengths: Ints) -> Array:
    """Return a polynomial hash of the bytes of each of m pieces: (m,) uint64, 0 if empty."""
    rows = np.repeat(np.arange(len(starts)), lengths)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    powers = np.cumprod(np.full(max(int(lengths.max(initial=0)), 1), _PRIME))
    terms = (values[np.repeat(starts, lengths) + within].astype(_U64) + _U64(1)) * powers[within]
    hashed = np.zeros(len(starts), _U64)
    np.add.at(hashed, rows, terms)
    return np.asarray((hashed ^ (hashed >> _U64(29))) * _PRIME >> _U64(32))


def _indicators(column: Ragged, buckets: int) -> Array:
    """Return (n, buckets) float32: 1 in the bucket of each value's hash, else 0."""
    starts, lengths = column.bounds[:-1], np.diff(column.bounds)
    bucket = (_hashes(column.values, starts, lengths) % _U64(buckets)).astype(np.int64)
    hot = np.zeros((len(column), buckets), np.float32)
    hot[np.arange(len(column)), bucket] = 1
    return hot


def _bag_of_words(column: Ragged, buckets: int) -> Array:
    """Return (n, buckets) float32: counts of hashed words, each row scaled to length 1.

    Words are runs of letters, digits and non-ASCII bytes, in lower case.
    """
    start, stop = int(column.bounds[0]), int(column.bounds[-1])
    raw = column.values[start:stop]
    upper = (raw >= ord("A")) & (raw <= ord("Z"))
    raw = np.where(upper, raw + 32, raw).astype(np.uint8)
    word = (raw >= 128) | ((raw >= ord("a")) & (raw <= ord("z")))
    word |= (raw >= ord("0")) & (raw <= ord("9"))
    edges = column.bounds - start
    begins = np.flatnonzero(word & ~np.concatenate([[False], word[:-1]]))
    firsts = edges[:-1][
        np.diff(edges) > 0
    ]  # a row starts a word even where the row before ends in one
    begins = np.union1d(begins, firsts[word[firsts]])
    ends = np.flatnonzero(word & ~np.concatenate([word[1:], [False]])) + 1
    lasts = edges[1:][np.diff(edges) > 0]
    ends = np.union1d(ends, lasts[word[lasts - 1]])
    bucket = (_hashes(raw, begins, ends - begins) % _U64(buckets)).astype(np.int64)
    bag = np.zeros((len(column), buckets), np.float32)
    np.add.at(bag, (np.searchsorted(edges, begins, side="right") - 1, bucket), 1)
    length = np.sqrt(np.einsum("ij,ij->i", bag, bag))[:, None]
    return np.asarray(bag / np.maximum(length, 1e-12, dtype=np.float32))
