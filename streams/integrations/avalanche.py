"""The benchmarks of Avalanche as streams."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from streams.core.batch import Array, Batch, ClassName, DeadLetter, Ints
from streams.core.errors import StreamError
from streams.core.schema import Feature, Schema
from streams.core.settings import unknown
from streams.core.stream import Cursor, Stream
from streams.core.stream_config import StreamConfig
from streams.integrations.avalanche_library import OwnRandom, import_avalanche, one_line


class AvalancheStreamConfig(StreamConfig):
    """Settings of the stream of an Avalanche benchmark.

    Attributes:
        benchmark: import path ``module:name`` of a benchmark, or of a function that makes one, from
            the folder of the job file or what is installed
            (``avalanche.benchmarks.classic:SplitMNIST``).
        args: the arguments of the function.
        stream: the name of the benchmark's stream of experiences to read.
        test: the name of the benchmark's stream of experiences that are the tests of the tasks.
        shuffle: whether the events of an experience are in random order; those of an online split
            are not shuffled. With the same seed it is the order of ``split_online_stream``.
        known_classes: whether all classes are known from the start, or are found in the stream.
        seed: the seed of that order, and of what the benchmark draws when it is made.
    """

    benchmark: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    args: dict[str, Any] = {}
    stream: str = "train"
    test: str = "test"
    shuffle: bool = True
    known_classes: bool = True
    seed: int = Field(0, ge=0, lt=2**63)


class AvalancheStream(Stream):
    """The experiences of a benchmark, one after the other, as one stream of events.

    Images (of Pillow, or uint8 tensors (channels, height, width)) stay pixels. All else becomes a
    float32 vector, also an image that is a float tensor: to get the pixels of a classic benchmark,
    leave out its transforms (``args: {train_transform: null, eval_transform: null}``). The ``eval``
    transforms are applied: an event is predicted before it is learned, and must be the same when
    it is read again.

    ``segment`` is the number of the experience. In an online split it is the original experience,
    or -1 if Avalanche does not know it, so forgetting is measured by the original tasks.
    """

    kind = "avalanche"
    has_segments = True
    Config = AvalancheStreamConfig
    dtype = "float32"

    def __init__(self, config: AvalancheStreamConfig, folder: Path) -> None:
        self.config = config
        self._online = import_avalanche().benchmarks.OnlineCLExperience
        self._random = OwnRandom(config.seed)
        with self._random.within():
            self._streams = _load_streams(config)
        for field, name in (("stream", config.stream), ("test", config.test)):
            wanted = field == "stream" or field in config.model_fields_set
            if wanted and name not in self._streams:
                raise StreamError(f"stream.{field}: {unknown(name, self._streams)}")
        tested = config.test in self._streams
        self._tests = list(self._experiences(config.test)) if tested else []
        with self._random.within():
            self.schema = schema_of(self._streams, config.stream, config.known_classes)
        (self._feature,) = self.schema.features

    @property
    def tasks(self) -> int:
        """The number of test tasks."""
        return len(self._tests)

    @property
    def begins(self) -> tuple[tuple[int, int], ...]:
        """First row and task of each phase of the stream.

        Raises ``StreamError`` if Avalanche does not know the tasks, or one has no test.
        """
        for _, task in self._phases[0]:
            self._check(task)
        return self._phases[0]

    @property
    def domain_incremental(self) -> bool:
        """Whether all tasks have the same classes, so that one may be tested before it begins."""
        tests = [self.task_test(task) for task in range(self.tasks)]
        return len({tuple(np.unique(test.y)) for test in tests if test.y is not None}) == 1

    def task_test(self, task: int) -> Batch:
        """Return the test events of a task as one batch, in order. They are not part of the stream:
        their ids are negative, their partition is -1."""
        self._check(task)
        before = sum(len(test.dataset) for test in self._tests[:task])
        dataset = self._tests[task].dataset.eval()
        n = len(dataset)
        batch = self._batch([(dataset, np.arange(n), task)], np.arange(before, before + n))
        return replace(batch, ids=-1 - batch.ids, partition=batch.partition - 1, dead=())

    def _check(self, task: int) -> None:
        if not 0 <= task < self.tasks:
            raise StreamError(
                f"stream.test: there is no task {task}: stream {self.config.test!r} of the "
                f"benchmark has {self.tasks} experiences"
            )

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        offset = cursor.get("0", 0)
        block: list[tuple[Any, Ints, int]] = []
        size = 0
        for dataset, rows, segment in self._rows(offset):
            while len(rows):
                part, rows = rows[: block_size - size], rows[block_size - size :]
                block.append((dataset, part, segment))
                size += len(part)
                if size == block_size:
                    yield self._batch(block, np.arange(offset, offset + size))
                    offset += size
                    block, size = [], 0
        if block:
            yield self._batch(block, np.arange(offset, offset + size))

    def __len__(self) -> int:
        return self._phases[1]

    @cached_property
    def _phases(self) -> tuple[tuple[tuple[int, int], ...], int]:
        """First row and segment of each phase, and the number of rows."""
        begins: list[tuple[int, int]] = []
        n = 0
        for number, experience in enumerate(self._experiences(self.config.stream)):
            segment = self._segment(experience, number)
            if len(experience.dataset) and (not begins or begins[-1][1] != segment):
                begins.append((n, segment))
            n += len(experience.dataset)
        return tuple(begins), n

    def _experiences(self, name: str) -> Iterator[Any]:
        rest = iter(self._streams[name])
        while True:
            with self._random.within():  # an online split is drawn when it is first read
                experience = next(rest, None)
            if experience is None:
                return
            yield experience

    def _rows(self, offset: int) -> Iterator[tuple[Any, Ints, int]]:
        """Yield a data set, its rows in stream order, and the segment, from an event on."""
        for number, experience in enumerate(self._experiences(self.config.stream)):
            n = len(experience.dataset)
            if offset < n:
                rows = self._order(experience)[offset:]
                yield experience.dataset.eval(), rows, self._segment(experience, number)
            offset = max(offset - n, 0)

    def _segment(self, experience: Any, number: int) -> int:
        if not isinstance(experience, self._online):
            return number
        origin = experience.origin_experience
        return -1 if origin is None else int(origin.current_experience)

    def _order(self, experience: Any) -> Ints:
        n = len(experience.dataset)
        if isinstance(experience, self._online) or not self.config.shuffle:
            return np.arange(n)
        import torch

        drawn = torch.Generator().manual_seed(self.config.seed)
        return torch.randperm(n, generator=drawn).numpy()

    def _batch(self, pieces: list[tuple[Any, Ints, int]], offset: Ints) -> Batch:
        """Return the events of rows of data sets, at these offsets.

        Args:
            pieces: a data set, rows of it, and their segment.
            offset: (n,) for all rows.
        """
        n, shape = len(offset), self._feature.shape
        image = self._feature.kind == "image"
        x = np.zeros((n, *shape), np.uint8 if image else np.float32)
        y, good = np.zeros(n, np.int64), np.ones(n, np.bool_)
        segment = np.repeat([s for *_, s in pieces], [len(rows) for _, rows, _ in pieces])
        rows = ((dataset, row) for dataset, part, _ in pieces for row in part.tolist())
        wrong: dict[int, str] = {}  # row to a description of its x
        for i, (dataset, row) in enumerate(rows):
            sample = dataset[row]
            y[i] = _code(sample[1])
            value = _array(sample[0], image)
            if value is None or value.shape != shape:
                wrong[i] = "x".join(map(str, np.shape(sample[0]))) or type(sample[0]).__name__
            else:
                x[i] = value
        for i in np.flatnonzero(~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))).tolist():
            wrong.setdefault(i, "numbers that are not finite")
        good[list(wrong)] = False
        expected = f"{self._feature.kind} {'x'.join(map(str, shape))}"
        dead = tuple(
            DeadLetter(
                0, int(offset[i]), f"x holds {value}; expected {expected}", int(offset[i]), before
            )
            for i, value in sorted(wrong.items())
            for before in [int(good[:i].sum())]
        )
        if wrong:
            x, y, segment, offset = x[good], y[good], segment[good], offset[good]
        codes, classes = self._codes(y)
        partition = np.zeros(len(offset), np.int32)
        time = offset.astype(np.float64)
        return Batch(
            offset,
            time,
            x,
            partition,
            offset,
            codes,
            segment=segment.astype(np.int64),
            classes=classes,
            dead=dead,
        )

    def _codes(self, y: Ints) -> tuple[Ints, tuple[ClassName, ...]]:
        known = np.array(self.schema.classes, np.int64)
        if not np.isin(y, known).all():
            known = np.union1d(known, y)
        return np.searchsorted(known, y), tuple(known.tolist())


def schema_of(
    streams: Mapping[str, Any], name: str = "train", known_classes: bool = True
) -> Schema:
    """Return the schema of the stream ``name`` of a benchmark, from its ``streams``.

    With ``known_classes``, the classes are those of all streams with a known length (an online
    split has none), or of this one if no length is known.
    """
    first = next((e for e in streams[name] if len(e.dataset)), None)
    if first is None:
        raise StreamError(f"stream.stream: {name!r} of the benchmark has no events")
    feature = _feature(first.dataset.eval()[0][0])
    if not known_classes:
        return Schema((feature,), "classification")
    known = [stream for stream in streams.values() if hasattr(stream, "__len__")]
    classes: set[int] = set()
    for experience in chain.from_iterable(known or [streams[name]]):
        targets = getattr(experience.dataset, "targets", None)
        if targets is None:
            raise StreamError(
                "stream.known_classes: the data sets of the benchmark have no targets to tell the "
                "classes by: set it to false"
            )
        classes.update(map(_code, getattr(targets, "uniques", targets)))
    return Schema((feature,), "classification", tuple(sorted(classes)))


def _load_streams(config: AvalancheStreamConfig) -> dict[str, Any]:
    """Return the streams of the benchmark by name. Raises ``StreamError``."""
    where = f"stream.benchmark: {config.benchmark}"
    module, _, name = config.benchmark.partition(":")
    try:
        benchmark = operator.attrgetter(name)(importlib.import_module(module))
    except (Exception, SystemExit) as error:  # whatever the import of a user's module may raise
        raise StreamError(
            f"{where} cannot be imported ({type(error).__name__}: {one_line(error)}): import paths "
            "start from the folder of the job file"
        ) from error
    if callable(benchmark):
        try:
            benchmark = benchmark(**config.args)
        except (Exception, SystemExit) as error:  # whatever a user's function may raise
            what = type(error).__name__
            raise StreamError(
                f"{where} cannot be made with stream.args: {what}: {one_line(error)}"
            ) from error
    elif config.args:
        raise StreamError(f"{where} is a {type(benchmark).__name__}, which takes no stream.args")
    streams = getattr(benchmark, "streams", None)
    if not isinstance(streams, dict):
        raise StreamError(
            f"{where} is a {type(benchmark).__name__}, no benchmark of Avalanche (a CLScenario)"
        )
    return streams


def _feature(sample: Any) -> Feature:
    pixels = _array(sample, image=True)
    if pixels is not None:
        return Feature("x", "image", pixels.shape)
    vector = _array(sample, image=False)
    if vector is None:
        raise StreamError(
            f"stream.benchmark: its events are of type {type(sample).__name__}: images and tensors "
            "are taken"
        )
    return Feature("x", "vector", vector.shape)


def _array(sample: Any, image: bool) -> Array | None:
    """Return an event as pixels (channels, height, width) uint8, or as numbers (d,) float32; None:
    it is neither."""
    if hasattr(sample, "convert"):  # an image of Pillow
        if sample.mode not in ("L", "RGB", "RGBA"):
            sample = sample.convert("RGB")
        sample = np.asarray(sample)
        sample = sample[None] if sample.ndim == 2 else sample.transpose(2, 0, 1)
    try:
        value = np.asarray(sample)
    except (TypeError, ValueError, RuntimeError):
        return None
    if value.dtype.kind not in "biuf":
        return None
    if image:
        value = value[None] if value.ndim == 2 else value
        return value if value.dtype == np.uint8 and value.ndim == 3 else None
    return value.reshape(-1).astype(np.float32)


def _code(target: Any) -> int:
    try:
        return operator.index(target)
    except TypeError:
        raise StreamError(
            f"stream.benchmark: a label is {one_line(repr(target))}: the number of a class is "
            "wanted"
        ) from None
