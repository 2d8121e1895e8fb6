"""Data sets as they were published, and what is said where one cannot be had."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest

from streams.core.batch import Ragged
from streams.core.errors import StreamError
from streams.scenarios import downloads as dataset_files
from streams.scenarios.datasets import Dataset, load
from streams.scenarios.downloads import ORIGINS, Origin, cached_array, find

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("EVERLEARN_DATA") or ROOT.parent / "shared" / "data")
NOWHERE = "http://127.0.0.1:9/"  # nobody listens there


def packed(raw: bytes) -> bytes:
    """The same bytes at any time: they are in the names of tests."""
    return gzip.compress(raw, mtime=0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no folder of files."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda name: folder / name)
    monkeypatch.delenv("EVERLEARN_DATA", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    return folder / "everlearn"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files as published are on this machine."""
    if not DATA.is_dir():
        pytest.skip(f"no data sets in {DATA}")
    monkeypatch.setenv("EVERLEARN_DATA", str(DATA))


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to put files into; nothing else is to be had."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("EVERLEARN_DATA", str(folder))
    for name, origin in ORIGINS.items():
        monkeypatch.setitem(ORIGINS, name, replace(origin, address=NOWHERE))
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that serves it."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def counts(data: Dataset) -> tuple[list[int], list[int]]:
    assert data.train_y.dtype == data.test_y.dtype == np.int64
    assert len(data.train_x) == len(data.train_y)
    assert len(data.test_x) == len(data.test_y)
    return np.bincount(data.train_y).tolist(), np.bincount(data.test_y).tolist()


def test_mnist(published: None) -> None:
    data = load("mnist")
    assert isinstance(data.train_x, np.ndarray)
    assert isinstance(data.test_x, np.ndarray)
    assert data.train_x.shape == (60_000, 1, 28, 28)
    assert data.test_x.shape == (10_000, 1, 28, 28)
    assert data.train_x.dtype == np.uint8
    train, test = counts(data)
    assert train == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.train_y[:5].tolist() == [5, 0, 4, 1, 9]
    assert 33.3 < data.train_x.mean() < 33.4  # 0.1307 of 255
    assert data.feature.shape == (1, 28, 28)


