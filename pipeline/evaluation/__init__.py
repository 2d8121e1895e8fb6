"""How a learner is scored: online, on probes of past segments, and on once-seen events."""

from pipeline.evaluation.alerts import AlertChange, Alerts
from pipeline.evaluation.buffer_stats import BufferStats
from pipeline.evaluation.once_seen import OnceSeen, OnceSeenSample
from pipeline.evaluation.once_seen_curve import OnceSeenCurve
from pipeline.evaluation.prequential import Prequential
from pipeline.evaluation.probes import Probes, Segment
from pipeline.evaluation.retention import Retention
from pipeline.evaluation.stability_gap import StabilityGap
from pipeline.evaluation.transfer_and_forgetting import ContinualMetrics, Curves

__all__ = [
    "AlertChange",
    "Alerts",
    "BufferStats",
    "ContinualMetrics",
    "Curves",
    "OnceSeen",
    "OnceSeenCurve",
    "OnceSeenSample",
    "Prequential",
    "Probes",
    "Retention",
    "Segment",
    "StabilityGap",
]
