"""What is installed, what is missing, how to get it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest


def test_doctor_names_versions_and_remedies(everlearn: Callable[..., Any]) -> None:
    done = everlearn("doctor")
    assert version("torch") in done.out
    assert version("pyarrow") in done.out
    assert "extra: ray" in done.out


def test_doctor_tells_what_can_be_reached(
    everlearn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        out = everlearn("doctor").out
    assert f"{address}: answers" in out
    assert f"{address}: no answer" in everlearn("doctor").out
