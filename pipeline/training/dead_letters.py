"""Keep the dead letters of each micro-batch, and stop a run that has too many."""

from __future__ import annotations

from pipeline.dead_letters.file_writer import DeadLetterLog
from pipeline.dead_letters.limit import DeadLetterLimit
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop, StepResult


class DeadLetterKeeper(Callback):
    """Write dead letters to ``dead.jsonl``. Raise ``TooManyDeadLettersError`` at the limit.

    Args:
        log: the file.
        limit: counts the dead letters.
    """

    def __init__(self, log: DeadLetterLog, limit: DeadLetterLimit) -> None:
        self.log = log
        self.limit = limit

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        self.log.write(result.dead_letters)
        self.limit.add(result.batch, result.dead_letters)

    def end(self, loop: Loop) -> None:
        """Check a stream that has ended. Raise ``TooManyDeadLettersError``."""
        self.limit.end(loop.events, self.log.reasons)