def test_cifar_10(published: None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("cifar-10")
    assert isinstance(data.train_x, np.ndarray)
    assert data.train_x.shape == (50_000, 3, 32, 32)
    assert counts(data) == ([5000] * 10, [1000] * 10)
    means = data.train_x[:5000].mean((0, 2, 3)) / 255
    frogs = data.train_x[data.train_y == data.classes.index("frog")]
    assert means.shape == (3,)
    assert frogs.mean() < 0.9 * data.train_x[data.train_y == 0].mean(), "frogs are dark, sky is not"
    assert "JPEG" in data.note
    files = list(cache.rglob("*.npy"))
    assert sorted(file.name for file in files) == ["test.npy", "train.npy"]
    # Decoded once: with nothing to decode them, the arrays are still there.
    monkeypatch.setitem(sys.modules, "PIL", None)
    again = load("cifar-10")
    assert isinstance(again.train_x, np.ndarray)
    assert (again.train_x[::100] == data.train_x[::100]).all()
    for file in files:
        file.unlink()
    with pytest.raises(StreamError, match=r"Pillow, which is not installed: pip install"):
        load("cifar-10")


def test_clinc150(published: None) -> None:
    data = load("clinc150")
    assert isinstance(data.train_x, Ragged)
    assert counts(data) == ([100] * 150, [30] * 150)
    assert data.feature.kind == "text"
    texts, label = data.train_x.texts(), data.classes.index("translate")
    first = "what expression would i use to say i love you if i were an italian"
    assert texts[0] == first
    assert data.train_y[0] == label
    # Intents stand domain by domain: the fifteen of banking first.
    assert {"freeze_account", "routing", "balance"} < set(data.classes[:15])


def test_outdoor(published: None) -> None:
    data = load("outdoor")
    assert isinstance(data.train_x, np.ndarray)
    assert data.train_x.shape == (2800, 21)
    assert data.train_x.dtype == np.float32
    assert counts(data) == ([70] * 40, [30] * 40)
    # An approach is ten frames in a row, and on one side as a whole.
    for y in (data.train_y, data.test_y):
        assert (y.reshape(-1, 10) == y.reshape(-1, 10)[:, :1]).all()


def test_digits() -> None:
    data = load("digits")
    assert isinstance(data.train_x, np.ndarray)
    assert data.train_x.dtype == np.float32
    assert data.train_x.shape[1:] == (64,)
    train, test = counts(data)
    # A quarter of 178, 182, 177, 183, 181, 182, 181, 179, 174 and 180, rounded up.
    assert test == [45, 46, 45, 46, 46, 46, 46, 45, 44, 45]
    assert [a + b for a, b in zip(train, test, strict=True)] == [
        *(178, 182, 177, 183, 181),
        *(182, 181, 179, 174, 180),
    ]


def test_a_split_is_the_same_for_ever() -> None:
    data = load("digits")
    found = hashlib.sha256(np.ascontiguousarray(data.test_x).tobytes()).hexdigest()
    assert found[:16] == "cf09d28eb59ea28e"


def test_no_such_data_set() -> None:
    with pytest.raises(StreamError, match=r"unknown data set 'mnst': did you mean 'mnist'\?"):
        load("mnst")


def idx(values: np.ndarray) -> bytes:
    sizes = np.array(values.shape, ">u4").tobytes()
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def write_mnist(folder: Path, prefix: str = "mnist-") -> dict[str, Path]:
    files = {}
    for split, n in (("train", 7), ("t10k", 3)):
        images = np.arange(n)[:, None, None] + np.zeros((28, 28))
        for name, values in (("images-idx3", images), ("labels-idx1", np.arange(n))):
            file = folder / f"{prefix}{split}-{name}-ubyte.gz"
            file.write_bytes(packed(idx(values)))
            files[f"{split}-{name}"] = file
    return files


def test_files_packed_in_another_way(mine: Path) -> None:
    write_mnist(mine)
    data = load("mnist")
    assert isinstance(data.train_x, np.ndarray)
    assert data.train_x[:, 0, 3, 3].tolist() == data.train_y.tolist() == list(range(7))
    assert data.test_y.tolist() == [0, 1, 2]


def test_file_name_of_two_data_sets_is_told_by_checksum(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNIST and Fashion-MNIST name their files alike."""
    files = write_mnist(mine, prefix="")
    with pytest.raises(StreamError, match="cannot be fetched"):
        load("mnist")
    sums = {file.name: "md5:" + dataset_files.checksum_of(file, "md5") for file in files.values()}
    monkeypatch.setitem(ORIGINS, "fashion-mnist", Origin(NOWHERE, sums))
    assert load("fashion-mnist").classes[9] == "Ankle boot"
    with pytest.raises(StreamError, match="cannot be fetched"):
        load("mnist")


@pytest.mark.parametrize(
    ("which", "content", "message"),
    [
        ("train-images-idx3", b"no gzip", "Not a gzipped file"),
        ("train-images-idx3", packed(idx(np.zeros((7, 28, 28))))[:-9], "ended before"),
        (
            "train-images-idx3",
            packed(b"<html>Not found</html>"),
            "no IDX file of bytes in 3",
        ),
        ("train-images-idx3", packed(idx(np.zeros((7, 28, 28)))[:-1]), "5487 bytes for an"),
        ("train-images-idx3", packed(idx(np.zeros((7, 28, 27)))), "array of (7, 28, 27)"),
        ("t10k-images-idx3", packed(idx(np.zeros((7, 28, 28)))), "3 labels stand beside"),
        ("train-labels-idx1", packed(b""), "no IDX file of bytes in 1"),
        ("train-labels-idx1", packed(idx(np.full(7, 10))), "7 labels stand beside"),
    ],
)
def test_a_broken_file_is_named(mine: Path, which: str, content: bytes, message: str) -> None:
    file = write_mnist(mine)[which]
    file.write_bytes(content)
    with pytest.raises(StreamError) as error:
        load("mnist")
    assert message in str(error.value)
    assert which.split("-")[0] in str(error.value)
    assert "is broken" in str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("clinc150", "clinc150_full.json.gz", packed(b"[1, 2]")),
        ("clinc150", "clinc150_full.json.gz", packed(b"{")),
        ("clinc150", "clinc150_full.json.gz", packed(json.dumps({"domains": 3}).encode())),
        ("cifar-10", "cifar10_jpeg.npz", b"no zip"),
        ("outdoor", "outdoor.data.gz", packed(b"1 2 three")),
        ("outdoor", "outdoor.data.gz", packed(b"1 2 3")),
    ],
)
def test_other_broken_files_are_named(mine: Path, name: str, file: str, content: bytes) -> None:
    (mine / "outdoor.labels.gz").write_bytes(packed(b"1 2"))
    (mine / file).write_bytes(content)
    with pytest.raises(StreamError, match=f"{file} is broken"):
        load(name)


def test_cifar_10_in_its_binary_version(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is its label, then 1,024 red, 1,024 green and 1,024 blue bytes."""
    file = mine / "cifar-10-binary.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
            red = np.arange(1024) % 251
            row = np.concatenate([[number], red, red * 0 + 7, red * 0 + number])
            raw = np.stack([row, row]).astype(np.uint8).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    digest = dataset_files.checksum_of(file, "md5")
    monkeypatch.setitem(ORIGINS, "cifar-10", Origin(NOWHERE, {file.name: f"md5:{digest}"}))
    data = load("cifar-10")
    assert isinstance(data.train_x, np.ndarray)
    assert data.train_y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert data.test_y.tolist() == [5, 5]
    assert data.train_x[2, 0, 1].tolist() == [32 + i for i in range(32)]
    assert (data.train_x[2, 1] == 7).all()
    assert (data.train_x[2, 2] == 1).all()
    assert data.note == ""


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar-10", "clinc150"])
def test_failed_download_error_names_the_remedy(mine: Path, name: str) -> None:
    with pytest.raises(StreamError) as error:
        load(name)
    text = str(error.value)
    file, checksum = next(iter(ORIGINS[name].files.items()))
    assert (
        f"get {NOWHERE}{file} ({checksum}) and put it into the folder that EVERLEARN_DATA" in text
    )
    assert "\n" not in text


def test_file_of_another_checksum_is_named(mine: Path) -> None:
    """Its name is right, and it is not read: the error says which file, and both checksums."""
    name, checksum = next(iter(ORIGINS["mnist"].files.items()))
    (mine / name).write_bytes(b"cut off")
    digest = hashlib.md5(b"cut off").hexdigest()
    with pytest.raises(StreamError) as error:
        load("mnist")
    assert f"({checksum}) and put it into the folder that EVERLEARN_DATA" in str(error.value)
    assert f"in place of {mine / name}, whose checksum is md5:{digest}" in str(error.value)


def test_data_set_without_address_error_says_so(mine: Path) -> None:
    with pytest.raises(StreamError, match=r"outdoor\.data\.gz is not on this machine"):
        load("outdoor")


@pytest.mark.parametrize(
    ("module", "name"), [("pooch", "mnist"), ("sklearn.datasets", "digits"), ("pooch", "clinc150")]
)
def test_what_is_not_installed(
    module: str, name: str, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StreamError, match=r"pip install 'everlearn\[bench\]'"):
        load(name)


def test_file_is_downloaded_once(
    server: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    (folder / "some.txt").write_bytes(b"good")
    sums = {"some.txt": "sha256:" + hashlib.sha256(b"good").hexdigest()}
    monkeypatch.setitem(ORIGINS, "some", Origin(address, sums))
    found = find("some", "some.txt")
    assert found == cache / "some" / "some.txt"
    assert found.read_bytes() == b"good"
    monkeypatch.setitem(ORIGINS, "some", Origin(NOWHERE, sums))
    assert find("some", "some.txt") == found
    # What lies broken in the cache is not used.
    found.write_bytes(b"gone bad")
    with pytest.raises(StreamError, match="cannot be fetched"):
        find("some", "some.txt")
    monkeypatch.setitem(ORIGINS, "some", Origin(address, sums))
    assert find("some", "some.txt").read_bytes() == b"good"


def test_download_with_wrong_checksum_is_refused(
    server: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    (folder / "data_full.json").write_text('{"domains": {}}')
    monkeypatch.setitem(ORIGINS, "clinc150", replace(ORIGINS["clinc150"], address=address))
    with pytest.raises(StreamError, match=r"is not what was published: its checksum is not sha256"):
        load("clinc150")
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_the_published_file_is_taken(
    published: None, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum that is written down is that of the file itself."""
    folder, address = server
    raw = gzip.decompress((DATA / "clinc150_full.json.gz").read_bytes())
    (folder / "data_full.json").write_bytes(raw)
    monkeypatch.delenv("EVERLEARN_DATA")
    monkeypatch.setitem(ORIGINS, "clinc150", replace(ORIGINS["clinc150"], address=address))
    assert len(load("clinc150").train_y) == 15_000
    monkeypatch.setitem(ORIGINS, "clinc150", replace(ORIGINS["clinc150"], address=NOWHERE))
    assert len(load("clinc150").test_y) == 4500


def test_array_that_cannot_be_cached_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    for _ in range(2):
        assert cached_array(tmp_path / "file" / "a.npy", lambda: np.arange(3)).tolist() == [0, 1, 2]
    assert "will be made again" in caplog.text
    assert cached_array(tmp_path / "a.npy", lambda: np.arange(3)).tolist() == [0, 1, 2]
    assert cached_array(tmp_path / "a.npy", lambda: np.arange(9)).tolist() == [0, 1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "file"]
