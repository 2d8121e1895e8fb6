"""The loop: predict, score, learn; one pass, on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from learners.base import Learner
from learners.results import Prediction
from pipeline.evaluation.once_seen import OnceSeen
from pipeline.evaluation.prequential import Prequential
from pipeline.evaluation.probes import Probes, Segment
from pipeline.models.delta import DeltaEncoder
from pipeline.models.learner_health import LearnerHealth, PlaceName, check_class_codes
from pipeline.models.recipe import states_of
from pipeline.models.snapshot import Snapshot
from pipeline.training.event_fates import Ledger
from streams.core.batch import Batch, DeadLetter
from streams.core.state_dict import State
from streams.operators.base import Operator
from streams.operators.label_encoder import LabelEncoder
from streams.operators.label_join import LabelJoin, Outcome, Revealed, ScoredRows, outcome_of
from streams.operators.partition_clocks import PartitionClocks

_SCORED_AT_ONCE = 16  # micro-batches; scoring them one by one costs several times as much


class VersionedOutcome(NamedTuple):
    """Scored events, and the version of the last model that had learned none of them."""

    version: int
    outcome: Outcome


class StepResult(NamedTuple):
    """What one step of the loop did.

    Attributes:
        batch: the micro-batch, as it came from the source.
        prediction: for its events; None where the result is of no micro-batch but of ``flush``.
        scored: events whose label was scored since the last result; scoring goes by several
            micro-batches at a time.
        dead_letters: events and labels of the micro-batch that were set aside.
    """

    batch: Batch
    prediction: Prediction | None
    scored: Sequence[VersionedOutcome]
    dead_letters: Sequence[DeadLetter]


class Loop:
    """Operators, label join, learner, metrics and ledger, moved on by ``step``.

    The loop runs the same in a plain process and inside an actor: it does not know where batches
    come from, nor where its state goes.
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
        place_name: PlaceName = lambda partition, label: str(partition),
    ) -> None:
        self.operators = operators
        self.join = join
        self.learner = learner
        self.metrics = metrics
        self.ledger = Ledger(gapless)
        self.probes = probes
        self.once_seen = once_seen
        self._health = LearnerHealth(learner, place_name)
        self._deltas = DeltaEncoder()  # of all snapshots; no part of the state
        self._settled: list[ScoredRows] = []
        self._seen: list[int] = []  # by the probes, after each of those
        self._scored: list[VersionedOutcome] = []  # since the last result
        self._version = 0  # of the learner, when outcomes were last scored

    @property
    def events(self) -> int:
        """Number of events that have come in, the dead ones among them."""
        return self.ledger.events

    def step(self, batch: Batch) -> StepResult:
        """Predict a micro-batch; score and learn the events whose labels are known by now."""
        raw = batch
        for operator in self.operators:
            batch = operator.apply(batch)
        self.ledger.enter(batch)
        pushed = self.join.push(batch)
        revealed = pushed.revealed
        if self.probes is not None:
            revealed = self._probe(self.probes, batch, revealed)
        prediction = self._learn(batch, revealed)
        self._settle(pushed.settle(prediction.value, prediction.proba, prediction.forecast))
        if len(self._settled) == _SCORED_AT_ONCE:
            self.score()
        return StepResult(raw, prediction, self._take_scored(), batch.dead)

    def flush(self) -> StepResult:
        """Score what the last steps have left; return it."""
        self.score()
        return StepResult(_NO_BATCH, None, self._take_scored(), ())

    def _take_scored(self) -> list[VersionedOutcome]:
        scored, self._scored = self._scored, []
        return scored

    def _learn(self, batch: Batch, revealed: Revealed) -> Prediction:
        prediction = self._health.step(self._question(batch), revealed)
        if len(revealed):
            for operator in self.operators:
                operator.learn(revealed.batch)
        if self.once_seen is not None:
            self.once_seen.learned(revealed.batch, self.learner.version)
            if revealed.corrected is not None:
                self.once_seen.correct(*revealed.corrected)
        return prediction

    def score(self) -> None:
        """Add the outcomes of the last micro-batches to the metrics and the ledger."""
        if self._settled:
            outcome = outcome_of(self._settled, self.metrics.group_by)
            counts = [len(settled.lag) for settled in self._settled]
            self._settled.clear()
            check_class_codes(outcome.value, self.learner)
            self.metrics.add(outcome)
            self.ledger.settle(outcome)
            if self.probes is not None:
                self.probes.outcomes(outcome, counts, self._seen)
                self._seen.clear()
            self._scored.append(VersionedOutcome(self._version, outcome))
        self._version = self.learner.version

    def _settle(self, settled: ScoredRows) -> None:
        self._settled.append(settled)
        if self.probes is not None:
            self._seen.append(self.probes.seen)

    def _probe(self, probes: Probes, batch: Batch, revealed: Revealed) -> Revealed:
        """Pass a micro-batch to the probes; return what is left to learn."""
        probes.enter(batch)
        if revealed.probes is not None:
            probes.add(revealed.probes)
        if revealed.corrected is not None:
            self.score()  # a drift that the outcomes show comes before the correction
            ids, y = revealed.corrected
            probes.correct(ids, y)
            others = ~probes.holds(ids)
            corrected = (ids[others], y[others]) if others.any() else None
            return replace(revealed, corrected=corrected)
        return revealed

    def results(self) -> dict[str, float]:
        """Return the current metrics by name."""
        self.score()
        learner = {f"learner/{name}": value for name, value in self.learner.metrics().items()}
        return self.metrics.results() | learner

    def times(self) -> dict[str, int]:
        """Return the number of times that were put right, of each kind; none for a stream whose
        times are taken as they are."""
        for operator in self.operators:
            if isinstance(operator, PartitionClocks):
                return dict(operator.counts)
        return {}

    def segments(self) -> tuple[Segment, ...]:
        """Return the segments of the stream with their current probes."""
        self.score()
        return () if self.probes is None else self.probes.segments()

    def verify(self) -> None:
        """Verify the learner before its state is saved. Raise ``NotFiniteError``."""
        self._health.verify()

    def snapshot(self, metrics: dict[str, float]) -> Snapshot:
        """Return what a server needs of the current model, in arrays that do not change.

        Raises:
            NotFiniteError: the model must not be served.
        """
        self._health.verify()
        state = {"learner": self.learner.servable(), **states_of(self.operators)}
        changes, bases = self._deltas.encode(state)
        version, events = self.learner.version, self.events
        return Snapshot(changes, version, events, dict(metrics), bases=bases)

    def finish(self, size: int) -> StepResult:
        """Learn the labels still awaited at the true end of the stream; return what was scored.

        Raises:
            LedgerError: an event was lost or repeated.
        """
        for revealed, settled in self.join.finish(size):
            if self.probes is not None:
                revealed = self._probe(self.probes, revealed.batch[:0], revealed)
            if len(revealed):
                self._learn(revealed.batch[:0], revealed)
            self._settle(settled)
        result = self.flush()
        self.ledger.verify()
        return result

    def _question(self, batch: Batch) -> Batch:
        """Return what a learner may see before it predicts. It cannot write to the arrays: the
        label join still needs them."""
        return batch.to_predict(self.learner.needs_boundaries)

    def state(self) -> State:
        """Return the state of all parts."""
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
        """Restore what ``state`` returned."""
        self.learner.load(self.learner.migrate(state["learner"]))
        self.join.load(state["join"], vocabulary.classes)
        for i, operator in enumerate(self.operators):
            if str(i) in state["operators"]:  # an older state has none of the last
                operator.load(state["operators"][str(i)])
        self._version = self.learner.version
        self.metrics.load(state["metrics"])
        self.ledger.load(state["ledger"])
        if self.probes is not None:
            self.probes.load(state["probes"], vocabulary.classes)
        if self.once_seen is not None:
            self.once_seen.load(state["once_seen"], vocabulary.classes)


_NO_BATCH = Batch(
    np.empty(0, np.int64),
    np.empty(0),
    np.empty((0, 0)),
    np.empty(0, np.int32),
    np.empty(0, np.int64),
)
