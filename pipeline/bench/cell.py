"""One cell of a benchmark: a scenario, a learner and a seed, run in the same loop as any job.

A cell has a folder. Its result is in ``result.json``, with a fingerprint of everything that shaped
it: a killed bench continues with the cells that have no result.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

import learners
from learners.base import Learner, LearnerError
from learners.networks.base import NetworkConfig
from learners.pretrained.encoders.registry import encoder_class
from learners.registry import UnknownKindError, find
from pipeline.bench.encoder_contents import encoder_contents
from pipeline.bench.measure import Budget, Progress, TaskStream, measure
from pipeline.config.encoder_settings import encoder_settings
from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob, add_import_path, check, override
from pipeline.config.yaml_file import read_yaml
from pipeline.models.threads import set_threads
from pipeline.storage.run_folder import RunFolder, write_atomic
from pipeline.training.builder import Parts, build
from pipeline.training.errors import RunError
from pipeline.training.event_fates import LedgerError
from pipeline.training.versions import versions
from streams.core.errors import StreamError, one_line
from streams.core.settings import unknown
from streams.integrations.sequences import SCENARIOS as SEQUENCES
from streams.scenarios.catalog import SCENARIOS
from streams.scenarios.downloads import cache

FORMAT = 2
"""Format of ``result.json``; a cell with another format runs again."""
BATCH = 10
"""Events in a micro-batch, as in the literature on online continual learning."""
FEATURES = "features"
"""Folder of the shared cache of encoders."""
RESULT = "result.json"
_ENCODER = "stream.encoder"
_FILES = (RESULT, "metrics.jsonl", "stability.jsonl", "track.json", "error.log")
_NAME = 80  # longest name of a folder, before the hash

# Learning rates are chosen by the final accuracy of replay on a held-out fifth of the training rows
# of each class (the last ones); the test data is not used.
_SHARED: Mapping[str, Mapping[str, Any]] = {
    "mnist": {
        "model": {"kind": "mlp", "hidden": [512]},
        "optimizer": {"kind": "sgd", "lr": 0.1},
        "buffer": {"capacity": 1000},
    },
    "cifar-10": {
        "model": {"kind": "conv"},
        "optimizer": {"kind": "sgd", "lr": 0.03},
        "buffer": {"capacity": 1000},
    },
    "digits": {
        "model": {"kind": "mlp", "hidden": [128]},
        "optimizer": {"kind": "sgd", "lr": 0.1},
        "buffer": {"capacity": 100},
    },
    "outdoor": {
        "model": {"kind": "mlp", "hidden": [128]},
        "optimizer": {"kind": "sgd", "lr": 0.3},
        "buffer": {"capacity": 400},
    },
    "clinc150": {
        "model": {"kind": "mlp", "hidden": [128]},
        "optimizer": {"kind": "adam", "lr": 0.01},
        "buffer": {"capacity": 1500},
    },
}
"""Network, optimizer and buffer that all learners share, by data set."""
_OF_VECTORS: Mapping[str, Any] = {
    "model": {"kind": "mlp", "hidden": [128]},
    "optimizer": {"kind": "adam", "lr": 0.003},
}
"""Network and optimizer for the vectors of an encoder."""
_LIKE = {"fashion-mnist": "mnist"}


class Cell(NamedTuple):
    """One scenario, one learner and one seed, by the names of the command line."""

    scenario: str
    learner: str
    seed: int

    @property
    def folder(self) -> Path:
        """Return its folder, relative to that of the bench."""
        return Path(_plain(self.scenario), f"{_plain(self.learner)}-seed-{self.seed}")

    def __str__(self) -> str:
        return f"{self.scenario} {self.learner} seed {self.seed}"


def job_of(cell: Cell, overrides: Sequence[str] = ()) -> LoadedJob:
    """Return the job of a cell. Raises ``JobError``.

    A scenario is the name of one, or a YAML file with the contents of ``stream:``. A learner is a
    kind, or ``kind:key=value,key=value`` with settings. All learners of a scenario share network,
    optimizer and buffer, except for their own settings. Import paths start from the folder of the
    YAML file, or from the current folder.
    """
    stream, folder = _stream_of(cell)
    add_import_path(folder)
    kind, settings = _learner_of(cell.learner)
    dataset = stream.get("dataset", SCENARIOS.get(str(stream.get("name")), {}).get("dataset"))
    encoded = "encoder" in stream or any(text.startswith(_ENCODER) for text in overrides)
    raw: dict[str, Any] = {
        "name": _plain(f"{cell.scenario}-{cell.learner}-{cell.seed}"),
        "seed": cell.seed,
        "stream": {"batch_size": BATCH, **stream},
        "learner": {"kind": kind, **_shared(kind, str(dataset), encoded)},
    }
    for setting in [*(f"learner.{setting}" for setting in settings), *overrides]:
        override(raw, setting)
    place = Path(f"bench {cell.scenario} {cell.learner}")
    loaded = _with_cache(check(raw, place, folder))
    if not hasattr(loaded.stream, "task_test"):
        raise JobError(f"{place}: a {loaded.job.stream.kind} stream has no tasks to test on")
    if "seed" in type(loaded.job.stream).model_fields and "seed" not in raw["stream"]:
        loaded.raw["stream"]["seed"] = cell.seed
        loaded = check(loaded.raw, place, folder)
    return loaded


def _with_cache(loaded: LoadedJob) -> LoadedJob:
    """Return the job of a cell whose encoders, if it has any, share a cache on the disk: that of
    the job, else a folder beside the data sets that were downloaded."""
    job = loaded.job
    if job.stream.encoder is None or job.encoders.cache.folder is not None:
        return loaded
    encoders = job.encoders.model_dump(mode="json")
    encoders["cache"]["folder"] = str(cache(FEATURES))
    return check({**loaded.raw, "encoders": encoders}, loaded.file, loaded.folder)


def _stream_of(cell: Cell) -> tuple[dict[str, Any], Path]:
    """Return the contents of ``stream:``, and the folder that its paths start from."""
    if cell.scenario.endswith((".yaml", ".yml")):
        file = Path(cell.scenario)
        stream = read_yaml(file)
        if not isinstance(stream, dict):
            raise JobError(f"{file}: expected a mapping, the contents of stream: in a job")
        return stream, file.resolve().parent
    if cell.scenario in SEQUENCES:
        return dict(SEQUENCES[cell.scenario]), Path.cwd()
    if cell.scenario not in SCENARIOS:
        names = [*SCENARIOS, *SEQUENCES]
        raise JobError(f"unknown scenario {unknown(cell.scenario, names)}, or a YAML file")
    return {"kind": "scenario", "name": cell.scenario}, Path.cwd()


def _learner_of(text: str) -> tuple[str, list[str]]:
    """Return the kind of a learner, and its settings.

    An import path has a colon too: ``module:Class``. A comma in brackets is part of a value:
    ``model.hidden=[64,64]``.
    """
    kind, *parts = text.split(":")
    if parts and "=" not in parts[0]:
        kind, *parts = f"{kind}:{parts[0]}", *parts[1:]
    return kind, _split_settings(":".join(parts))


def _split_settings(settings: str) -> list[str]:
    """Split settings at the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(settings):
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth:
            parts.append(settings[start:i])
            start = i + 1
    return [*parts, settings[start:]] if settings else []


