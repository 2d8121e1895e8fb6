"""A job: what a YAML file says, checked before anything starts."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, PositiveInt, StringConstraints, ValidationError

import learners
import streams
from learners.learner import Learner, LearnerConfig
from learners.registry import UnknownKind, find
from streams.settings import Settings
from streams.stream import Stream, StreamConfig


class JobError(Exception):
    """The job cannot be run as it stands; one line for each thing to mend."""


class Probes(Settings):
    """Events held out: predicted and scored, never learned.

    ``share`` of all events is chosen by a hash of (seed, id).
    """

    share: float = Field(0.0, ge=0, lt=1)


class Evaluate(Settings):
    """How the learner is scored.

    Attributes:
        window: events in the sliding window.
        fading: fading factor; about 1 / (1 - fading) events count.
    """

    window: PositiveInt = 1000
    fading: float = Field(0.999, gt=0, lt=1)
    probes: Probes = Probes()


class Checkpointing(Settings):
    """When state is written: each time so many events have come in; the newest ``keep`` stay."""

    every_events: PositiveInt = 5000
    keep: PositiveInt = 3


class Job(Settings):
    """A job.

    Attributes:
        name: names the run folder.
        seed: of everything that is drawn.
        device: where networks are trained.
        threads: threads that torch may use; more than one seldom helps small models.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    seed: int = Field(0, ge=0, lt=2**63)
    device: str = "cpu"
    threads: PositiveInt = 1
    stream: StreamConfig
    learner: LearnerConfig
    evaluate: Evaluate = Evaluate()
    checkpoint: Checkpointing = Checkpointing()


class LoadedJob:
    """A job with the classes that it names, and the folder that its paths start from."""

    def __init__(
        self, job: Job, stream: type[Stream], learner: type[Learner], file: Path, folder: Path
    ) -> None:
        self.job = job
        self.stream = stream
        self.learner = learner
        self.file = file
        self.folder = folder

    def fingerprint(self) -> dict[str, Any]:
        """Every key that shapes the state, flat, with its value; defaults spelt out."""
        kept = self.job.model_dump(
            mode="json", exclude={"name", "checkpoint"}, serialize_as_any=True
        )
        return dict(_flat(kept))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each key in which two fingerprints differ."""
    missing = "not set"
    return [
        f"{key}: {old.get(key, missing)} in the checkpoint, {new.get(key, missing)} in the job"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, missing) != new.get(key, missing)
    ]


def load(file: Path, overrides: Sequence[str] = ()) -> LoadedJob:
    """Reads a job file, applies ``key=value`` overrides, and checks it. Raises ``JobError``."""
    try:
        raw = yaml.load(file.read_text(), Loader=_Loader)
    except OSError as error:
        raise JobError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise JobError(f"{file}: not a text file") from None
    except yaml.YAMLError as error:
        raise JobError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise JobError(f"{file}: a job is a mapping with name, stream and learner")
    for override in overrides:
        _override(raw, override)
    folder = file.resolve().parent
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: nothing of a user's may shadow what is installed
        importlib.invalidate_caches()
    return check(raw, file, folder)


def check(raw: dict[str, Any], file: Path, folder: Path) -> LoadedJob:
    """Validates a job; the settings of stream and learner by the classes that it names."""
    problems: list[str] = []
    data = dict(raw)
    stream = _class(data, "stream", streams, Stream, file, problems)
    learner = _class(data, "learner", learners, Learner, file, problems)
    for part, cls in (("stream", stream), ("learner", learner)):
        if cls is not None:
            try:
                data[part] = cls.Config.model_validate(data[part])
            except ValidationError as error:
                problems += _lines(error, file, data[part], (part,))
    parts = {k: v for k, v in data.items() if k not in ("stream", "learner")}
    base = {"stream": StreamConfig(kind="?"), "learner": LearnerConfig(kind="?")}
    try:
        job = Job.model_validate({**parts, **base})
    except ValidationError as error:
        problems += _lines(error, file, parts, ())
    if problems or stream is None or learner is None:
        raise JobError("\n".join(problems))
    job = job.model_copy(update={"stream": data["stream"], "learner": data["learner"]})
    delay = job.stream.label_delay.events
    if delay is not None and delay >= job.stream.wait:
        raise JobError(
            f"{file}: stream.wait: events wait for {job.stream.wait} later ones, but labels come "
            f"{delay} later: make it larger than stream.label_delay.events"
        )
    return LoadedJob(job, stream, learner, file, folder)


def _class(
    data: dict[str, Any], part: str, package: Any, base: type[Any], file: Path, problems: list[str]
) -> Any:
    spec = data.get(part)
    if not isinstance(spec, dict) or not isinstance(spec.get("kind"), str):
        given = "nothing" if spec is None else repr(spec)
        problems.append(f"{file}: {part}: {given} given; a mapping with a kind is wanted")
        return None
    try:
        return find(package, base, spec["kind"])
    except UnknownKind as error:
        problems.append(f"{file}: {part}.kind: {error}")
        return None


def _lines(error: ValidationError, file: Path, data: Any, at: tuple[str, ...]) -> list[str]:
    """What pydantic found, as ``file: path.inside: given; what is accepted``."""
    lines = []
    for found in error.errors():
        path, inside = [*at], data
        for step in found["loc"]:
            # pydantic names the branch of a union in the path; the job file knows no such step
            known = isinstance(inside, dict) and step in inside
            if known or (isinstance(inside, list) and isinstance(step, int)):
                inside = inside[step]
                path.append(str(step))
            elif step == found["loc"][-1]:
                path.append(str(step))
        message = found["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        place = f"{file}: {'.'.join(path)}" if path else f"{file}"
        if found["type"] == "missing":
            lines.append(f"{place}: missing")
        elif found["type"] == "value_error":
            lines.append(f"{place}: {message}")
        else:
            lines.append(f"{place}: {found['input']!r} given; {message} is accepted")
    return lines


def _override(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise JobError(f"--set {override}: key=value is wanted, as in learner.optimizer.lr=0.01")
    *parents, last = path.split(".")
    inside = raw
    for parent in parents:
        inner = inside.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise JobError(f"--set {override}: {parent} is {inner!r}, and has no keys in it")
        inside = inner
    inside[last] = yaml.load(text, Loader=_Loader)


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


class _Loader(yaml.SafeLoader):
    """YAML as people write it: ``3e-4`` is a number, and a key given twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
