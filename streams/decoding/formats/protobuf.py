"""Messages of Protobuf, all of one type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

from streams.core.errors import StreamError
from streams.core.settings import unknown
from streams.decoding.formats import python_values as cells
from streams.decoding.formats.base import NO_VALUE, Field, Format, FormatConfig, ParsedRecords
from streams.decoding.formats.extras import (
    HEADER_BYTES,
    Framing,
    file_bytes,
    header,
    library,
    no_header,
)
from streams.decoding.time_reader import PLAIN_TIMES


class ProtobufConfig(FormatConfig):
    """Settings of Protobuf.

    Attributes:
        descriptor: the file that ``protoc --include_imports --descriptor_set_out=FILE`` writes,
            from the job file's folder.
        message: the full name of the messages' type, as in ``shop.Event``.
        framing: ``confluent`` where messages come from Confluent's serializers. The id of the
            schema and the indexes of the type in them are passed over, and looked up nowhere.
    """

    kind: Literal["protobuf"] = "protobuf"
    descriptor: str
    message: str
    framing: Framing = "plain"


_REALS = {"TYPE_FLOAT", "TYPE_DOUBLE"}
_INTEGERS = {
    f"TYPE_{kind}{bits}" for kind in ("INT", "UINT", "SINT", "FIXED", "SFIXED") for bits in (32, 64)
}
_TIMESTAMP = "google.protobuf.Timestamp"
_FITS: dict[str, set[str]] = {
    "number": _REALS | _INTEGERS,
    "integer": _INTEGERS | {"TYPE_ENUM"},
    "boolean": {"TYPE_BOOL"},
    "text": {"TYPE_STRING"},
    "category": _REALS | _INTEGERS | {"TYPE_STRING", "TYPE_BOOL", "TYPE_ENUM"},
    "image": {"TYPE_BYTES"},
    "time": _REALS | _INTEGERS | {"TYPE_STRING", _TIMESTAMP},
    "vector": _REALS | _INTEGERS,
}


class _Step(NamedTuple):
    """A field on the path to a wanted one. One with presence can be missing."""

    name: str
    kind: str
    repeated: bool
    presence: bool


class Protobuf(Format):
    """Protobuf messages, a value for each field by its name.

    A name with dots is a path. A vector is a repeated number. An integer may be an
    enum. A time is a number of seconds, ISO 8601 text or a ``google.protobuf.Timestamp``.

    Protobuf detects little. Unknown fields are ignored. A field without presence (of proto3,
    not ``optional``) that is missing counts as its default: 0, false, "" or no values; one with
    presence as null. The empty message is a message.
    """

    Config = ProtobufConfig

    def __init__(self, config: ProtobufConfig, fields: Sequence[Field], folder: Path) -> None:
        super().__init__(config, fields, folder)
        self._descriptors = library("google.protobuf.descriptor_pb2", "protobuf", "protobuf")
        self._class = self._message_class(folder / config.descriptor)
        self._steps = {field.name: self._found(field) for field in fields}
        self.fields = tuple(
            replace(f, times=PLAIN_TIMES) if self._steps[f.name][-1].kind == _TIMESTAMP else f
            for f in fields
        )
        self._getters = [_getter(self._steps[field.name]) for field in fields]

    def _message_class(self, file: Path) -> Any:
        pools = library("google.protobuf.descriptor_pool", "protobuf", "protobuf")
        factory = library("google.protobuf.message_factory", "protobuf", "protobuf")
        raw = file_bytes("stream.format.descriptor", file)
        files, pool = self._descriptors.FileDescriptorSet(), pools.DescriptorPool()
        try:
            files.ParseFromString(raw)
            for part in files.file:
                pool.AddSerializedFile(part.SerializeToString())
        except Exception as error:  # TypeError, DecodeError, ...
            raise StreamError(
                f"stream.format.descriptor: {file}: {error}: write it by "
                "protoc --include_imports --descriptor_set_out=FILE"
            ) from None
        name = self.config.message
        try:
            return factory.GetMessageClass(pool.FindMessageTypeByName(name))
        except KeyError:
            known = [
                f"{p.package}.{m.name}".lstrip(".") for p in files.file for m in p.message_type
            ]
            raise StreamError(
                f"stream.format.message: {file} has no message {unknown(name, known)}"
            ) from None

    def _found(self, field: Field) -> list[_Step]:
        """Return the path to a field. Raises ``StreamError``."""
        inside, steps = self._class.DESCRIPTOR, list[_Step]()
        for name in field.name.split("."):
            if inside is None:
                raise StreamError(
                    f"stream.format.message: {name!r} of {field.name!r} is to be found in what "
                    "is no message"
                )
            if name not in inside.fields_by_name:
                raise StreamError(
                    f"stream.format.message: message {inside.full_name!r} has no field "
                    f"{unknown(name, inside.fields_by_name)}"
                )
            step, proto = inside.fields_by_name[name], self._descriptors.DescriptorProto()
            inside.CopyToProto(proto)
            (stated,) = (part for part in proto.field if part.name == name)
            repeated = stated.label == self._descriptors.FieldDescriptorProto.LABEL_REPEATED
            kind = self._descriptors.FieldDescriptorProto.Type.Name(stated.type)
            inside = None if repeated else step.message_type
            if inside is not None and inside.full_name == _TIMESTAMP:
                kind = _TIMESTAMP
            steps.append(_Step(name, kind, repeated, step.has_presence))
        if kind not in _FITS[field.kind] or repeated != (field.kind == "vector"):
            actual = f"{'repeated ' * repeated}{kind.removeprefix('TYPE_').lower()}"
            raise StreamError(
                f"stream.format.message: {field.name!r} is {actual}, which is no {field.kind}: "
                "change what the column is to be, or name another field"
            )
        return steps

    def dtype(self) -> str:
        found = {
            self._steps[field.name][-1].kind
            for field in self.fields
            if field.kind in ("number", "vector")
        }
        return "float32" if found == {"TYPE_FLOAT"} else "float64"

    def read(self, values: Sequence[bytes | None]) -> ParsedRecords:
        messages: list[Any] = []
        where: list[int] = []
        bad: dict[int, str] = {}
        parse, framed = self._class.FromString, self.config.framing == "confluent"
        for i, value in enumerate(values):
            if value is None:
                bad[i] = NO_VALUE
                continue
            if framed:
                if why := no_header(value):
                    bad[i] = why
                    continue
                start = _after_indexes(value)
                if start is None:
                    bad[i] = "no indexes of the message's type after Confluent's header"
                    continue
                value = value[start:]
            try:
                messages.append(parse(value))
            except Exception:  # DecodeError; its text says no more
                bad[i] = f"no message {self.config.message!r} of Protobuf"
                continue
            where.append(i)
        columns = [list(map(get, messages)) for get in self._getters]
        return cells.rows(self.fields, columns, where, bad)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Encode rows. With Confluent's framing the id of the schema is 0, and the type the first
        of its file."""
        framing = header(0) + b"\0" if self.config.framing == "confluent" else b""
        return [framing + self._message(row).SerializeToString() for row in rows]

    def _message(self, row: Mapping[str, Any]) -> Any:
        message = self._class()
        for field in self.fields:
            value = row.get(field.name)
            if value is None:
                continue
            value = value.tolist() if hasattr(value, "tolist") else value
            *path, last = self._steps[field.name]
            inside = message
            for step in path:
                inside = getattr(inside, step.name)
            if last.repeated:
                getattr(inside, last.name).extend(value)
            elif last.kind == _TIMESTAMP:
                micros = round(value * 1e6)  # a float has no nanoseconds of our days
                moment = getattr(inside, last.name)
                moment.seconds, moment.nanos = micros // 10**6, micros % 10**6 * 1000
            else:
                setattr(inside, last.name, value)
        return message