def _shared(kind: str, dataset: str, encoded: bool) -> dict[str, Any]:
    """Return the settings that all learners of a data set share, as far as a kind has them.

    ``encoded``: learners see the vectors of an encoder, and not the data set.
    """
    try:
        cls = find(learners.KINDS, Learner, kind)  # type: ignore[type-abstract]
        known = cls.Config.model_fields
    except UnknownKindError:
        return {}  # validating the job reports it
    other = "sequences" in cls.handles or not {"steps", "model"} <= known.keys()
    if other:  # another family: its keys have other meanings
        return {}
    shared = _SHARED.get(_LIKE.get(dataset, dataset), _SHARED["digits"])
    if encoded:
        shared = {**_OF_VECTORS, "buffer": shared["buffer"]}
    settings = {**deepcopy(dict(shared)), "steps": 1, "replay_size": BATCH}
    if "model" in known and known["model"].default != NetworkConfig.model_fields["model"].default:
        del settings["model"]  # the method is one of this model, as a linear probe
    return {key: value for key, value in settings.items() if key in known}


def build_cell(loaded: LoadedJob) -> Parts:
    """Build the job of a cell. Raises ``JobError``, also for a stream without test tasks."""
    parts = build(loaded)
    try:
        begins = cast(TaskStream, parts.stream).begins
        if parts.stream.schema.task != "classification" or not begins:
            raise StreamError("a bench needs a stream of classification tasks")
    except StreamError as error:
        raise JobError(f"{loaded.file}: {one_line(error)}") from None
    return parts


