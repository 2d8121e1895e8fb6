"""Compare a job without settings with other learners on tables of numbers and categories.

    python experiments/studies/columns.py --taxi chicago_taxi.csv.gz

Elec2 is part of the project. FILE of the taxi trips is the sample of 15,002 trips in Chicago that
comes with TensorFlow Extended, in time order, with ``big_tip`` as the label (a tip above a fifth of
the fare). Any other table is named by ``--table FILE LABEL DELAY``.

Every learner gets the same events in the same order, and each label ``DELAY`` events late. A run is
a process of its own with one thread, and one run follows the other. everlearn runs the job that
``learner:`` is left out of; once more without aggregates of labels, and once more with
micro-batches of 32 events (without settings they are as long as labels are late, up to 128). The
others are written here as their users write them:

* river's logistic regression, event by event, on scaled numbers and one-hot categories, with a
  category for each missing number, at three learning rates;
* river's adaptive random forest of 10 trees, event by event, with the running mean for each missing
  number;
* scikit-learn's gradient-boosted trees, trained anew on all known labels every 500 labels.

Scores are of predictions made before the label was known. CPU seconds and memory are those of
reading, predicting and learning, without the start of Python; memory is by how much the process
grew. All but everlearn read the file at once, by pyarrow, which is faster than ``iter_csv`` of
river.

Prints tables and writes them to experiments/results/columns.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch
import yaml
from numpy.typing import NDArray
from river import compose, linear_model, optim, preprocessing, stats
from river import forest as forests
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

import learners.rehearsal  # noqa: F401 (jobs load them by name; river is loaded by now, too)
import streams.files  # noqa: F401
from experiments.studies.comparison import Difference
from pipeline.config import job as jobs
from pipeline.training.builder import build

HERE = Path(__file__).parents[1]
RESULT = HERE / "results" / "columns.md"
ELEC2 = HERE.parent / "streams" / "data" / "elec2.parquet"
RETRAIN = 500
"""Labels between two trainings of the trees of scikit-learn."""
ONE_HOT = "river, one-hot logistic regression"
RAW = argparse.RawDescriptionHelpFormatter
TITLE = "# Tables of numbers and categories, without settings"
ABOUT = (
    "One pass, prequential, {seeds} seeds: mean ± standard deviation. Costs are medians of a "
    "process with one thread. Differences are paired by seed, with their 95% interval. Printed by "
    "`python experiments/studies/columns.py`."
)
METRICS = {"auc": "AUC", "log_loss": "log-loss", "accuracy": "accuracy"}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Event = dict[str, float | str | None]
Model = Any
"""Classifier or pipeline of river."""


class Task(NamedTuple):
    """A table to learn.

    Attributes:
        file: CSV or Parquet, its rows in time order.
        label: column to predict.
        delay: events between an event and its label.
        time: column of the times, which is no feature; None if there is none.
    """

    file: Path
    label: str
    delay: int
    time: str | None = None


class Table(NamedTuple):
    """A table in memory: n events, as the learners beside everlearn get them.

    Attributes:
        numbers: (n, p) float64, NaN where one is missing.
        texts: (n, q) text, empty where one is missing.
        names: of the p numbers, then of the q texts.
        y: (n,) int, 1 for the second class in alphabetical order.
    """

    numbers: Floats
    texts: NDArray[np.str_]
    names: list[str]
    y: Ints

    @classmethod
    def read(cls, task: Task) -> Table:
        table = (pq.read_table if task.file.suffix == ".parquet" else pa.csv.read_csv)(task.file)
        labels = pc.cast(table[task.label], pa.string()).to_numpy(zero_copy_only=False)
        dropped = {task.label, task.time} | {
            name for name in table.column_names if table[name].null_count == len(table)
        }
        numbers: list[str] = []
        texts: list[str] = []
        for name in table.column_names:
            if name not in dropped:
                kind = table[name].type
                is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
                (numbers if is_number else texts).append(name)
        x = [pc.cast(table[name], pa.float64()).to_numpy() for name in numbers]
        z = [pc.fill_null(pc.cast(table[name], pa.string()), "").to_pylist() for name in texts]
        classes = np.unique(labels)
        return cls(
            np.stack(x, axis=1) if x else np.empty((len(labels), 0)),
            np.array(z, np.str_).T if z else np.empty((len(labels), 0), np.str_),
            [*numbers, *texts],
            np.searchsorted(classes, labels),
        )

    def events(self) -> Iterator[Event]:
        """Yield each event as river takes it; a missing number is None."""
        for row, texts in zip(self.numbers.tolist(), self.texts.tolist(), strict=True):
            known = [None if number != number else number for number in row]
            yield dict(zip(self.names, [*known, *texts], strict=True))


def everlearn(settings: dict[str, Any], task: Task, events: int, seed: int) -> Floats:
    """Return the probabilities of a job that names a file, a label and its delay, and no more.

    ``settings`` are added to its stream.
    """
    stream: dict[str, Any] = {
        "path": str(task.file.resolve()),
        "label": task.label,
        "label_delay": {"events": task.delay},
        **settings,
    }
    if task.time:
        stream["time"] = task.time
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "columns.yaml"
        file.write_text(yaml.safe_dump({"seed": seed, "stream": stream}))
        parts = build(jobs.load(file, []))
    proba = np.full(events, 0.5)
    for batch in parts.reader.read({}):
        prediction = parts.loop.step(batch).prediction
        assert prediction is not None
        assert prediction.proba is not None
        if len(prediction.classes) == 2:
            second = int(np.argsort(np.array(prediction.classes, np.str_))[1])
            proba[batch.offset] = prediction.proba[:, second]
    return proba


def river_model(model: Model, events: Iterable[Event], labels: Ints, delay: int) -> Floats:
    """Return the probabilities of a river model that learns each label just when it is known."""
    proba = np.empty(len(labels))
    y = labels.tolist()
    waiting: deque[Event] = deque()
    for i, event in enumerate(events):
        if i >= delay:
            model.learn_one(waiting.popleft(), y[i - delay])
        known = model.predict_proba_one(event)
        proba[i] = known.get(1, 0.0) if known else 0.5
        waiting.append(event)
    return proba


def one_hot(rate: float, task: Task, events: int, seed: int) -> Floats:
    """Return the probabilities of river's logistic regression, which has no random numbers."""
    table = Table.read(task)
    numbers = compose.SelectType(float) | preprocessing.StandardScaler()
    texts = compose.SelectType(str) | preprocessing.OneHotEncoder()
    model = (numbers + texts) | linear_model.LogisticRegression(optim.SGD(rate))
    return river_model(model, map(marked, table.events()), table.y, task.delay)


