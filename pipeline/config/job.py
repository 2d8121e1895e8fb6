"""A job: what a YAML file says, checked before anything starts."""

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
from pipeline.config.errors import JobError
from pipeline.config.former_names import current_fingerprint, log_former_names, other_spelling
from pipeline.config.sections import (
    Checkpointing,
    Evaluate,
    ServeConfig,
    TrackConfig,
)
from pipeline.config.yaml_file import parse, shown, values
from streams.core.errors import one_line
from streams.core.settings import Settings, unknown
from streams.core.stream import Stream
from streams.core.stream_config import StreamConfig


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
    threads: PositiveInt = Field(1, le=1024)
    stream: StreamConfig
    learner: LearnerConfig
    evaluate: Evaluate = Evaluate()
    checkpoint: Checkpointing = Checkpointing()
    track: TrackConfig | None = None
    serve: ServeConfig | None = None


class LoadedJob:
    """A job with the classes that it names, the folder that its paths start from, and the text of
    it, overrides included, as ``check`` takes it elsewhere."""

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
        self.raw = raw
        self.stream = stream
        self.learner = learner
        self.file = file
        self.folder = folder

    def on(self, device: str) -> LoadedJob:
        """The same job on another device."""
        job = self.job.model_copy(update={"device": device})
        return LoadedJob(job, self.stream, self.learner, self.file, self.folder, self.raw)

    def text(self) -> str:
        """The job as a file, with every default spelt out."""
        said = self.job.model_dump(mode="json", serialize_as_any=True)
        return yaml.safe_dump(said, sort_keys=False)

    def values(self) -> dict[str, Any]:
        """Every key of the job, flat, with its value; defaults spelt out."""
        return flat(self.job.model_dump(mode="json", serialize_as_any=True))

    def fingerprint(self) -> dict[str, Any]:
        """Every key that shapes the state, flat, with its value; defaults spelt out."""
        beside = {"name", "checkpoint", "track", "serve"}
        found = flat(self.job.model_dump(mode="json", exclude=beside, serialize_as_any=True))
        del found["evaluate.probes.every_events"]  # when they are asked about leaves no trace
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
    """Reads a job file, applies ``key=value`` overrides, and checks it. Raises ``JobError``."""
    raw = values(file)
    if not isinstance(raw, dict):
        raise JobError(f"{file}: a job is a mapping with name, stream and learner")
    folder = file.resolve().parent
    importable(folder)
    for setting in overrides:
        override(raw, setting)
    loaded = check(raw, file, folder)
    log_former_names(raw, {"stream": loaded.stream.Config, "learner": loaded.learner.Config})
    return loaded


def importable(folder: Path) -> None:
    """Lets import paths start from this folder."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: nothing of a user's may shadow what is installed
        importlib.invalidate_caches()


def check(raw: dict[str, Any], file: Path, folder: Path) -> LoadedJob:
    """Validates a job; the settings of stream and learner by the classes that it names."""
    problems: list[str] = []
    data = dict(raw)
    stream = _class(data, "stream", streams.KINDS, Stream, file, problems)
    learner = _class(data, "learner", learners.KINDS, Learner, file, problems)
    for part, cls in (("stream", stream), ("learner", learner)):
        if cls is not None:
            try:
                data[part] = cls.Config.model_validate(data[part])
            except ValidationError as error:
                problems += _lines(error, file, data[part], (part,))
            except Exception as error:  # whatever the validators of a user's class may raise
                problems.append(f"{file}: {part}: {type(error).__name__}: {one_line(error)}")
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
    if delay is not None and delay >= job.stream.label_timeout_events:
        raise JobError(
            f"{file}: stream.label_timeout_events: events expire after "
            f"{job.stream.label_timeout_events} later ones, but labels come after {delay}: make it "
            "larger than stream.label_delay.events"
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
    spec = data.get(part)
    if not isinstance(spec, dict) or not isinstance(spec.get("kind"), str):
        given = "nothing" if spec is None else shown(spec)
        problems.append(f"{file}: {part}: {given} given; a mapping with a kind is wanted")
        return None
    try:
        return find(kinds, base, spec["kind"])
    except UnknownKindError as error:
        problems.append(f"{file}: {part}.kind: {one_line(error)}")
        return None


def _lines(error: ValidationError, file: Path, data: Any, at: tuple[str, ...]) -> list[str]:
    """What pydantic found, as ``file: path.inside: given; what is accepted``."""
    lines = []
    for found in error.errors():
        path, inside = [*at], data
        for step in found["loc"]:
            # pydantic names the branch of a union in the path; the job file knows no such step
            known = isinstance(inside, dict) and step in inside
            listed = isinstance(inside, list) and isinstance(step, int) and step < len(inside)
            if known or listed:
                inside = inside[step]
                path.append(str(step))
            elif step == found["loc"][-1]:
                path.append(str(step))
        message = one_line(
            found["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        )
        place = f"{file}: {one_line('.'.join(path))}" if path else f"{file}"
        if found["type"] == "missing":
            lines.append(f"{place}: missing")
        elif found["type"] == "value_error":
            lines.append(f"{place}: {message}")
        elif found["type"] == "union_tag_invalid" and isinstance(found["input"], dict):
            kinds = [kind.strip(" '") for kind in found["ctx"]["expected_tags"].split(",")]
            lines.append(f"{place}.kind: {unknown(str(found['ctx']['tag']), kinds)}")
        elif found["type"] == "union_tag_invalid":
            lines.append(f"{place}: {shown(found['input'])} given; a mapping with a kind is wanted")
        else:
            lines.append(f"{place}: {shown(found['input'])} given; {message} is accepted")
    return lines


def override(raw: dict[str, Any], setting: str) -> None:
    """Puts ``key=value``, as in ``learner.optimizer.lr=0.01``, into a job, in place of its value
    under a former name too. Raises ``JobError``."""
    path, equals, text = setting.partition("=")
    given = f"--set {one_line(setting[:100])}"
    if not equals:
        raise JobError(f"{given}: key=value is wanted, as in learner.optimizer.lr=0.01")
    *parents, last = path.split(".")
    inside = raw
    for parent in parents:
        inner = inside.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise JobError(f"{given}: {one_line(parent)} is {shown(inner)}, and has no keys in it")
        inside = inner
    inside[last] = parse(text, given)
    if len(parents) == 1 and (other := other_spelling(raw, parents[0], last)):
        inside.pop(other, None)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A job's values by their path in it, ``learner.optimizer.lr``."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
