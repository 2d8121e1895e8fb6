"""One cell of a benchmark: a scenario, a learner and a seed, run in the same loop as any job, with
what is known of every task measured on its test events as the stream goes on.

A cell has a folder of its own. What it found stands in ``result.json`` with a fingerprint of all
that shaped it, so that a bench that was killed goes on with the cells that are not there yet.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
import yaml

import learners
from learners.learner import Learner, LearnerError, line
from learners.registry import UnknownKind, find
from pipeline.build import Parts, build, state_digest
from pipeline.folder import write_whole
from pipeline.job import JobError, LoadedJob, check, importable, override, values
from pipeline.rows import Rows
from pipeline.run import RunError, versions
from pipeline.stability.continual import Curves
from pipeline.stability.plasticity import plasticity
from streams.batch import Array, Batch
from streams.scenarios import SCENARIOS
from streams.settings import unknown
from streams.stream import StreamError

FORMAT = 1
"""Of a cell's result; one of another format is run anew."""
BATCH = 10
"""Events in a micro-batch: what the literature on online continual learning takes."""
POINTS = 10
"""Evaluations in a phase of the stream, where nothing else is stated."""
_AT_ONCE = 1024  # test events that are predicted at a time
_LOOKED_INTO = 1000  # that plasticity is measured on

_NETWORK: Mapping[str, Mapping[str, Any]] = {
    "mnist": {"model": {"kind": "mlp", "hidden": [512]}, "capacity": 1000},
    "fashion-mnist": {"model": {"kind": "mlp", "hidden": [512]}, "capacity": 1000},
    "cifar-10": {"model": {"kind": "conv"}, "capacity": 1000},
    "digits": {"model": {"kind": "mlp", "hidden": [128]}, "capacity": 100},
    "outdoor": {"model": {"kind": "mlp", "hidden": [128]}, "capacity": 400},
    "clinc150": {"model": {"kind": "mlp", "hidden": [128]}, "capacity": 1500},
}
"""The network that learners share, and what those that remember may remember, by data set."""


class Tested(Protocol):
    """What a stream must have to be a benchmark, beside what every stream has.

    Attributes:
        tasks: how many there are.
        begins: first row and task of each phase of the stream.
        domain_incremental: whether a task may be tested before it has begun.
    """

    tasks: int
    begins: Sequence[tuple[int, int]]
    domain_incremental: bool

    def task_test(self, task: int) -> Batch: ...


