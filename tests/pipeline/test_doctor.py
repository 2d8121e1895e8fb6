"""What is installed, what is missing, how to get it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any


def test_doctor_names_versions_and_remedies(everlearn: Callable[..., Any]) -> None:
    done = everlearn("doctor")
    assert version("torch") in done.out
    assert version("pyarrow") in done.out
    assert "extra: ray" in done.out
