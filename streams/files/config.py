"""The settings of a stream of files, as they stand in a job."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, ClassVar

from pydantic import ValidationInfo, field_validator, model_validator

from streams.core.batch import ClassName
from streams.core.schema import FeatureKind, Missing, Task
from streams.core.settings import Settings
from streams.core.stream_config import LabelDelay
from streams.decoding.time_reader import TimeSettings, start_time


class LabelConfig(Settings):
    """The label.

    Attributes:
        column: its column.
        task: classification or regression; None: inferred.
        classes: the classes in the order of their codes. A row of any other class is dead. Empty:
            they are found in the stream.
    """

    column: str | None = None
    task: Task | None = None
    classes: tuple[ClassName, ...] = ()

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, classes: Any) -> Any:
        if not isinstance(classes, list | tuple):
            return classes
        for name in classes:
            if name is None or isinstance(name, datetime | list | tuple | dict):
                raise ValueError(
                    "a class is text, a number, or true or false; put quotes around a text that "
                    "YAML takes for something else, as null or a time"
                )
        return [name.isoformat() if isinstance(name, date) else name for name in classes]

    @model_validator(mode="after")
    def _consistent(self) -> LabelConfig:
        if self.classes and self.task == "regression":
            raise ValueError("regression has no classes: leave out one of task and classes")
        kinds = {type(name) for name in self.classes}
        if len(kinds) > 1 and kinds != {int, float}:
            raise ValueError(
                "classes must be of one type: all text, all numbers, or true and false; put "
                "quotes around each that is text"
            )
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is stated twice")
        if any(isinstance(name, int) and abs(name) >= 2**63 for name in self.classes):
            raise ValueError("a class that is an integer must fit in 64 bits")
        return self


class LabelsConfig(Settings):
    """Labels in files of their own, in the order in which they become known.

    Attributes:
        path: as in ``RecordedConfig``.
        id: the column of the event's id.
        label: the column of the label.
        time: the column of the event time at which the label becomes known.
    """

    path: str | list[str]
    id: str
    label: str
    time: str


class RecordedConfig(TimeSettings):
    """Settings of a stream of files.

    Attributes:
        path: a file, a folder (its Parquet and CSV files), a glob pattern, or a list of these, in
            order. The files of a folder or a pattern are sorted by name, numbers in it by their
            value: part-2 is before part-10. Relative paths start from the job file's folder, else
            from the current directory, else from the folder of the ``streams`` package.
        label: the label's column, or its settings. Unless stated, text, booleans and integers are
            classes, and other numbers are a regression target.
        time: column of event time (timestamps, ISO 8601 text, or seconds).
        id: column of event ids (integers as they are, text by its hash).
        key: column that sequences are grouped by.
        segment: column of the task or concept, for evaluation only (empty: -1).
        features: None (all other columns), names, or kind to names (image: also name to
            [channels, height, width]). Kinds and shapes that are not stated are inferred from the
            first 1,000 rows of the first file. Numeric: numbers, booleans, and text with at least
            90% numbers. Time: timestamps, dates, and text with at least 90% ISO 8601; numbers only
            where it is stated. Times are read as those of ``time``, which may be a feature too.
            Vector: lists of numbers, as long as the first. Image: bytes or {bytes, path} of a PNG
            or JPEG, of the shape of the first. Categorical: a dictionary, and text that repeats or
            that looks like identifiers (``kind_of_text``). Text: the rest.
        missing: what becomes of a missing value, by the name of its feature
            (``Schema.missing_policy``). Missing is an empty cell, and of numbers also NaN and text
            such as NA. What cannot be read is not missing: its event is dead.
        labels: labels in files of their own. A label with time t becomes known just before the
            first event whose time is at least t. The label column of the events is not read.
        start: the event time to begin at: seconds or ISO 8601.
    """

    location_keys: ClassVar[frozenset[str]] = frozenset(("path", "labels.path"))

    path: str | list[str]
    label: str | LabelConfig | None = None
    time: str | None = None
    id: str | None = None
    key: str | None = None
    segment: str | None = None
    features: list[str] | dict[FeatureKind, list[str] | dict[str, tuple[int, int, int]]] | None = (
        None
    )
    missing: dict[str, Missing] | None = None
    labels: LabelsConfig | None = None
    start: float | str | datetime | date | None = None

    @field_validator("features", mode="before")
    @classmethod
    def _shapes(cls, features: Any) -> Any:
        images = features.get("image") if isinstance(features, dict) else None
        for name, shape in images.items() if isinstance(images, dict) else ():
            sizes = shape if isinstance(shape, list | tuple) else ()
            if len(sizes) != 3 or any(type(size) is not int or size < 1 for size in sizes):
                raise ValueError(
                    f"the shape of image {name!r} is {shape!r}: [channels, height, width] is wanted"
                )
        return features

    @field_validator("start")
    @classmethod
    def _start(
        cls, start: float | str | datetime | date | None, info: ValidationInfo
    ) -> float | None:
        return None if start is None else start_time(start, info)

    @model_validator(mode="after")
    def _consistent(self) -> RecordedConfig:
        if self.label is None and self.labels is None:
            raise ValueError("state the label's column as label, or the file of labels as labels")
        if isinstance(self.label, LabelConfig) and not self.label.column and not self.labels:
            raise ValueError("label needs a column")
        if self.labels and not (self.id and self.time):
            raise ValueError("labels in a file of their own need the columns id and time")
        if self.labels and self.label_delay != LabelDelay(events=0):
            raise ValueError("labels in a file of their own come at their own time: no label_delay")
        if self.start is not None and not self.time:
            raise ValueError("start needs the column time")
        if self.label_delay.column and not self.time:
            raise ValueError("a label_delay by column needs the column time")
        if isinstance(self.features, dict):
            for kind, columns in self.features.items():
                if isinstance(columns, dict) and kind != "image":
                    raise ValueError(f"features of kind {kind} are a list of names")
        return self
