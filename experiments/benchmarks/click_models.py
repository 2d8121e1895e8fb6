"""Time click models: FTRL beside river's, and networks in a run beside plain torch loops.

    python experiments/benchmarks/click_models.py [--events 50000] [--rounds 3]

Generated clicks have six categories of 50 to 20,000 values, most of them seldom, and a click
depends on pairs of them. All programs use one thread and take turns of 8,192 events, so that a
change of the machine's speed affects all alike.

*FTRL*: river predicts and learns event by event from dictionaries that were made before. Ours gets
texts, hashes them in blocks as a run does, predicts a micro-batch and learns it.

*Networks*: the plain loops are written by hand with torch. They have the events in memory, with
each value as a row of its embedding already. They do only what the model needs: predict a
micro-batch, then take a step on the one before, whose labels are known by now, with the rates of
the run. One moves the rows that it read, by SparseAdam; the other moves the whole table, by Adam in
one kernel. The run reads the same events from Parquet, hashes values, admits them to a table of
bounded size, joins labels, scores every prediction, and writes a checkpoint every 50,000 events and
at the end. Times are of the processor, all threads together, without the first micro-batches, at
which torch imports parts of itself.

Prints events a second of each and the ratio to the faster loop, round by round, and writes both to
experiments/results/click_models.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
import yaml
from numpy.typing import NDArray
from river import linear_model, optim
from sklearn.metrics import roc_auc_score

from learners.networks.embedding_table import EMBEDDING_RATE
from learners.networks.optimizer import Adam
from learners.recommenders.click_model import ClickModelConfig
from learners.recommenders.ftrl import Ftrl, FtrlConfig
from learners.recommenders.networks.base import RowLayout
from learners.recommenders.networks.dcn_v2 import DcnV2
from learners.recommenders.networks.deepfm import DeepFm
from pipeline.config import job as jobs
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop, StepResult
from pipeline.training.run import Run
from streams.core.batch import Batch, Ragged
from streams.core.hashing import hash_categories
from streams.core.schema import Feature, Schema

RESULT = Path(__file__).parents[1] / "results" / "click_models.md"
SLICE = 8192
VALUES = (20_000, 20_000, 2_000, 500, 100, 50)
NAMES = [f"c{i}" for i in range(len(VALUES))]
DIMENSION, BLOCK = 8, 4096
BATCHES, CHECKPOINT = (128, 512), 50_000
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def clicks(n: int) -> tuple[Ints, Ints]:
    """Return values (n, columns) and clicks (n,)."""
    rng = np.random.default_rng(3)
    shares = [rng.zipf(1.3, n) % values for values in VALUES]
    x = np.stack(shares, 1)
    taste = rng.normal(size=(7, 5))
    odds = taste[x[:, 0] % 7, x[:, 1] % 5] * 1.5 + (x[:, 3] % 3) * 0.5 - 2
    return x, (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(np.int64)


def river_ftrl(x: Ints, y: Ints) -> Iterator[Floats]:
    """Run river's FTRL event by event. Yield the probabilities so far every 8,192 events."""
    events = [dict.fromkeys((f"{j}={v}" for j, v in enumerate(row)), 1.0) for row in x.tolist()]
    optimizer = optim.FTRLProximal(alpha=0.1, beta=1.0, l1=0.0, l2=0.0)
    model = linear_model.LogisticRegression(optimizer)
    proba = np.zeros(len(x))
    yield proba[:0]
    for i, (event, label) in enumerate(zip(events, y.tolist(), strict=True)):
        if i and not i % SLICE:
            yield proba[:i]
        proba[i] = model.predict_proba_one(event)[True]
        model.learn_one(event, bool(label))
    yield proba


