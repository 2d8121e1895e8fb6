"""A job on its way to another process or machine: what it says, and the modules that it names.

A user's modules are found from the folder of the job file, which another machine need not have. So
their source goes along. It is imported from memory, after everything that is installed there:
nothing of a user's may shadow what is installed.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.config import job as jobs
from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob

MAX_BYTES = 10_000_000
"""Source code that is shipped, at most."""


@dataclass(frozen=True, slots=True)
class JobPackage:
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
    def of(cls, loaded: LoadedJob) -> JobPackage:
        """The job with the modules that were imported from its folder: call it once the job has
        been built. Raises ``JobError``."""
        modules: dict[str, str] = {}
        names = [n for n, m in list(sys.modules.items()) if _is_local_module(n, m, loaded.folder)]
        seen = set(sys.modules)
        while names:
            sources = _sources(names.pop(), loaded.folder)
            modules |= sources
            later = set().union(*map(_imported, sources.values())) - seen
            seen |= later
            names += later
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


def _is_local_module(name: str, module: ModuleType, folder: Path) -> bool:
    """Whether a module was imported from a place right in the folder."""
    wanted = {folder / f"{name}.py", folder / name, folder / name / "__init__.py"}
    # Asked of the folder first: one that loads itself when it is looked at must not be.
    if "." in name or name in _OURS or not any(place.exists() for place in wanted):
        return False
    at = getattr(module, "__file__", None)
    places = [Path(at)] if isinstance(at, str) else [*map(Path, getattr(module, "__path__", ()))]
    # The module may be a link to elsewhere: where its name stands in the folder is what counts.
    return not wanted.isdisjoint(place.parent.resolve() / place.name for place in places)


def _sources(name: str, folder: Path) -> dict[str, str]:
    """The sources of a module right in the folder, of all of it if it is a package; none where it
    is not there."""
    package = folder / name
    files = sorted(package.rglob("*.py")) if package.is_dir() else [folder / f"{name}.py"]
    found = {}
    for file in files:
        with suppress(OSError, SyntaxError, UnicodeError):  # nobody can import it here either
            text = importlib.util.decode_source(file.read_bytes())
            found[str(file.relative_to(folder))] = text
    return found


def _imported(source: str) -> set[str]:
    """Modules that a source imports, in its functions too: those may be needed only later."""
    found: set[str] = set()
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return found
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


_OURS = frozenset({"streams", "buffers", "learners", "pipeline", "everlearn", "experiments"})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Imports the modules of a shipment from memory."""

    def __init__(self, folder: Path, modules: dict[str, str]) -> None:
        self.folder = folder
        self.modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if self._path(fullname) is not None:
            spec = importlib.util.spec_from_loader(fullname, self)
        elif any(name.startswith(fullname.replace(".", "/") + "/") for name in self.modules):
            spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        else:
            return None
        if spec is not None and spec.submodule_search_locations is not None:
            spec.submodule_search_locations = []  # what is inside comes from here as well
        return spec

    def is_package(self, fullname: str) -> bool:
        return (self._path(fullname) or "").endswith("__init__.py")

    def get_source(self, fullname: str) -> str | None:
        found = self._path(fullname)
        return None if found is None else self.modules[found]

    def get_filename(self, fullname: str) -> str:
        """Where it stands on the machine that it comes from; here there may be nothing."""
        found = self._path(fullname)
        if found is None:
            raise ImportError(name=fullname)
        return str(self.folder / found)

    def _path(self, fullname: str) -> str | None:
        stem = fullname.replace(".", "/")
        names = (f"{stem}.py", f"{stem}/__init__.py")
        return next((name for name in names if name in self.modules), None)
