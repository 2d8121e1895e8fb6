"""The data sets and generators of river as streams."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import PositiveInt

from streams.core.batch import Batch
from streams.core.errors import StreamError
from streams.core.schema import Feature, Scalar, Schema, Task
from streams.core.stream import Cursor, JsonLayout, Stream
from streams.core.stream_config import StreamConfig
from streams.decoding.columns import column_of
from streams.decoding.decoder import Columns, Decoder, NamedColumn


class RiverStreamConfig(StreamConfig):
    """Settings of a river stream.

    Attributes:
        dataset: a class of river.datasets (``Phishing``) or river.datasets.synth
            (``synth.Agrawal``).
        params: its arguments. A generator without a ``seed`` gets 0: a stream must be the same when
            it is read again.
        limit: the number of events after which the stream ends. A generator without a limit never
            ends.
    """

    dataset: str
    params: dict[str, Any] = {}
    limit: PositiveInt | None = None


class RiverStream(Stream):
    """Events of a river data set: numbers, booleans and dates are numeric, all else categorical.

    The features are those of the first event; a later event that lacks one misses it. river cannot
    start in the middle of a data set: resuming from a cursor generates the events before it again
    and drops them.
    """

    kind = "river"
    has_segments = False
    Config = RiverStreamConfig

    def __init__(self, config: RiverStreamConfig, folder: Path) -> None:
        self.config = config
        self._class = _find(config.dataset)
        dataset = self._dataset()
        if not getattr(dataset, "is_downloaded", True):
            raise StreamError(
                f"stream.dataset: {config.dataset} is not on this machine; download it once with "
                f"python -c 'from river.datasets import {self._class.__name__} as D; "
                "D().download()'"
            )
        task = _task(dataset, config.dataset)
        try:
            with _reading(dataset) as events:
                x, y = next(events)
        except (OSError, StopIteration) as error:
            raise StreamError(f"stream.dataset: {config.dataset} has no events: {error}") from None
        self.schema = Schema(tuple(Feature(*kind) for kind in _kinds(x)), task)
        names = {feature.name for feature in self.schema.features}
        self._label = next(name for name in ("y", "label", "target") if name not in names)
        self._decode = Decoder(self.schema, Columns(label=NamedColumn(self._label, _scalar(y))))
        self._samples: int | None = dataset.n_samples

    def read(self, cursor: Cursor, block_size: int) -> Iterator[Batch]:
        offset = cursor.get("0", 0)
        with _reading(self._dataset()) as events:
            rest = islice(events, offset, self.config.limit)
            while block := list(islice(rest, block_size)):
                offsets = np.arange(offset, offset + len(block))
                partition = np.zeros(len(block), np.int32)
                yield self._decode(
                    self._table(block), partition, offsets, offsets.astype(np.float64)
                )
                offset += len(block)

    def _table(self, block: list[tuple[Any, Any]]) -> pa.RecordBatch:
        names = [feature.name for feature in self.schema.features]
        rows = [_named(x) for x, _ in block]
        columns = [column_of([row.get(name) for row in rows]) for name in names]
        labels = column_of([y for _, y in block])
        return pa.RecordBatch.from_arrays([*columns, labels], [*names, self._label])

    def json_layout(self) -> JsonLayout:
        return {"cells": "typed", "nested": False, "pixels": True, "id": None}

    def __len__(self) -> int:
        known = [n for n in (self.config.limit, self._samples) if n is not None]
        return min(known) if known else super().__len__()

    def _dataset(self) -> Any:
        # A new one each time: iterating changes some generators.
        params = dict(self.config.params)
        if "seed" in inspect.signature(self._class).parameters:
            params.setdefault("seed", 0)
        try:
            return self._class(**params)
        except (TypeError, ValueError, AssertionError) as error:
            raise StreamError(f"stream.params: {self.config.dataset}: {error}") from None


@contextmanager
def _reading(dataset: Any) -> Iterator[Iterator[Any]]:
    """Open the iterator of a data set, and close it."""
    events = iter(dataset)
    try:
        yield events
    finally:
        with warnings.catch_warnings():
            # Some data sets of river leave their open file to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            if inspect.isgenerator(events):
                events.close()


def _find(name: str) -> type[Any]:
    """Return the class of a river data set. Raises ``StreamError``."""
    from river import datasets
    from river.datasets import synth

    known: dict[str, type[Any]] = {name: getattr(datasets, name) for name in datasets.__all__}
    del known["synth"]
    known |= {f"synth.{name}": getattr(synth, name) for name in synth.__all__}
    known = {name: value for name, value in known.items() if inspect.isclass(value)}
    if name not in known:
        lower = {other.lower(): other for other in known}
        lower |= {other.lower().removeprefix("synth."): other for other in known}
        near = difflib.get_close_matches(name.lower(), lower, 1, cutoff=0.5)
        hint = f"; did you mean {lower[near[0]]!r}?" if near else "."
        raise StreamError(
            f"stream.dataset: river has no data set {name!r}{hint} "
            f"There are: {', '.join(sorted(known))}"
        )
    return known[name]


def _task(dataset: Any, name: str) -> Task:
    tasks: dict[str, Task] = {
        "Binary classification": "classification",
        "Multi-class classification": "classification",
        "Regression": "regression",
    }
    if dataset.task not in tasks:
        raise StreamError(
            f"stream.dataset: {name} is made for {dataset.task}, which is not supported"
        )
    return tasks[dataset.task]


def _named(x: Any) -> dict[str, Any]:
    return {str(name): value for name, value in x.items()} if isinstance(x, dict) else {"x": x}


def _kinds(x: Any) -> list[tuple[str, Any]]:
    row = _named(x)
    return [(name, "categorical" if isinstance(v, str) else "numeric") for name, v in row.items()]


def _scalar(y: Any) -> Scalar:
    if isinstance(y, bool | np.bool_):
        return "bool"
    if isinstance(y, int | np.integer):
        return "int"
    return "float" if isinstance(y, float | np.floating) else "str"
