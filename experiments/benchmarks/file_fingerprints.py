"""What it costs to keep fingerprints of the files that are read: the same reading with and without.

    python -m experiments.benchmarks.file_fingerprints [ROWS]

Writes a Parquet and a CSV file of numbers and text, and reads each of them in turn with and without,
15 times. A fingerprint is asked for after every 5,000 rows, as by a checkpoint. Prints the median of
the times of each and of their ratio in pairs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from streams.files.files_read import FilesRead
from streams.files.stream import FileStream, RecordedConfig

TIMES = 15
CHECKPOINT_ROWS = 5000


class NoFingerprints(FilesRead):
    """Files of which nothing is remembered."""

    def trail(self, number: int) -> None:  # type: ignore[override]
        return None


def table(rows: int) -> pa.Table:
    """Return a table of eight numbers, a text and a label."""
    rng = np.random.default_rng(1)
    numbers = {f"a{i}": rng.normal(size=rows).round(6) for i in range(8)}
    words = rng.choice(["one", "two", "three", "four"], (rows, 5))
    text = [" ".join(row) for row in words]
    return pa.table(numbers | {"text": text, "y": rng.choice(["no", "yes"], rows)})


def seconds(path: Path, with_fingerprints: bool) -> float:
    """Return the seconds in which a file is read to its end."""
    config = RecordedConfig(kind="recorded", path=str(path), label="y")
    stream = FileStream(config, path.parent)
    if not with_fingerprints:
        stream._files_read = {"": NoFingerprints(stream.files, stream._decode.reads)}
    start, due = time.perf_counter(), CHECKPOINT_ROWS
    for block in stream.read({}, 4096):
        row = int(block.offset[-1]) + 1
        if with_fingerprints and row >= due:
            stream.identity({"0": due})
            due += CHECKPOINT_ROWS
    return time.perf_counter() - start


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    with tempfile.TemporaryDirectory() as folder:
        data = table(rows)
        files = Path(folder) / "a.parquet", Path(folder) / "a.csv"
        pq.write_table(data, files[0], row_group_size=65_536)
        pyarrow.csv.write_csv(data, files[1])
        for path in files:
            seconds(path, True)
            pairs = []
            for turn in range(TIMES):
                order = (True, False) if turn % 2 else (False, True)
                took = {which: seconds(path, which) for which in order}
                pairs.append((took[True], took[False]))
            with_, without = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            print(
                f"{path.suffix[1:]:8} {rows / without:11,.0f} rows/s without "
                f"{rows / with_:11,.0f} with; ratio of times {ratio:.4f}"
            )


if __name__ == "__main__":
    main()
