"""Statistics: what closed forms keep of the rows learned, to which rows can be added.

``Statistics`` is the interface. ``ClassSums`` are sums of each class. ``gram`` sums products of all
rows, ``class_products`` those of each class. ``recursive`` keeps an inverse, ``neighbours`` rows.
"""

from __future__ import annotations

from learners.pretrained.closed_form.statistics.base import (
    TINY,
    ClassRows,
    ClassSums,
    Statistics,
    counts_without,
    grown,
    unit_length,
)

__all__ = [
    "TINY",
    "ClassRows",
    "ClassSums",
    "Statistics",
    "counts_without",
    "grown",
    "unit_length",
]
