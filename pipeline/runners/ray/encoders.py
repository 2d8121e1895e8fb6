"""Encoder actors, which encode columns beside the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from learners.base import LearnerError
from learners.pretrained.encoders.columns import ColumnEncoders, EncodedColumns
from pipeline.config.errors import JobError
from pipeline.models.threads import set_threads
from pipeline.runners.ray.job_package import JobPackage
from pipeline.training.reading.encode_ahead import Encoded, Submit
from pipeline.training.reading.local_encoding import EncoderWorker
from streams.core.batch import Column
from streams.core.errors import StreamError, one_line
from streams.core.schema import Schema

IDLE_S = 0.2
"""Seconds without a piece after which the run is idle."""
DEATHS = 5
"""How often the actor of a piece may die before the run fails."""


class EncoderActor:
    """Encode pieces of columns. It keeps no state that matters: a piece is encoded alike by any.

    Args:
        package: the job.
        columns: what encoders make of its columns.
        schema: of its stream.
    """

    def __init__(self, package: JobPackage, columns: EncodedColumns, schema: Schema) -> None:
        loaded = package.unpack()
        set_threads(loaded.job.threads)
        try:
            config = loaded.job.encoders
            encoders = ColumnEncoders.load_known(columns, schema, config.device)
            self._worker = EncoderWorker(encoders, config.cache, loaded.folder)
        except LearnerError as error:
            raise JobError(f"{loaded.file}: {error}") from None

    def encode(self, raw: Mapping[str, Column]) -> Encoded:
        """Return the vectors of raw columns."""
        return self._worker.encode(raw)


class RemoteEncoding:
    """Encode columns in actors, in turn. Ray starts one that dies again, with its pieces.

    Args:
        columns: what encoders make of the columns.
        actors: that encode.
        on_idle: called while a piece is waited for.
    """

    def __init__(
        self, columns: EncodedColumns, actors: Sequence[Any], on_idle: Callable[[], None]
    ) -> None:
        self.columns = columns
        self.ahead = 2 * len(actors)
        self._actors = actors
        self._on_idle = on_idle

    @contextmanager
    def working(self) -> Iterator[Submit]:
        turns = cycle(self._actors)
        yield lambda raw: _RemotePiece(next(turns).encode.remote(raw), self._on_idle)


class _RemotePiece:
    """A piece that an actor encodes."""

    def __init__(self, reference: Any, on_idle: Callable[[], None]) -> None:
        self._reference = reference
        self._on_idle = on_idle

    def result(self) -> Encoded:
        while not ray.wait([self._reference], timeout=IDLE_S)[0]:
            self._on_idle()
        try:
            encoded: Encoded = ray.get(self._reference)
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise StreamError(f"an encoder does not come up again: {one_line(error)}") from None
        # A view would keep all of it in the object store while one of its events is waited for.
        copies = {name: np.array(vectors) for name, vectors in encoded.vectors.items()}
        return encoded._replace(vectors=copies)
