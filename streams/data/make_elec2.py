"""Writes elec2.parquet, deterministic to the byte, from elec2.csv.gz.

Usage: python streams/data/make_elec2.py [PATH/elec2.csv.gz]. Without a path it is looked up in
$EVERLEARN_DATA, then in ../shared/data beside the repository.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

HERE = Path(__file__).parent
EVENTS = 45_312
NUMBERS = ["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]


def find(argument: str | None) -> Path:
    if argument:
        return Path(argument)
    places = [Path(place) for place in (os.environ.get("EVERLEARN_DATA"),) if place]
    places.append(HERE.parent.parent.parent / "shared" / "data")
    for place in places:
        if (place / "elec2.csv.gz").is_file():
            return place / "elec2.csv.gz"
    raise SystemExit(f"no elec2.csv.gz in {', '.join(map(str, places))}")


def make(source: Path, target: Path) -> int:
    """Writes the table of ``source`` to ``target``; returns the bytes written."""
    kinds = dict.fromkeys(NUMBERS, pa.float64()) | {"class": pa.dictionary(pa.int32(), pa.string())}
    table = pyarrow.csv.read_csv(
        source, convert_options=pyarrow.csv.ConvertOptions(column_types=kinds)
    ).select(list(kinds))
    assert table.num_rows == EVENTS, f"{source}: {table.num_rows} rows, expected {EVENTS}"
    table = table.unify_dictionaries().combine_chunks()
    pq.write_table(table, target, row_group_size=8_192, compression="zstd", compression_level=19)
    return target.stat().st_size


if __name__ == "__main__":
    size = make(find(sys.argv[1] if len(sys.argv) > 1 else None), HERE / "elec2.parquet")
    sys.stdout.write(f"{HERE / 'elec2.parquet'}: {EVENTS} events, {size} bytes\n")
