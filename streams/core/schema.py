"""The features and the label of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from streams.core.errors import StreamError
from streams.core.settings import unknown
from streams.core.stream_config import SequenceConfig

FeatureKind = Literal["numeric", "categorical", "text", "time", "vector", "image", "history"]
Task = Literal["classification", "regression", "sequences"]
"""What the label is: a class; a number; or the type and the time of the next event of a key."""
Missing = Literal["dead", "zero", "mean", "category"]

MISSING_CATEGORY = "<missing>"
"""The text that a missing category counts as."""

_POLICIES: dict[FeatureKind, tuple[Missing, ...]] = {
    "numeric": ("mean", "zero", "dead"),
    "categorical": ("category", "dead"),
    "text": ("zero", "category", "dead"),
    "time": ("category", "dead"),
    "vector": ("zero", "dead"),
    "image": ("zero", "dead"),
    "history": ("zero",),  # operators alone make it
}
"""What may become of a missing value, by the kind of its feature; the default comes first."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature column: its name, its kind, and the shape of one row of it.

    Attributes:
        name: its name.
        kind: its kind.
        shape: ``()`` for numeric, categorical, text and time, ``(d,)`` for a vector,
            ``(channels, height, width)`` for an image and ``(length,)`` for a history.
        missing: what becomes of a missing value; None: the default (``Schema.missing_policy``).
        unit: whether its numbers are about of unit scale already, and a learner need not scale
            them.
        zone: the time zone whose days count, of a time; None: UTC.
        of: the categorical column whose values a history holds.
    """

    name: str
    kind: FeatureKind
    shape: tuple[int, ...] = ()
    missing: Missing | None = None
    unit: bool = False
    zone: str | None = None
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Schema:
    """The features of a stream, in order, and its label.

    Attributes:
        features: the features.
        task: classification, regression, or sequences.
        classes: the class names that the job states, in the order of their codes. Empty: they are
            found in the stream.
        sequence: how the events of a key make a sequence, of task sequences; else None.
    """

    features: tuple[Feature, ...]
    task: Task
    classes: tuple[str | int | float | bool, ...] = ()
    sequence: SequenceConfig | None = None

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

    def missing_policy(self, feature: Feature) -> Missing:
        """Return what becomes of a missing value of a feature.

        - ``dead``: the event is a dead letter.
        - ``zero``: a number counts as 0, a text as the empty text, a vector and an image as zeros.
        - ``mean``: a number is NaN in ``Batch.x``. The learner imputes it.
        - ``category``: a category or a text counts as ``MISSING_CATEGORY``. A time is NaN in
          ``Batch.x``, which a network marks.

        Unless stated, the first that suits the kind. An event that lacks its only vector or image
        is dead.
        """
        if feature.missing is not None:
            return feature.missing
        alone = len(self.features) == 1 and feature.kind in ("vector", "image")
        return "dead" if alone else _POLICIES[feature.kind][0]

    @property
    def has_times(self) -> bool:
        """Whether a feature is a time."""
        return any(feature.kind == "time" for feature in self.features)

    @property
    def may_miss_numbers(self) -> bool:
        """Whether numbers, or times, of ``Batch.x`` may be NaN."""
        policies = ((feature.kind, self.missing_policy(feature)) for feature in self.features)
        return any(p == "mean" or (kind == "time" and p == "category") for kind, p in policies)


def with_missing(
    features: Iterable[Feature], stated: Mapping[str, Missing] | None
) -> tuple[Feature, ...]:
    """Return the features with the policies that ``stream.missing`` of a job states.

    Raises:
        StreamError: there is no such feature, or a policy does not suit its kind.
    """
    features = tuple(features)
    stated = stated or {}
    names = [feature.name for feature in features]
    for name in stated:
        if name not in names:
            raise StreamError(f"stream.missing: there is no feature {unknown(name, names)}")
    for feature in features:
        policy, suited = stated.get(feature.name), _POLICIES[feature.kind]
        if policy is not None and policy not in suited:
            raise StreamError(
                f"stream.missing.{feature.name}: {policy!r} does not suit a feature of kind "
                f"{feature.kind}: use {' or '.join(map(repr, suited))}"
            )
    return tuple(replace(f, missing=stated.get(f.name, f.missing)) for f in features)


def with_zone(features: Iterable[Feature], zone: str | None) -> tuple[Feature, ...]:
    """Return the features, times among them with the time zone that ``stream.time_zone`` states."""
    return tuple(replace(f, zone=zone) if f.kind == "time" else f for f in features)


Scalar = Literal["str", "int", "float", "bool"]
