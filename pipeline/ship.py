"""A job on its way to another process or machine: what it says, and the modules that it names.

A user's modules are found from the folder of the job file, which another machine need not have. So
their source goes along. It is imported from memory, after everything that is installed there:
nothing of a user's may shadow what is installed.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline import job as jobs
from pipeline.job import JobError, LoadedJob

MAX_BYTES = 10_000_000
"""Source code that is shipped, at most."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """A job as it travels.

    Attributes:
        raw: the job, overrides included, as ``job.check`` takes it.
        file: the job file, named in messages.
        folder: of the job file, which relative paths start from where it is there.
        modules: source of the user's modules, by path relative to that folder.
    """

    raw: dict[str, Any]
    file: Path
    folder: Path
    modules: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: LoadedJob) -> Shipment:
        """The job with the modules that were imported from its folder: call it once the job has
        been built. Raises ``JobError``."""
        modules: dict[str, str] = {}
        for name, module in list(sys.modules.items()):
            if "." not in name and (origin := _origin(module)):
                modules |= _sources(name, origin, loaded.folder)
        if sum(map(len, modules.values())) > MAX_BYTES:
            raise JobError(
                f"{loaded.folder}: more than {MAX_BYTES:,} bytes of modules to ship to the workers:"
                " keep the job file apart from other code, or install that code on the workers"
            )
        return cls(loaded.raw, loaded.file, loaded.folder, modules)

    def unpack(self) -> LoadedJob:
        """The job, checked again where it has come to. Raises ``JobError``."""
        if self.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
            sys.meta_path.append(_Finder(self.folder, self.modules))
        return jobs.check(self.raw, self.file, self.folder)


def _origin(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


def _sources(name: str, origin: Path, folder: Path) -> dict[str, str]:
    """The sources of a module that stands right in the folder; of all of it, if it is a package."""
    if origin == folder / f"{name}.py":
        files = [origin]
    elif origin == folder / name / "__init__.py" and name not in _OURS:
        files = sorted(origin.parent.rglob("*.py"))
    else:
        return {}
    return {str(file.relative_to(folder)): file.read_text() for file in files}


_OURS = frozenset({"streams", "buffers", "learners", "pipeline", "everlearn", "experiments"})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the modules of a shipment from memory."""

    def __init__(self, folder: Path, modules: dict[str, str]) -> None:
        self.folder = folder
        self.modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        found = self._path(fullname)
        if found is None:
            return None
        return importlib.util.spec_from_loader(
            fullname, self, origin=str(self.folder / found), is_package=self.is_package(fullname)
        )

    def is_package(self, fullname: str) -> bool:
        return (self._path(fullname) or "").endswith("__init__.py")

    def get_source(self, fullname: str) -> str | None:
        found = self._path(fullname)
        return None if found is None else self.modules[found]

    def _path(self, fullname: str) -> str | None:
        stem = fullname.replace(".", "/")
        names = (f"{stem}.py", f"{stem}/__init__.py")
        return next((name for name in names if name in self.modules), None)
