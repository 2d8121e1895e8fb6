"""Rehearsal: learners that replay events from a buffer.

``Replay``, ``DerPlusPlus``, ``ErAce`` and ``ViewBatch`` are the methods. ``Joint`` keeps every
event and is the reference. ``Rehearsal`` and ``RehearsalConfig`` are their base, ``BufferConfig``
is what a job states under ``buffer:``.
"""

from __future__ import annotations

from learners.rehearsal.base import Rehearsal, RehearsalConfig
from learners.rehearsal.buffer_config import BufferConfig
from learners.rehearsal.der_plus_plus import DerConfig, DerPlusPlus
from learners.rehearsal.er_ace import ErAce
from learners.rehearsal.joint import Joint, JointConfig
from learners.rehearsal.replay import Replay
from learners.rehearsal.view_batch import ViewBatch, ViewBatchConfig

__all__ = [
    "BufferConfig",
    "DerConfig",
    "DerPlusPlus",
    "ErAce",
    "Joint",
    "JointConfig",
    "Rehearsal",
    "RehearsalConfig",
    "Replay",
    "ViewBatch",
    "ViewBatchConfig",
]
