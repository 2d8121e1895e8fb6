"""A job file as plain values: YAML within bounds, and no key twice."""

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
"""The largest job file that is read."""


MAX_DEPTH = 100


MAX_VALUES = 100_000
"""How deep a job may be nested, and how many values it may hold once anchors are filled in."""


def values(file: Path) -> Any:
    """What a YAML file says, if it is all plain values. Raises ``JobError``."""
    return parse(_text(file), f"{file}")


def _text(file: Path) -> str:
    try:
        if file.exists() and not file.is_file() and not file.is_dir():
            raise JobError(f"{file}: not a regular file")
        with file.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise JobError(f"{file}: more than {MAX_BYTES:,} bytes: this is no job")
        return raw.decode()
    except OSError as error:
        raise JobError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise JobError(f"{file}: not a text file") from None


def parse(text: str, place: str) -> Any:
    """What a text says as YAML, if it is all plain values. Raises ``JobError``."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise JobError(f"{place}: nested too deep") from None
    except yaml.YAMLError as error:
        raise JobError(f"{place}: not YAML: {one_line(error)}") from None
    except Exception as error:  # ValueError, TypeError, KeyError, ...: a date that is none
        raise JobError(f"{place}: not YAML: a value cannot be read: {one_line(error)}") from None
    _plain(value, place)
    return value


def _plain(value: Any, place: str) -> None:
    """Raises ``JobError`` for what cannot be checked, shown and kept as JSON."""
    level, count = [value], 0
    for _ in range(MAX_DEPTH):
        count += len(level)
        if count > MAX_VALUES:
            raise JobError(f"{place}: more than {MAX_VALUES:,} values: this is no job")
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                inner += item
            elif not isinstance(item, str | int | float | date | None):
                raise JobError(f"{place}: a {type(item).__name__} is none of the values of a job")
            elif isinstance(item, str) and not _encodes(item):
                raise JobError(f"{place}: {shown(item)} is no text in Unicode")
            elif isinstance(item, int) and item.bit_length() > 1024:
                raise JobError(f"{place}: an integer of {item.bit_length():,} bits is too large")
        if not inner:
            return
        level = inner
    raise JobError(f"{place}: nested more than {MAX_DEPTH} deep")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Loader(yaml.SafeLoader):
    """YAML as people write it: ``3e-4`` is a number, and a key given twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is a word, not a list or a mapping", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxdict = _SHORT.maxlist = 10


def shown(value: Any) -> str:
    """A value as it stands in a message: never long, and in one line."""
    return one_line(_SHORT.repr(value))