def our_ftrl(x: Ints, y: Ints, size: int) -> Iterator[Floats]:
    """Run ours by micro-batches. Yield what ``river_ftrl`` yields."""
    schema = Schema(tuple(Feature(name, "categorical") for name in NAMES), "classification", (0, 1))
    learner = Ftrl(FtrlConfig(kind="ftrl"), schema, 0)
    columns = [Ragged.of_text(map(str, column)) for column in x.T.tolist()]
    proba, offset = np.zeros(len(x)), np.arange(len(x))
    partition = np.zeros(len(x), np.int32)
    values = dict(zip(NAMES, columns, strict=True))
    events = Batch(offset, offset * 1.0, values, partition, offset, y, classes=(0, 1))
    yield proba[:0]
    for start in range(0, len(x), BLOCK):
        if start and not start % SLICE:
            yield proba[:start]
        block = hash_categories(events[start : start + BLOCK], NAMES)
        for low in range(0, len(block), size):
            batch = block[low : low + size]
            answer = learner.predict(batch).proba
            assert answer is not None
            proba[start + low : start + low + size] = answer[:, 1]
            learner.observe(batch)
            learner._learn(batch)
    yield proba


def in_turn(programs: list[Iterator[Floats]], events: int) -> tuple[list[float], list[Floats]]:
    """Return the seconds of each program, and what it predicted."""
    last = [next(program) for program in programs]  # set up
    seconds = [0.0] * len(programs)
    for _ in range(-(-events // SLICE)):
        for i, program in enumerate(programs):
            start = time.process_time()
            last[i] = next(program)
            seconds[i] += time.process_time() - start
    return seconds, last


class Size(NamedTuple):
    """What a network and its micro-batches are.

    Attributes:
        kind: of the network.
        batch: events of a micro-batch, and how late labels are.
    """

    kind: str
    batch: int

    def network(self) -> DcnV2 | DeepFm:
        """Return the settings of the network."""
        return {"dcn-v2": DcnV2, "deepfm": DeepFm}[self.kind]()


def plain(size: Size, x: Ints, y: Ints, sparse: bool) -> Iterator[Floats]:
    """Run a plain loop. Yield the probabilities so far every 8,192 events, and at the end."""
    torch.manual_seed(7)
    config, batch, rates = (
        size.network(),
        size.batch,
        ClickModelConfig(kind="click-model").optimizer,
    )
    assert isinstance(rates, Adam)
    assert rates.lr_start is not None
    assert rates.lr_steps is not None
    first = np.concatenate([[0], np.cumsum(VALUES)[:-1]])
    codes = torch.from_numpy(x + first)
    table = torch.nn.Embedding(sum(VALUES), DIMENSION + config.weighted, sparse=sparse)
    torch.nn.init.normal_(table.weight, std=0.05)
    net = config.network(RowLayout(0, len(VALUES), DIMENSION, config.weighted))
    bias = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([*net.parameters(), bias], rates.lr, fused=True)
    kind = torch.optim.SparseAdam if sparse else partial(torch.optim.Adam, fused=True)
    of_table = kind(table.parameters(), EMBEDDING_RATE * rates.lr)
    labels = torch.from_numpy(y).float()
    proba = np.zeros(len(x))

    def odds(rows: slice) -> torch.Tensor:
        embedded = table(codes[rows]).flatten(1)
        return net.logit(embedded, net(embedded)) + bias

    for low in range(0, len(x), batch):
        if low and not low % SLICE:
            yield proba[:low]
        rows, known = slice(low, low + batch), slice(low - batch, low)
        with torch.inference_mode():
            proba[rows] = torch.sigmoid(odds(rows)).numpy()
        if low:
            rate = rates.lr + (rates.lr_start - rates.lr) / (1 + low / batch / rates.lr_steps)
            optimizer.param_groups[0]["lr"] = rate
            of_table.param_groups[0]["lr"] = EMBEDDING_RATE * rate
            optimizer.zero_grad()
            of_table.zero_grad()
            F.binary_cross_entropy_with_logits(odds(known), labels[known]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            of_table.step()
    yield proba


class InTurn(Callback):
    """Let plain loops continue whenever the run has done as much, and time all.

    Attributes:
        ours: seconds of the run.
        theirs: seconds of each loop.
        last: what each of them predicted so far.
    """

    def __init__(self, others: list[Iterator[Floats]]) -> None:
        self._others = others
        self.ours = self._since = 0.0
        self.theirs = [0.0] * len(others)
        self._next = SLICE
        self.last = [np.zeros(0)] * len(others)

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        if not self._since:  # set up, and the first micro-batch done
            self._since = time.process_time()
        if loop.events >= self._next:
            self._next += SLICE
            self.turn()

    def turn(self) -> None:
        """End the time of the run, and let each plain loop take its turn."""
        start = time.process_time()
        self.ours += start - self._since
        for i, other in enumerate(self._others):
            self.last[i] = next(other, self.last[i])
            end = time.process_time()
            self.theirs[i] += end - start
            start = end
        self._since = start


def run_beside_plain(size: Size, x: Ints, y: Ints, folder: Path) -> tuple[float, str]:
    """Return the ratio of the rates of a run and of the faster loop, and a row of the table."""
    columns = zip(NAMES, x.T.tolist(), strict=True)
    table = pa.table({name: [f"v{v}" for v in column] for name, column in columns})
    pq.write_table(table.append_column("click", pa.array(y)), folder / "clicks.parquet")
    job = {
        "name": "clicks",
        "stream": {
            "path": str(folder / "clicks.parquet"),
            "label": {"column": "click", "classes": [0, 1]},
            "features": {"categorical": NAMES},
            "label_delay": {"events": size.batch},
            "batch_size": size.batch,
            "aggregates": "none",
        },
        "learner": {"kind": "click-model", "model": {"kind": size.kind}},
        "checkpoint": {"every_events": CHECKPOINT},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    for sparse in (True, False):
        list(plain(size, x[:2048], y[:2048], sparse))  # torch imports what its optimizers need
    turns = InTurn([plain(size, x, y, sparse) for sparse in (True, False)])
    run = Run(jobs.load(folder / "job.yaml"), folder / f"run-{time.time_ns()}", print)
    metrics = run.run(callbacks=[turns])["metrics"]
    turns.turn()
    ours, (rows, whole) = len(x) / turns.ours, (len(x) / seconds for seconds in turns.theirs)
    ratio = ours / max(rows, whole)
    by_hand = [f"{roc_auc_score(y, proba):.4f}" for proba in turns.last]
    return ratio, (
        f"| {size.kind} | {size.batch} | {ours:,.0f} | {rows:,.0f} | {whole:,.0f} | {ratio:.2f} | "
        f"{metrics['online/auc']:.4f} | {' | '.join(by_hand)} |"
    )


def ftrl_rows(x: Ints, y: Ints) -> tuple[float, list[str]]:
    """Return the ratio at micro-batches of 256, and rows of the table."""
    sizes = (1, 32, 256)
    programs = [river_ftrl(x, y), *(our_ftrl(x, y, size) for size in sizes)]
    seconds, proba = in_turn(programs, len(x))
    rows, ratio = [], 0.0
    for i, name in enumerate(["river", *(f"ours, micro-batch {size}" for size in sizes)]):
        rate, ratio = len(x) / seconds[i], seconds[0] / seconds[i]
        rows.append(f"| {name} | {rate:,.0f} | {ratio:.1f} | {roc_auc_score(y, proba[i]):.4f} |")
    return ratio, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, y = clicks(given.events)
    lines = [
        "# How fast click models are",
        "",
        f"{given.events:,} generated clicks on six categories, one thread, in turn. Events a"
        " second of the processor, prediction and learning together. Printed by"
        " `python experiments/benchmarks/click_models.py`, which says what each program does.",
        "",
        "## FTRL",
        "",
        "| | events/s | of river's | AUC |",
        "|---|---|---|---|",
    ]
    ratios: list[float] = []
    for _ in range(given.rounds):
        ratio, rows = ftrl_rows(x, y)
        ratios.append(ratio)
        lines += rows
        print(*rows, sep="\n", flush=True)
    lines += ["", f"Median at micro-batches of 256: {statistics.median(ratios):.1f} times river."]
    lines += [
        "",
        "## Networks",
        "",
        "| | micro-batch | run | loop, SparseAdam | loop, Adam | ratio to the faster | AUC of run"
        " | of SparseAdam | of Adam |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    medians = []
    for size in (Size(kind, batch) for batch in BATCHES for kind in ("dcn-v2", "deepfm")):
        found = []
        for _ in range(given.rounds):
            with tempfile.TemporaryDirectory() as folder:
                ratio, row = run_beside_plain(size, x, y, Path(folder))
            found.append(ratio)
            lines.append(row)
            print(row, flush=True)
        medians.append(f"{statistics.median(found):.2f} ({size.kind}, {size.batch})")
    lines += ["", f"Median ratios: {', '.join(medians)}."]
    print(lines[-1])
    RESULT.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
