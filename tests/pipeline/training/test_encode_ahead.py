"""Blocks are encoded ahead of the training, in order, and as if they had not been cut."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from learners.pretrained.encoders.columns import ColumnEncoders
from pipeline.config.job import load
from pipeline.training.reading.encode_ahead import FIRST, MOST, EncodeAhead, Encoded, Submit
from pipeline.training.reading.local_encoding import LocalEncoding
from streams.core.batch import Array, Batch, Column
from streams.operators.microbatch import rebatch
from streams.testing import Event, Label, TestStream

N = 1500
rng = np.random.default_rng(1)
EVENTS = [Event(rng.normal(size=4).tolist(), id=i) for i in range(N)]
LABELS = {i: Label(i - 3, "a") for i in range(3, N, 7)}
STREAM = TestStream([item for i in range(N) for item in (EVENTS[i], LABELS.get(i)) if item])
ENCODERS = ColumnEncoders.load({"kind": "random-features", "dimension": 8}, STREAM.schema, 0)


@pytest.fixture(autouse=True)
def _job(write_job: Callable[..., Path]) -> None:
    write_job()


def ahead(workers: int = 1, encoders: ColumnEncoders = ENCODERS) -> EncodeAhead:
    loaded = load(Path("job.yaml"), [f"encoders.workers={workers}"])
    return EncodeAhead(LocalEncoding(encoders, loaded))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("size", [1, 100, 4096])
def test_micro_batches_do_not_depend_on_blocks_or_workers(size: int, workers: int) -> None:
    whole = [ENCODERS.apply(block) for block in STREAM.read({}, 4096)]
    expected = list(rebatch(whole, 50))
    found = list(rebatch(ahead(workers)(STREAM.read({}, size)), 50))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert isinstance(one.x, np.ndarray)
        assert one.x.tobytes() == other.x.tobytes()  # type: ignore[union-attr]
        assert (one.arrivals is None) == (other.arrivals is None)
        if one.arrivals is not None and other.arrivals is not None:
            assert one.arrivals.insert_before.tolist() == other.arrivals.insert_before.tolist()


def test_the_first_micro_batch_does_not_wait_for_a_whole_block() -> None:
    encode = ahead()
    pieces = encode(STREAM.read({}, 4096))
    assert len(next(pieces)) == FIRST
    assert encode.rows == FIRST
    assert max(len(piece) for piece in pieces) == MOST
    assert encode.rows == N
    assert encode.seconds > 0


def test_pieces_wait_for_who_reads_them() -> None:
    """However long nobody reads, few pieces are under way."""
    taken = []

    def blocks() -> Iterator[Batch]:
        for block in STREAM.read({}, 10):
            taken.append(len(block))
            yield block

    pieces = ahead()(blocks())
    next(pieces)
    assert sum(taken) <= 40


@pytest.mark.parametrize("pause", ["flush", "empty"])
def test_all_that_came_is_given_out_before_a_pause(pause: str) -> None:
    """A reading that waits for the next event does not keep the last ones back."""
    (block,) = STREAM.read({}, 4096)
    first = replace(block[:5], flush=pause == "flush")
    empty = replace(block[:0], arrivals=None)
    seen = 0

    def blocks() -> Iterator[Batch]:
        yield first
        if pause == "empty":
            yield empty
        assert seen == 5, "the events before a pause are held back"
        yield block[5:9]

    for piece in ahead()(blocks()):
        seen += len(piece)
    assert seen == 9


class Fails(ColumnEncoders):
    """Encoders that fail at the third piece, and have no cache."""

    def __init__(self) -> None:
        super().__init__(ENCODERS.columns, {})
        self.calls = 0

    def cached(self, size: int, folder: Path | None) -> ColumnEncoders:
        return self

    def encode(self, raw: object) -> dict[str, Array]:
        self.calls += 1
        if self.calls == 3:
            raise ValueError("no vector of this")
        return ENCODERS.encode(raw)  # type: ignore[arg-type]


def test_an_error_of_an_encoder_ends_the_reading_and_its_threads() -> None:
    pieces = ahead(encoders=Fails())(STREAM.read({}, 4096))
    assert len(next(pieces)) == FIRST
    next(pieces)
    with pytest.raises(ValueError, match="no vector of this"):
        next(pieces)
    assert not encoding_threads()


class Late(LocalEncoding):
    """One worker whose threads have encoded the first piece after all others."""

    @contextmanager
    def working(self) -> Iterator[Submit]:
        lookups = iter([(30, 12)])

        def submit(raw: Mapping[str, Column]) -> Future[Encoded]:
            done: Future[Encoded] = Future()
            vectors = ENCODERS.encode(raw)
            done.set_result(Encoded(vectors, 0.1, "one", next(lookups, (20, 9)), 0))
            return done

        yield submit


def test_lookups_are_those_of_all_pieces_whichever_was_last() -> None:
    encode = EncodeAhead(Late(ENCODERS, load(Path("job.yaml"))))
    assert sum(map(len, encode(STREAM.read({}, 4096)))) == N
    metrics = encode.metrics()
    assert metrics["system/feature_cache_hits"] == 30
    assert metrics["system/feature_cache_misses"] == 12


def test_threads_end_with_the_reading() -> None:
    pieces = ahead(workers=2)(STREAM.read({}, 4096))
    next(pieces)
    assert encoding_threads()
    del pieces
    assert not encoding_threads()


def encoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("encode")]
