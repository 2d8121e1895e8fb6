"""What the numbers of a cell depend on in its encoders, told without loading their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from learners.pretrained.encoders.registry import encoder_class, located
from pipeline.config.encoder_settings import encoder_settings
from pipeline.config.job import LoadedJob


def encoder_contents(loaded: LoadedJob) -> list[list[str]]:
    """Return for each encoder of a job the versions of its packages and hashes of its files.

    A name of the Hugging Face hub without ``revision`` is taken as one model for ever.
    """
    found = []
    for settings in encoder_settings(loaded.job.stream.encoder):
        cls = encoder_class(settings["kind"])
        stated = located(settings, loaded.folder)
        places = [stated[key] for key in sorted(cls.Config.location_keys) if stated.get(key)]
        files = [file for place in places for file in _files(Path(place))]
        packages = [f"{name} {_version(name)}" for name in (*cls.libraries, *cls.packages)]
        found.append([*packages, *(_hash(file, file.stat().st_mtime_ns) for file in files)])
    return found


def _files(place: Path) -> Iterator[Path]:
    """Yield a file, or the files of a folder."""
    for path in [place, *sorted(place.rglob("*"))]:
        if path.is_file():
            yield path


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # the cell cannot be built, which says so
        return "absent"


@cache
def _hash(file: Path, changed: int) -> str:
    """Return the hash of a file that was ``changed`` then."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
