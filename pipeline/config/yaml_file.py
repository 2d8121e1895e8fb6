"""YAML files as plain values, within limits and without duplicate keys."""

from __future__ import annotations

import re
import reprlib
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.errors import JobError
from streams.core.errors import one_line

MAX_BYTES = 1_000_000
"""Largest job file, in bytes."""
MAX_DEPTH = 100
"""Deepest nesting of a job."""
MAX_VALUES = 100_000
"""Most values of a job, counted after anchors are expanded."""


def read_yaml(file: Path) -> Any:
    """Return the plain values of a YAML file. Raises ``JobError``."""
    return parse_yaml(_text(file), f"{file}")


def _text(file: Path) -> str:
    """Return the text of a regular file of at most ``MAX_BYTES``. Raises ``JobError``."""
    try:
        if file.exists() and not file.is_file() and not file.is_dir():
            raise JobError(f"{file}: not a regular file")
        with file.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise JobError(f"{file}: more than {MAX_BYTES:,} bytes, too large for a job")
        return raw.decode()
    except OSError as error:
        raise JobError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise JobError(f"{file}: not a text file") from None


def parse_yaml(text: str, place: str) -> Any:
    """Return the plain values of a YAML text; errors name ``place``. Raises ``JobError``."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise JobError(f"{place}: nested too deeply") from None
    except yaml.YAMLError as error:
        raise JobError(f"{place}: not YAML: {one_line(error)}") from None
    except Exception as error:  # ValueError, TypeError, KeyError, ...: as of month 13
        raise JobError(f"{place}: not YAML: a value cannot be parsed: {one_line(error)}") from None
    _check_plain(value, place)
    return value


def _check_plain(value: Any, place: str) -> None:
    """Raise ``JobError`` for a value that cannot be validated, shown and stored as JSON."""
    level, count = [value], 0  # breadth first: one depth at a time
    for _ in range(MAX_DEPTH):
        count += len(level)
        if count > MAX_VALUES:
            raise JobError(f"{place}: more than {MAX_VALUES:,} values, too many for a job")
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                inner += item
            elif not isinstance(item, str | int | float | date | None):
                raise JobError(
                    f"{place}: a job cannot contain a value of type {type(item).__name__}"
                )
            elif isinstance(item, str) and not _encodes(item):
                raise JobError(f"{place}: {shown(item)} is not valid Unicode")
            elif isinstance(item, int) and item.bit_length() > 1024:
                raise JobError(f"{place}: an integer of {item.bit_length():,} bits is too large")
        if not inner:
            return
        level = inner
    raise JobError(f"{place}: nested more than {MAX_DEPTH} levels deep")


def _encodes(text: str) -> bool:
    """Return whether a text can be encoded: a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Loader(yaml.SafeLoader):
    """A safe loader that types values as YAML 1.2 does and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    "a key must be a scalar, not a list or a mapping",
                    key_node.start_mark,
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_RESOLVERS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", "~nN"),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
"""The type of a value without quotes: its pattern, and the characters that it starts with.

As in YAML 1.2, ``yes``, ``no``, ``on`` and ``off`` are text, and ``12:30`` is no number. ``007`` is
text too, as in data."""

_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":timestamp", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_pattern, _first) in _RESOLVERS.items():
    _firsts = [*_first, ""] if _name == "null" else [*_first]
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _firsts
    )


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxdict = _SHORT.maxlist = 10


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, on one line."""
    return one_line(_SHORT.repr(value))
