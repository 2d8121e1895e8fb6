"""Where the keys of codebooks come from: the first events, a Gaussian, or a file without labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.random import default_rng
from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag

from learners.base import LearnerError
from streams.core.batch import Array, Batch
from streams.core.errors import StreamError, one_line
from streams.core.schema import Schema
from streams.core.settings import Settings, locate
from streams.decoding.decoder import Columns, Decoder
from streams.files.readers import open_files
from streams.files.row_batches import read_between
from streams.files.schema_inference import dtype_of


class GaussianKeys(Settings):
    """Fit keys to draws from a normal distribution with the mean and variance of the first events.

    It has one variance for all numbers: a number that has not varied yet may vary later. So the
    keys reach beyond the classes of the first events.

    Attributes:
        events: how many events give the mean and the variance.
        draws: how many rows are drawn.
        spread: factor of the standard deviation.
    """

    kind: Literal["gaussian"]
    events: PositiveInt = Field(256, le=1 << 24)
    draws: PositiveInt = Field(3000, le=1 << 24)
    spread: PositiveFloat = 1.0

    def sample(self, rows: Array, seed: int) -> Array:
        """Return rows (draws, d) to fit keys to, given those of the first events (events, d)."""
        exact = rows.astype(np.float64)
        deviation = self.spread * np.sqrt(exact.var(0).mean())
        noise = default_rng([seed, 2]).normal(size=(self.draws, rows.shape[1]))
        draws: Array = (exact.mean(0) + deviation * noise).astype(np.float32)
        return draws


class FirstEvents(Settings):
    """Fit keys to the first events.

    Attributes:
        events: how many.
    """

    kind: Literal["first"]
    events: PositiveInt = Field(1000, le=1 << 24)


class SampleFile(Settings):
    """Fit keys to a file of events, whose labels are not read.

    Attributes:
        path: a Parquet, CSV or npz file with the columns that the learner takes, after encoders. In
            npz each column is an array; a table of numbers may be one array ``x`` (n, d). Relative
            paths start from the folder of the job file.
    """

    kind: Literal["file"]
    path: str

    def located(self, folder: Path) -> Self:
        return self.model_copy(update={"path": str(locate(self.path, folder))})

    def sha256(self) -> str | None:
        """Return the checksum of the file; None where it is not there."""
        path = Path(self.path)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read(self, schema: Schema) -> Iterator[Batch]:
        """Yield the events of the file.

        Raises:
            LearnerError: it cannot be read, or lacks a column.
        """
        path = Path(self.path)
        if not path.is_file():
            raise LearnerError(f"learner.keys.path: there is no file {self.path!r}")
        try:
            if path.suffix == ".npz":
                with np.load(path) as arrays:
                    yield _events(dict(arrays), schema)
            else:
                yield from _rows(path, schema)
        except (StreamError, OSError, ValueError, KeyError) as error:
            raise LearnerError(f"learner.keys.path: {path}: {one_line(error)}") from None


def _kind(keys: Any) -> str:
    return str(keys.get("kind", "") if isinstance(keys, dict) else getattr(keys, "kind", ""))


KeysConfig = Annotated[
    Annotated[GaussianKeys, Tag("gaussian")]
    | Annotated[FirstEvents, Tag("first")]
    | Annotated[SampleFile, Tag("file")],
    Discriminator(_kind),
]


def _events(arrays: Mapping[str, Array], schema: Schema) -> Batch:
    """Return the arrays of columns as events."""
    names = [feature.name for feature in schema.features]
    if "x" in arrays and schema.matrix:
        x = arrays["x"].reshape(len(arrays["x"]), *schema.row_shape)
    elif missing := [name for name in names if name not in arrays]:
        raise ValueError(f"it has no array {missing[0]!r}; it has {', '.join(arrays)}")
    elif not schema.matrix:
        return _batch({name: arrays[name] for name in names}, len(arrays[names[0]]))
    elif len(names) == 1:
        x = arrays[names[0]].reshape(-1, *schema.row_shape)
    else:
        x = np.stack([arrays[name] for name in names], 1)
    return _batch(x, len(x))


def _batch(x: Array | dict[str, Array], n: int) -> Batch:
    offset = np.arange(n, dtype=np.int64)
    return Batch(offset, np.full(n, np.nan), x, np.zeros(n, np.int32), offset)


def _rows(path: Path, schema: Schema) -> Iterator[Batch]:
    """Yield the rows of a Parquet or CSV file that can be decoded."""
    files = open_files(str(path), Path())
    if missing := {feature.name for feature in schema.features} - set(files[0].types.names):
        raise StreamError(f"it has no column {min(missing)!r}")
    decode = Decoder(schema, Columns(), dtype_of(files, schema.features))
    yield from read_between(files, decode, {}, {"0": np.iinfo(np.int64).max})
