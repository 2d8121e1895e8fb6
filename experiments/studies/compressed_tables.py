"""Compare compressed tables of embeddings at equal bytes.

    python experiments/studies/compressed_tables.py [--events 60000] [--seeds 3]

Generated clicks have six categories of 50 to 20,000 values, most of them seldom. A click depends on
pairs of them. DeepFM learns them in one pass, each event predicted before it is learned, with
labels known after a micro-batch of 128.

A table without compression has a key of 16 bytes for each row beside its embedding of 9 numbers; so
has int8, whose embeddings are 13 bytes. Hashed and quotient-remainder tables have no keys. *Bytes*
are those of embeddings and keys that a served model holds. Rows are chosen so that they are equal.
*State* is all that the learner saves at the end, with what Adam keeps.

Prints a table and writes it to experiments/results/compressed_tables.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from sklearn.metrics import log_loss, roc_auc_score

from experiments.benchmarks.click_models import BATCH, NAMES, clicks
from learners.recommenders.click_model import ClickModel, ClickModelConfig
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema

RESULT = Path(__file__).parents[1] / "results" / "compressed_tables.md"
WIDTH, KEY = 9, 16
BYTES: dict[str | None, int] = {
    None: 4 * WIDTH + KEY,
    "hashed": 4 * WIDTH,
    "quotient-remainder": 4 * WIDTH,
    "int8": WIDTH + 4 + KEY,
}
"""Of a row of each table."""
SIZES = (512, 2048, 8192, 32_768)
"""Rows of the table without compression."""


def learned(
    events: Batch, compression: str | None, rows: int, seed: int
) -> tuple[float, float, int]:
    """Return the AUC, the log-loss, and the bytes of the state at the end."""
    inputs = {"rows": rows, "compression": compression, "min_age": 2000}
    settings = {"kind": "click-model", "model": {"kind": "deepfm"}, "inputs": inputs}
    schema = Schema(tuple(Feature(name, "categorical") for name in NAMES), "classification", (0, 1))
    learner = ClickModel(ClickModelConfig.model_validate(settings), schema, seed)
    proba = []
    for batch in events.micro_batches(BATCH):
        answer = learner.predict(batch).proba
        assert answer is not None
        proba.append(answer[:, 1])
        learner.observe(batch)
        learner._learn(batch)
    scores = np.concatenate(proba).astype(np.float64)
    y = events.y
    return roc_auc_score(y, scores), log_loss(y, scores), learner.memory_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, y = clicks(given.events)
    at, columns = np.arange(len(y)), dict(zip(NAMES, x.T.copy(), strict=True))
    events = Batch(at, at * 1.0, columns, np.zeros(len(y), np.int32), at, y, classes=(0, 1))
    lines = [
        "# Compressed tables of embeddings at equal bytes",
        "",
        f"{given.events:,} generated clicks on six categories with"
        f" {sum(len(np.unique(column)) for column in x.T):,} values, {given.seeds} seeds: mean ±"
        " standard deviation. Printed by `python experiments/studies/compressed_tables.py`.",
        "",
        "| bytes | table | rows | AUC | log-loss | state |",
        "|---|---|---|---|---|---|",
    ]
    print(*lines[-2:], sep="\n")
    for size in SIZES:
        for compression, each in BYTES.items():
            rows = size * BYTES[None] // each
            found = [learned(events, compression, rows, seed) for seed in range(given.seeds)]
            auc, loss, state = (list(column) for column in zip(*found, strict=True))
            line = (
                f"| {size * BYTES[None] / 1e3:,.0f} kB | {compression or 'own row'} | {rows:,} |"
                f" {mean(auc):.4f} ± {stdev(auc):.4f} | {mean(loss):.4f} ± {stdev(loss):.4f} |"
                f" {mean(state) / 1e6:.2f} MB |"
            )
            lines.append(line)
            print(line, flush=True)
    RESULT.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
