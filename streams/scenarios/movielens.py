"""The ratings of MovieLens-100K as a table in time order, read from files that a user has.

GroupLens allows nobody else to pass the data on, so none of them are part of everlearn.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from streams.core.batch import Array
from streams.core.errors import StreamError
from streams.scenarios.downloads import FOLDER, find

NAME = "movielens-100k"
CITATION = (
    "F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context, ACM Transactions "
    "on Interactive Intelligent Systems 5 (4), 2015"
)
LIKED = 4
"""Stars from which a rating counts as a click."""
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)
_DAY, _HOUR = 86_400, 3600
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; 0 is Monday
_Files = Path | zipfile.Path
"""A folder, or one in a ZIP archive."""


class _Layout(NamedTuple):
    """How the files of one publisher are written.

    Attributes:
        names: of the ratings, the users and the movies.
        separators: of the cells of each.
        headed: whether the first line of each names its columns.
        encoding: of the text.
    """

    names: tuple[str, str, str]
    separators: tuple[str, str, str]
    headed: bool
    encoding: str


_GROUPLENS = _Layout(("u.data", "u.user", "u.item"), ("\t", "|", "|"), False, "latin-1")
_RECBOLE = _Layout(
    ("ml-100k.inter", "ml-100k.user", "ml-100k.item"), ("\t", "\t", "\t"), True, "utf-8"
)


def ratings(folder: Path | None = None) -> pa.Table:
    """Return the n ratings in the order of their times, ties in the order of the file.

    The columns are ``time`` (seconds), ``user``, ``item``, ``age``, ``gender``, ``occupation``,
    ``genres`` (joined by ``|``), ``year`` (of release; null where it is not known), ``hour`` and
    ``weekday`` (of the rating, in UTC, as text) and ``click`` (whether it is 4 stars or more).

    Args:
        folder: with the files of GroupLens, or of RecBole; None: looked for in the folder
            ``EVERLEARN_DATA``, in the package ``recbole``, in the cache, and at GroupLens.

    Raises:
        StreamError: there are none, or they are broken; the message says how to get them.
    """
    files, layout = _located(folder)
    try:
        rated, users, items = (
            _rows(files / name, separator, layout)
            for name, separator in zip(layout.names, layout.separators, strict=True)
        )
        return _table(np.array(rated, np.str_), users, items, layout is _GROUPLENS)
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise StreamError(f"{files} is broken: {type(error).__name__}: {error}") from None


def _located(folder: Path | None) -> tuple[_Files, _Layout]:
    """Return where the files are, and how they are written."""
    for place in (folder,) if folder else _places():
        for layout in (_GROUPLENS, _RECBOLE):
            if all((place / name).is_file() for name in layout.names):
                return place, layout
    if folder:
        raise StreamError(
            f"stream.folder: {folder} has neither {', '.join(_GROUPLENS.names)} (GroupLens) nor "
            f"{', '.join(_RECBOLE.names)} (RecBole)"
        )
    try:
        archive = find(NAME, "ml-100k.zip")
    except StreamError as error:
        raise StreamError(
            f"{error}; or pip install --no-deps recbole, whose files are read; or name a folder of "
            "them as stream.folder"
        ) from None
    return zipfile.Path(archive, "ml-100k/"), _GROUPLENS


def _places() -> Iterator[Path]:
    """Yield the folders that may have the files."""
    if stated := os.environ.get(FOLDER):
        yield from (Path(stated, "ml-100k"), Path(stated))
    package = importlib.util.find_spec("recbole")
    for path in (package and package.submodule_search_locations) or ():
        yield Path(path, "dataset_example", "ml-100k")


def _rows(file: _Files, separator: str, layout: _Layout) -> list[list[str]]:
    """Return the cells of the lines of a file."""
    lines = io.StringIO(file.read_bytes().decode(layout.encoding), newline="")
    rows = list(csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE))
    return rows[1:] if layout.headed else rows


def _table(
    rated: Array, users: Sequence[Sequence[str]], items: Sequence[Sequence[str]], flags: bool
) -> pa.Table:
    """Return the table of ratings (n, 4) of users (id, age, gender, occupation, ...) and movies.

    Args:
        rated: user, item, stars and time of each.
        users: the users.
        items: the movies; the genres are flags in the last columns, or words.
        flags: which of both.
    """
    time = rated[:, 3].astype(np.float64).astype(np.int64)
    order = np.argsort(time, kind="stable")
    rated, time = rated[order], time[order]
    # RecBole has the age before the gender, and so has GroupLens.
    user = _found(rated[:, 0], [row[0] for row in users])
    item = _found(rated[:, 1], [row[0] for row in items])
    age = np.array([float(row[1]) for row in users])
    read = _flagged if flags else _worded
    genres, year = zip(*map(read, items), strict=True)
    hour, weekday = time // _HOUR % 24, (time // _DAY + _EPOCH_WEEKDAY) % 7
    columns = {
        "time": pa.array(time),
        "user": pa.array(rated[:, 0]),
        "item": pa.array(rated[:, 1]),
        "age": pa.array(age[user]),
        "gender": _taken([row[2] for row in users], user),
        "occupation": _taken([row[3] for row in users], user),
        "genres": _taken(genres, item),
        "year": _taken(year, item),
        "hour": pa.array(hour.astype(np.str_)),
        "weekday": pa.array(weekday.astype(np.str_)),
        "click": pa.array(rated[:, 2].astype(np.float64) >= LIKED),
    }
    return pa.table(columns)


def _found(values: Array, ids: Sequence[str]) -> Array:
    """Return (n,) the place of each value among the ids. Raise ``KeyError`` where it is none."""
    places = {name: place for place, name in enumerate(ids)}
    return np.array([places[name] for name in values.tolist()], np.int64)


def _taken(values: Sequence[object], places: Array) -> pa.Array:
    return pa.array(values).take(pa.array(places))


def _flagged(row: Sequence[str]) -> tuple[str, float | None]:
    """Return the genres and the year of a movie of GroupLens: id, title, 01-Jan-1995, ..."""
    flags = row[-len(_GENRES) :]
    genres = "|".join(name for name, flag in zip(_GENRES, flags, strict=True) if flag == "1")
    return genres, _year(row[2][-4:])


def _worded(row: Sequence[str]) -> tuple[str, float | None]:
    """Return the genres and the year of a movie of RecBole: id, title, 1995, words."""
    return row[3].replace(" ", "|"), _year(row[2])


def _year(text: str) -> float | None:
    return float(text) if text.isdecimal() else None
