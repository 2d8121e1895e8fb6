"""The steps between a stream and a learner, from blocks to labelled events.

``rebatch`` and ``LabelEncoder`` work on blocks; an ``Operator`` transforms micro-batches; a label
join holds events until their labels are known.
"""

from __future__ import annotations

from streams.operators.base import Operator
from streams.operators.drop_duplicates import DropDuplicates
from streams.operators.drop_late import DropLate
from streams.operators.features.impute import Impute
from streams.operators.features.standardise import Standardise
from streams.operators.holdout import HoldOut
from streams.operators.label_encoder import LabelEncoder
from streams.operators.label_join import LabelJoin, LabelledProbes, PushedBatch, Revealed
from streams.operators.labels_by_id import JoinById
from streams.operators.labels_in_rows import DelayByEvents, DelayByEventTime
from streams.operators.microbatch import rebatch
from streams.operators.next_of_key import NextOfKey
from streams.operators.outcomes import Outcome, ScoredRows, outcome_of

__all__ = [
    "DelayByEventTime",
    "DelayByEvents",
    "DropDuplicates",
    "DropLate",
    "HoldOut",
    "Impute",
    "JoinById",
    "LabelEncoder",
    "LabelJoin",
    "LabelledProbes",
    "NextOfKey",
    "Operator",
    "Outcome",
    "PushedBatch",
    "Revealed",
    "ScoredRows",
    "Standardise",
    "outcome_of",
    "rebatch",
]
