"""Optional libraries, schema files and Confluent's framing, for formats with a schema."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from streams.core.errors import StreamError

Framing = Literal["plain", "confluent"]
"""``confluent``: a message begins with the magic byte 0 and 4 bytes of a schema id."""

HEADER_BYTES = 5


def library(module: str, package: str, kind: str) -> Any:
    """Import the module of an optional package. Raises ``StreamError`` if it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise StreamError(
            f"stream.format.kind: {kind} needs {package}, which is not installed: "
            "pip install 'everlearn[codecs]'"
        ) from None


def file_bytes(place: str, file: Path) -> bytes:
    """Read a file that a setting names. Raises ``StreamError``."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise StreamError(f"{place}: {file}: {error.strerror}") from None


def no_header(value: bytes) -> str | None:
    """Return why a message does not begin with Confluent's header; None: it does."""
    if len(value) < HEADER_BYTES:
        return f"{len(value)} bytes; expected Confluent's header of {HEADER_BYTES}"
    if value[0]:
        return f"the first byte is {value[0]}; expected Confluent's magic byte 0"
    return None


def header(id_: int) -> bytes:
    """Return Confluent's header for a schema id."""
    return b"\0" + id_.to_bytes(4, "big")


def schema_id(value: bytes) -> int:
    """Return the schema id in a message that begins with Confluent's header."""
    return int.from_bytes(value[1:HEADER_BYTES], "big")
