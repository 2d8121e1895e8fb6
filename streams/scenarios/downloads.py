"""The files of data sets: where they are looked for, and where they are downloaded from."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streams.core.batch import Array
from streams.core.errors import StreamError

log = logging.getLogger(__name__)

FOLDER = "EVERLEARN_DATA"
"""The environment variable that names a folder of files that exist already."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the files of a data set are published.

    Attributes:
        address: the common address of the files.
        files: the checksum of each file, by its name.
    """

    address: str
    files: Mapping[str, str]


_MNIST = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
_MNIST_TEST = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"

ORIGINS: dict[str, Origin] = {
    "mnist": Origin(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            _MNIST[0]: "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            _MNIST[1]: "md5:d53e105ee54ea40749a09fcbcd1e9432",
            _MNIST_TEST[0]: "md5:9fb629c4189551a2d022fa330f9573f3",
            _MNIST_TEST[1]: "md5:ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": Origin(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            _MNIST[0]: "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            _MNIST[1]: "md5:25c81989df183df01b3e8a0aad5dffbe",
            _MNIST_TEST[0]: "md5:bef4ecab320f06d8554ea6380940ec79",
            _MNIST_TEST[1]: "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar-10": Origin(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"},
    ),
    "movielens-100k": Origin(
        "https://files.grouplens.org/datasets/movielens/",
        {"ml-100k.zip": "md5:0e33842e24a9c977be4e0107933c0723"},
    ),
    "clinc150": Origin(
        "https://raw.githubusercontent.com/clinc/oos-eval/master/data/",
        {
            "data_full.json": "sha256:"
            "cbb8c67baf021e9cabafcbf1bceb363f7dc5ad7134c6a83d266843e13ade9b06"
        },
    ),
}


def find(dataset: str, name: str, alias: str = "") -> Path:
    """Return the path of the file ``name`` of a data set; download it if needed.

    It is looked for in the folder that ``EVERLEARN_DATA`` names: first under ``alias``, without a
    checksum (the same data in another format), then under its own name, with the checksum of the
    origin (MNIST and Fashion-MNIST have files of the same names). Then in the cache, and at the
    origin.

    Raises:
        StreamError: it is not available; the message says how to get it.
    """
    folder = os.environ.get(FOLDER)
    if folder and alias and (file := Path(folder, alias)).is_file():
        return file
    origin = ORIGINS.get(dataset)
    if origin is None:
        raise StreamError(
            f"data set {dataset}: {alias} is not on this machine, and has no address to fetch it "
            f"from: put it into a folder and name that folder in the environment as {FOLDER}"
        )
    checksum = origin.files[name]
    kind, _, digest = checksum.partition(":")
    other = ""
    if folder and (file := Path(folder, name)).is_file():
        present = checksum_of(file, kind)
        if present == digest:
            return file
        other = f" in place of {file}, whose checksum is {kind}:{present}: it is another file"
    return _fetch(dataset, origin, name, other)


def cache(dataset: str) -> Path:
    """Return the folder of downloaded and decoded files. Raises ``StreamError``."""
    try:
        import pooch
    except ImportError:
        raise StreamError(
            f"data set {dataset} needs pooch, which is not installed: "
            "pip install 'everlearn[bench]'"
        ) from None
    return Path(pooch.os_cache("everlearn")) / dataset


def cached_array(path: Path, make: Callable[[], Array]) -> Array:
    """Return the array in a file, mapped into memory. If there is no file, make the array and write
    it atomically."""
    if not path.is_file():
        array = make()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                np.save(Path(folder, "array.npy"), array)
                Path(folder, "array.npy").replace(path)
        except OSError as error:
            log.warning("%s cannot be written, and will be made again: %s", path, error)
            return array
    return np.asarray(np.load(path, mmap_mode="r"))


def checksum_of(file: Path, kind: str) -> str:
    """Return the hexadecimal checksum of a file; ``kind`` is md5 or sha256."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, kind).hexdigest()


def _fetch(dataset: str, origin: Origin, name: str, other: str = "") -> Path:
    """Return the path of a file in the cache; download it if needed.

    Args:
        dataset: the data set.
        origin: where it is published.
        name: of the file.
        other: for the remedy: a file of that name in the folder, which has another checksum.

    Raises:
        StreamError: it is not available; names the place, the checksum and the remedy.
    """
    address, checksum = origin.address + name, origin.files[name]
    remedy = f"get {address} ({checksum}) and put it into the folder that {FOLDER} names{other}"
    try:
        folder = cache(dataset)
    except StreamError as error:
        raise StreamError(f"{error}, or {remedy}") from None
    import pooch

    try:
        return Path(pooch.retrieve(address, checksum, fname=name, path=folder))
    except OSError as error:  # the network's errors are among them
        raise StreamError(
            f"data set {dataset}: {name} cannot be fetched ({type(error).__name__}): {remedy}"
        ) from error
    except ValueError:
        raise StreamError(
            f"data set {dataset}: what {address} gives is not what was published: its checksum is "
            f"not {checksum}"
        ) from None
