"""The files that a path, a folder or a pattern names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from streams.core.batch import Floats, Ints
from streams.core.errors import StreamError
from streams.core.settings import PACKAGE_ROOT
from streams.core.stream import Cursor
from streams.decoding.columns import plain
from streams.decoding.time_reader import TimeReader
from streams.decoding.wrong_times import WINDOW, far_ahead
from streams.files.formats.base import File, FileBlock
from streams.files.formats.csv_file import Csv
from streams.files.formats.parquet_file import Parquet

SUFFIXES = (".parquet", ".csv", ".csv.gz")


def open_files(stated: str | list[str], folder: Path, role: str = "path") -> list[File]:
    """Open the files of a path or a list of paths. Raises ``StreamError`` unless all exist,
    have rows and have the same columns.

    Args:
        stated: paths, as in ``RecordedConfig.path``.
        folder: the folder that relative paths start from.
        role: the key of the job under ``stream`` that states them.
    """
    patterns = [stated] if isinstance(stated, str) else stated
    if not patterns:
        raise StreamError(f"stream.{role}: the list of files is empty")
    files: list[File] = []
    for path in (path for pattern in patterns for path in _find(pattern, folder, role)):
        if not path.stat().st_size:
            raise StreamError(f"{path} is empty (0 bytes)")
        file: File = Parquet(path) if path.name.endswith(".parquet") else Csv(path)
        names = file.types.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise StreamError(f"{path}: more than one column is named {twice!r}")
        if file.empty():
            raise StreamError(f"{path} has no rows")
        if files and (odd := set(files[0].types.names) ^ set(names)):
            raise StreamError(
                f"{path}: its columns differ from those of {files[0].path}: "
                + ", ".join(map(repr, sorted(odd)))
                + ". Give all files the same columns, with empty cells where there is no value"
            )
        files.append(file)
    return files


def _find(pattern: str, folder: Path, role: str) -> list[Path]:
    """Return the files of one path, folder or glob pattern, in the first base folder that has any.
    Raises ``StreamError``."""
    stated = Path(pattern).expanduser()
    bases = [Path()] if stated.is_absolute() else [folder, Path.cwd(), PACKAGE_ROOT]
    for base in bases:
        path = base / stated
        if path.is_file():
            paths = [path]
        elif path.is_dir():
            paths = [p for p in path.iterdir() if p.name.endswith(SUFFIXES)]
            if not paths:
                raise StreamError(f"stream.{role}: no {', '.join(SUFFIXES)} in the folder {path}")
        else:
            start = Path(path.anchor)
            paths = [p for p in start.glob(str(path.relative_to(start))) if p.is_file()]
        if paths:
            break
    else:
        folders = dict.fromkeys(str((base / stated).parent.absolute()) for base in bases)
        raise StreamError(f"stream.{role}: no file {pattern!r}; looked in {', '.join(folders)}")
    for path in paths:
        if not path.name.endswith(SUFFIXES):
            raise StreamError(f"{path}: not one of the known kinds of file: {', '.join(SUFFIXES)}")
    return sorted(paths, key=natural_key)


def was_reordered(stated: str | list[str], folder: Path, role: str = "path") -> bool:
    """Whether files of a folder or pattern were once read in another order, that of their text."""
    patterns = [stated] if isinstance(stated, str) else stated
    found = [_find(pattern, folder, role) for pattern in patterns]
    return any(paths != sorted(paths) for paths in found)


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Return the key that sorts paths as people number them: part-2 is before part-10."""
    pieces = re.split(r"(\d+)", str(path))  # text, digits, text, ...
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], str(path)


def seek(
    files: Sequence[File],
    column: str,
    time: float,
    prefix: str,
    times: TimeReader,
    lateness: float,
) -> Cursor:
    """Return the cursor of the first row whose time is at or after ``time``, or the end of all
    files. A time that is far ahead of those around it is passed over.

    Args:
        files: the files; file p is partition p.
        column: the column of times.
        time: in seconds.
        prefix: of the partitions in the cursor.
        times: reads the column.
        lateness: seconds by which times may step back.
    """
    cursor: Cursor = {}
    for partition, file in enumerate(files):
        key = f"{prefix}{partition}"
        first = file.earliest(column, time, times)
        with closing(file.read(first, 1 << 16, [column])) as blocks:
            for offset, found in _with_following(blocks, column, times):
                rows = np.flatnonzero((found >= time) & np.isfinite(found))
                if len(rows):
                    wrong = far_ahead(found, lateness)
                    wrong[-WINDOW:] = False  # what follows these is in another file
                    rows = rows[~wrong[rows]]
                if len(rows) and rows[0] < len(offset):
                    cursor[key] = int(offset[rows[0]])
                    return cursor
        assert file.rows is not None
        cursor[key] = file.rows
    return cursor


def _with_following(
    blocks: Iterator[FileBlock], column: str, times: TimeReader
) -> Iterator[tuple[Ints, Floats]]:
    """Yield the offsets of each block, and its times with the next ones of its file."""
    offset: Ints = np.empty(0, np.int64)
    found: Floats = np.empty(0)
    for block in blocks:
        after = times(plain(block.table.column(column)))
        if len(offset):
            yield offset, np.append(found, after[:WINDOW])
        offset, found = block.offset, after
    yield offset, found
