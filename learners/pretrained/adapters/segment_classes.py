"""Classes by the segment of the stream in which they were learned."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streams.core.batch import Array, ClassName, Ints
from streams.core.state_dict import State


@dataclass
class SegmentClasses:
    """Pairs of a segment and a label, as the classes of a classifier.

    A label that is learned in two segments is two classes. So its rows need not lie in one place,
    and the rows of a class are all from one adapter. Codes are in the order of first appearance.

    Attributes:
        segments: (k,) the segment of each class.
        labels: (k,) its label.
    """

    segments: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    labels: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.labels)

    def names(self) -> tuple[ClassName, ...]:
        """Return the names of all classes."""
        pairs = zip(self.segments.tolist(), self.labels.tolist(), strict=True)
        return tuple(f"{segment}/{label}" for segment, label in pairs)

    def codes(self, segment: int, y: Ints) -> Ints:
        """Return the codes (m,) of labels (m,) in a segment. New ones are added."""
        pairs = zip(self.segments.tolist(), self.labels.tolist(), strict=True)
        known = {label: code for code, (own, label) in enumerate(pairs) if own == segment}
        for label in y.tolist():
            if label not in known:
                known[label] = len(self)
                self.segments = np.append(self.segments, segment)
                self.labels = np.append(self.labels, label)
        return np.array([known[label] for label in y.tolist()], np.int64)

    def same_label(self, codes: Ints) -> Array:
        """Return (m, k) bool: the other classes that have the label of each of m classes."""
        same: Array = self.labels[codes][:, None] == self.labels
        same[np.arange(len(codes)), codes] = False
        return same

    def by_label(self, proba: Array, labels: int) -> Array:
        """Return the probabilities (n, labels) of labels, of those of all classes (n, k)."""
        member = np.zeros((len(self), labels), np.float32)
        member[np.arange(len(self)), self.labels] = 1
        summed: Array = proba @ member
        return summed

    def join(self, segment: int) -> Ints:
        """Make one segment of ``segment`` and the next. Later ones have a number less.

        Returns:
            (k,) the code from now on of each class so far.
        """
        self.segments = self.segments - (self.segments > segment)
        pairs = np.stack([self.segments, self.labels], 1)
        _, first, place = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))  # in the order of first appearance
        kept = np.sort(first)
        self.segments, self.labels = self.segments[kept], self.labels[kept]
        codes: Ints = rank[place.ravel()].astype(np.int64)
        return codes

    def state(self) -> State:
        """Return all pairs."""
        return {"segments": self.segments, "labels": self.labels}

    def load(self, state: State) -> None:
        """Restore what ``state`` returned."""
        self.segments, self.labels = np.array(state["segments"]), np.array(state["labels"])
