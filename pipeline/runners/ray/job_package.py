"""A job packed for another process or machine: its settings, and the modules that it names.

A user's modules are imported from the folder of the job file, which another machine need not have.
So the package holds their source. It is imported from memory, after everything that is installed:
a user's module never shadows an installed one.
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
"""Bytes of source code in a package, at most."""


@dataclass(frozen=True, slots=True)
class JobPackage:
    """A packed job.

    Attributes:
        raw: the job, overrides included, as ``job.check`` takes it.
        file: the job file, named in messages.
        folder: of the job file; relative paths start from it.
        modules: source of the user's modules, by path relative to that folder.
    """

    raw: dict[str, Any]
    file: Path
    folder: Path
    modules: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: LoadedJob) -> JobPackage:
        """Pack a job with the modules that were imported from its folder. Call it once the job is
        built. Raise ``JobError`` where they are too large."""
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
        """Return the job, checked again on this machine. Raise ``JobError``."""
        if self.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
            sys.meta_path.append(_Finder(self.folder, self.modules))
        return jobs.check(self.raw, self.file, self.folder)


def _is_local_module(name: str, module: ModuleType, folder: Path) -> bool:
    """Return whether a module was imported from the folder itself."""
    paths = {folder / f"{name}.py", folder / name, folder / name / "__init__.py"}
    # The folder comes first: a lazy module loads itself once its attributes are read.
    if "." in name or name in _OURS or not any(path.exists() for path in paths):
        return False
    file = getattr(module, "__file__", None)
    files = [Path(file)] if isinstance(file, str) else [*map(Path, getattr(module, "__path__", ()))]
    # The module may be a link to elsewhere: only its name in the folder counts.
    return not paths.isdisjoint(file.parent.resolve() / file.name for file in files)


def _sources(name: str, folder: Path) -> dict[str, str]:
    """Return the sources of a module in the folder, of all its files if it is a package; none
    where it is not there."""
    package = folder / name
    files = sorted(package.rglob("*.py")) if package.is_dir() else [folder / f"{name}.py"]
    sources = {}
    for file in files:
        with suppress(OSError, SyntaxError, UnicodeError):  # it cannot be imported here either
            text = importlib.util.decode_source(file.read_bytes())
            sources[str(file.relative_to(folder))] = text
    return sources


def _imported(source: str) -> set[str]:
    """Return the modules that a source imports, also inside its functions."""
    names: set[str] = set()
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return names
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


_OURS = frozenset({"streams", "buffers", "learners", "pipeline", "everlearn", "experiments"})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Import the modules of a package from memory."""

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
        path = self._path(fullname)
        return None if path is None else self.modules[path]

    def get_filename(self, fullname: str) -> str:
        """Return the path on the machine of the driver; on this one there may be no such file."""
        path = self._path(fullname)
        if path is None:
            raise ImportError(name=fullname)
        return str(self.folder / path)

    def _path(self, fullname: str) -> str | None:
        stem = fullname.replace(".", "/")
        names = (f"{stem}.py", f"{stem}/__init__.py")
        return next((name for name in names if name in self.modules), None)
