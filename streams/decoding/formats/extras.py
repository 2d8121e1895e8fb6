"""What formats with a schema share: libraries that are extras, files, and Confluent's framing."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from streams.core.errors import StreamError

Framing = Literal["plain", "confluent"]
"""``confluent``: the magic byte 0 and 4 bytes of the schema's id stand before what a message holds.
The id is passed over: what is read is what the settings say."""

HEADER_BYTES = 5
HEADER = bytes(HEADER_BYTES)


def library(module: str, package: str, kind: str) -> Any:
    """The module, imported here only, as it is an extra."""
    try:
        return import_module(module)
    except ImportError:
        raise StreamError(
            f"stream.format.kind: {kind} needs {package}, which is not installed: "
            "pip install 'everlearn[codecs]'"
        ) from None


def file_bytes(place: str, file: Path) -> bytes:
    """What stands in a file that a setting names."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise StreamError(f"{place}: {file}: {error.strerror}") from None


def no_header(value: bytes) -> str | None:
    """Why a message has no header of Confluent's, None where it has."""
    if len(value) < HEADER_BYTES:
        return f"{len(value)} bytes; expected Confluent's header of {HEADER_BYTES}"
    if value[0]:
        return f"the first byte is {value[0]}; expected Confluent's magic byte 0"
    return None