def marked(event: Event) -> Event:
    """Return the event with a category for each number that is missing."""
    return {
        f"{name} missing" if value is None else name: "" if value is None else value
        for name, value in event.items()
    }


def forest(task: Task, events: int, seed: int) -> Floats:
    """Return the probabilities of river's adaptive random forest of 10 trees."""
    table = Table.read(task)
    names = table.names[: table.numbers.shape[1]]
    imputer = preprocessing.StatImputer(*[(name, stats.Mean()) for name in names])
    model = imputer | forests.ARFClassifier(n_models=10, seed=seed)
    return river_model(model, table.events(), table.y, task.delay)


def boosted_trees(task: Task, events: int, seed: int) -> Floats:
    """Return the probabilities of gradient-boosted trees, trained anew every 500 labels."""
    table = Table.read(task)
    numbers = table.numbers.shape[1]
    codes = [codes_in_order(column) for column in table.texts.T]
    x = np.column_stack([table.numbers, *codes])
    proba = np.full(len(table.y), 0.5)
    for known in range(RETRAIN, len(table.y) - task.delay, RETRAIN):
        model = HistGradientBoostingClassifier(
            categorical_features=list(range(numbers, x.shape[1])), random_state=seed
        )
        filled = np.where(np.isnan(x[:known]).all(0), 0, x)  # no trees on a column without values
        model.fit(filled[:known], table.y[:known])
        begin = known + task.delay
        stop = min(begin + RETRAIN, len(table.y))
        proba[begin:stop] = model.predict_proba(filled[begin:stop])[:, -1]
    return proba


def codes_in_order(column: NDArray[np.str_], most: int = 254) -> Floats:
    """Return the code of each text, in the order of their first events; later ones share a code."""
    seen: dict[str, int] = {}
    return np.array([min(seen.setdefault(text, len(seen)), most) for text in column], np.float64)


