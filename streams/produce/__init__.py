"""`everlearn produce`: sends a file to a topic, with delays, drift and faults.

- ``produce`` sends a plan; ``topics`` finds or creates its topics.
- ``messages`` generates the records of a plan; ``faults`` makes bad ones.
- ``table`` reads the file.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.produce.messages import Delay, Drift, ProduceError, ProducePlan
    from streams.produce.produce import ProduceTarget, SendError

__all__ = [
    "Delay",
    "Drift",
    "ProduceError",
    "ProducePlan",
    "ProduceTarget",
    "SendError",
]

_MODULES = {
    "Delay": "streams.produce.messages",
    "Drift": "streams.produce.messages",
    "ProduceError": "streams.produce.messages",
    "ProducePlan": "streams.produce.messages",
    "ProduceTarget": "streams.produce.produce",
    "SendError": "streams.produce.produce",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
