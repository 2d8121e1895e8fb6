"""The features and the label of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FeatureKind = Literal["numeric", "categorical", "text", "vector", "image"]
Task = Literal["classification", "regression"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature column: its name, its kind, and the shape of one row of it.

    ``shape`` is ``()`` for numeric, categorical and text, ``(d,)`` for a vector and
    ``(channels, height, width)`` for an image.
    """

    name: str
    kind: FeatureKind
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Schema:
    """The features of a stream, in order, and its label.

    Attributes:
        features: the features.
        task: classification or regression.
        classes: the class names that the job states, in the order of their codes. Empty: they are
            found in the stream.
    """

    features: tuple[Feature, ...]
    task: Task
    classes: tuple[str | int | float | bool, ...] = ()

    @property
    def matrix(self) -> bool:
        """Whether ``Batch.x`` is one array: of numeric features only, or of one vector or image."""
        if len(self.features) == 1:
            return self.features[0].kind in ("numeric", "vector", "image")
        return all(feature.kind == "numeric" for feature in self.features)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row of ``x`` if ``matrix`` is True; ``(d,)`` for d numeric columns."""
        if not self.matrix:
            raise ValueError("a stream of mixed columns has no row shape")
        first = self.features[0]
        return first.shape if first.kind in ("vector", "image") else (len(self.features),)


Scalar = Literal["str", "int", "float", "bool"]
