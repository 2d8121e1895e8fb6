"""Secrets of a job: read from the environment, masked in what is stored and shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from streams.core.errors import StreamError

_SECRET = re.compile("pass|secret|token|credential|pem|oauth|user.info", re.IGNORECASE)
_PUBLIC = re.compile("(url|uri|endpoint|scope|method|client.id)$", re.IGNORECASE)
_URL_USER = re.compile(r"//[^/@\s]*@")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def masked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with *** for secrets; the name of a variable is none."""
    return {
        name: "***"
        if _is_secret(name) and not _VARIABLE.fullmatch(str(value))
        else without_user(value)
        if isinstance(value, str)
        else value
        for name, value in options.items()
    }


def _is_secret(name: str) -> bool:
    return bool(_SECRET.search(name)) and not _PUBLIC.search(name)


def without_user(url: str) -> str:
    """Return a URL with *** for the user and the password in it."""
    return _URL_USER.sub("//***@", url)


def from_environment(place: str, value: Any) -> Any:
    """Return an option, or the variable that ``${NAME}`` stands for. Raise ``StreamError``."""
    variable = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
    if variable is None:
        return value
    if variable[1] not in os.environ:
        raise StreamError(f"{place}: {variable[1]} is not in the environment")
    return os.environ[variable[1]]


def check_variables(options: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where a variable is not the whole of an option."""
    for name, value in options.items():
        if isinstance(value, str) and "${" in value and not _VARIABLE.fullmatch(value):
            raise ValueError(
                f"{name}: ${{NAME}} must be the whole value: put all of it into the environment"
            )
