"""The settings of the encoders of a stream's columns, checked by the classes that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from learners.pretrained.encoders.registry import encoder_class
from learners.registry import UnknownKindError
from pipeline.config.validation_errors import describe_errors
from pipeline.config.yaml_file import shown
from streams.core.errors import one_line


def check_encoders(stated: dict[str, Any], file: Path, problems: list[str]) -> dict[str, Any]:
    """Return ``stream.encoder`` with every default of the encoders written out.

    Args:
        stated: the settings of one encoder, or those of each column by its name.
        file: the job file, as messages name it.
        problems: takes a line for each mistake.
    """
    if isinstance(stated.get("kind"), str):
        whole: dict[str, Any] = _checked(stated, ("stream", "encoder"), file, problems)
        return whole
    return {
        name: _checked(settings, ("stream", "encoder", name), file, problems)
        for name, settings in stated.items()
    }


def encoder_settings(stated: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the settings of each encoder in ``stream.encoder``."""
    if stated is None:
        return []
    return [stated] if isinstance(stated.get("kind"), str) else [*stated.values()]


def encoder_locations(stated: dict[str, Any] | None) -> set[str]:
    """Return the keys of a job that say where the files of its encoders lie."""
    if stated is None:
        return set()
    one = isinstance(stated.get("kind"), str)
    by_place = (
        {"stream.encoder": stated}
        if one
        else {f"stream.encoder.{name}": settings for name, settings in stated.items()}
    )
    return {
        f"{place}.{key}"
        for place, settings in by_place.items()
        for key in encoder_class(settings["kind"]).Config.location_keys
    }


def _checked(settings: Any, place: tuple[str, ...], file: Path, problems: list[str]) -> Any:
    if not (isinstance(settings, dict) and isinstance(settings.get("kind"), str)):
        expected = "the name of an encoder, or a mapping with its kind"
        problems.append(f"{file}: {'.'.join(place)}: expected {expected}, got {shown(settings)}")
        return settings
    try:
        config = encoder_class(settings["kind"]).Config.model_validate(settings)
        return config.model_dump(mode="json", serialize_as_any=True)
    except UnknownKindError as error:
        problems.append(f"{file}: {'.'.join(place)}: {one_line(error)}")
    except ValidationError as error:
        problems += describe_errors(error, file, settings, place)
    except Exception as error:  # the validators of a user's class may raise anything
        what = f"{type(error).__name__}: {one_line(error)}"
        problems.append(f"{file}: {'.'.join(place)}: {what}")
    return settings
