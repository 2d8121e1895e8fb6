"""Encode columns in threads of this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from learners.pretrained.encoders.columns import ColumnEncoders
from pipeline.config.job import LoadedJob
from pipeline.training.reading.encode_ahead import Encoded, Submit
from streams.core.batch import Column
from streams.core.schema import Schema


class LocalEncoding:
    """Encode columns in threads of this process, which end with the reading.

    Args:
        encoders: of the columns.
        workers: number of threads.
    """

    def __init__(self, encoders: ColumnEncoders, workers: int) -> None:
        self.encoders = encoders
        self.columns = encoders.columns
        self.workers = workers
        self.ahead = 2 * workers

    @contextmanager
    def working(self) -> Iterator[Submit]:
        pool = ThreadPoolExecutor(self.workers, "encode")

        def submit(raw: Mapping[str, Column]) -> Future[Encoded]:
            return pool.submit(encode_timed, self.encoders, raw)

        try:
            yield submit
        finally:
            pool.shutdown(cancel_futures=True)


def encode_timed(encoders: ColumnEncoders, raw: Mapping[str, Column]) -> Encoded:
    """Return the vectors of raw columns, with the time that they took."""
    start = time.perf_counter()
    vectors = encoders.encode(raw)
    return Encoded(vectors, time.perf_counter() - start)


def local_encoding(loaded: LoadedJob, schema: Schema) -> LocalEncoding | None:
    """Return what encodes the columns of a job in this process; None where it encodes none.

    Raises:
        LearnerError: an encoder of the job does not suit its stream, or cannot be loaded.
    """
    job = loaded.job
    if job.stream.encoder is None:
        return None
    encoders = ColumnEncoders.load(job.stream.encoder, schema, job.seed, job.encoders.device)
    return LocalEncoding(encoders, job.encoders.workers)