def _getter(steps: Sequence[_Step]) -> Callable[[Any], Any]:
    """Return a function from a message to the value at the end of a path, None if it is missing."""
    *path, last = steps
    read = attrgetter(last.name)
    if not path and not last.presence and not last.repeated:
        return read

    def get(message: Any) -> Any:
        for step in path:
            if not message.HasField(step.name):
                return None
            message = getattr(message, step.name)
        if last.presence and not message.HasField(last.name):
            return None
        value = read(message)
        if last.repeated:
            return value[:] or None  # a message does not tell no values from no vector
        return value.seconds + value.nanos / 1e9 if last.kind == _TIMESTAMP else value

    return get


def _after_indexes(value: bytes) -> int | None:
    """Return where the message begins after Confluent's header and the indexes of its type (a
    count, and as many zigzag varints). None: the bytes end before."""
    if value.startswith(b"\0", HEADER_BYTES):
        return HEADER_BYTES + 1
    count, at = _varint(value, HEADER_BYTES)
    for _ in range((count >> 1) ^ -(count & 1)):
        _, at = _varint(value, at)
        if at > len(value):
            break
    return at if at <= len(value) else None


def _varint(value: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned number and where it ends: past the end of the bytes if there is none."""
    number = 0
    for place in range(at, min(at + 10, len(value))):
        number |= (value[place] & 127) << 7 * (place - at)
        if value[place] < 128:
            return number, place + 1
    return 0, len(value) + 1
