"""A process that fills a table of vectors, for a test that kills it.

``python -m tests.support.feature_tables FOLDER SEED`` puts rows for ever, more than there are
places. Rows of all seeds take the same places, and each is a function of its key.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import numpy as np

from learners.pretrained.encoders.feature_table import FeatureTable
from streams.core.batch import Array

BLOCKS = 100


def keys_of(seed: int, block: int) -> Array:
    return np.random.default_rng([seed, block]).integers(1, 2**63, (64, 2)).astype(np.uint64)


def rows_of(keys: Array) -> Array:
    return np.tile(keys.view(np.uint32).astype(np.float32), (1, 50))


def table_of(folder: Path) -> FeatureTable:
    return FeatureTable(200, 1 << 20, folder / "table", "rows")


def fill(folder: Path, seed: int) -> None:
    table = table_of(folder)
    for block in count():
        keys = keys_of(seed, block % BLOCKS)
        table.put(keys, rows_of(keys))
        if block == 0:
            sys.stdout.write("filling\n")
            sys.stdout.flush()


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]))
