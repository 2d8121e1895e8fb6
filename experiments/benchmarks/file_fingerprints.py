"""What it costs to keep fingerprints of the files that are read: the same reading with and without.

    python -m experiments.benchmarks.file_fingerprints [ROWS]

Writes Parquet and CSV files of numbers and text, and reads each in turn with and without, 15 times.
Prints the CPU time of a reading, the median ratio of pairs, and the time of one checkpoint, which
asks for the fingerprint in the middle of a block.
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

from streams.files.config import RecordedConfig
from streams.files.files_read import FilesRead
from streams.files.stream import FileStream

TIMES = 15
CHECKPOINT_ROWS = 100_000


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


def seconds(path: Path, with_fingerprints: bool) -> tuple[float, float]:
    """Return the seconds of CPU in which a file is read to its end, and those of a checkpoint."""
    config = RecordedConfig(kind="recorded", path=str(path), label="y")
    stream = FileStream(config, path.parent)
    if not with_fingerprints:
        stream._files_read = {"": NoFingerprints(stream.files, stream._decode.reads)}
    start, checkpoints, row = time.process_time(), [], 0
    for block in stream.read({}, 4096):
        row = int(block.offset[-1]) + 1
        if with_fingerprints and row // CHECKPOINT_ROWS > len(checkpoints):
            begun = time.process_time()
            stream.identity({"0": row - 1000})
            checkpoints.append(time.process_time() - begun)
    took = time.process_time() - start - sum(checkpoints)
    return took, statistics.median(checkpoints) if checkpoints else 0.0


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    with tempfile.TemporaryDirectory() as folder:
        data = table(rows)
        files = Path(folder) / "a.parquet", Path(folder) / "text.csv", Path(folder) / "numbers.csv"
        pq.write_table(data, files[0], row_group_size=65_536)
        pyarrow.csv.write_csv(data, files[1])
        plain = pyarrow.csv.WriteOptions(quoting_style="none")
        pyarrow.csv.write_csv(data.drop(["text"]), files[2], plain)
        for path in files:
            seconds(path, True)
            pairs, checkpoints = [], []
            for turn in range(TIMES):
                took = {}
                for which in (True, False) if turn % 2 else (False, True):
                    took[which], checkpoint = seconds(path, which)
                    checkpoints += [checkpoint] if which else []
                pairs.append((took[True], took[False]))
            with_, without = (min(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            print(
                f"{path.name:12} {rows / without:9,.0f} rows/s without, {rows / with_:9,.0f} with; "
                f"median ratio of times {ratio:.3f}; a checkpoint takes "
                f"{1e3 * statistics.median(checkpoints):.2f} ms"
            )


if __name__ == "__main__":
    main()
