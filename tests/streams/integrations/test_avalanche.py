"""Avalanche's benchmarks as streams: their events, in their order, from any position."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from streams.core.batch import Batch
from streams.core.errors import StreamError
from streams.integrations.avalanche import AvalancheStream, AvalancheStreamConfig, schema_of
from streams.integrations.avalanche_library import import_avalanche

HERE = Path()
SIZES = (25, 14, 31)
"""Events of the experiences; none is a multiple of 10."""


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_benchmarks", sys.modules[__name__])


def stream(name: str = "classes", **settings: Any) -> AvalancheStream:
    config = {"kind": "avalanche", "benchmark": f"own_benchmarks:{name}", **settings}
    return AvalancheStream(AvalancheStreamConfig.model_validate(config), HERE)


class RowDataset(torch.utils.data.Dataset[Any]):
    def __init__(self, x: Any, y: list[Any]) -> None:
        self.x, self.targets = x, y

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> Any:
        return self.x[row], self.targets[row]


def benchmark(*train: RowDataset, test: RowDataset | None = None) -> Any:
    library = import_avalanche().benchmarks
    convert = library.utils.as_classification_dataset
    tests = [convert(test)] if test else []
    return library.benchmark_from_datasets(train=[convert(rows) for rows in train], test=tests)


def classes(tests: int = 3) -> Any:
    """Experience k holds classes 2k + 3 and 2k + 4 by turns; event i of all has x = (i, -i)."""
    library = import_avalanche().benchmarks
    convert = library.utils.as_classification_dataset
    found, start = [], 0
    for k, n in enumerate(SIZES):
        i = torch.arange(start, start + n, dtype=torch.float64)
        found.append(RowDataset(torch.stack([i, -i], 1), [2 * k + 3 + j % 2 for j in range(n)]))
        start += n
    test = [RowDataset(rows.x[:4] + 0.5, rows.targets[:4]) for rows in found[:tests]]
    train = [convert(rows) for rows in found]
    return library.benchmark_from_datasets(train=train, test=[convert(rows) for rows in test])


def online(size: int = 10, seed: int | None = None, only: bool = False) -> Any:
    library = import_avalanche().benchmarks
    whole = classes()
    split = library.split_online_stream(whole.streams["train"], size, seed=seed)
    split.name = "train"
    return library.CLScenario([split] if only else [split, whole.streams["test"]])


def same() -> Any:
    """Two experiences of the same two classes, and their tests."""
    library = import_avalanche().benchmarks
    rows = library.utils.as_classification_dataset(RowDataset(torch.zeros(4, 2), [0, 1, 1, 0]))
    return library.benchmark_from_datasets(train=[rows, rows], test=[rows, rows])


def overlapping() -> Any:
    library = import_avalanche().benchmarks
    split = library.split_continuous_linear_decay_stream(
        classes().streams["train"], 10, iters_per_virtual_epoch=3, beta=4, shuffle=True
    )
    return library.CLScenario([split])


def read(from_: AvalancheStream, at: int = 0, size: int = 1000) -> Batch:
    return Batch.concat(list(from_.read({"0": at}, size)))


def names(batch: Batch) -> list[Any]:
    assert batch.y is not None
    return [batch.classes[code] for code in batch.y.tolist()]


def test_events_are_avalanches_own() -> None:
    whole = stream(shuffle=False)
    batch = read(whole)
    n = sum(SIZES)
    assert len(whole) == len(batch) == n == 70
    (feature,) = whole.schema.features
    assert (feature.kind, feature.shape, whole.dtype) == ("vector", (2,), "float32")
    assert whole.schema.classes == (3, 4, 5, 6, 7, 8)
    assert isinstance(batch.x, np.ndarray)
    assert batch.x.dtype == np.float32
    assert batch.x.tolist() == [[i, -i] for i in range(n)]
    assert names(batch)[:4] == [3, 4, 3, 4]
    assert names(batch)[25:28] == [5, 6, 5]
    assert batch.segment is not None
    assert np.bincount(batch.segment).tolist() == list(SIZES)
    assert (np.diff(batch.segment) >= 0).all()
    assert batch.ids.tolist() == batch.offset.tolist() == batch.time.tolist() == list(range(n))
    assert not whole.has_ids
    assert not whole.has_time
    assert [len(block) for block in whole.read({}, 32)] == [32, 32, 6]


def test_shuffle_order_is_that_of_an_online_split() -> None:
    """Worked out by torch: the split shuffles each experience by a generator of its own."""
    shuffled = read(stream(seed=5))
    split = read(stream("online", args={"seed": 5}))
    assert isinstance(shuffled.x, np.ndarray)
    assert isinstance(split.x, np.ndarray)
    first = torch.randperm(25, generator=torch.Generator().manual_seed(5)).tolist()
    assert shuffled.x[:25, 0].tolist() == first
    assert split.x.tolist() == shuffled.x.tolist()
    assert names(split) == names(shuffled)
    assert read(stream(seed=6)).x.tolist() != shuffled.x.tolist()  # type: ignore[union-attr]


def test_online_split_segment_is_the_original_experience() -> None:
    split = stream("online", args={"size": 1})
    assert split.tasks == 3
    batch = read(split)
    assert batch.segment is not None
    assert np.bincount(batch.segment).tolist() == list(SIZES)
    assert len(split) == 70
    assert split.begins == stream().begins == ((0, 0), (25, 1), (39, 2))
    unknown = stream("overlapping")
    batch = read(unknown)
    assert batch.segment is not None
    assert set(batch.segment.tolist()) == {-1}
    assert len(unknown) == len(batch) == 90
    with pytest.raises(StreamError, match="there is no task -1"):
        assert unknown.begins


@pytest.mark.parametrize("name", ["classes", "online"])
@settings(max_examples=25)
@given(st.integers(1, 80), st.integers(0, 75))
def test_any_cursor_goes_on_exactly(name: str, size: int, at: int) -> None:
    whole, rest = read(stream(name)), list(stream(name).read({"0": at}, size))
    assert [len(block) for block in rest[:-1]] == [size] * (len(rest) - 1)
    assert [o for block in rest for o in block.offset.tolist()] == list(range(at, 70))
    assert [x for block in rest for x in block.x.tolist()] == whole.x[at:].tolist()  # type: ignore[union-attr,index]
    assert [y for block in rest for y in names(block)] == names(whole)[at:]
    segments = [s for block in rest for s in block.segment.tolist()]  # type: ignore[union-attr]
    assert segments == whole.segment[at:].tolist()  # type: ignore[index]


def test_benchmark_draws_from_the_seed_alone() -> None:
    """A split without a seed draws one for each experience, from Python, as it is read."""
    states = torch.get_rng_state().tolist(), random.getstate()
    one, two = stream("online"), stream("online")
    list(one.read({"0": 60}, 10))
    assert read(one).x.tolist() == read(two).x.tolist()  # type: ignore[union-attr]
    assert read(stream("online", seed=1)).x.tolist() != read(two).x.tolist()  # type: ignore[union-attr]
    assert (torch.get_rng_state().tolist(), random.getstate()) == states


def test_the_test_of_a_task() -> None:
    whole = stream()
    assert whole.tasks == 3
    test = whole.task_test(1)
    assert isinstance(test.x, np.ndarray)
    assert test.x[:, 0].tolist() == [25.5, 26.5, 27.5, 28.5]
    assert names(test) == [5, 6, 5, 6]
    assert test.y is not None
    assert test.y.tolist() == [2, 3, 2, 3]  # codes of the schema's classes
    assert test.segment is not None
    assert test.segment.tolist() == [1] * 4
    assert test.ids.tolist() == [-5, -6, -7, -8]
    assert set(test.partition.tolist()) == {-1}
    assert not whole.domain_incremental
    assert stream("same").domain_incremental
    with pytest.raises(StreamError, match=r"there is no task 3: stream 'test' .* has 3"):
        whole.task_test(3)
    with pytest.raises(StreamError, match="there is no task 2"):  # it has begun, untested
        assert stream(args={"tests": 2}).begins
    assert stream("overlapping").tasks == 0


def test_classes_may_appear_as_they_come() -> None:
    whole = stream(known_classes=False)
    assert whole.schema.classes == ()
    blocks = list(whole.read({}, 25))
    assert [block.classes for block in blocks] == [(3, 4), (5, 6, 7, 8), (7, 8)]
    assert stream("online", args={"only": True}).schema.classes == (3, 4, 5, 6, 7, 8)


def images(mode: str) -> Any:
    rng = np.random.default_rng(0)
    channels = {"L": (), "RGB": (3,), "1": (), "tensor": ()}[mode]
    pixels = rng.integers(0, 256, (6, 4, 5, *channels)).astype(np.uint8)
    if mode == "tensor":
        return benchmark(RowDataset(torch.from_numpy(pixels), [0, 1] * 3))
    return benchmark(RowDataset([Image.fromarray(p).convert(mode) for p in pixels], [0, 1] * 3))


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("L", (1, 4, 5)), ("RGB", (3, 4, 5)), ("1", (3, 4, 5)), ("tensor", (1, 4, 5))],
)
def test_images_stay_pixels(mode: str, shape: tuple[int, ...]) -> None:
    found = stream("images", args={"mode": mode}, shuffle=False)
    (feature,) = found.schema.features
    assert (feature.kind, feature.shape) == ("image", shape)
    batch = read(found)
    assert isinstance(batch.x, np.ndarray)
    assert batch.x.dtype == np.uint8
    first = images(mode).streams["train"][0].dataset[0][0]
    expected = np.asarray(first.convert("RGB") if mode == "1" else first)
    inner = batch.x[0][0] if expected.ndim == 2 else batch.x[0].transpose(1, 2, 0)
    assert inner.tolist() == expected.tolist()


def test_float_images_become_vectors() -> None:
    schema = schema_of(benchmark(RowDataset(torch.zeros(3, 1, 4, 5), [0, 1, 1])).streams)
    (feature,) = schema.features
    assert (feature.kind, feature.shape, schema.classes) == ("vector", (20,), (0, 1))


def bad() -> Any:
    x = [torch.tensor([1.0, 2.0]), torch.tensor([1.0]), torch.tensor([np.nan, 0.0]), "text"]
    return benchmark(RowDataset([*x, torch.tensor([3.0, 4.0])], [7, 8, 7, 8, 7]))


def test_avalanche_bad_samples_are_dead() -> None:
    batch = read(stream("bad", shuffle=False))
    assert batch.offset.tolist() == [0, 4]
    assert names(batch) == [7, 7]
    wanted = "expected vector 2"
    assert [(d.offset, d.id, d.insert_before, d.reason) for d in batch.dead] == [
        (1, 1, 1, f"x holds 1; {wanted}"),
        (2, 2, 1, f"x holds numbers that are not finite; {wanted}"),
        (3, 3, 1, f"x holds str; {wanted}"),
    ]


def texts() -> Any:
    return benchmark(RowDataset(["a", "b"], [0, 1]))


def targets() -> Any:
    return benchmark(RowDataset(torch.zeros(2, 2), [0.5, 1.5]))


def nothing() -> Any:
    return import_avalanche().benchmarks.CLScenario([])


def fails() -> Any:
    raise RuntimeError("line one\nline two")


OBJECT = 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"benchmark": "no_such_module:f"}, r"no_such_module:f cannot be imported.*job file"),
        ({"benchmark": "own_benchmarks:none"}, r"none cannot be imported.*has no attribute 'none'"),
        ({"args": {"colour": 1}}, r"cannot be made with stream.args: TypeError.*'colour'"),
        ({"benchmark": "own_benchmarks:fails"}, "RuntimeError: line one line two"),
        ({"benchmark": "own_benchmarks:OBJECT"}, "is a int, no benchmark of Avalanche"),
        ({"benchmark": "own_benchmarks:OBJECT", "args": {"a": 1}}, "takes no stream.args"),
        ({"stream": "trian"}, r"stream.stream: 'trian': did you mean 'train'\?"),
        ({"test": "valid"}, r"stream.test: 'valid'.*There are: train, test"),
        ({"benchmark": "own_benchmarks:nothing"}, r"stream.stream: 'train': There are: $"),
        ({"benchmark": "own_benchmarks:texts"}, "events are of type str: images and tensors"),
        ({"benchmark": "own_benchmarks:targets"}, "a label is 0.5: the number of a class"),
    ],
)
def test_unreadable_file_error_is_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(StreamError, match=says) as error:
        stream(**{"benchmark": "own_benchmarks:classes", **settings})
    assert "\n" not in str(error.value)