LEARNERS: dict[str, Callable[[Task, int, int], Floats]] = {
    "everlearn, no settings": partial(everlearn, {}),
    "everlearn, no aggregates": partial(everlearn, {"aggregates": "none"}),
    "everlearn, micro-batches of 32": partial(everlearn, {"batch_size": 32}),
    **{f"{ONE_HOT}, rate {rate}": partial(one_hot, rate) for rate in (0.01, 0.03, 0.1)},
    "river, adaptive random forest of 10": forest,
    "scikit-learn, boosted trees every 500 labels": boosted_trees,
}


def scores(proba: Floats, y: Ints) -> dict[str, float]:
    """Return the scores of probabilities (n,) of class 1."""
    right = np.clip(np.where(y == 1, proba, 1 - proba), 1e-7, 1)
    return {
        "auc": float(roc_auc_score(y, proba)),
        "log_loss": float(-np.log(right).mean()),
        "accuracy": float(np.mean((proba > 0.5) == y)),
    }


def run(learner: str, task: Task, seed: int) -> dict[str, float]:
    """Return scores and costs of one run, in a process that has done nothing else."""
    torch.set_num_threads(1)
    y = Table.read(task).y
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    proba = LEARNERS[learner](task, len(y), seed)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        **scores(proba, y),
        "events_per_s": len(y) / wall,
        "cpu_s": cpu,
        "memory_mb": grown / 1024,
    }


def apart(learner: str, task: Task, seed: int) -> dict[str, float]:
    """Return the result of ``run`` in a new process with one thread."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(run, learner, task, seed).result()


def compared(task: Task, seeds: int) -> Iterator[str]:
    """Run all learners on a table, and yield the lines of the result."""
    titles = [*METRICS.values(), "events/s", "CPU s", "MB"]
    first = next(iter(LEARNERS))
    others = [f"{title} to the first" for title in METRICS.values()]
    yield f"| learner | {' | '.join([*titles, *others])} |"
    yield "|---" * (len(titles) + len(others) + 1) + "|"
    results: dict[str, list[dict[str, float]]] = {name: [] for name in LEARNERS}
    for seed in range(seeds):  # in turn, so that all meet the same state of the machine
        for name, runs in results.items():
            if not runs or not name.startswith(ONE_HOT):
                runs.append(apart(name, task, seed))
    for name, runs in results.items():
        if name.startswith(ONE_HOT):
            runs *= seeds  # without random numbers, all seeds give the same
        cells = [spread([one[metric] for one in runs]) for metric in METRICS]
        cells += [f"{median(one['events_per_s'] for one in runs):,.0f}"]
        cells += [f"{median(one[cost] for one in runs):.1f}" for cost in ("cpu_s", "memory_mb")]
        for metric in METRICS:
            pairs = [[one[metric] for one in some] for some in (runs, results[first])]
            cells.append("" if name == first else difference(Difference.of(*pairs)))
        yield f"| {name} | {' | '.join(cells)} |"


def spread(values: Sequence[float]) -> str:
    """Return the mean, and the standard deviation of several values that differ."""
    if len(set(values)) < 2:
        return f"{values[0]:.4f}"
    return f"{mean(values):.4f} ± {stdev(values):.4f}"


def difference(one: Difference) -> str:
    """Return the mean of paired differences, with its 95% interval of several pairs."""
    if one.n < 2:
        return f"{one.mean:+.4f}"
    return f"{one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("--taxi", type=Path, metavar="FILE", help="the sample of taxi trips")
    parser.add_argument("--table", nargs=3, metavar=("FILE", "LABEL", "DELAY"), help="any other")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--without", action="append", default=[], metavar="TEXT")
    arguments = parser.parse_args()
    for text in arguments.without:
        for name in [name for name in LEARNERS if text in name]:
            del LEARNERS[name]
    tasks = {"Elec2, labels 48 events late": Task(ELEC2, "class", 48)}
    if arguments.taxi:
        taxi = Task(arguments.taxi, "big_tip", 100, "trip_start_timestamp")
        tasks["Chicago taxi trips, labels 100 events late"] = taxi
    if arguments.table:
        file, label, delay = arguments.table
        tasks[f"{file}, labels {delay} events late"] = Task(Path(file), label, int(delay))
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    lines = [TITLE, "", ABOUT.format(seeds=arguments.seeds), ""]
    for name, task in tasks.items():
        lines += [f"## {name}", ""]
        for line in compared(task, arguments.seeds):
            lines.append(line)
            print(line, flush=True)
        lines.append("")
    RESULT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
