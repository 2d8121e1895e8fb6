"""Count the labels that stand after a later one in their files."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np

from streams.core.batch import Batch
from streams.files.schema_inference import HEAD_ROWS

log = logging.getLogger(__name__)


class LabelOrder:
    """The order of the labels that are read, by the time at which each becomes known.

    A label that stands after a later one is known no sooner than that one. The order has no effect
    here: it is only counted, and reported once.
    """

    def __init__(self) -> None:
        self._latest = -math.inf
        self._late = 0
        self._first: tuple[Path, int] | None = None

    def add(self, file: Path, labels: Batch) -> None:
        """Add the next labels, n >= 1, of a file."""
        latest = np.maximum.accumulate(np.maximum(labels.time, self._latest))
        late = np.flatnonzero(labels.time < latest)
        self._latest = float(latest[-1])
        self._late += len(late)
        for row in labels.offset[late].tolist():
            # Those in the sample are in the warnings of the description.
            if self._first is None and row >= HEAD_ROWS:
                self._first = file, row

    def report(self) -> None:
        """Log how many labels were not in order."""
        if self._first is not None:
            file, row = self._first
            log.warning(
                "%s: row %d is before an earlier row in its time, and so are %s other labels: each "
                "was known no sooner than those above it; sort the file by that column",
                file,
                row,
                f"{self._late - 1:,}",
            )
