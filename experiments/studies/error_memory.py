"""What a memory of recent errors brings on streams of clicks, over a frozen and a learning base.

    python experiments/studies/error_memory.py elec2 --seeds 1 --only frozen "frozen, memory"

One pass in micro-batches of 32, predicted before the labels are known. Rows that are *frozen* learn
the first 60% of the labels. Scores are of the last 40%, and of ten slots of it. All learners have
their defaults, which were chosen on the first half of the last 40%, for all streams alike.

MovieLens-100K is found as docs/scenarios.md says. ``EVERLEARN_DATA`` names the folder of
chicago_taxi.csv.gz; without it that stream is left out. Writes
experiments/results/error_memory.md. A run that was stopped continues; --finished prints what it has
so far.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

import streams.files  # noqa: F401 (jobs load it by name, before the clock runs)
from experiments.studies.click_scores import (
    Floats,
    Ints,
    Predicted,
    difference_table,
    points,
    score_table,
    scored,
    slot_table,
)
from experiments.studies.comparison import common, write_section
from pipeline.bench.bench import Results
from pipeline.config import job as jobs
from pipeline.config.default_learner import default_settings
from pipeline.config.errors import JobError
from pipeline.storage.run_folder import write_atomic
from pipeline.training.builder import Parts, build
from streams.core.batch import Batch
from streams.core.errors import StreamError
from streams.core.hashing import category_keys
from streams.core.state_dict import bytes_of

HERE = Path(__file__).parents[1]
RESULT = HERE / "results" / "error_memory.md"
TRAINED = 0.6
"""The share of a stream after which a frozen base learns no more."""
MOST_SEEDS = 100
ONCE = ("neighbours alone", "popularity with decay", "ftrl")
"""Rows without random numbers: of a stream that has none either, one seed tells all."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A stream of the tables.

    Attributes:
        short: its name.
        title: what stands above the table.
        note: what else is to be said.
        stream: the keys under ``stream:`` of a job.
        events: in the stream.
        group: the column whose values are the groups of the gAUC; empty: there are none.
        item: the column whose values are popular or not; empty: there is none.
        trained: events after which a frozen base learns no more, and from which on is scored.
    """

    short: str
    title: str
    note: str
    stream: Mapping[str, Any]
    events: int
    group: str = ""
    item: str = ""
    trained: int = 0

    @property
    def begin(self) -> int:
        """The first event that is scored."""
        return self.trained or round(TRAINED * self.events)


def streams_known() -> dict[str, Setting]:
    """Return the streams by name."""
    elec2 = {"path": str(HERE.parent / "streams" / "data" / "elec2.parquet"), "label": "class"}
    taxi = Path(os.environ.get("EVERLEARN_DATA", "."), "chicago_taxi.csv.gz")
    trips = {"path": str(taxi), "label": "big_tip", "time": "trip_start_timestamp"}
    return {
        "digits-label-flips": Setting(
            "Digits",
            "Digits, even or odd; 2 and 7 change sides",
            "8,000 events, each of 1,343 digits about six times, which helps a memory. Labels flip "
            "after 2,000 events, when *frozen* rows cease to learn.",
            {"kind": "scenario", "name": "digits-label-flips"},
            8000,
            trained=2000,
        ),
        "movielens": Setting(
            "MovieLens",
            "MovieLens-100K: a rating of 4 stars or more is a click",
            "100,000 events in the order of their times, labels 100 late. gAUC is by user.",
            {"kind": "movielens-100k", "label_delay": {"events": 100}},
            100_000,
            group="user",
            item="item",
        ),
        "taxi": Setting(
            "Taxi",
            "Chicago taxi trips: a large tip",
            "15,002 events in the order of their times, labels 100 late. gAUC is by company.",
            {"kind": "recorded", **trips, "label_delay": {"events": 100}},
            15_002,
            group="company",
            item="company",
        ),
        "elec2": Setting(
            "Elec2",
            "Elec2: does the price rise",
            "45,312 half-hours, labels 48 late.",
            {"kind": "recorded", **elec2, "label_delay": {"events": 48}},
            45_312,
        ),
    }


def rows_of(setting: Setting) -> dict[str, Settings]:
    """Return the learner of each row of a stream, as it stands under ``learner:``."""
    base = default_settings()
    frozen = {"frozen_after": setting.begin}
    clicks: Settings = {"kind": "click-model"}

    def wrapped(kind: str, **settings: Any) -> Settings:
        return {"kind": kind, "base": deepcopy(base), **settings}

    sketch = {"memory": "sketch"}
    rows = {
        "frozen": wrapped("error-memory", **frozen, **{"lambda": 0}),
        "frozen, residuals": wrapped("segment-residuals", **frozen),
        "frozen, memory": wrapped("error-memory", **frozen),
        "frozen, memory as a sketch": wrapped("error-memory", **frozen, **sketch),
        "frozen, memory over residuals": {
            **wrapped("error-memory"),
            "base": wrapped("segment-residuals", **frozen),
        },
        "incremental": base,
        "incremental, residuals": wrapped("segment-residuals"),
        "incremental, memory": wrapped("error-memory"),
        "incremental, memory as a sketch": wrapped("error-memory", **sketch),
        "neighbours alone": {"kind": "error-memory", "base": "prior", "lambda": 1, "shrink": 0},
        "popularity with decay": {"kind": "segment-residuals", "base": "prior"},
        "ftrl": {"kind": "ftrl"},
        **{name: {**clicks, "model": {"kind": name}} for name in ("fm", "dnn", "deepfm", "dcn-v2")},
    }
    if setting.item:
        rows["popularity with decay"]["by"] = [setting.item]
    else:
        del rows["popularity with decay"]
    return rows


class Pass(NamedTuple):
    """What one pass over a stream gave.

    Attributes:
        predicted: of each event.
        seconds: of CPU.
        size: bytes of the state of the learner and of what stands before it.
        metrics: what the learner says of itself.
    """

    predicted: Predicted
    seconds: float
    size: int
    metrics: dict[str, float]


def job_of(setting: Setting, learner: Settings, seed: int, folder: Path) -> jobs.LoadedJob:
    """Return the job of a cell, written to a file of the folder. Raises ``JobError``."""
    stream = {"batch_size": 32, "aggregates": "none", **setting.stream}
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump({"seed": seed, "stream": stream, "learner": learner}))
    return jobs.load(file, [f"stream.seed={seed}"] if stream["kind"] == "scenario" else [])


def passed(parts: Parts, group: str, most: int | None) -> Pass:
    """Run a job over its stream, or the first ``most`` events of it."""
    began = time.process_time()
    probas: list[Floats] = []
    ys: list[Ints] = []
    groups: list[Ints] = []
    done = 0
    for batch in parts.reader.read({}):
        prediction = parts.loop.step(batch).prediction
        assert prediction is not None
        assert prediction.proba is not None
        assert batch.y is not None
        column = [str(name) for name in prediction.classes]
        names = sorted({*map(str, batch.classes), *column})
        second = names[-1]
        proba = np.full(len(batch), 0.5)
        if len(column) == 2:
            proba = prediction.proba[:, column.index(second)].astype(np.float64)
        probas.append(np.where(np.isfinite(proba), proba, 0.5))
        ys.append(np.array([str(name) == second for name in batch.classes], np.int64)[batch.y])
        groups.append(_groups(batch, group))
        done += len(batch)
        if most is not None and done >= most:
            break
    loop = parts.loop
    size = loop.learner.memory_bytes() + sum(bytes_of(part.state()) for part in loop.operators)
    predicted = Predicted(*(np.concatenate(each) for each in (probas, ys, groups)))
    return Pass(predicted, time.process_time() - began, size, loop.learner.metrics())


def _groups(batch: Batch, name: str) -> Ints:
    """Return (n,) the groups of events."""
    if not name:
        return np.zeros(len(batch), np.int64)
    assert isinstance(batch.x, dict)
    return category_keys(batch.x[name])


def staleness(setting: Setting, name: str) -> float:
    """Return how many events old the newest label is that a prediction depends on, in the mean."""
    delay = setting.stream.get("label_delay", {}).get("events", 0)
    newest = max(delay, 1) + 15.5  # a model is the same within a micro-batch of 32
    since = (setting.events - setting.begin) / 2
    return newest + since if name == "frozen" else newest


class Study:
    """The cells of a stream, in a folder.

    Args:
        name: of the stream.
        setting: of the stream.
        out: the folder of the study.
        most: events of each cell; None: all.
    """

    def __init__(self, name: str, setting: Setting, out: Path, most: int | None = None) -> None:
        self.setting = setting
        self.rows = rows_of(setting)
        self._folder = out / name
        self._most = most
        self._known: dict[Path, dict[str, Any]] = {}

    def run(self, seeds: int, only: Sequence[str] = ()) -> None:
        """Run the cells that are not finished, one seed after the other.

        Args:
            seeds: how many, counted from 0.
            only: the rows to run; empty: all.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for seed in range(seeds):
            for name in self.rows:
                certain = name in ONCE and self.setting.stream["kind"] != "scenario"
                known = self._file(name, 0 if certain else seed).exists()
                if (not only or name in only) and not known:
                    try:
                        self._cell(name, seed)
                    except (JobError, StreamError) as error:
                        print(f"{name} is left out: {error}")

    def _cell(self, name: str, seed: int) -> None:
        setting = self.setting
        parts = build(job_of(setting, self.rows[name], seed, self._folder))
        run = passed(parts, setting.group, self._most)
        costs = {"seed": seed, "cpu_seconds": run.seconds, "state_bytes": run.size}
        file = self._file(name, seed)
        proba, y, group = run.predicted
        columns = {"proba": proba.astype(np.float32), "y": y > 0, "group": group}
        np.savez_compressed(file.with_suffix(".npz"), **columns)
        write_atomic(file, json.dumps({**costs, "learner": run.metrics}))
        print(f"{setting.title}: {name}, seed {seed}: {self._scored(file)['metrics']}", flush=True)

    def _file(self, name: str, seed: int) -> Path:
        """Return where the costs of a cell are, with its predictions beside them; another job has
        another place."""
        stream = {key: value for key, value in self.setting.stream.items() if key != "path"}
        shaped = [self.rows[name], stream, self.setting.begin, self._most]
        mark = hashlib.sha256(json.dumps(shaped, sort_keys=True).encode()).hexdigest()[:8]
        return self._folder / f"{name.replace(' ', '_')}-{mark}-{seed}.json"

    def _scored(self, file: Path) -> dict[str, Any]:
        """Return the scores and costs of a cell."""
        if file not in self._known:
            with np.load(file.with_suffix(".npz")) as kept:
                proba, y = kept["proba"].astype(np.float64), kept["y"].astype(np.int64)
                predicted = Predicted(proba, y, kept["group"])
            begin = min(self.setting.begin, len(y) // 2)
            self._known[file] = {**json.loads(file.read_text()), **scored(predicted, begin)}
        return self._known[file]

    def finished(self) -> dict[str, Results]:
        """Return the results of cells that have finished, by row and in order of seeds."""
        found = {}
        for name in self.rows:
            files = (self._file(name, seed) for seed in range(MOST_SEEDS))
            if results := [self._scored(file) for file in files if file.exists()]:
                found[name] = results
        return found

    def section(self) -> list[str]:
        """Return the lines of the stream in the results."""
        found = self.finished()
        return [
            f"\n## {self.setting.title}\n",
            f"{self.setting.note} Scores are of events {self.setting.begin:,} to "
            f"{self.setting.events:,}.",
            "",
            *score_table(found, partial(staleness, self.setting)),
            "",
            *difference_table(found, PAIRS),
            "",
            *slot_table(found),
        ]


PAIRS = {
    "frozen: residuals": ("frozen, residuals", "frozen"),
    "frozen: memory": ("frozen, memory", "frozen"),
    "frozen: memory as a sketch": ("frozen, memory as a sketch", "frozen"),
    "frozen: memory over residuals": ("frozen, memory over residuals", "frozen, residuals"),
    "incremental: residuals": ("incremental, residuals", "incremental"),
    "incremental: memory": ("incremental, memory", "incremental"),
    "incremental: memory as a sketch": ("incremental, memory as a sketch", "incremental"),
    "frozen with memory, less incremental": ("frozen, memory", "incremental"),
}
"""Rows whose difference is of interest, and what it shows."""


def head_of(studies: Mapping[str, Study]) -> str:
    """Return what stands above the sections: the verdict, from what has finished."""
    texts = []
    for study in studies.values():
        found, gains = study.finished(), []
        for what in ("frozen: memory", "frozen: residuals", "incremental: memory"):
            name, other = PAIRS[what]
            if pairs := common(found.get(name, []), found.get(other, [])):
                gains.append(f"{what} {points(pairs, 'auc')}")
        if gains:
            texts.append(f"{study.setting.short}: {'; '.join(gains)}.")
    return f"# Error memories\n\n{VERDICT} AUC added. {' '.join(texts)}\n\n{ABOUT}\n"


VERDICT = (
    "A memory repairs a frozen base where labels change their meaning; where they do not it adds "
    "little, most so to a base that keeps learning. On MovieLens residuals by segment add more."
)
ABOUT = """One pass in micro-batches of 32, predicted before the labels are known. Rows that are
*frozen* learn no label after the first 60%; *residuals* are those of the columns, *memory* are the
labels of similar events. *staleness* is the age, in events, of the newest label that a prediction
depends on. *calibration* is the sum of the probabilities over the number of clicks. Scores are mean
± standard deviation over seeds. Differences are paired by seed, with their 95% interval. By
`python experiments/studies/error_memory.py`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = streams_known()
    parser.add_argument("streams", nargs="*", default=list(known), metavar="stream")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/error_memory"))
    parser.add_argument("--only", nargs="*", default=[], help="rows to run")
    parser.add_argument("--finished", action="store_true", help="run nothing")
    parser.add_argument("--most", type=int, help="events of each run")
    given = parser.parse_args()
    if unknown := set(given.streams) - set(known):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    torch.set_num_threads(1)
    studies = {name: Study(name, known[name], given.out, given.most) for name in known}
    order = [setting.title for setting in known.values()]
    for study in (studies[name] for name in given.streams):
        if not given.finished:
            study.run(given.seeds, given.only)
        if study.finished():
            lines = study.section()
            write_section(RESULT, head_of(studies), study.setting.title, lines, order)
            print("\n".join(lines))


if __name__ == "__main__":
    main()