class Cell(NamedTuple):
    """One scenario, one learner, one seed; scenario and learner as they were asked for."""

    scenario: str
    learner: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where its files are, in the folder of the bench."""
        return Path(_plain(self.scenario), _plain(self.learner), f"seed-{self.seed}")


@dataclass(frozen=True, slots=True)
class Budget:
    """How a bench measures.

    Attributes:
        every: events between two evaluations; None: a tenth of the first phase.
        tests: test events of each task at most; None: all.
    """

    every: int | None = None
    tests: int | None = 2000


def job_of(cell: Cell, overrides: Sequence[str] = ()) -> LoadedJob:
    """The job that a cell runs. Raises ``JobError``.

    A scenario is the name of one, or a YAML file with what would stand under ``stream:``. A learner
    is a kind, or ``kind:key=value,key=value`` with settings of its own. Networks, buffers and
    optimizers are the same for all learners of a scenario unless one is told otherwise.
    """
    place = Path(f"bench {cell.scenario} {cell.learner}")
    folder = Path.cwd()
    if cell.scenario.endswith((".yaml", ".yml")):
        file = Path(cell.scenario)
        stream = values(file)
        if not isinstance(stream, dict):
            raise JobError(f"{file}: what stands under stream: in a job is wanted")
        folder = file.resolve().parent
        importable(folder)
    elif cell.scenario in SCENARIOS:
        stream = {"kind": "scenario", "name": cell.scenario}
    else:
        raise JobError(f"unknown scenario {unknown(cell.scenario, SCENARIOS)}, or a YAML file")
    stream = {"batch_size": BATCH, "seed": cell.seed, **stream}
    kind, settings = _learner_of(cell.learner)
    raw: dict[str, Any] = {
        "name": _plain(f"{cell.scenario}-{cell.learner}-{cell.seed}"),
        "seed": cell.seed,
        "stream": stream,
        "learner": {"kind": kind},
    }
    dataset = stream.get("dataset", SCENARIOS.get(str(stream.get("name")), {}).get("dataset"))
    raw["learner"] |= _shared(kind, str(dataset))
    for setting in settings:
        override(raw, f"learner.{setting}")
    for setting in overrides:
        override(raw, setting)
    return check(raw, place, folder)


def _learner_of(text: str) -> tuple[str, list[str]]:
    """The kind, and settings of its own. An import path has a colon too: ``module:Class``."""
    parts = text.split(":")
    if len(parts) > 1 and "=" not in parts[1]:
        parts = [":".join(parts[:2]), *parts[2:]]
    settings = ":".join(parts[1:])
    return parts[0], settings.split(",") if settings else []


def _shared(kind: str, dataset: str) -> dict[str, Any]:
    """What all learners of a data set have alike, as far as this one knows it."""
    try:
        known = find(learners, Learner, kind).Config.model_fields  # type: ignore[type-abstract]
    except UnknownKind:
        return {}  # the check of the job will say so
    network = _NETWORK.get(dataset, _NETWORK["digits"])
    settings = {
        "model": network["model"],
        "optimizer": {"kind": "sgd", "lr": 0.03 if dataset == "cifar-10" else 0.1},
        "steps": 1,
        "replay_size": BATCH,
        "buffer": {"capacity": network["capacity"]},
    }
    if "steps" not in known:  # another family, whose keys mean something else
        return {}
    return {key: value for key, value in settings.items() if key in known}


def run_cell(
    cell: Cell,
    loaded: LoadedJob,
    budget: Budget,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
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
    parts = build(loaded)
    if not hasattr(parts.stream, "task_test"):
        raise JobError(f"{loaded.file}: a {loaded.job.stream.kind} stream has no tasks to test on")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("metrics.jsonl", "stability.jsonl", "track.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(loaded.raw, sort_keys=False))
    try:
        found = _Measured(parts, budget, folder).run(progress)
    except (StreamError, LearnerError) as error:
        raise RunError(f"{loaded.file}, seed {cell.seed}: {line(error)}") from None
    result = {"scenario": cell.scenario, "learner": cell.learner, "seed": cell.seed, **found}
    text = json.dumps({"format": FORMAT, "fingerprint": mark, "result": result})
    write_whole(folder / "result.json", text)
    return result


def fingerprint(loaded: LoadedJob, budget: Budget) -> str:
    """Of all that shapes the numbers of a cell."""
    shaped = [loaded.fingerprint(), budget.every, budget.tests, versions()]
    return hashlib.sha256(json.dumps(shaped, sort_keys=True).encode()).hexdigest()[:16]


def finished(folder: Path, mark: str) -> dict[str, Any] | None:
    """The result that a cell of this fingerprint left in its folder."""
    try:
        kept = json.loads((folder / "result.json").read_text())
        if (kept["format"], kept["fingerprint"]) == (FORMAT, mark):
            return cast(dict[str, Any], kept["result"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


class _Measured:
    """One pass over a stream, with evaluations on the way."""

    def __init__(self, parts: Parts, budget: Budget, folder: Path) -> None:
        self.parts, self.loop = parts, parts.loop
        self.stream = cast(Tested, parts.stream)
        self.total = len(parts.stream)
        tests = [self.stream.task_test(task) for task in range(self.stream.tasks)]
        self.tests = [_some(test, budget.tests) for test in tests]
        begins = [*self.stream.begins, (self.total, -1)]
        self.every = budget.every or max(1, (begins[1][0] - begins[0][0]) // POINTS)
        self.curves = Curves()
        self.events: list[int] = []
        self.accuracy: list[list[float | None]] = []
        self.order = list(dict.fromkeys(task for _, task in self.stream.begins))
        self.begun = 0  # of these
        self.seconds = 0.0  # of learning, evaluations left out
        self.rows = [Rows(folder / name, print) for name in ("metrics.jsonl", "stability.jsonl")]

    def run(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        untrained = self._all() if self.stream.domain_incremental else None
        begins = [*self.stream.begins, (self.total, -1)]
        for (start, task), (stop, _) in pairwise(begins):
            known = self.order.index(task)
            first = math.nan if untrained is None else untrained[task]
            self.curves.begin(first, known if known < self.begun else None)
            self.begun = max(self.begun, known + 1)
            due = (start // self.every + 1) * self.every
            then = time.perf_counter()
            for batch in self._batches(start, stop):
                self.loop.step(batch)
                if self.loop.events >= due and self.loop.events < stop:
                    due = (self.loop.events // self.every + 1) * self.every
                    self.seconds += time.perf_counter() - then
                    self._evaluate(ended=False)
                    progress(self.loop.events, self.total)
                    then = time.perf_counter()
            if stop == self.total:
                self.loop.finish(self.parts.source.size)
            self.seconds += time.perf_counter() - then
            self._evaluate(ended=True)
            progress(self.loop.events, self.total)
        for rows in self.rows:
            rows.close()
        return self._found()

    def _batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Micro-batches of one phase; the last is as short as it comes out."""

        def blocks() -> Iterator[Batch]:
            at = start
            for block in self.parts.source.blocks({"0": start}):
                yield block[: stop - at]
                at += len(block)
                if at >= stop:
                    return

        return self.parts.source.batches(blocks())

    def _all(self) -> Array:
        """(tasks,) accuracy on each task as of now; those to come too where that means anything,
        NaN where it does not."""
        learner = self.loop.learner
        code = {name: i for i, name in enumerate(learner.classes)}
        found = np.full(len(self.tests), np.nan)
        for task, test in enumerate(self.tests):
            if task not in self.order[: self.begun] and not self.stream.domain_incremental:
                continue
            assert test.y is not None
            y = np.array([code.get(name, -2) for name in test.classes])[test.y]
            values = [learner.predict(part).value for part in test.micro_batches(_AT_ONCE)]
            found[task] = float(np.mean(np.concatenate(values) == y))
        return found

    def _evaluate(self, ended: bool) -> None:
        accuracy = self._all()
        events = self.loop.events
        self.curves.add(events, accuracy[self.order], ended)
        self.events.append(events)
        self.accuracy.append(_jsonable(accuracy))
        online, stability = self.rows
        system = {"system/events_per_s": events / max(self.seconds, 1e-9)}
        online.write(events, {**self.loop.results(), **system})
        found = self.curves.results().named() | self._inside()
        stability.write(events, found)

    def _inside(self) -> dict[str, float]:
        """The plasticity of the network, on events of the task begun last."""
        test = self.tests[self.order[self.begun - 1]]
        return plasticity(self.loop.learner, test[:_LOOKED_INTO])

    def _found(self) -> dict[str, Any]:
        learner, loop = self.loop.learner, self.loop
        named = self.curves.results().named()
        metrics = {name.split("/")[1]: value for name, value in named.items()}
        if not self.stream.domain_incremental:
            metrics.pop("fwt", None)
        matrix = np.full((len(self.curves.matrix), len(self.tests)), np.nan)
        matrix[:, self.order] = self.curves.matrix
        return {
            "metrics": {
                **metrics,
                **{name.split("/")[1]: value for name, value in self._inside().items()},
                **{name.replace("/", "_"): value for name, value in loop.results().items()},
            },
            "matrix": [_jsonable(row) for row in matrix],
            "evaluations": {"events": self.events, "accuracy": self.accuracy},
            "events": loop.events,
            "gradient_steps": learner.gradient_steps,
            "buffer_bytes": learner.buffer_bytes,
            "memory_bytes": learner.memory_bytes(),
            "state_digest": None if learner.opaque else state_digest(self.parts.state()),
            "seconds": round(self.seconds, 3),
        }


def _some(test: Batch, most: int | None) -> Batch:
    """A part of the test events of a task, the same each time, in their order."""
    if most is None or len(test) <= most:
        return test
    rows = np.random.default_rng(0).choice(len(test), most, replace=False)
    return test.take(np.sort(rows))


def _jsonable(values: Array) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _plain(name: str) -> str:
    """A name that may name a folder and a job."""
    kept = "".join(c if c.isalnum() or c in ".-" else "-" for c in name).strip(".-")
    return kept or "cell"
