"""A job: the contents of a YAML file, validated before anything starts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, PositiveInt, StringConstraints, ValidationError

import learners
import streams
from learners.base import Learner, LearnerConfig
from learners.registry import UnknownKindError, find
from pipeline.config.defaults import with_defaults
from pipeline.config.encoder_settings import check_encoders
from pipeline.config.errors import JobError
from pipeline.config.former_names import current_fingerprint, log_former_names, other_spelling
from pipeline.config.sections import (
    CheckpointConfig,
    EncodersConfig,
    EvaluateConfig,
    ServeConfig,
    TrackConfig,
)
from pipeline.config.validation_errors import describe_errors
from pipeline.config.yaml_file import parse_yaml, read_yaml, shown
from streams.core.errors import one_line
from streams.core.settings import Settings
from streams.core.stream import Stream
from streams.core.stream_config import StreamConfig

_OF_LEARNER = ("backbone", "head", "retrieval")
"""Keys under ``learner`` at which a text is short for a mapping with this kind."""


class Job(Settings):
    """A job. A file may leave out its name and its learner (``pipeline/config/defaults.py``).

    Attributes:
        name: name of the job; the default run folder is ``runs/NAME``.
        seed: seed of every random generator of the run.
        device: torch device on which networks are trained.
        threads: number of threads of torch; more than one seldom helps small models.
        encoders: where the encoders of the stream's columns run; a number is that of ``workers``.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    seed: int = Field(0, ge=0, lt=2**63)
    device: str = "cpu"
    threads: PositiveInt = Field(1, le=1024)
    stream: StreamConfig
    learner: LearnerConfig
    encoders: EncodersConfig = EncodersConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    track: TrackConfig | None = None
    serve: ServeConfig | None = None


class LoadedJob:
    """A validated job with the classes that it names.

    Attributes:
        job: the settings.
        stream: class of the stream.
        learner: class of the learner.
        file: the job file, as messages name it.
        folder: the folder that relative paths and import paths start from.
        raw: the plain values of the job, with overrides and with what it left out; ``check``
            validates them again on another machine.
    """

    def __init__(
        self,
        job: Job,
        stream: type[Stream],
        learner: type[Learner],
        file: Path,
        folder: Path,
        raw: dict[str, Any],
    ) -> None:
        self.job = job
        self.stream = stream
        self.learner = learner
        self.file = file
        self.folder = folder
        self.raw = raw

    def on_device(self, device: str) -> LoadedJob:
        """Return the same job for another device, also of its encoders."""
        gpus = 0.0 if device == "cpu" else self.job.encoders.gpus
        encoders = self.job.encoders.model_copy(update={"gpus": gpus})
        job = self.job.model_copy(update={"device": device, "encoders": encoders})
        return LoadedJob(job, self.stream, self.learner, self.file, self.folder, self.raw)

    def text(self) -> str:
        """Return the job as YAML, with every default written out."""
        settings = self.job.model_dump(mode="json", serialize_as_any=True)
        return yaml.safe_dump(settings, sort_keys=False)

    def values(self) -> dict[str, Any]:
        """Return every key of the job, flat, with its value; defaults are included."""
        return flat(self.job.model_dump(mode="json", serialize_as_any=True))

    def fingerprint(self) -> dict[str, Any]:
        """Every key that shapes the state, flat, with its value; defaults spelt out."""
        beside = {"name", "checkpoint", "track", "serve", "encoders"}
        found = flat(self.job.model_dump(mode="json", exclude=beside, serialize_as_any=True))
        del found["evaluate.probes.every_events"]  # when they are asked about leaves no trace
        if self.job.stream.encoder is None:  # as in jobs of before there were any
            del found["stream.encoder"]
        for name in self.job.stream.runtime_only_keys:
            for key in [k for k in found if f"{k}.".startswith(f"stream.{name}.")]:
                del found[key]
        without: set[str] = set()
        if not self.job.evaluate.probes.share:
            without |= {key for key in found if key.startswith("evaluate.probes.")}
            without.remove("evaluate.probes.share")
        if not self.job.evaluate.once_seen.share:  # as in jobs of before there were any
            without |= {key for key in found if key.startswith("evaluate.once_seen.")}
        return {key: value for key, value in found.items() if key not in without}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each key in which two fingerprints differ. What was not there when a checkpoint
    was written, and is null in the job, is the same; so is a key under its former name."""
    missing = "not set"
    old = current_fingerprint(old, new)
    return [
        f"{key}: {old.get(key, missing)} in the checkpoint, {new.get(key, missing)} in the job"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def load(file: Path, overrides: Sequence[str] = ()) -> LoadedJob:
    """Read a job file, apply ``key=value`` overrides and validate it. Raises ``JobError``."""
    raw = read_yaml(file)
    if not isinstance(raw, dict):
        raise JobError(f"{file}: expected a mapping with a stream")
    folder = file.resolve().parent
    add_import_path(folder)
    for setting in overrides:
        override(raw, setting)
    loaded = check(raw, file, folder)
    configs = {"stream": loaded.stream.Config, "learner": loaded.learner.Config}
    log_former_names(loaded.raw, configs)
    return loaded


def add_import_path(folder: Path) -> None:
    """Let import paths start from this folder."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: a user's module must not shadow an installed one
        importlib.invalidate_caches()


