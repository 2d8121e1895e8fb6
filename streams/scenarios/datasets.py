"""The data sets of scenarios, as arrays of training and test rows."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from streams.core.batch import Array, Ints, Ragged
from streams.core.errors import StreamError
from streams.core.hashing import mix
from streams.core.schema import Feature
from streams.core.settings import unknown
from streams.scenarios.downloads import cache, cached_array, checksum_of, find


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A labelled data set.

    Attributes:
        name: its name for ``load``.
        feature: its only feature.
        train_x: (n, channels, height, width) uint8, (n, d) float32, or text; read-only.
        train_y: (n,) int64 codes into ``classes``.
        test_x: as ``train_x``.
        test_y: as ``train_y``.
        classes: names of the classes in the order of their codes.
        citation: the work to cite.
        note: a remark for figures.
        validation: published rows for tuning and their codes, which are in neither of the others;
            None: there are none.
    """

    name: str
    feature: Feature
    train_x: Array | Ragged
    train_y: Ints
    test_x: Array | Ragged
    test_y: Ints
    classes: tuple[str, ...]
    citation: str
    note: str = ""
    validation: tuple[Array | Ragged, Ints] | None = None


def load(name: str) -> Dataset:
    """Return the data set of that name, from ``EVERLEARN_DATA``, the cache, or its origin.

    Raises:
        StreamError: there is no such data set, it is not available, or its file is broken.
    """
    if name not in DATASETS:
        raise StreamError(f"unknown data set {unknown(name, DATASETS)}")
    return DATASETS[name]()


def published_validation(data: Dataset) -> Dataset:
    """Return the data set with its published validation rows as its test rows; its own test rows
    are left out. Raises ``StreamError`` if none were published."""
    if data.validation is None:
        raise StreamError(
            f"stream.validation: no validation rows of {data.name!r} were published; state the "
            "share of the training rows to test on, such as 0.1"
        )
    test_x, test_y = data.validation
    return replace(data, test_x=test_x, test_y=test_y)


def split_validation(data: Dataset, share: float) -> Dataset:
    """Return the data set with the last ``share`` of the training rows of each class as its test
    rows; its own test rows are left out.

    Raises ``StreamError`` if a class has no training or no test rows left."""
    last = np.zeros(len(data.train_y), np.bool_)
    for code in range(len(data.classes)):
        rows = np.flatnonzero(data.train_y == code)
        kept = len(rows) - round(share * len(rows))
        if not 0 < kept < len(rows):
            raise StreamError(
                f"stream.validation: {share} of the {len(rows)} training rows of class "
                f"{data.classes[code]!r} leaves none to {'test on' if kept else 'learn from'}"
            )
        last[rows[kept:]] = True
    train, test = np.flatnonzero(~last), np.flatnonzero(last)
    return replace(
        data,
        train_x=_take(data.train_x, train),
        train_y=data.train_y[train],
        test_x=_take(data.train_x, test),
        test_y=data.train_y[test],
    )


def _take(x: Array | Ragged, rows: Ints) -> Array | Ragged:
    return x.take(rows) if isinstance(x, Ragged) else x[rows]


def _mnist(name: str, classes: tuple[str, ...], citation: str) -> Dataset:
    def part(split: str) -> tuple[Array, Ints]:
        names = f"{split}-images-idx3-ubyte.gz", f"{split}-labels-idx1-ubyte.gz"
        images, labels = (find(name, file, f"{name}-{file}") for file in names)
        x, y = _idx(images, 3), _idx(labels, 1)
        if x.shape[1:] != (28, 28) or len(x) != len(y) or y.max(initial=0) >= len(classes):
            raise _broken(images, f"{len(y)} labels stand beside an array of {x.shape}")
        return x[:, None], y.astype(np.int64)

    feature = Feature("image", "image", (1, 28, 28))
    return Dataset(name, feature, *part("train"), *part("t10k"), classes, citation)


def _idx(file: Path, dimensions: int) -> Array:
    """The uint8 array of a gzipped IDX file: bytes 0, 0, 8, dimensions; sizes; values."""
    raw = _gunzip(file)
    start = 4 + 4 * dimensions
    if raw[:4] != bytes([0, 0, 8, dimensions]) or len(raw) < start:
        raise _broken(file, f"no IDX file of bytes in {dimensions} dimensions")
    shape = tuple(np.frombuffer(raw, ">u4", dimensions, 4).tolist())
    values = np.frombuffer(raw, np.uint8, -1, start)
    if values.size != int(np.prod(shape)):
        raise _broken(file, f"{values.size} bytes for an array of {shape}")
    return values.reshape(shape)


_CIFAR_10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


def _cifar_10() -> Dataset:
    """Decoded once; what was decoded is kept under the checksum of the file that it came from."""
    file = find("cifar-10", "cifar-10-binary.tar.gz", "cifar10_jpeg.npz")
    jpeg = file.suffix == ".npz"
    folder = cache("cifar-10") / checksum_of(file, "md5")

    def part(split: str) -> tuple[Array, Ints]:
        flat = cached_array(folder / f"{split}.npy", partial(_flat, file, split))
        n = len(flat) // (_PIXELS + 1)
        x = flat[: n * _PIXELS].reshape(n, 3, _SIDE, _SIDE)
        return x, flat[n * _PIXELS :].astype(np.int64)

    return Dataset(
        "cifar-10",
        Feature("image", "image", (3, _SIDE, _SIDE)),
        *part("train"),
        *part("test"),
        _CIFAR_10,
        "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        "images re-encoded as JPEG, slightly lossy" if jpeg else "",
    )


