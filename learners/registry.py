"""Finds a class by the name a job gives it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import operator
import pkgutil
from types import ModuleType
from typing import Any, TypeVar

from learners.learner import line
from streams.settings import unknown

T = TypeVar("T")


class UnknownKind(LookupError):  # noqa: N818 (it is what happened)
    """No class has that name; the message says which names there are."""


def find(package: ModuleType, base: type[T], kind: str) -> type[T]:
    """The class of that ``kind`` in the modules of ``package``, or at an import path.

    A name ``some-kind`` is looked for in module ``some_kind`` of the package, and ``kind++`` in
    ``kind_plus_plus``; ``module:Class`` is imported as it stands. Raises ``UnknownKind``.
    """
    if ":" in kind:
        found = load_object(kind)
        if not (inspect.isclass(found) and issubclass(found, base)):
            raise UnknownKind(f"{kind} is not a subclass of {base.__module__}.{base.__name__}")
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise UnknownKind(f"{kind} is abstract: it does not define {', '.join(missing)}")
        return found
    module = kind.replace("-", "_").replace("+", "_plus")
    name = f"{package.__name__}.{module}"
    if module.isidentifier() and importlib.util.find_spec(name) is not None:
        for cls in _classes(importlib.import_module(name), base):
            if cls.kind == kind:  # type: ignore[attr-defined]
                return cls
    kinds = sorted(every(package, base))
    raise UnknownKind(unknown(kind, kinds) + ", or the import path of a class (module:Class)")


def every(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    """All classes with a ``kind`` in the modules of the package, by that kind."""
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            for cls in _classes(importlib.import_module(f"{package.__name__}.{module.name}"), base):
                found[cls.kind] = cls  # type: ignore[attr-defined]
    return found


def load_object(path: str) -> Any:
    """The object at the import path ``module:name``. Raises ``UnknownKind``."""
    module_name, _, name = path.partition(":")
    if not (module_name and name):
        raise UnknownKind(f"{path!r} is not an import path (module:name)")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a user's module does as it is imported
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(
            f"{error.name}."
        ):
            raise UnknownKind(
                f"no module named {module_name!r}: import paths start from the folder of the job "
                "file"
            ) from None
        raise UnknownKind(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {line(error)}"
        ) from error
    try:
        return operator.attrgetter(name)(module)
    except Exception:  # an AttributeError, or what a module's own __getattr__ raises
        names = [n for n in vars(module) if not n.startswith("_")]
        raise UnknownKind(f"module {module_name!r} has no {unknown(name, names)}") from None


def _classes(module: ModuleType, base: type[T]) -> list[type[T]]:
    return [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and issubclass(cls, base)
        and "kind" in vars(cls)
        and cls.__module__ == module.__name__
    ]