def check(raw: dict[str, Any], file: Path, folder: Path) -> LoadedJob:
    """Validate a job, its stream and its learner by the classes that it names.

    Args:
        raw: the plain values of the job; ``with_defaults`` adds what it leaves out.
        file: the job file, as messages name it.
        folder: the folder that relative paths and import paths start from.

    Raises ``JobError`` with a line for each problem.
    """
    problems: list[str] = []
    raw = with_defaults(raw, file)
    data = dict(raw)
    stream = _class(data, "stream", streams.KINDS, Stream, file, problems)
    learner = _class(data, "learner", learners.KINDS, Learner, file, problems)
    for part, cls in (("stream", stream), ("learner", learner)):
        if cls is not None:
            try:
                data[part] = cls.Config.model_validate(data[part])
            except ValidationError as error:
                names = cls.Config.former_names()
                written = {names.get(key, key): value for key, value in data[part].items()}
                problems += describe_errors(error, file, written, (part,))
            except Exception as error:  # the validators of a user's class may raise anything
                problems.append(f"{file}: {part}: {type(error).__name__}: {one_line(error)}")
    if isinstance(data.get("stream"), StreamConfig) and data["stream"].encoder is not None:
        encoder = check_encoders(data["stream"].encoder, file, problems)
        data["stream"] = data["stream"].model_copy(update={"encoder": encoder})
    parts = {k: v for k, v in data.items() if k not in ("stream", "learner")}
    base = {"stream": StreamConfig(kind="?"), "learner": LearnerConfig(kind="?")}
    try:
        job = Job.model_validate({**parts, **base})
    except ValidationError as error:
        problems += describe_errors(error, file, parts, ())
    if problems or stream is None or learner is None:
        raise JobError("\n".join(problems))
    job = job.model_copy(update={"stream": data["stream"], "learner": data["learner"]})
    delay = job.stream.label_delay.events
    if delay is not None and delay >= job.stream.label_timeout_events:
        raise JobError(
            f"{file}: stream.label_timeout_events: events expire after "
            f"{job.stream.label_timeout_events} later events, but labels arrive {delay} events "
            "later: set it above stream.label_delay.events"
        )
    return LoadedJob(job, stream, learner, file, folder, raw)


def _class(
    data: dict[str, Any],
    part: str,
    kinds: Mapping[str, str],
    base: type[Any],
    file: Path,
    problems: list[str],
) -> Any:
    """Return the class of a part by its kind; None, with a problem added, where there is none."""
    spec = data.get(part)
    if not isinstance(spec, dict) or not isinstance(spec.get("kind"), str):
        value = "nothing" if spec is None else shown(spec)
        or_else = " or a path" if part == "stream" else ""
        problems.append(f"{file}: {part}: expected a mapping with a kind{or_else}, got {value}")
        return None
    try:
        return find(kinds, base, spec["kind"])
    except UnknownKindError as error:
        problems.append(f"{file}: {part}.kind: {one_line(error)}")
        return None


def override(raw: dict[str, Any], setting: str) -> None:
    """Set a key of a job by ``learner.optimizer.lr=0.01``, whatever its spelling in the job.

    Raises ``JobError``.
    """
    path, equals, text = setting.partition("=")
    place = f"--set {one_line(setting[:100])}"
    if not equals:
        raise JobError(f"{place}: expected key=value, as in learner.optimizer.lr=0.01")
    *parents, last = path.split(".")
    inside = raw
    for depth, parent in enumerate(parents, 1):
        inner = inside.get(parent)
        if inner is None:
            inner = {}
        elif isinstance(inner, str) and _names_a_kind(parents[:depth]):
            inner = {"kind": inner}
        if not isinstance(inner, dict):
            raise JobError(f"{place}: {one_line(parent)} is {shown(inner)}, and has no keys in it")
        inside[parent] = inner
        inside = inner
    inside[last] = parse_yaml(text, place)
    if len(parents) == 1 and (other := other_spelling(raw, parents[0], last)):
        inside.pop(other, None)


def _names_a_kind(path: Sequence[str]) -> bool:
    """Whether a text at this path of a job is short for a mapping with this kind."""
    if path[0] == "learner":
        return len(path) == 1 or (len(path) == 2 and path[1] in _OF_LEARNER)
    return path[:2] == ["stream", "encoder"] and len(path) <= 3


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a job by their path in it, as in ``learner.optimizer.lr``."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values
