"""What is installed, what is missing, how to get it."""

from __future__ import annotations

import socket
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.app import doctor

ROOT = Path(__file__).parents[3]


def test_doctor_names_versions_and_remedies(everlearn: Callable[..., Any]) -> None:
    done = everlearn("doctor")
    assert version("torch") in done.out
    assert version("pyarrow") in done.out
    assert "extra: ray" in done.out


def test_doctor_has_a_line_for_each_extra(
    everlearn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    absent = "scikit-learn"
    found = doctor.version

    def without_one(name: str) -> str:
        if name == absent:
            raise PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(doctor, "version", without_one)
    lines = everlearn("doctor").out.splitlines()
    for extra in set(told) - {"all"}:
        assert any(f"extra: {extra} " in line for line in lines), extra
    (bench,) = (line for line in lines if "extra: bench " in line)
    assert f"pooch {version('pooch')}" in bench
    assert f"plotly {version('plotly')}" in bench
    assert absent not in bench
    assert "pip install 'everlearn[bench]'" in bench


def test_doctor_tells_what_can_be_reached(
    everlearn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        out = everlearn("doctor").out
    assert f"{address}: answers" in out
    assert f"{address}: no answer" in everlearn("doctor").out
