"""The settings of error memories, and what they make."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, PositiveFloat, PositiveInt, Tag

from buffers.errors.base import ErrorMemory
from buffers.errors.ring import ErrorRing
from buffers.errors.sketch import ErrorSketch
from learners.base import LearnerError
from streams.core.settings import Settings


class RingConfig(Settings):
    """An exact ring of the last events.

    Attributes:
        capacity: the most events.
        neighbours: events that a prediction attends to.
        temperature: of their weights by similarity.
        metric: how similar two keys are.
    """

    kind: Literal["ring"] = "ring"
    capacity: PositiveInt = Field(2000, le=10**8)
    neighbours: PositiveInt = 30
    temperature: PositiveFloat = 0.1
    metric: Literal["cosine", "euclidean", "dot"] = "cosine"


class IndexConfig(Settings):
    """The last events, of which the nearest are looked for in part (the extra ``index``).

    Attributes:
        capacity: the most events. From half of it on the index is used.
        neighbours: events that a prediction attends to.
        temperature: of their weights by similarity, the cosine.
        lists: parts of the ring; None: the root of ``capacity``.
        probes: parts that are searched.
    """

    kind: Literal["index"]
    capacity: PositiveInt = Field(100_000, le=10**8)
    neighbours: PositiveInt = 50
    temperature: PositiveFloat = 0.1
    lists: PositiveInt | None = None
    probes: PositiveInt = 16


class SketchConfig(Settings):
    """Sums by hashes of keys, of constant size.

    Attributes:
        tables: hashes of a key.
        bits: bits of a hash; a table has 2^bits buckets.
    """

    kind: Literal["sketch"]
    tables: PositiveInt = Field(16, le=1024)
    bits: PositiveInt = Field(12, le=24)


def by_kind(stated: Any) -> Any:
    """Return settings of which only the kind is stated as a mapping."""
    return {"kind": stated} if isinstance(stated, str) else stated


def _kind(memory: Any) -> str:
    """Return the kind of a memory, as settings or as they are written."""
    if isinstance(memory, dict):
        return str(memory.get("kind", "ring"))
    return str(getattr(memory, "kind", ""))


MemoryConfig = Annotated[
    Annotated[RingConfig, Tag("ring")]
    | Annotated[IndexConfig, Tag("index")]
    | Annotated[SketchConfig, Tag("sketch")],
    Discriminator(_kind),
    BeforeValidator(by_kind),
]
"""Settings of a memory: its kind, or a mapping with ``kind`` and its settings."""


def describe_memory(config: RingConfig | IndexConfig | SketchConfig) -> str:
    """Return what a memory stores, for a person."""
    if isinstance(config, SketchConfig):
        return f"sums of labels in {config.tables:,} tables of {1 << config.bits:,} hashes"
    return f"the last {config.capacity:,} labels ({config.kind})"


def check_memory(config: RingConfig | IndexConfig | SketchConfig) -> None:
    """Raise ``LearnerError`` where a library of a memory is not installed."""
    if isinstance(config, IndexConfig) and find_spec("faiss") is None:
        raise LearnerError(
            "learner.memory.kind: 'index' needs FAISS: pip install \"everlearn[index]\", or take "
            "'ring'"
        )


def new_memory(
    config: RingConfig | IndexConfig | SketchConfig,
    width: int,
    targets: bool,
    half_life: float | None,
    keep_base: bool,
    seed: int,
) -> ErrorMemory:
    """Return an empty memory.

    Args:
        config: its settings.
        width: numbers of a key.
        targets: whether labels are targets, and not class codes.
        half_life: labels after which the weight of an event is halved.
        keep_base: whether it stores what the base predicted.
        seed: of hashes.
    """
    if isinstance(config, SketchConfig):
        shape = (config.tables, config.bits)
        return ErrorSketch(width, targets, *shape, half_life, keep_base, seed)
    settings: dict[str, Any] = config.model_dump(exclude={"kind"})
    settings |= {"half_life": half_life, "keep_base": keep_base}
    if isinstance(config, RingConfig):
        return ErrorRing(width, targets, **settings)
    from buffers.errors.index import IndexedErrorRing

    return IndexedErrorRing(width, targets, **settings)
