"""Hash the values of categorical columns, a block at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streams.core.batch import Batch
from streams.core.hashing import category_keys
from streams.core.schema import Schema


class HashCategories:
    """Replaces the text of categorical columns by keys, (n,) int64, for learners that take keys.

    Hashing a whole block costs a fraction of hashing its micro-batches, and keys are cheaper to
    slice, to store and to gather than texts.
    """

    def __init__(self, schema: Schema) -> None:
        self._names = [f.name for f in schema.features if f.kind == "categorical"]

    def apply(self, block: Batch) -> Batch:
        """Return the block with keys in its categorical columns."""
        if not self._names or isinstance(block.x, np.ndarray):
            return block
        keys = {name: category_keys(block.x[name]) for name in self._names}
        return replace(block, x={**block.x, **keys})
