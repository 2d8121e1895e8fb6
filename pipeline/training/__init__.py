"""Training: one run of a job, from its start or a checkpoint to its summary.

``Run`` takes micro-batches from an ``EventSource``, steps the ``Loop`` through them, shows each
``StepResult`` to the callbacks, and saves checkpoints when the schedule says so.

- ``builder`` builds the parts of a job; ``resume`` brings them back to where they stood.
- ``event_source`` and ``journaled_source`` read files and live streams.
- ``callback`` defines the hooks; the callbacks themselves are in ``pipeline.callbacks``.
- ``event_fates`` proves that each event was dealt with exactly once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.training.builder import Parts, build, state_digest
    from pipeline.training.callback import Callback, Callbacks, RunContext
    from pipeline.training.checkpoint_schedule import CheckpointSchedule
    from pipeline.training.errors import RunError
    from pipeline.training.event_fates import Ledger
    from pipeline.training.event_source import DirectSource, EventSource
    from pipeline.training.journaled_source import JournaledSource
    from pipeline.training.loop import Loop, StepResult
    from pipeline.training.reading.batch_reader import BatchReader
    from pipeline.training.run import Run

__all__ = [
    "BatchReader",
    "Callback",
    "Callbacks",
    "CheckpointSchedule",
    "DirectSource",
    "EventSource",
    "JournaledSource",
    "Ledger",
    "Loop",
    "Parts",
    "Run",
    "RunContext",
    "RunError",
    "StepResult",
    "build",
    "state_digest",
]

_MODULES = {
    "BatchReader": "pipeline.training.reading.batch_reader",
    "Callback": "pipeline.training.callback",
    "Callbacks": "pipeline.training.callback",
    "CheckpointSchedule": "pipeline.training.checkpoint_schedule",
    "DirectSource": "pipeline.training.event_source",
    "EventSource": "pipeline.training.event_source",
    "JournaledSource": "pipeline.training.journaled_source",
    "Ledger": "pipeline.training.event_fates",
    "Loop": "pipeline.training.loop",
    "Parts": "pipeline.training.builder",
    "Run": "pipeline.training.run",
    "RunContext": "pipeline.training.callback",
    "RunError": "pipeline.training.errors",
    "StepResult": "pipeline.training.loop",
    "build": "pipeline.training.builder",
    "state_digest": "pipeline.training.builder",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
