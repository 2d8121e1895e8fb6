"""One cell of a benchmark: a scenario, a learner and a seed, run in the same loop as any job.

A cell has a folder of its own. What it found stands in ``result.json`` with a fingerprint of all
that shaped it, so that a bench that was killed goes on with the cells that are not there yet.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import yaml

import learners
from learners.base import Learner, LearnerError
from learners.registry import UnknownKindError, find
from pipeline.bench.measure import Budget, Progress, Tested, measure
from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob, add_import_path, check, override
from pipeline.config.yaml_file import read_yaml
from pipeline.storage.run_folder import RunFolder, write_atomic
from pipeline.training.builder import Parts, build
from pipeline.training.errors import RunError
from pipeline.training.event_fates import LedgerError
from pipeline.training.versions import versions
from streams.core.errors import StreamError, one_line
from streams.core.settings import unknown
from streams.scenarios.catalog import SCENARIOS

FORMAT = 1
"""Of a cell's result; one of another format is run anew."""
BATCH = 10
"""Events in a micro-batch: what the literature on online continual learning takes."""
RESULT = "result.json"
_FILES = (RESULT, "metrics.jsonl", "stability.jsonl", "track.json", "error.log")
_NAME = 80  # characters of a name of a folder that are kept

# Learning rates by the accuracy of replay at the end, on the last fifth of the training rows of
# each class, which was held out; the tests had no part in it.
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
"""The network that learners share, how it is trained, and what those that remember may remember, by
data set."""
_LIKE = {"fashion-mnist": "mnist"}


