"""Buffers: memory of past rows, as arrays. Nothing here knows events, jobs or networks.

``Buffer`` holds rows of fixed shape under two independent policies. Admission decides which rows
are kept (``buffers.admission``), recall which are drawn (``buffers.recall``). ``ADMISSIONS`` and
``RECALLS`` list them by the names that a job uses.
"""

from __future__ import annotations

from buffers.admission.base import Admission
from buffers.buffer import Buffer, Sample
from buffers.recall.base import Recall, RecallOutcome
from buffers.registry import ADMISSIONS, RECALLS, find_admission, find_recall
from buffers.store import ColumnStore

__all__ = [
    "ADMISSIONS",
    "RECALLS",
    "Admission",
    "Buffer",
    "ColumnStore",
    "Recall",
    "RecallOutcome",
    "Sample",
    "find_admission",
    "find_recall",
]
