"""An adapter for each segment of a stream, and the choice of one for each input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from learners.base import Learner
from learners.boundaries import Boundaries
from learners.networks import modules
from learners.networks.optimizer import FlatOptimizer
from learners.pretrained.adapters.adapter import Adapter
from learners.pretrained.adapters.aligned_linear import AlignedLinear, AlignmentConfig
from learners.pretrained.adapters.mos_settings import MosConfig
from learners.pretrained.adapters.segment_classes import SegmentClasses
from learners.pretrained.adapters.stack import AdapterStack
from learners.pretrained.backbones.base import Hidden
from learners.pretrained.closed_form.base import ClosedFormLearner
from learners.pretrained.merging import History, weighted
from learners.pretrained.tuned.base import TunedConfig
from learners.results import Prediction
from streams.core.batch import Array, Batch, Ints
from streams.core.schema import Feature, Schema, Task
from streams.core.state_dict import State
from streams.operators.label_join import Revealed

_TEMPERATURE = 0.8  # of the orthogonality term


class Mos(Adapter):
    """Train an adapter for each segment of a stream, and choose one for each input.

    This is Sun et al. 2025, "MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental
    Learning", online and without the task of an event. A new adapter continues from the weights of
    the last one, and the last one stays as it is. The classes are pairs of a segment and a label
    (``SegmentClasses``), so that each class has its own adapter, and a label may mean something
    else in each segment.

    Training, with features f of unit length through the adapter of now, their class means m_c and
    those m_o of earlier segments:

    - the loss is that of ``TunedLearner``, over all classes but those of the same label, plus
      ``orthogonality`` times CE(M M' / 0.8, identity) for the rows M = [m_o; f];
    - after each step of the optimizer, and at no other time, the adapter is merged once:
      A <- (1 - alpha) A + alpha * mean of the earlier adapters (``History``).

    Prediction:

    1. *Retrieval*: a closed form over features through the first adapter names a segment i.
    2. *Refinement*: the classifier on features through adapter i names a class. If its segment is
       not i, that becomes i; at most four times.
    3. *Ensemble*: the mean of the probabilities of the classifier and of the retrieval.

    The probability of a label is the sum over its classes. The classifier is a head in closed form
    over the rows of all segments, or a layer that is aligned (``AlignedLinear``).

    Deviations: the authors know the tasks, train a linear layer for many epochs, use dropout, and
    call the merge for each block in each forward pass, in evaluation too, which changes their
    adapters. Here adapters change with steps of the optimizer only. Their retrieval is by class
    means, which is ``retrieval: prototype``; where a label has several forms, a covariance finds
    more. Their classifier is that of ``alignment: sgd``, which costs more and has each new class
    later. Their ensemble multiplies cosines by the number of tasks; here a temperature is fitted.
    Features in M are of unit length. ``merge`` and ``orthogonality`` are 0 here, and 0.1 there: the
    term would also move an event away from what its label was in an earlier segment.

    Beyond ``most`` adapters the second and the third become their mean, weighted by events, and
    their classes are joined by label. The first one stays, as all retrieval is by its features.
    """

    kind = "mos"
    Config: ClassVar[type[TunedConfig]] = MosConfig
    needs_boundaries = True
    retrieval: Learner

    def __init__(self, config: TunedConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        super().__init__(config, schema, seed, device)
        self.boundaries = Boundaries(self.config.boundaries)
        self.retrieval = self._closed_form("retrieval")
        self.classes_of_segments = SegmentClasses()
        self.stack = AdapterStack(self._trunk, self.config.strength)
        self.stack.append(self.parts)
        self._events = [0]  # of each segment
        self._steps = 0
        self._history = History()
        self._earlier: tuple[Tensor, Tensor] | None = None

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        small = {"every": 64, "most": 3, "align_every": 64, "epochs": 4, "directions": 4}
        return super().example(task) | small

    def new_head(self) -> Learner:
        """Return the classifier over features of all adapters."""
        if self.config.alignment == "lda":
            return self._closed_form("head")
        config = self.config
        directions = min(config.directions, self.backbone.width)  # there are no more
        settings = AlignmentConfig(
            kind="aligned-linear",
            align=config.alignment == "sgd",
            rank=directions if config.covariance == "full" else 0,
            every=config.align_every,
            epochs=config.epochs,
            draws=config.draws,
            rate=config.layer_rate,
        )
        vector = Feature(self._feature.name, "vector", (self.backbone.width,), unit=True)
        schema = replace(self.schema, features=(vector,), classes=())
        return AlignedLinear(settings, schema, self.seed)

    def _closed_form(self, place: str) -> Learner:
        """Return a new learner in closed form over features."""
        return self.over_features(getattr(self.config, place), place, ())

    @property
    def requires_segments(self) -> bool:
        return bool(self.config.every == "segment")

    @property
    def segment(self) -> int:
        """The number of the segment of now, and of its adapter."""
        return self.stack.count - 1

    def predict(self, batch: Batch) -> Prediction:
        n, rows = len(batch), self.rows(batch)
        proba = np.zeros((n, len(self.classes)), np.float32)
        value = np.full(n, -1)
        if len(self.classes_of_segments):
            with torch.inference_mode():
                for some in self._batches(rows):
                    hidden, _ = self._trunk(torch.from_numpy(rows[some]))
                    proba[some] = self._by_label(batch.take(some), hidden)
            value = proba.argmax(1)
        return Prediction(batch.ids, "classification", value, proba, self.classes, self.version)

    def _by_label(self, batch: Batch, hidden: Hidden) -> Array:
        """Return the probabilities (n, labels) of n >= 1 events with these states. Pure."""
        segments, labels = self.classes_of_segments.segments, len(self.classes)
        first = self.stack.features(hidden, 0)
        near = _probabilities(self.retrieval, batch, first)
        chosen = segments[near.argmax(1)]
        features = first.clone()
        elsewhere = np.flatnonzero(chosen)
        if len(elsewhere):
            features[elsewhere] = self._through(hidden, elsewhere, chosen[elsewhere])
        found = _probabilities(self.head, batch, features)
        for _ in range(self.config.refine if found.any() else 0):
            again = segments[found.argmax(1)]
            moved = np.flatnonzero(again != chosen)
            if not len(moved):
                break
            chosen = again
            refined = self._through(hidden, moved, chosen[moved])
            found[moved] = _probabilities(self.head, batch.take(moved), refined)
        if self.config.ensemble or not found.any():
            found = (found + near) / (found.sum(1, keepdims=True) + 1)
        return self.classes_of_segments.by_label(found, labels)

    def _through(self, hidden: Hidden, rows: Ints, chosen: Ints) -> Tensor:
        """Return the features of some rows (m,), each through its adapter (m,)."""
        some = torch.from_numpy(rows).to(hidden.states.device)
        mask = None if hidden.mask is None else hidden.mask[some]
        of_rows = torch.from_numpy(chosen).to(some.device)
        return self.stack.features(Hidden(hidden.states[some], mask), of_rows)

    def learn(self, batch: Batch) -> None:
        if self.config.every is None:
            self._learn_part(batch)
            return
        first = errors = None
        if self.config.every == "drift":
            first = self._first_features(self.rows(batch))
            errors = self._errors(batch, first)
        start = 0
        for ended, part in self.boundaries.cut(batch, errors):
            if ended:
                self._start_segment()
            stop = start + len(part)
            self._learn_part(part, None if first is None else first[start:stop])
            start = stop

    def _first_features(self, rows: Array) -> Array:
        """Return the features (m, width) of m >= 1 rows through the first adapter."""
        with torch.inference_mode():
            hidden, _ = self._trunk(torch.from_numpy(rows))
            return modules.array_of(self.stack.features(hidden, 0))

    def _errors(self, batch: Batch, first: Array) -> Array:
        """Return (m,) 1 where the retrieval names another label than that of the event, else 0.

        Its features are computed anyway, for learning. So there is no pass for these predictions.
        """
        assert batch.y is not None
        if not len(self.classes_of_segments):
            return np.ones(len(batch))
        proba = _probabilities(self.retrieval, batch, torch.from_numpy(first))
        named = self.classes_of_segments.by_label(proba, len(self.classes)).argmax(1)
        errors: Array = (named != batch.y).astype(np.float64)
        return errors

    def _learn_part(self, batch: Batch, first: Array | None = None) -> None:
        """Learn m >= 1 events of the segment of now.

        Args:
            batch: the events.
            first: their features through the first adapter, if they are known.
        """
        assert batch.y is not None
        rows = self.rows(batch)
        codes = self.classes_of_segments.codes(self.segment, batch.y)
        features = self.train(rows, codes)
        if first is None:
            first = self._first_features(rows) if self.segment else features
        self.stack.put(self.segment, self.parts)
        self._events[self.segment] += len(rows)
        events = replace(batch, y=codes, classes=self.classes_of_segments.names())
        self.teach_head(events, features)
        self.retrieval._learn(replace(events, x=first))

    def train(self, rows: Array, y: Ints) -> Array:
        """Take the gradient steps of m >= 1 rows with classes of segments (m,), merging each."""
        states = self._trunk(torch.from_numpy(rows))
        rivals = self.classes_of_segments.same_label(y)
        before: Array | None = None
        for _ in range(self.config.steps):
            features = self.parts.features(*states)
            if before is None:
                before = self.add_to_means(features, y)
            if not self.config.adapters:
                break
            loss = self.prototypes(features, y, rivals)
            if self.config.orthogonality:
                loss = loss + self.config.orthogonality * self._overlap(features)
            self.optimizer.step(loss)
            self._steps += 1
            self._merge()
        assert before is not None
        return before

    def _merge(self) -> None:
        """Move the adapter towards the mean of the earlier ones: once for a step."""
        if not (self.config.merge and self._history.count):
            return
        merged = self._history.merged(modules.module_state(self.parts), self.config.merge)
        modules.load_module(self.parts, merged)

    def _overlap(self, features: Tensor) -> Tensor:
        """Return CE(M M' / 0.8, identity) for features and class means of earlier segments.

        The products of these means among each other do not change within a segment.
        """
        if self._earlier is None:
            earlier = self.classes_of_segments.segments < self.segment
            means = torch.from_numpy(self.prototypes.means[: len(earlier)][earlier]).to(features)
            self._earlier = means, torch.logsumexp(means @ means.T / _TEMPERATURE, 1)
        means, among = self._earlier
        unit = F.normalize(features, dim=1)
        own = unit @ unit.T / _TEMPERATURE
        across = means @ unit.T / _TEMPERATURE
        of_rows = torch.logsumexp(torch.cat([across, own]), 0) - own.diagonal()
        of_means = torch.logsumexp(torch.cat([among[:, None], across], 1), 1) - 1 / _TEMPERATURE
        return (of_rows.sum() + of_means.sum()) / (len(unit) + len(means))

    def _start_segment(self) -> None:
        """Keep the adapter of now, and let a new one continue from it."""
        if self.stack.count == self.config.most:
            self._join_oldest()
        self.stack.append(self.parts)
        self._events.append(0)
        self.optimizer = FlatOptimizer(self.config.optimizer, self.parts)
        self._begin()

    def _begin(self) -> None:
        """Make anew what follows from the adapters of earlier segments."""
        self._earlier, self._history = None, History()
        for i in range(self.segment):
            self._history.add(self.stack.of(i))

    def _join_oldest(self) -> None:
        """Make one adapter of the second and the third, and join their classes."""
        pair = [self.stack.of(1), self.stack.of(2)]
        self.stack.replace(1, weighted(pair, self._events[1:3]))
        self._events[1:3] = [sum(self._events[1:3])]
        codes = self.classes_of_segments.join(1)
        names = self.classes_of_segments.names()
        self.prototypes.join(codes)
        for learner in (self.head, self.retrieval):
            assert isinstance(learner, ClosedFormLearner | AlignedLinear)
            learner.join_classes(codes, names)

    def _correct(self, revealed: Revealed) -> None:
        """Ignore corrections: no event is kept."""

    @property
    def gradient_steps(self) -> int:
        return self._steps

    def verify(self) -> None:
        super().verify()
        self.retrieval.verify()

    def metrics(self) -> dict[str, float]:
        return super().metrics() | {
            "adapters": float(self.stack.count),
            "adapter_bytes": float(self.stack.nbytes),
            "segment_classes": float(len(self.classes_of_segments)),
        }

    def servable(self) -> State:
        return {**super().servable(), "retrieval": self.retrieval.servable()}

    def load_servable(self, state: State) -> None:
        super().load_servable(state)
        self.retrieval.load_servable(state["retrieval"])

    def _shared_state(self) -> State:
        """Return what predictions and training need. The last adapter of the stack is the trained
        one."""
        return {
            **self.common_state(),
            "backbone": self.backbone.fingerprint,
            "stack": self.stack.state(),
            "segment_classes": self.classes_of_segments.state(),
        }

    def _load_shared(self, state: State) -> None:
        self.check_backbone(state)
        self.load_common(state)
        self.stack.load(state["stack"])
        modules.load_module(self.parts, self.stack.of(self.segment))
        self.classes_of_segments.load(state["segment_classes"])

    def state(self) -> State:
        return {
            **super().state(),
            "retrieval": self.retrieval.state(),
            "boundaries": self.boundaries.state(),
            "events": list(self._events),
            "steps": self._steps,
        }

    def load(self, state: State) -> None:
        super().load(state)
        self.retrieval.load(self.retrieval.migrate(state["retrieval"]))
        self.boundaries.load(state["boundaries"])
        self._events, self._steps = list(state["events"]), state["steps"]
        self._begin()


def _probabilities(learner: Learner, batch: Batch, features: Tensor) -> Array:
    """Return the probabilities (n, k) of classes of segments by features (n, width)."""
    proba = learner.predict(replace(batch, x=modules.array_of(features))).proba
    assert proba is not None
    return proba.copy()