class Cell(NamedTuple):
    """One scenario, one learner, one seed; scenario and learner as they were asked for."""

    scenario: str
    learner: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where its files are, in the folder of the bench."""
        return Path(_plain(self.scenario), f"{_plain(self.learner)}-seed-{self.seed}")

    def __str__(self) -> str:
        return f"{self.scenario} {self.learner} seed {self.seed}"


def job_of(cell: Cell, overrides: Sequence[str] = ()) -> LoadedJob:
    """The job that a cell runs. Raises ``JobError``.

    A scenario is the name of one, or a YAML file with what would stand under ``stream:``. A learner
    is a kind, or ``kind:key=value,key=value`` with settings of its own. Networks, buffers and
    optimizers are the same for all learners of a scenario unless one is told otherwise. Import
    paths start from the folder of the YAML file, else from the one that we are in.
    """
    stream, folder = _stream_of(cell)
    add_import_path(folder)
    kind, settings = _learner_of(cell.learner)
    dataset = stream.get("dataset", SCENARIOS.get(str(stream.get("name")), {}).get("dataset"))
    raw: dict[str, Any] = {
        "name": _plain(f"{cell.scenario}-{cell.learner}-{cell.seed}"),
        "seed": cell.seed,
        "stream": {"batch_size": BATCH, **stream},
        "learner": {"kind": kind, **_shared(kind, str(dataset))},
    }
    for setting in [*(f"learner.{setting}" for setting in settings), *overrides]:
        override(raw, setting)
    place = Path(f"bench {cell.scenario} {cell.learner}")
    loaded = check(raw, place, folder)
    if not hasattr(loaded.stream, "task_test"):
        raise JobError(f"{place}: a {loaded.job.stream.kind} stream has no tasks to test on")
    if "seed" in type(loaded.job.stream).model_fields and "seed" not in raw["stream"]:
        raw["stream"]["seed"] = cell.seed
        loaded = check(raw, place, folder)
    return loaded


def _stream_of(cell: Cell) -> tuple[dict[str, Any], Path]:
    """What stands under ``stream:``, and the folder that its paths start from."""
    if cell.scenario.endswith((".yaml", ".yml")):
        file = Path(cell.scenario)
        stream = read_yaml(file)
        if not isinstance(stream, dict):
            raise JobError(f"{file}: a mapping is wanted, what stands under stream: in a job")
        return stream, file.resolve().parent
    if cell.scenario not in SCENARIOS:
        raise JobError(f"unknown scenario {unknown(cell.scenario, SCENARIOS)}, or a YAML file")
    return {"kind": "scenario", "name": cell.scenario}, Path.cwd()


def _learner_of(text: str) -> tuple[str, list[str]]:
    """The kind, and settings of its own. An import path has a colon too: ``module:Class``. A comma
    in brackets belongs to a value: ``model.hidden=[64,64]``."""
    kind, *parts = text.split(":")
    if parts and "=" not in parts[0]:
        kind, *parts = f"{kind}:{parts[0]}", *parts[1:]
    return kind, _parted(":".join(parts))


def _parted(settings: str) -> list[str]:
    """The settings between commas that stand in no bracket."""
    found, depth, start = [], 0, 0
    for place, character in enumerate(settings):
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth:
            found.append(settings[start:place])
            start = place + 1
    return [*found, settings[start:]] if settings else []


def _shared(kind: str, dataset: str) -> dict[str, Any]:
    """What all learners of a data set have alike, as far as this one knows it."""
    try:
        known = find(learners.KINDS, Learner, kind).Config.model_fields  # type: ignore[type-abstract]
    except UnknownKindError:
        return {}  # the check of the job will say so
    if "steps" not in known:  # another family, whose keys mean something else
        return {}
    shared = _SHARED.get(_LIKE.get(dataset, dataset), _SHARED["digits"])
    settings = {**deepcopy(dict(shared)), "steps": 1, "replay_size": BATCH}
    return {key: value for key, value in settings.items() if key in known}


def built(loaded: LoadedJob) -> Parts:
    """The job of a cell, built. Raises ``JobError``, also where its tasks cannot be tested on."""
    parts = build(loaded)
    try:
        if parts.stream.schema.task != "classification" or not cast(Tested, parts.stream).begins:
            raise StreamError("a stream of tasks with classes is wanted")
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
    """Runs a cell, or finds what it found before; its result as it stands in ``results.json``.

    Args:
        cell: which.
        loaded: its job.
        budget: how it is measured.
        out: folder of the bench.
        progress: is told of events done, and events in all.

    Raises:
        JobError: the job cannot be run.
        RunError: it failed on the way.
    """
    torch.set_num_threads(loaded.job.threads)
    folder = out / cell.folder
    mark = fingerprint(loaded, budget)
    if (old := finished(folder, mark)) is not None:
        return old
    parts = built(loaded)
    place = f"{loaded.file}, seed {cell.seed}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        (folder / "job.yaml").write_text(yaml.safe_dump(loaded.raw, sort_keys=False))
        found = measure(parts, budget, folder, progress)
        result = {"scenario": cell.scenario, "learner": cell.learner, "seed": cell.seed, **found}
        text = json.dumps({"format": FORMAT, "fingerprint": mark, "result": result})
        write_atomic(folder / RESULT, text)
    except (StreamError, LearnerError, LedgerError) as error:
        raise RunError(f"{place}: {one_line(error)}") from None
    except OSError as error:
        raise RunError(f"{place}: {error.strerror or error}: {error.filename or folder}") from None
    except (Exception, SystemExit) as error:  # a defect, of ours or of a user's class
        log = RunFolder(folder).log()
        what = f"{type(error).__name__}: {one_line(error)} (details: {log})"
        raise RunError(f"{place}: {what}") from error
    return result


def fingerprint(loaded: LoadedJob, budget: Budget) -> str:
    """Of all that shapes the numbers of a cell: settings, versions, and the files that its stream
    and its learner are written in."""
    shaped = [loaded.fingerprint(), budget.every, budget.tests, versions(), _sources(loaded)]
    return hashlib.sha256(json.dumps(shaped, sort_keys=True).encode()).hexdigest()[:16]


def _sources(loaded: LoadedJob) -> list[str]:
    """A hash of each file that the classes of a job, and what they inherit from, are written in."""
    classes = [*loaded.stream.__mro__, *loaded.learner.__mro__]
    files = {getattr(sys.modules[cls.__module__], "__file__", None) for cls in classes}
    return sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if file)


def finished(folder: Path, mark: str) -> dict[str, Any] | None:
    """The result that a cell of this fingerprint left in its folder."""
    try:
        kept = json.loads((folder / RESULT).read_text())
        if (kept["format"], kept["fingerprint"]) == (FORMAT, mark):
            return cast(dict[str, Any], kept["result"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _plain(name: str) -> str:
    """A name that may name a folder and a job; of a long one its beginning, and a hash of it."""
    kept = "".join(c if (c.isascii() and c.isalnum()) or c in ".-_" else "-" for c in name)
    kept = kept.strip("._-") or "cell"
    if len(kept) > _NAME:
        kept = f"{kept[:_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return kept
