"""All formats by their names in a job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from streams.decoding.formats.avro import Avro, AvroConfig
from streams.decoding.formats.base import Field, FieldKind, Format, FormatConfig, ParsedRecords
from streams.decoding.formats.frames import Frames, FramesConfig
from streams.decoding.formats.json import Json, JsonConfig
from streams.decoding.formats.protobuf import Protobuf, ProtobufConfig

__all__ = [
    "FORMATS",
    "AnyFormatConfig",
    "Field",
    "FieldKind",
    "Format",
    "FormatConfig",
    "ParsedRecords",
    "make",
]

FORMATS: dict[str, type[Format]] = {
    "json": Json,
    "avro": Avro,
    "protobuf": Protobuf,
    "frames": Frames,
}


def _which(config: Any) -> str:
    kind = config.get("kind", "") if isinstance(config, dict) else getattr(config, "kind", "")
    return str(kind)


AnyFormatConfig = Annotated[
    Annotated[JsonConfig, Tag("json")]
    | Annotated[AvroConfig, Tag("avro")]
    | Annotated[ProtobufConfig, Tag("protobuf")]
    | Annotated[FramesConfig, Tag("frames")],
    Discriminator(_which),
]


def make(config: FormatConfig, fields: Sequence[Field], folder: Path) -> Format:
    """Return the format of the settings, for these fields.

    Raises:
        StreamError: a field cannot be read from such messages, a file of the settings cannot be
            read, or a library is not installed; names the place and the remedy.
    """
    return FORMATS[config.kind](config, fields, folder)
