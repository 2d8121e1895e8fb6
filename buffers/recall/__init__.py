"""Recall: which rows of a buffer are drawn for rehearsal.

``Recall`` is the contract, ``RecallOutcome`` what a rule learns of its draws. ``Uniform``,
``PowerLaw``, ``Exponential``, ``ForgettingCurve``, ``HighestLoss``, ``MaximalInterference``,
``RepeatedRandom`` and ``WhenDue`` are the rules.
"""

from __future__ import annotations

from buffers.recall.base import Recall, RecallOutcome, Uniform
from buffers.recall.by_age import Exponential, PowerLaw
from buffers.recall.by_forgetting_curve import ForgettingCurve
from buffers.recall.by_loss import HighestLoss, MaximalInterference
from buffers.recall.repeated_random import RepeatedRandom
from buffers.recall.when_due import WhenDue

__all__ = [
    "Exponential",
    "ForgettingCurve",
    "HighestLoss",
    "MaximalInterference",
    "PowerLaw",
    "Recall",
    "RecallOutcome",
    "RepeatedRandom",
    "Uniform",
    "WhenDue",
]
