"""Dead letters: events and labels that cannot be used.

- ``file_writer`` keeps them in a file, and reads it; ``limit`` stops a run that has too many.
- ``topic_writer`` copies them to a topic.
- ``query`` selects them for a listing; ``reinjector`` sends them to their own topics again.
- ``publisher`` sends what goes to a topic exactly once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.dead_letters.file_writer import DeadLetterLog, DeadLetterRecord, read_dead_letters
    from pipeline.dead_letters.limit import DeadLetterLimit, TooManyDeadLettersError
    from pipeline.dead_letters.publisher import IdempotentPublisher
    from pipeline.dead_letters.query import DeadLetterQuery
    from pipeline.dead_letters.reinjector import Reinjector
    from pipeline.dead_letters.topic_writer import TopicWriter

__all__ = [
    "DeadLetterLimit",
    "DeadLetterLog",
    "DeadLetterQuery",
    "DeadLetterRecord",
    "IdempotentPublisher",
    "Reinjector",
    "TooManyDeadLettersError",
    "TopicWriter",
    "read_dead_letters",
]

_MODULES = {
    "DeadLetterLimit": "pipeline.dead_letters.limit",
    "DeadLetterLog": "pipeline.dead_letters.file_writer",
    "DeadLetterQuery": "pipeline.dead_letters.query",
    "DeadLetterRecord": "pipeline.dead_letters.file_writer",
    "IdempotentPublisher": "pipeline.dead_letters.publisher",
    "Reinjector": "pipeline.dead_letters.reinjector",
    "TooManyDeadLettersError": "pipeline.dead_letters.limit",
    "TopicWriter": "pipeline.dead_letters.topic_writer",
    "read_dead_letters": "pipeline.dead_letters.file_writer",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