def run_cell(
    cell: Cell,
    loaded: LoadedJob,
    budget: Budget,
    out: Path,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Run a cell, or read its earlier result; return the entry of ``results.json``.

    Args:
        cell: the cell.
        loaded: its job.
        budget: how it is measured.
        out: folder of the bench.
        progress: called with the events done and the total.

    Raises:
        JobError: the job cannot be built.
        RunError: the run failed.
    """
    set_threads(loaded.job.threads)
    folder = out / cell.folder
    mark = fingerprint(loaded, budget)
    if (old := read_result(folder, mark)) is not None:
        return old
    parts = build_cell(loaded)
    place = f"{loaded.file}, seed {cell.seed}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        (folder / "job.yaml").write_text(yaml.safe_dump(loaded.raw, sort_keys=False))
        measured = measure(parts, budget, folder, progress)
        result = {"scenario": cell.scenario, "learner": cell.learner, "seed": cell.seed, **measured}
        text = json.dumps({"format": FORMAT, "fingerprint": mark, "result": result})
        write_atomic(folder / RESULT, text)
    except (StreamError, LearnerError, LedgerError) as error:
        raise RunError(f"{place}: {one_line(error)}") from None
    except OSError as error:
        raise RunError(f"{place}: {error.strerror or error}: {error.filename or folder}") from None
    except (Exception, SystemExit) as error:  # a defect, here or in a user's class
        log = RunFolder(folder).log()
        what = f"{type(error).__name__}: {one_line(error)} (details: {log})"
        raise RunError(f"{place}: {what}") from error
    return result


def fingerprint(loaded: LoadedJob, budget: Budget) -> str:
    """Return a hash of all that shapes the numbers of a cell: settings, versions, the source files
    of its stream and learner, and what its encoders are made of."""
    shaped = [
        loaded.fingerprint(),
        budget.every,
        budget.tests,
        versions(),
        _sources(loaded),
        encoder_contents(loaded),
    ]
    return hashlib.sha256(json.dumps(shaped, sort_keys=True).encode()).hexdigest()[:16]


def _sources(loaded: LoadedJob) -> list[str]:
    """Return a hash of each source file of the classes of a job and their bases."""
    classes = [*loaded.stream.__mro__, *loaded.learner.__mro__]
    for settings in encoder_settings(loaded.job.stream.encoder):
        classes += encoder_class(settings["kind"]).__mro__
    files = {getattr(sys.modules[cls.__module__], "__file__", None) for cls in classes}
    return sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if file)


def read_result(folder: Path, mark: str) -> dict[str, Any] | None:
    """Return the result of a cell with this fingerprint in its folder, or None."""
    try:
        kept = json.loads((folder / RESULT).read_text())
        if (kept["format"], kept["fingerprint"]) == (FORMAT, mark):
            return cast(dict[str, Any], kept["result"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _plain(name: str) -> str:
    """Return a name that is valid for a folder and a job: a long one is cut, with a hash."""
    kept = "".join(c if (c.isascii() and c.isalnum()) or c in ".-_" else "-" for c in name)
    kept = kept.strip("._-") or "cell"
    if len(kept) > _NAME:
        kept = f"{kept[:_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return kept