def _flat(file: Path, split: str) -> Array:
    """(n * 3073,) uint8: the pixels of all images, then all labels."""
    decode = _cifar_jpeg if file.suffix == ".npz" else _cifar_binary
    try:
        x, y = decode(file, split)
    except (OSError, KeyError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise _broken(file, f"{type(error).__name__}: {error}") from None
    if len(x) != len(y) or y.max(initial=0) >= len(_CIFAR_10):
        raise _broken(file, f"{len(y)} labels stand beside {len(x)} images")
    return np.concatenate([x.ravel(), y])


def _cifar_jpeg(file: Path, split: str) -> tuple[Array, Array]:
    try:
        from PIL import Image
    except ImportError:
        raise StreamError(
            f"{file} holds JPEGs: they need Pillow, which is not installed: "
            "pip install 'everlearn[bench]'"
        ) from None
    with np.load(file) as data:
        raw, bounds, y = data[f"{split}_jpg"], data[f"{split}_off"], data[f"{split}_y"]
    x = np.empty((len(y), 3, _SIDE, _SIDE), np.uint8)
    for row in range(len(y)):
        encoded = io.BytesIO(raw[bounds[row] : bounds[row + 1]])
        with Image.open(encoded, formats=("JPEG",)) as image:
            x[row] = np.asarray(image).transpose(2, 0, 1)
    return x, y


def _cifar_binary(file: Path, split: str) -> tuple[Array, Array]:
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] if split == "train" else ["test_batch.bin"]
    with tarfile.open(file) as archive:
        members = [archive.extractfile(f"cifar-10-batches-bin/{name}") for name in names]
        raw = b"".join(member.read() for member in members if member is not None)
    rows = np.frombuffer(raw, np.uint8).reshape(-1, 1 + _PIXELS)
    return rows[:, 1:], rows[:, 0]


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise StreamError(
            "data set digits comes with scikit-learn, which is not installed: "
            "pip install 'everlearn[bench]'"
        ) from None
    x, y = load_digits(return_X_y=True)
    y = y.astype(np.int64)
    return Dataset(
        "digits",
        Feature("pixels", "vector", (x.shape[1],)),
        *_split(x.astype(np.float32), y, np.arange(len(y))),
        tuple("0123456789"),
        "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998",
        "8x8 images as vectors; a quarter of each class, chosen once and for all, is for testing",
    )


_OUTDOOR_CLASSES = 40
_APPROACH = 10  # frames of one object in a row, all but alike


def _outdoor() -> Dataset:
    """Whole approaches to an object are held out. Single frames would have a twin on the other
    side: the nearest neighbour is then right in 0.93 of cases, and else in 0.58."""
    file = find("outdoor", "", "outdoor.data.gz")
    labels = find("outdoor", "", "outdoor.labels.gz")
    try:
        x = np.array(_gunzip(file).split(), np.float32).reshape(-1, 21)
        y = np.array(_gunzip(labels).split(), np.int64)
    except ValueError as error:
        raise _broken(file, str(error)) from None
    if len(x) != len(y) or set(y.tolist()) != set(range(_OUTDOOR_CLASSES)):
        raise _broken(labels, f"{len(y)} labels of {len(np.unique(y))} classes for {len(x)} rows")
    return Dataset(
        "outdoor",
        Feature("histogram", "vector", (21,)),
        *_split(x, y, np.arange(len(y)) // _APPROACH),
        tuple(map(str, range(_OUTDOOR_CLASSES))),
        "V. Losing, B. Hammer and H. Wersing, Interactive Online Learning for Obstacle "
        "Classification on a Mobile Robot, IJCNN 2015",
        "3 of the 10 approaches to each object, chosen once and for all, are for testing",
    )


def _split(x: Array, y: Ints, group: Ints) -> tuple[Array, Ints, Array, Ints]:
    """Rows to train on and rows to test on: of each class a quarter of its groups, rounded up, by
    a hash of the group's number. No seed of a run changes it."""
    order = mix(group, 0)
    test = np.zeros(len(y), bool)
    for code in np.unique(y):
        mine = y == code
        ranks = np.unique(order[mine])
        test |= mine & np.isin(order, ranks[: -(-len(ranks) // 4)])
    return x[~test], y[~test], x[test], y[test]


def _clinc150() -> Dataset:
    """Intents stand domain by domain, so that ten tasks are the ten domains."""
    file = find("clinc150", "data_full.json", "clinc150_full.json.gz")
    try:
        data = json.loads(_gunzip(file) if file.suffix == ".gz" else file.read_bytes())
        classes = tuple(chain.from_iterable(data["domains"].values()))
        codes = {intent: code for code, intent in enumerate(classes)}
        train, test, validation = (
            (
                Ragged.of_text(text for text, _ in data[split]),
                np.array([codes[intent] for _, intent in data[split]], np.int64),
            )
            for split in ("train", "test", "val")
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(file, f"{type(error).__name__}: {error}") from None
    return Dataset(
        "clinc150",
        Feature("text", "text"),
        *train,
        *test,
        classes,
        "S. Larson et al., An Evaluation Dataset for Intent Classification and Out-of-Scope "
        "Prediction, EMNLP 2019",
        "out-of-scope rows left out",
        validation,
    )


def _gunzip(file: Path) -> bytes:
    try:
        return gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(file, str(error)) from None


def _broken(file: Path, what: str) -> StreamError:
    return StreamError(f"{file} is broken: {what}")


DATASETS: dict[str, Callable[[], Dataset]] = {
    "mnist": partial(
        _mnist,
        "mnist",
        tuple("0123456789"),
        "Y. LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998",
    ),
    "fashion-mnist": partial(
        _mnist,
        "fashion-mnist",
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        "H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, 2017",
    ),
    "cifar-10": _cifar_10,
    "digits": _digits,
    "outdoor": _outdoor,
    "clinc150": _clinc150,
}
