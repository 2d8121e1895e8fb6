"""Versions that the last bits of a result depend on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python, the machine and the libraries that compute."""
    installed = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("everlearn", "torch", "numpy", "river"):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "checkout"
    return installed
