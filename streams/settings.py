"""Settings as they stand in a job: frozen, strict, and clear about what they accept."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """Base of all settings: an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {unknown(str(key), cls.model_fields)}")
        return data


def unknown(name: str, names: Iterable[str]) -> str:
    """``'replya': did you mean 'replay'? There are: …``"""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{name!r}: {hint}There are: {', '.join(names)}"
