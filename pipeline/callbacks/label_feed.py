"""Send labels to the scorer of served predictions."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from pipeline.training.callback import Callback
from pipeline.training.loop import Loop, StepResult, VersionedOutcome
from streams.core.batch import Array, Ints
from streams.operators.label_join import no_labels


class LabelFeed(Callback):
    """Send ids and labels as they become known, several batches at a time.

    With each label goes the version of the last model that had not learned it: what was served is
    scored only for models up to that one.

    Args:
        send: takes ids (n,), labels (n,) and versions (n,).
        every_s: seconds between two calls.
    """

    def __init__(self, send: Callable[[Ints, Array, Ints], None], every_s: float = 0.25) -> None:
        self.send = send
        self.every_s = every_s
        self._due = 0.0
        self._pending: list[VersionedOutcome] = []

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        self._pending += result.scored
        if self._pending and time.monotonic() >= self._due:
            self._send()

    def on_end(self, loop: Loop, result: StepResult) -> None:
        self._pending += result.scored
        self._send()

    def _send(self) -> None:
        self._due = time.monotonic() + self.every_s
        pending, self._pending = self._pending, []
        if pending:
            ids = np.concatenate([outcome.ids for _, outcome in pending])
            y = np.concatenate([outcome.y for _, outcome in pending])
            before = np.concatenate([np.full(len(o.ids), version) for version, o in pending])
            known = ~no_labels(y)  # in a sequence it may be known that nothing came
            self.send(ids[known], y[known], before[known])
