"""Encode columns in threads of this process."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from learners.base import LearnerError
from learners.pretrained.encoders.columns import ColumnEncoders
from pipeline.config.job import LoadedJob
from pipeline.config.sections import FeatureCacheConfig
from pipeline.training.reading.encode_ahead import Encoded, Submit
from streams.core.batch import Column
from streams.core.schema import Schema

MB = 1_000_000
COUNT_S = 1.0
"""Seconds between two looks at the size of a cache, which takes some milliseconds."""


class EncoderWorker:
    """Encode pieces, with a cache; in this process, for itself or for others.

    Args:
        encoders: of the columns.
        cache: where their vectors are kept.
        folder: that a relative folder of the cache starts from.

    Raises:
        LearnerError: the cache cannot be made.
    """

    def __init__(self, encoders: ColumnEncoders, cache: FeatureCacheConfig, folder: Path) -> None:
        self._name = uuid.uuid4().hex
        self._encoders = encoders
        size, place = cache.memory_mb, None
        if cache.folder is not None:
            size, place = cache.disk_mb, folder / Path(cache.folder).expanduser()
        if size:
            try:
                self._encoders = encoders.cached(size * MB, place)
            except LearnerError as error:
                raise LearnerError(f"encoders.cache: {error}") from error
        self._bytes, self._counted = 0, -COUNT_S

    def encode(self, raw: Mapping[str, Column]) -> Encoded:
        """Return the vectors of raw columns, and what they took."""
        start = time.perf_counter()
        vectors = self._encoders.encode(raw)
        now = time.perf_counter()
        if now - self._counted > COUNT_S:
            self._bytes, self._counted = self._encoders.cache_bytes(), now
        return Encoded(vectors, now - start, self._name, self._encoders.lookups(), self._bytes)


class LocalEncoding:
    """Encode columns in threads of this process, which end with the reading.

    Args:
        encoders: of the columns.
        loaded: the job, which says how many threads there are, and where vectors are kept.
    """

    def __init__(self, encoders: ColumnEncoders, loaded: LoadedJob) -> None:
        self.columns = encoders.columns
        self.ahead = 2 * loaded.job.encoders.workers
        self._encoders = encoders
        self._loaded = loaded
        self._worker: EncoderWorker | None = None

    @contextmanager
    def working(self) -> Iterator[Submit]:
        config = self._loaded.job.encoders
        if self._worker is None:  # where nothing is encoded, no cache is opened
            self._worker = EncoderWorker(self._encoders, config.cache, self._loaded.folder)
        encode = self._worker.encode
        pool = ThreadPoolExecutor(config.workers, "encode")

        def submit(raw: Mapping[str, Column]) -> Future[Encoded]:
            return pool.submit(encode, raw)

        try:
            yield submit
        finally:
            pool.shutdown(cancel_futures=True)


def local_encoding(loaded: LoadedJob, schema: Schema) -> LocalEncoding | None:
    """Return what encodes the columns of a job in this process; None where it encodes none.

    Raises:
        LearnerError: an encoder of the job does not suit its stream, or cannot be loaded.
    """
    job = loaded.job
    if job.stream.encoder is None:
        return None
    encoders = ColumnEncoders.load(
        job.stream.encoder, schema, job.seed, job.encoders.device, loaded.folder
    )
    return LocalEncoding(encoders, loaded)
