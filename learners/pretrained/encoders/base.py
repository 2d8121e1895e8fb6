"""The interface of a frozen encoder."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

from learners.base import LearnerError
from streams.core.batch import Array, Column
from streams.core.schema import Feature, FeatureKind
from streams.core.settings import Settings, locate


class EncoderConfig(Settings):
    """Settings of an encoder: the keys under its column in ``stream.encoder`` of a job."""

    location_keys: ClassVar[frozenset[str]] = frozenset()
    """Settings that are the paths of its files. They may change when a run resumes: the fingerprint
    of the encoder knows what is in the files."""

    kind: str

    def located(self, folder: Path) -> Self:
        stated = {key: getattr(self, key) for key in self.location_keys}
        paths = {
            key: type(path)(locate(path, folder))  # a text, or a path
            for key, path in stated.items()
            if path is not None
        }
        return self.model_copy(update=paths)


class Encoder(ABC):
    """A frozen map of the values of one column to vectors.

    It learns nothing and has no state. A subclass sets ``kind``, ``Config`` and ``kinds``, and in
    its constructor ``dimension``, ``unit`` and ``fingerprint``.

    Args:
        config: settings, of the class ``Config``.
        feature: the column.
        seed: of random weights, where it has any.

    Raises:
        LearnerError: it does not take columns of this kind; its library is not installed; or its
            weights cannot be loaded.

    Attributes:
        kind: the name of the encoder in a job.
        kinds: the kinds of columns that it takes.
        dimension: numbers of an encoded value.
        unit: whether these numbers are about of unit scale, so that a learner need not scale them.
        fingerprint: a hash of all that determines the result for a value: the kind, settings,
            weights, and files of a tokenizer. Encoders of one fingerprint give the same numbers up
            to rounding; on one machine with one version of its libraries, the same bits.
        costly: whether it takes longer than a look into a cache.
        libraries: the packages whose versions the rounding depends on.
        packages: those that its weights come with.
        rounding: the name and version of its own arithmetic, where that has versions.
        device: of torch, where it computes.
    """

    kind: ClassVar[str]
    kinds: ClassVar[frozenset[FeatureKind]]
    Config: ClassVar[type[EncoderConfig]] = EncoderConfig
    costly: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "torch")
    packages: ClassVar[tuple[str, ...]] = ()
    rounding: str = ""
    device: str = "cpu"
    dimension: int
    unit: bool
    fingerprint: str

    def __init__(self, config: Any, feature: Feature, seed: int) -> None:
        if feature.kind not in self.kinds:
            raise LearnerError(
                f"encoder {self.kind!r} takes columns of kind {' or '.join(sorted(self.kinds))}, "
                f"and {feature.name!r} is of kind {feature.kind}: leave the column out of "
                f"stream.encoder, or name an encoder of {feature.kind} (docs/encoders.md)"
            )

    @abstractmethod
    def encode(self, values: Column) -> Array:
        """Return the vectors (n, dimension) float32 of n >= 0 values. Pure.

        Row i depends on value i alone, bit for bit, whatever the other values are.

        Args:
            values: text as UTF-8 (``Ragged``), vectors (n, d), or images (n, channels, height,
                width) uint8.
        """

    def move_to(self, device: str) -> None:  # noqa: B027 (without a network there is nothing)
        """Move the network to a device of torch, as ``cuda:0``. The bits of vectors change.

        Raises:
            LearnerError: there is no such device.
        """


def fingerprint_of(kind: str, settings: Any, contents: Iterable[bytes | memoryview] = ()) -> str:
    """Return the hash of an encoder, 32 hexadecimal digits.

    Args:
        kind: of the encoder.
        settings: what else determines its numbers, of a type with an exact ``repr``: strings,
            numbers, None, and tuples of these.
        contents: of its files.
    """
    digest = hashlib.sha256(repr((kind, settings)).encode())
    for content in contents:
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()[:32]
