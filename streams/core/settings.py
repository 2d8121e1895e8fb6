"""The base of all settings of a job: frozen and strict, with helpful errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

PACKAGE_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class FormerName:
    """The name that a key had before: ``key: Annotated[int, FormerName("old_key")]``."""

    name: str


class Settings(BaseModel):
    """Base class of all settings. An unknown key is an error that names the nearest known one, and
    true and false are not numbers. A key may be given by its former name."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True
    )

    @classmethod
    def former_names(cls) -> dict[str, str]:
        """Return the current name of each renamed key, by its former name."""
        return {
            former.name: key
            for key, field in cls.model_fields.items()
            for former in field.metadata
            if isinstance(former, FormerName) and former.name not in cls.model_fields
        }

    @classmethod
    def advice(cls, data: Mapping[str, Any]) -> list[str]:
        """Return one line for each setting, as written, that is accepted and has no effect."""
        return []

    def located(self, folder: Path) -> Self:
        """Return these settings with the paths of files made absolute (``locate``). ``folder`` is
        that of the job file. By default there are none."""
        return self

    @classmethod
    def with_current_names(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``data`` with former names replaced by current ones. Raises ``ValueError`` where a
        key is given by both."""
        current = cls.former_names()
        for former, name in current.items():
            if former in data and name in data:
                raise ValueError(
                    f"{name} and {former}: {former} is the former name of {name}; keep only one"
                )
        return {current.get(key, key): value for key, value in data.items()}

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            data = cls.with_current_names(data)
            # An alias is a key whose name is a keyword of Python.
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in data:
                if key not in known:
                    raise ValueError(f"unknown key {unknown(str(key), known)}")
        return data

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
        if kinds & {int, float} and not kinds & {bool, Any} and _holds_truth(value):
            raise PydanticCustomError("number", "a number")
        return value


def locate(stated: str | Path, folder: Path) -> Path:
    """Return the absolute path of a file or folder that a job states.

    A relative path starts from the folder of the job file, else from the working folder, else from
    that of everlearn. Where there is nothing in any of these, it is one from the first.

    Args:
        stated: the path.
        folder: of the job file.
    """
    path = Path(stated).expanduser()
    places = [base / path for base in (folder, Path.cwd(), PACKAGE_ROOT)]
    return next((place for place in places if place.exists()), places[0]).absolute()


def unknown(name: str, names: Iterable[str]) -> str:
    """Return the message ``'replya': did you mean 'replay'? There are: …``"""
    names = list(names)
    name = name if len(name) <= 100 else name[:97] + "..."
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{name!r}: {hint}There are: {', '.join(names)}"


def _kinds(annotation: Any) -> set[Any]:
    """Return the types in an annotation: of ``tuple[int, ...] | None`` int and NoneType."""
    parts = get_args(annotation)
    kinds = set().union(*map(_kinds, parts)) if parts else {annotation}
    return {kind for kind in kinds if isinstance(kind, type) or kind is Any}


def _holds_truth(value: Any) -> bool:
    """Whether a value is a boolean, or has one in it."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(map(_holds_truth, value))
    return isinstance(value, bool)
