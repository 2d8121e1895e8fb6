"""Class names to codes: one append-only numbering for the whole stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streams.core.batch import Array, Batch, ClassName
from streams.core.state_dict import State
from streams.core.stream import Cursor

_NEW = -2


class LabelEncoder:
    """Turns the class codes of each block into the codes of the whole stream.

    A class gets the next code when it first appears, so a code never depends on later events.
    Blocks are encoded ahead of the trainer. The encoder remembers where each class first appeared,
    and ``state(cursor)`` holds the classes known at the cursor.

    Args:
        classes: the stated classes, in the order of their codes.
    """

    def __init__(self, classes: tuple[ClassName, ...] = ()) -> None:
        self._codes = {name: code for code, name in enumerate(classes)}
        self._first: list[tuple[str, int]] = [("", -1)] * len(classes)
        self._lut_of: tuple[ClassName, ...] | None = None
        self._lut = np.empty(0, np.int64)
        self.classes = classes

    def apply(self, block: Batch) -> Batch:
        """Return the block with ``y`` and the ``y`` of arrivals encoded; -1 (none) stays -1."""
        y, arrivals = block.y, block.arrivals
        if y is not None:
            y = self._encode(y, block.classes, block.partition, block.offset, "")
        if arrivals is not None:
            codes = self._encode(
                arrivals.y, block.classes, arrivals.partition, arrivals.offset, "labels/"
            )
            arrivals = replace(arrivals, y=codes)
        return replace(block, y=y, arrivals=arrivals, classes=self.classes)

    def _encode(
        self, y: Array, names: tuple[ClassName, ...], partition: Array, offset: Array, prefix: str
    ) -> Array:
        if self._lut_of is not names:
            known = [self._codes.get(name, _NEW) for name in names]
            self._lut = np.array([*known, -1], np.int64)  # the last entry serves y == -1
            self._lut_of = names
        codes = self._lut[y]
        if codes.size and codes.min() == _NEW:
            new_codes, first = np.unique(y[codes == _NEW], return_index=True)
            rows = np.flatnonzero(codes == _NEW)[first]
            for code, row in sorted(
                zip(new_codes.tolist(), rows.tolist(), strict=True), key=lambda pair: pair[1]
            ):
                self._lut[code] = self._codes.setdefault(names[code], len(self._codes))
                self._first.append((f"{prefix}{partition[row]}", int(offset[row])))
            self.classes = tuple(self._codes)
            codes = self._lut[y]
        return codes

    def state(self, cursor: Cursor) -> State:
        """Return the classes that were known at ``cursor``, and where each first appeared."""
        known = [
            (partition, offset)
            for partition, offset in self._first
            if offset < cursor.get(partition, 0)
        ]
        return {
            "classes": list(self.classes[: len(known)]),
            "first": [[partition, offset] for partition, offset in known],
        }

    def load(self, state: State) -> None:
        """Restore what ``state`` returned."""
        self.classes = tuple(state["classes"])
        self._codes = {name: code for code, name in enumerate(self.classes)}
        self._first = [(partition, offset) for partition, offset in state["first"]]
        self._lut_of = None
