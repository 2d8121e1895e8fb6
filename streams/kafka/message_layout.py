"""What a job names of its messages: features, id, time, key and label, as fields and columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from streams.core.errors import StreamError
from streams.core.schema import Feature, FeatureKind, Scalar, Schema, Task
from streams.decoding.decoder import Columns, Decoder, NamedColumn
from streams.decoding.formats.base import fields_of
from streams.decoding.formats.factory import Field, FieldKind, make
from streams.kafka.config import KafkaConfig, KafkaLabel, KafkaLabels
from streams.kafka.record_fields import RecordField, RecordFields
from streams.kafka.records_to_batch import RecordReader
from streams.kafka.tombstones import ID, KeyReader

Request = tuple[Columns, list[Field]]
"""The columns of a request to the server, and those of its fields that no message has."""

_FIELD_KINDS: dict[str, FieldKind] = {
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
}


def label_config(config: KafkaConfig) -> KafkaLabel:
    if isinstance(config.label, str):
        return KafkaLabel(column=config.label)
    return config.label if isinstance(config.label, KafkaLabel) else KafkaLabel()


def task_of(label: KafkaLabel) -> Task:
    return label.task or "classification"


def _class_type(label: KafkaLabel) -> Scalar:
    """Return the type of the classes."""
    if label.task == "regression":
        return "float"
    kinds = {type(name).__name__ for name in label.classes}
    stated: Scalar = label.type or "str"
    return stated if not kinds else "float" if len(kinds) > 1 else kinds.pop()  # type: ignore[return-value]


def _label_kind(label: KafkaLabel) -> FieldKind:
    return "number" if task_of(label) == "regression" else _FIELD_KINDS[_class_type(label)]


def _id_kind(config: KafkaConfig) -> FieldKind:
    return "integer" if config.id_type == "int" else "text"


def _label_column(config: KafkaConfig, label: KafkaLabel) -> str | None:
    """Return the column of a label that comes with its event."""
    beside = label.record_field
    return None if config.labels is not None else beside.column if beside else label.column


def _column(place: str | RecordField | None) -> str | None:
    return place.column if isinstance(place, RecordField) else place


def _named(column: str | None, kind: Scalar = "str") -> NamedColumn | None:
    return None if column is None else NamedColumn(column, kind)


def own_time(config: KafkaConfig) -> str | None:
    """Return the column of a time of their own that events have; None: it is the timestamp of their
    message."""
    beside = isinstance(config.time, RecordField) and config.time.source == "timestamp"
    return None if beside else _column(config.time)


def fields_beside(config: KafkaConfig, label: KafkaLabel) -> list[RecordField]:
    """Return the fields of an event that are beside the value."""
    places = (config.id, config.time, config.key, label.record_field)
    return [place for place in places if isinstance(place, RecordField)]


def request_columns(config: KafkaConfig, label: KafkaLabel, taken: Set[str]) -> Request:
    """Return what of an event that is beside its value a request to the server may state.

    A field beside the value is a plain field there: of its own name, else that of its role. It is
    absent where a field of the value has that name. The server reads no label.

    Args:
        config: of the stream.
        label: of the stream.
        taken: names of the fields of the value.
    """
    named, fields = columns(config, label), list[Field]()
    if label.record_field is not None:
        named = replace(named, label=None)
    for role, kind in (("id", _id_kind(config)), ("time", "time"), ("key", "text")):
        place = getattr(config, role)
        if not isinstance(place, RecordField):
            continue
        name: str | None = place.name or role
        if name in {*taken, *(field.name for field in fields)}:
            name = None
        else:
            fields.append(Field(str(name), kind, times=config.times()))
        column = getattr(named, role)
        typed = isinstance(column, NamedColumn)
        new = None if name is None else NamedColumn(name, column.type) if typed else name
        changes: dict[str, Any] = {role: new}
        named = replace(named, **changes)
    return named, fields


def role_fields(config: KafkaConfig, label: KafkaLabel) -> list[Field]:
    """Return the fields of an event that are no features."""
    fields = []
    if isinstance(config.id, str):
        fields.append(Field(config.id, _id_kind(config)))
    if isinstance(config.time, str):
        fields.append(Field(config.time, "time", times=config.times()))
    if isinstance(config.key, str):
        fields.append(Field(config.key, "text"))
    if config.labels is None and label.column is not None:
        fields.append(Field(label.column, _label_kind(label), required=False))
    if config.label_delay.column is not None:
        column = config.label_delay.column
        fields.append(Field(column, "time", required=False, times=config.times()))
    return fields


def event_fields(config: KafkaConfig, schema: Schema, label: KafkaLabel) -> list[Field]:
    """Return the fields of an event. The field of event time may be a feature as well.

    Raises:
        StreamError: a field is named twice.
    """
    features, roles = fields_of(schema, config.times()), role_fields(config, label)
    times = {field.name for field in features if field.kind == "time"} & {_column(config.time)}
    fields = [replace(f, required=True) if f.name in times else f for f in features]
    fields += [field for field in roles if field.kind != "time" or field.name not in times]
    check_unique(fields)
    return fields


def check_unique(fields: Iterable[Field]) -> None:
    for name, times in Counter(field.name for field in fields).items():
        if times > 1:
            raise StreamError(f"stream: field {name!r} is named {times} times")


def columns(config: KafkaConfig, label: KafkaLabel) -> Columns:
    """Return the roles of an event's columns."""
    return Columns(
        id=_named(_column(config.id), config.id_type),
        time=_column(config.time),
        label=_named(_label_column(config, label), _class_type(label)),
        key=_named(_column(config.key)),
        due=config.label_delay.column,
    )


def label_reader(
    config: KafkaConfig, label_topic_config: KafkaLabels, label: KafkaLabel, folder: Path
) -> RecordReader:
    """Return what reads the records of the label topic."""
    names = label_topic_config
    fields = [Field(names.label, _label_kind(label))]
    beside = [names.id] if isinstance(names.id, RecordField) else []
    if isinstance(names.id, str):
        fields.insert(0, Field(names.id, _id_kind(config)))
    if names.time is not None:
        fields.append(Field(names.time, "time", times=config.times()))
    columns = Columns(
        id=_named(_column(names.id), config.id_type),
        time=names.time,
        label=NamedColumn(names.label, _class_type(label)),
    )
    return RecordReader(
        make(names.format or config.format, fields, folder),
        Decoder(
            Schema((), task_of(label), label.classes),
            columns,
            times=config.times(numbers_read=True),
        ),
        RecordFields(beside),
    )


def key_reader(config: KafkaConfig, label: KafkaLabel) -> KeyReader | None:
    """Return what reads the id of an event from a tombstone of the label topic; None: no topic.

    The id is where the job says that it is beside the value. Else it is the key: the field of that
    name of a JSON object, or the whole key.
    """
    if config.labels is None:
        return None
    place, key = config.labels.id, {"from": "key"}
    fields = [place] if isinstance(place, RecordField) else [key | {"name": place}, key]
    beside = [RecordField.model_validate(field) for field in fields]
    decoder = Decoder(
        Schema((), task_of(label), label.classes), Columns(_named(ID, config.id_type))
    )
    return KeyReader(RecordFields(beside), decoder, task_of(label) == "regression")


def features_of(
    stated: Mapping[FeatureKind, list[str] | dict[str, int | tuple[int, ...]]],
) -> list[Feature]:
    """Return the features of the schema."""
    features = []
    for kind, names in stated.items():
        for name in names:
            shape = names[name] if isinstance(names, dict) else ()
            shape = (shape,) if isinstance(shape, int) else shape
            features.append(Feature(name, kind, shape))
    return features
