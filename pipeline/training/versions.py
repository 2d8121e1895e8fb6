"""The versions that the last bits of a result depend on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def versions() -> dict[str, str]:
    """What the last bits of a result hang on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("everlearn", "torch", "numpy", "river"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "checkout"
    return found
