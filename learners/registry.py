"""Find a class by its kind in a job, or by its import path."""

from __future__ import annotations

import importlib
import inspect
import operator
from collections.abc import Mapping
from typing import Any, TypeVar

from streams.core.errors import one_line
from streams.core.settings import unknown

T = TypeVar("T")


class UnknownKindError(LookupError):
    """No class has that name. The message lists the names that exist."""


def find(kinds: Mapping[str, str], base: type[T], kind: str) -> type[T]:
    """Return the class of a ``kind``.

    Args:
        kinds: the import path (``module:Class``) of each kind. The module is imported only now.
        base: the class must be a concrete subclass of it, if it is found by import path.
        kind: a key of ``kinds``, or an import path.

    Raises:
        UnknownKindError: there is no such class, or it is not one that can be used.
    """
    if kind in kinds:
        cls: type[T] = load_object(kinds[kind])
        return cls
    if ":" in kind:
        loaded = load_object(kind)
        if not (inspect.isclass(loaded) and issubclass(loaded, base)):
            raise UnknownKindError(f"{kind} is not a subclass of {base.__module__}.{base.__name__}")
        if missing := sorted(getattr(loaded, "__abstractmethods__", ())):
            raise UnknownKindError(f"{kind} is abstract: it does not define {', '.join(missing)}")
        return loaded
    names = unknown(kind, sorted(kinds))
    raise UnknownKindError(f"{names}, or the import path of a class (module:Class)")


def load_object(path: str) -> Any:
    """Return the object at the import path ``module:name``. Raises ``UnknownKindError``."""
    module_name, _, name = path.partition(":")
    if not (module_name and name):
        raise UnknownKindError(f"{path!r} is not an import path (module:name)")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(
            f"{error.name}."
        ):
            raise UnknownKindError(
                f"no module named {module_name!r}: import paths start from the folder of the job "
                "file"
            ) from None
        raise UnknownKindError(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {one_line(error)}"
        ) from error
    try:
        return operator.attrgetter(name)(module)
    except Exception:  # an AttributeError, or what a module's own __getattr__ raises
        names = [n for n in vars(module) if not n.startswith("_")]
        raise UnknownKindError(f"module {module_name!r} has no {unknown(name, names)}") from None
