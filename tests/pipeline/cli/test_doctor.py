"""The table of ``everlearn doctor``."""

from __future__ import annotations

import socket
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

import pipeline.cli.doctor as doctor_module

ROOT = Path(__file__).parents[3]


def test_doctor_names_versions_and_remedies(everlearn: Callable[..., Any]) -> None:
    printed = everlearn("doctor").out
    assert version("torch") in printed
    assert version("pyarrow") in printed
    assert "extra: ray" in printed


def test_doctor_names_the_encoders_that_are_installed(
    everlearn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def line() -> str:
        return next(line for line in everlearn("doctor").out.splitlines() if "encoders" in line)

    monkeypatch.setattr(doctor_module, "_version", lambda name: "1")
    assert "efficientnet-lite0, identity, minilm, random-features, timm" in line()
    monkeypatch.setattr(doctor_module, "_version", lambda name: None if "minilm" in name else "1")
    assert "minilm" not in line()


def test_doctor_has_a_line_for_each_extra(
    everlearn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    absent = "scikit-learn"
    installed = doctor_module.version

    def without_one(name: str) -> str:
        if name == absent:
            raise PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(doctor_module, "version", without_one)
    lines = everlearn("doctor").out.splitlines()
    for extra in set(project["optional-dependencies"]) - {"all"}:
        assert any(f"extra: {extra} " in line for line in lines), extra
    (bench,) = (line for line in lines if "extra: bench " in line)
    assert f"pooch {version('pooch')}" in bench
    assert f"plotly {version('plotly')}" in bench
    assert absent not in bench
    assert "pip install 'everlearn[bench]'" in bench


def test_doctor_reports_which_addresses_answer(
    everlearn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        out = everlearn("doctor").out
    assert f"{address}: answers" in out
    assert f"{address}: no answer" in everlearn("doctor").out
