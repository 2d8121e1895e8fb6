"""YAML files as plain values: the types of YAML 1.2."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.yaml_file import parse_yaml

Everlearn = Callable[..., Any]

CASE = """
name: yesno
stream: {kind: recorded, path: a.csv, label: {column: failed, classes: [no, yes]}}
learner: {kind: no-change}
"""


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "NO", "Yes", "y", "n", "ON"])
def test_words_of_yaml_1_1_are_text(text: str) -> None:
    """As values, in lists and as keys; a value that must be true or false still may be one."""
    assert parse_yaml(f"{{{text}: [{text}], a: {text}}}", "x") == {text: [text], "a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("3e-4", 3e-4),
        ("1.5e3", 1500.0),
        ("-7", -7),
        ("1_000", 1000),
        ("0x1F", 31),
        ("2024-05-01", date(2024, 5, 1)),
        ("12:30", "12:30"),
        ("007", "007"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_values_have_the_types_of_yaml_1_2(text: str, value: Any) -> None:
    assert parse_yaml(f"[{text}]", "x") == [value]


@pytest.mark.parametrize("value", ["no", "007", "12:30", "true", "null", "x", 5, True, 1.5])
def test_stored_values_are_read_back(value: Any) -> None:
    """The job in the run folder is written by YAML 1.1 and is read by these rules."""
    assert parse_yaml(yaml.safe_dump({"a": [value]}), "x") == {"a": [value]}


def rows(tmp_path: Path, names: tuple[str, str]) -> None:
    lines = [f"{i},{names[i % 2]}" for i in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["x,failed", *lines, ""]))


@pytest.mark.parametrize("names", [("no", "yes"), ("on", "off"), ("NO", "SE"), ("007", "12:30")])
def test_classes_that_yaml_1_1_misreads_are_learned(
    tmp_path: Path,
    everlearn: Everlearn,
    summary: Callable[[Path], dict[str, Any]],
    names: tuple[str, str],
) -> None:
    """Stated in the job, and with --set."""
    rows(tmp_path, names)
    job = tmp_path / "job.yaml"
    job.write_text(CASE.replace("[no, yes]", f"[{', '.join(names)}]"))
    everlearn("run", job, "--run-dir", "one")
    other = ("--set", f"stream.label.classes=[{names[1]}, {names[0]}]")
    everlearn("run", job, "--run-dir", "two", *other)
    for folder in ("one", "two"):
        assert summary(Path(folder))["fates"]["learned"] == 60
