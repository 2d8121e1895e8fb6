"""Send labels to the scorer of served predictions."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from pipeline.training.builder import Parts
from pipeline.training.callback import Callback
from pipeline.training.loop import Loop
from pipeline.training.run import Run
from streams.core.batch import Array, Ints


class LabelFeed(Callback):
    """Hands on ids and labels as they become known, some at a time, with the version of the last
    model that had not learned them: what was served is scored by them."""

    def __init__(self, send: Callable[[Ints, Array, Ints], None], every_s: float = 0.25) -> None:
        self.send = send
        self.every_s = every_s
        self._due = 0.0

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        parts.loop.outcomes = []

    def __call__(self, loop: Loop) -> None:
        if loop.outcomes and time.monotonic() >= self._due:
            self._send(loop)

    def end(self, loop: Loop) -> None:
        loop.score()
        self._send(loop)

    def _send(self, loop: Loop) -> None:
        self._due = time.monotonic() + self.every_s
        outcomes, loop.outcomes = loop.outcomes, []
        if outcomes:
            self.send(
                np.concatenate([outcome.ids for _, outcome in outcomes]),
                np.concatenate([outcome.y for _, outcome in outcomes]),
                np.concatenate([np.full(len(outcome.ids), before) for before, outcome in outcomes]),
            )
