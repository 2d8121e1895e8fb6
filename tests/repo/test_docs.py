"""Every command in the documentation runs, in the order of its page, on the files of its page."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import job

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SERVERS = "localhost:9092"  # a broker of the reader's
FENCE = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)```", re.S)


def blocks(page: Path) -> list[re.Match[str]]:
    return list(FENCE.finditer(page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_runs(
    page: Path,
    everlearn: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))  # the folder of the job file, as the command has it
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    ran = 0
    for block in blocks(page):
        text = block["text"].replace("\\\n", " ")
        if SERVERS in text and (block["file"] or block["kind"] == "bash"):
            text = text.replace(SERVERS, request.getfixturevalue("broker"))
        if block["file"]:
            (tmp_path / block["file"]).write_text(text)
        if block["kind"] == "bash":
            for line in text.strip().splitlines():
                ran += 1
                run(line, everlearn)
    assert ran


def run(line: str, everlearn: Callable[..., Any]) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "everlearn":
        everlearn(*words[1:])
    elif words[0] == "make":
        subprocess.run([*words, "-n"], cwd=ROOT, check=True, capture_output=True)
    elif words[0] == "python":
        runpy.run_path(words[1])
    elif words[0] == ".":
        assert words[1] == ".venv/bin/activate"  # what make sets up
        assert "VENV   ?= .venv" in (ROOT / "Makefile").read_text()
    else:
        pytest.fail(f"a command that no test knows how to run: {line}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_job_of_a_command_that_takes_long_is_one(page: Path) -> None:
    for block in blocks(page):
        lines = block["text"].replace("\\\n", " ").splitlines() if block["kind"] == "sh" else ()
        for line in lines:
            if line.startswith("everlearn run experiments/"):
                words = shlex.split(line, comments=True)
                settings = [b for a, b in pairwise(words) if a == "--set"]
                job.load(ROOT / words[2], settings)  # raises where it is none


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_yaml_is_yaml(page: Path) -> None:
    for block in blocks(page):
        if block["kind"] == "yaml":
            yaml.safe_load(block["text"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_layers_in_architecture_are_the_contracts() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = [c for c in settings["tool"]["importlinter"]["contracts"] if "containers" in c]
    assert {c["containers"][0] for c in contracts} == {"streams", "buffers", "learners", "pipeline"}
    for contract in contracts:
        layers = [[f"`{name.strip()}`" for name in row.split("|")] for row in contract["layers"]]
        row = " · ".join(", ".join(names) for names in layers)
        assert f"| `{contract['containers'][0]}/` | {row} |\n" in page
