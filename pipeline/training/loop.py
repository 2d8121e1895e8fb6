"""The loop: predict, score, learn; one pass, in one screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from learners.base import Learner, LearnerError, Prediction
from pipeline.evaluation.once_seen import OnceSeen
from pipeline.evaluation.prequential import Prequential
from pipeline.evaluation.probes import Probes, Segment
from pipeline.training.event_fates import Ledger
from streams.core.batch import Batch, DeadLetter
from streams.core.state_dict import State
from streams.core.stream import Cursor, Stream
from streams.operators.base import Operator
from streams.operators.holdout import HoldOut
from streams.operators.label_encoder import LabelEncoder
from streams.operators.label_join import LabelJoin, Outcome, Revealed, ScoredRows, outcome_of
from streams.operators.microbatch import rebatch

BLOCK = 4096  # rows read at a time
_SCORED_AT_ONCE = 16  # micro-batches; scoring them one by one costs several times as much


class Source:
    """Micro-batches of a stream, read, numbered and marked block by block, ahead of the learner."""

    def __init__(
        self, stream: Stream, size: int, vocabulary: LabelEncoder, hold_out: HoldOut | None = None
    ) -> None:
        self.stream = stream
        self.size = size
        self.vocabulary = vocabulary
        self.hold_out = hold_out

    def blocks(self, cursor: Cursor, size: int = BLOCK) -> Iterator[Batch]:
        """What is read, as it comes: this part may go on elsewhere, and ahead."""
        return self.stream.read(cursor, size)

    def read(self, cursor: Cursor) -> Iterator[Batch]:
        return self.batches(self.blocks(cursor))

    def batches(self, blocks: Iterable[Batch]) -> Iterator[Batch]:
        """Micro-batches of these blocks; where a block ends leaves no trace in them."""
        if self.stream.schema.task == "classification":
            blocks = map(self.vocabulary.apply, blocks)
        if self.hold_out is not None:
            blocks = map(self.hold_out.apply, blocks)
        return rebatch(blocks, self.size)


class Loop:
    """All that learns: operators, label join, learner, metrics and ledger, moved by one ``step``.

    It runs the same in a plain process and inside an actor: it knows where no batch comes from, and
    where no state goes.
    """

    def __init__(
        self,
        operators: Sequence[Operator],
        join: LabelJoin,
        learner: Learner,
        metrics: Prequential,
        gapless: bool = True,
        probes: Probes | None = None,
        once_seen: OnceSeen | None = None,
    ) -> None:
        self.operators = operators
        self.join = join
        self.learner = learner
        self.metrics = metrics
        self.ledger = Ledger(gapless)
        self.probes = probes
        self.once_seen = once_seen
        self._settled: list[ScoredRows] = []
        self._seen: list[int] = []  # by the probes, after each of those
        self.dead: list[DeadLetter] = []  # set aside since somebody last took them away
        # Scored since then, each with the learner's version before; None: nobody takes them.
        self.outcomes: list[tuple[int, Outcome]] | None = None
        self._version = 0  # of the learner, when outcomes were last scored

    @property
    def events(self) -> int:
        """Events of the stream that have come in, the dead ones among them."""
        return self.ledger.events

    def step(self, batch: Batch) -> None:
        """One micro-batch: predicted, then scored and learned as far as labels are known."""
        for operator in self.operators:
            batch = operator.apply(batch)
        self.dead += batch.dead
        self.ledger.enter(batch)
        pushed = self.join.push(batch)
        revealed = pushed.revealed
        if self.probes is not None:
            revealed = self._probe(self.probes, batch, revealed)
        prediction = self._learn(batch, revealed)
        _fits(prediction, len(batch), self.learner)
        self._settle(pushed.settle(prediction.value, prediction.proba))
        if len(self._settled) == _SCORED_AT_ONCE:
            self.score()

    def _learn(self, batch: Batch, revealed: Revealed) -> Prediction:
        prediction = self.learner.step(self._question(batch), revealed)
        if self.once_seen is not None:
            self.once_seen.learned(revealed.batch, self.learner.version)
            if revealed.corrected is not None:
                self.once_seen.correct(*revealed.corrected)
        return prediction

    def score(self) -> None:
        """What has been settled goes to the metrics and the ledger."""
        if self._settled:
            outcome = outcome_of(self._settled)
            counts = [len(settled.lag) for settled in self._settled]
            self._settled.clear()
            _makes_sense(outcome, self.learner)
            self.metrics.add(outcome)
            self.ledger.settle(outcome)
            if self.probes is not None:
                self.probes.outcomes(outcome, counts, self._seen)
                self._seen.clear()
            if self.outcomes is not None:
                self.outcomes.append((self._version, outcome))
        self._version = self.learner.version

    def _settle(self, settled: ScoredRows) -> None:
        self._settled.append(settled)
        if self.probes is not None:
            self._seen.append(self.probes.seen)

    def _probe(self, probes: Probes, batch: Batch, revealed: Revealed) -> Revealed:
        """Tells the probes of a micro-batch; what is left to learn."""
        probes.enter(batch)
        if revealed.probes is not None:
            probes.add(revealed.probes)
        if revealed.corrected is not None:
            self.score()  # the drift that it may tell of comes first
            ids, y = revealed.corrected
            probes.correct(ids, y)
            others = ~probes.holds(ids)
            corrected = (ids[others], y[others]) if others.any() else None
            return replace(revealed, corrected=corrected)
        return revealed

    def results(self) -> dict[str, float]:
        """Metrics by name, as they stand."""
        self.score()
        return self.metrics.results()

    def segments(self) -> tuple[Segment, ...]:
        """Segments of the stream with their probes, as they stand."""
        self.score()
        return () if self.probes is None else self.probes.segments()

    def finish(self, size: int) -> None:
        """The stream has truly ended: labels still awaited are released, the books are closed."""
        for revealed, settled in self.join.finish(size):
            if self.probes is not None:
                revealed = self._probe(self.probes, revealed.batch[:0], revealed)
            if len(revealed):
                self._learn(revealed.batch[:0], revealed)
            self._settle(settled)
        self.score()
        self.ledger.verify()

    def _question(self, batch: Batch) -> Batch:
        """What a learner may see before it has predicted; it cannot write to what still waits."""
        return batch.to_predict(self.learner.needs_boundaries)

    def state(self) -> State:
        self.score()
        once_seen = {} if self.once_seen is None else {"once_seen": self.once_seen.state()}
        return once_seen | {
            "learner": self.learner.state(),
            "join": self.join.state(),
            "operators": {str(i): operator.state() for i, operator in enumerate(self.operators)},
            "metrics": self.metrics.state(),
            "ledger": self.ledger.state(),
            "probes": {} if self.probes is None else self.probes.state(),
        }

    def load(self, state: State, vocabulary: LabelEncoder) -> None:
        self.learner.load(self.learner.migrate(state["learner"]))
        self.join.load(state["join"], vocabulary.classes)
        for i, operator in enumerate(self.operators):
            operator.load(state["operators"][str(i)])
        self._version = self.learner.version
        self.metrics.load(state["metrics"])
        self.ledger.load(state["ledger"])
        if self.probes is not None:
            self.probes.load(state["probes"], vocabulary.classes)
        if self.once_seen is not None:
            self.once_seen.load(state["once_seen"], vocabulary.classes)


def _fits(prediction: Prediction, n: int, learner: Learner) -> None:
    """Raises ``LearnerError`` where a prediction is not one for n events."""
    value, proba = prediction.value, prediction.proba
    if value.shape != (n,) or (proba is not None and (proba.ndim != 2 or len(proba) != n)):
        given = f"value {value.shape}" + ("" if proba is None else f" and proba {proba.shape}")
        raise LearnerError(
            f"learner {learner.kind!r} predicted {given} for {n} events: ({n},) and ({n}, classes) "
            "are wanted"
        )
    wanted = np.dtype(np.float64 if prediction.kind == "regression" else np.int64)
    if value.dtype != wanted:
        raise LearnerError(
            f"learner {learner.kind!r} predicted values of {value.dtype}: {wanted} is wanted"
        )
    if proba is not None and proba.size and proba[-1, -1] != proba[-1, -1]:  # NaN: one will do
        learner.verify()  # it may know why
        raise LearnerError(f"learner {learner.kind!r} gave probabilities that are not numbers")


def _makes_sense(outcome: Outcome, learner: Learner) -> None:
    """Raises ``LearnerError`` where predictions are no class codes."""
    if not len(outcome.value) or outcome.value.dtype.kind == "f":
        return
    low, high = int(outcome.value.min()), int(outcome.value.max())
    classes = max(len(learner.classes), 2)  # a model of two classes may name the second first
    if low < -1 or high >= classes:
        code = low if low < -1 else high
        raise LearnerError(
            f"learner {learner.kind!r} predicted class code {code}: a code from 0 to {classes - 1} "
            "is wanted, or -1 for none"
        )
