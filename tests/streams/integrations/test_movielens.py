"""MovieLens-100K in time order: both ways in which its files are written, and what is said where
there are none. The files of the rows here are written here; the real ones belong to GroupLens."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streams.core.batch import Batch, Ragged
from streams.core.errors import StreamError
from streams.integrations.movielens import MovieLensConfig, MovieLensStream
from streams.scenarios import movielens

RATED = [(1, 2, 3, 90_000), (2, 1, 4, 10), (1, 1, 5, 90_000), (2, 2, 2, 7200)]
IN_TIME = [("2", "1", True), ("2", "2", False), ("1", "2", False), ("1", "1", True)]


def grouplens(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATED))
    (folder / "u.user").write_text("1|24|M|artist|85711\n2|53|F|other|94043\n")
    flags = ["|".join("1" if g in on else "0" for g in range(19)) for on in ((3, 5), (0,))]
    movies = f'1|"Toys" (1995)|01-Jan-1995||http://x|{flags[0]}\n2|Café|||http://y|{flags[1]}\n'
    (folder / "u.item").write_bytes(movies.encode("latin-1"))


def recbole(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join("\t".join(map(str, row)) + "\n" for row in RATED)
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "ml-100k.inter").write_text(head + rows)
    head = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    users = "1\t24\tM\tartist\t85711\n2\t53\tF\tother\t94043\n"
    (folder / "ml-100k.user").write_text(head + users)
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    movies = '1\t"Toys"\t1995\tAnimation Comedy\n2\tCafé\tunkonwn\tunknown\n'
    (folder / "ml-100k.item").write_text(head + movies, encoding="utf-8")


def stream(folder: Path, job: Path = Path()) -> MovieLensStream:
    return MovieLensStream(MovieLensConfig(kind="movielens-100k", folder=str(folder)), job)


def texts(batch: Batch, name: str) -> list[str]:
    assert isinstance(batch.x, dict)
    column = batch.x[name]
    assert isinstance(column, Ragged)
    return list(column.texts())


@pytest.mark.parametrize("write", [grouplens, recbole])
def test_ratings_come_in_time_order(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "ml")
    ml = stream(Path("ml"), tmp_path)
    (batch,) = ml.read({}, 10)
    assert len(ml) == 4
    assert batch.y is not None
    clicks = [batch.classes[code] for code in batch.y]
    rows = list(zip(texts(batch, "user"), texts(batch, "item"), clicks, strict=True))
    assert rows == IN_TIME
    assert batch.time.tolist() == [10, 7200, 90_000, 90_000]
    assert texts(batch, "hour") == ["0", "2", "1", "1"]
    assert texts(batch, "weekday") == ["3", "3", "4", "4"]
    assert texts(batch, "genres") == ["Animation|Comedy", "unknown", "unknown", "Animation|Comedy"]
    assert isinstance(batch.x, dict)
    np.testing.assert_array_equal(batch.x["age"], [53, 53, 24, 24])
    np.testing.assert_array_equal(batch.x["year"], [1995, np.nan, np.nan, 1995])
    rest = Batch.concat(list(ml.read({"0": 1}, 2)))
    assert rest.offset.tolist() == [1, 2, 3]
    assert texts(rest, "user") == texts(batch, "user")[1:]


def test_a_folder_without_the_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"stream\.folder: .* neither u\.data.* nor ml-100k"):
        stream(tmp_path)
    grouplens(tmp_path)
    (tmp_path / "u.user").write_text("1|24|M|artist|85711\n")
    with pytest.raises(StreamError, match=r"is broken: KeyError: '2'"):
        stream(tmp_path)


def test_the_folder_of_the_environment_and_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERLEARN_DATA", str(tmp_path))
    monkeypatch.setattr(movielens.importlib.util, "find_spec", lambda name: None)
    archive = tmp_path / "other.zip"
    grouplens(tmp_path / "ml-100k")
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in ("u.data", "u.user", "u.item"):
            zipped.write(tmp_path / "ml-100k" / name, f"ml-100k/{name}")
    of_folder = movielens.ratings()
    for file in (tmp_path / "ml-100k").iterdir():
        file.unlink()
    monkeypatch.setattr(movielens, "find", lambda dataset, name: archive)
    assert movielens.ratings().equals(of_folder)


def test_where_there_are_none_the_message_has_every_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(dataset: str, name: str) -> Path:
        raise StreamError(f"data set {dataset}: {name} cannot be fetched")

    monkeypatch.setenv("EVERLEARN_DATA", str(tmp_path))
    monkeypatch.setattr(movielens.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(movielens, "find", absent)
    with pytest.raises(StreamError, match=r"cannot be fetched; or pip .*recbole.* stream\.folder"):
        movielens.ratings()


def test_the_ratings_of_grouplens() -> None:
    folders = [*movielens._places()]
    folder = next(
        (f for f in folders if (f / "u.data").is_file() or (f / "ml-100k.inter").is_file()), None
    )
    if folder is None:
        pytest.skip(
            "MovieLens-100K is not on this machine, and may not be passed on: name its folder as "
            "EVERLEARN_DATA, or install recbole"
        )
    table = movielens.ratings(folder)
    assert len(table) == 100_000
    assert sum(table["click"].to_pylist()) == 55_375
    assert len(set(table["user"].to_pylist())) == 943
    assert len(set(table["item"].to_pylist())) == 1682
    times = table["time"].to_numpy()
    assert (np.diff(times) >= 0).all()
    assert (times[0], times[-1]) == (874_724_710, 893_286_638)
