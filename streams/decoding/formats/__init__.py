"""The formats of messages: JSON, Avro, Protobuf and packed frames, to the columns of a table."""

from __future__ import annotations

from streams.decoding.formats.base import Field, Format, FormatConfig, ParsedRecords

__all__ = ["Field", "Format", "FormatConfig", "ParsedRecords"]
