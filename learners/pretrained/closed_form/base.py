"""The base of learners in closed form: sums over labelled rows, and weights solved from them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch

from learners.base import (
    Learner,
    LearnerError,
    NotFiniteError,
)
from learners.networks.class_outputs import ClassOutputs, unseen_classes
from learners.networks.encoders import Rows
from learners.pretrained.closed_form.class_codes import codes_of
from learners.pretrained.closed_form.settings import ClosedFormConfig
from learners.pretrained.closed_form.solve_schedule import SolveSchedule
from learners.pretrained.closed_form.statistics import Statistics
from learners.pretrained.feature_maps import SAMPLE, RandomFeatures
from learners.pretrained.kept_rows import joined
from learners.pretrained.rows import FeatureRows
from learners.results import Encoding, Prediction
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.schema import Schema, Task
from streams.core.state_dict import State, copied, leaves
from streams.core.statistics.running_moments import RunningMoments

_REACH = 100.0
"""How far the temperature goes: how sure the forms are depends much on the features."""
_MOST = 1e30
"""The largest target: its square and its float32 are finite."""
_UNSEEN = np.float32(-1e6)
"""Score of a class without events, where the best score is 0. With -inf, no temperature could be
fitted."""


class ClosedFormLearner(Learner):
    """Keep sums over the rows learned, and predict with weights that are solved from the sums.

    A subclass defines the sums (``new_statistics``), how weights follow from them (``fit``), and
    how weights give scores (``scores``). The last two are functions of what they are given, so that
    a state has nothing hidden.

    Nothing is solved for each event: ``SolveSchedule`` says when. It happens in ``learn`` and never
    in ``predict``, which changes nothing; every micro-batch is predicted right after such a step,
    so a solve at the next prediction would not be rarer. Weights are in the state, so that
    predictions after a resume are the same.

    While the scale of numbers still moves, labelled rows are kept, at most ``warm_up`` of them;
    when the scale changes, the sums are made anew from these. ``FeatureRows`` says when. So it is
    with the bandwidth of random features, until 256 rows are labelled.

    Targets are clipped at 100 deviations from the mean of the targets by then (``RunningMoments``):
    one absurd target would spoil all sums.

    Scores become probabilities by softmax, with a temperature that is fitted on revealed events
    before they are learned. Classes without events have probability 0.

    Args:
        config: settings.
        schema: features and label of the stream.
        seed: of what is drawn at the start, such as random features.

    Attributes:
        lazy: whether weights are solved now and then. Otherwise they follow from the sums after
            every ``learn``, and are not in the state.
        rows: turns events into rows.
        features: random features of these rows, where the settings ask for them.
        targets: the moments that targets are clipped by.
        statistics: sums over the rows learned.
        weights: arrays that ``fit`` returned; empty before the first event. For classification
            ``seen`` (k,) bool marks the classes with events.
        schedule: when weights are solved.
    """

    Config = ClosedFormConfig
    handles_missing = True
    takes_keys = True
    takes_aggregates = True
    unlearns = True
    merges = True
    lazy: ClassVar[bool] = True
    remedy = "mend or leave out that value, or scale and clip the features (stream.standardise)"

    def __init__(self, config: ClosedFormConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        self.config = config
        settings = config.of_classes(schema.task)
        self.class_outputs = ClassOutputs(settings, schema, "cpu", reach=_REACH)
        self.rows = FeatureRows(schema, config.scale, config.warm_up)
        self.features: RandomFeatures | None = None
        self.targets = RunningMoments(())
        self.statistics = self._no_sums()
        self.weights: dict[str, Array] = {}
        outputs = len(self.statistics.counts)
        self.schedule = SolveSchedule(config.refit_every, config.refit_growth, outputs)
        self._kept: dict[str, Array] = {}

    def _no_sums(self) -> Statistics:
        """Return sums of no rows, for the classes known by now."""
        width = self.rows.dimension
        if self.config.features is not None:
            if self.features is None or self.features.width != width:
                self.features = RandomFeatures(self.config.features, width, self.seed)
            width = self.features.dimension
        self._width = width
        statistics = self.new_statistics(width)
        if self.schema.task == "classification":
            statistics.grow(len(self.classes))
        return statistics

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {"kind": cls.kind, "warm_up": 48, "refit_every": 40}

    def transform(self, x: Array) -> Array:
        """Return rows (n, width) float32 as they are summed and scored. Pure.

        A row does not depend on others.
        """
        return x

    @abstractmethod
    def new_statistics(self, width: int) -> Statistics:
        """Return sums of no rows. ``width`` is that of rows before ``transform``."""

    @abstractmethod
    def fit(self) -> dict[str, Array]:
        """Return weights by name, solved from ``statistics`` of at least one row. Pure."""

    @abstractmethod
    def scores(self, x: Array) -> Array:
        """Return scores (n, k) float32, or targets (n, 1), of rows (n, width) float32, n >= 1.

        They follow from ``weights`` alone. The scores of classes without events are of no account.
        """

    def predict(self, batch: Batch) -> Prediction:
        n = len(batch)
        if self.schema.task == "regression":
            value = np.full(n, np.nan)
            if n and self.weights:
                value = self.scores(self._encoded(batch))[:, 0].astype(np.float64)
            return Prediction(batch.ids, "regression", value, None, (), self.version)
        code = np.full(n, -1)
        proba = np.zeros((n, len(self.classes)), np.float32)
        if n and self.weights:
            scores = self._class_scores(self._encoded(batch))
            code, proba = self.class_outputs.predict(torch.from_numpy(scores))
        return Prediction(batch.ids, "classification", code, proba, self.classes, self.version)

    def _encoded(self, batch: Batch) -> Array:
        return self._encode(self.rows.raw(batch))

    def _encode(self, raw: Rows) -> Array:
        x = self.rows.encode(raw)
        return self.transform(x if self.features is None else self.features(x))

    def _class_scores(self, x: Array) -> Array:
        """Return the scores of rows for all classes: (n, classes) float32.

        Where some classes have no events, the best score of each row is 0: scores of any size are
        then above those of these classes.
        """
        scores, seen = self.scores(x), self.weights["seen"]
        if len(seen) == len(self.classes) and seen.all():
            return scores
        known = np.full((len(x), len(self.classes)), _UNSEEN)
        of_seen = scores[:, seen]
        known[:, : len(seen)][:, seen] = of_seen - of_seen.max(1, keepdims=True)
        return known

    def observe(self, batch: Batch) -> None:
        if self.rows.observe(batch):
            self._learn_again()

    def _observe(self, batch: Batch) -> None:
        if self.rows.observes:  # otherwise it would select rows for nothing
            super()._observe(batch)

    def learn(self, batch: Batch) -> None:
        assert batch.y is not None
        raw, y = self.rows.raw(batch), batch.y
        x = self._encode(raw)
        if self.schema.task == "classification":
            self._evaluate(x, y)
            self._grow()
        else:
            clipped = self._clipped(y)
            self.targets.update(y)
            y = clipped
        self.add_rows(batch.ids, x, y)
        if not self._settled:
            self._keep(batch.ids, raw, y)
        self.schedule.add(len(y))
        if not self.lazy or self.schedule.due(self.statistics.counts, self._width):
            self._solve()

    def _clipped(self, y: Array) -> Array:
        return np.clip(self.targets.clip(y), -_MOST, _MOST)

    def add_rows(self, ids: Ints, x: Array, y: Array) -> None:
        """Add rows (m, width) with ids (m,) and labels (m,) to the statistics."""
        self.statistics.add(x, y)

    def _evaluate(self, x: Array, y: Array) -> None:
        """Fit temperature and decision to revealed events, before they are learned."""
        if not (self.weights and self.class_outputs.evaluates):
            return
        seen = self.weights["seen"]
        usable = y < len(seen)
        usable[usable] = seen[y[usable]]
        if not usable.all():
            x, y = x[usable], y[usable]
        if len(y):
            self.class_outputs.evaluate(torch.from_numpy(self._class_scores(x)), y)

    def _grow(self) -> None:
        """Make room for the classes known by now."""
        classes = len(self.classes)
        if classes > len(self.statistics.counts):
            self.class_outputs.register(self.classes)
            self.statistics.grow(classes)

    @property
    def _settled(self) -> bool:
        """Whether an event has the same row from now on."""
        return self.rows.fixed and (self.features is None or self.features.fitted)

    def _keep(self, ids: Ints, raw: Rows, y: Array) -> None:
        """Keep labelled rows until rows are settled."""
        self._kept = joined(self._kept, {**raw, "y": y, "ids": ids})
        kept = len(self._kept["y"])
        if not self.rows.fixed and kept >= self.config.warm_up:  # not all of them were observed
            self.rows.fix()
            self._learn_again()
        elif self.rows.fixed and kept >= SAMPLE:
            self._learn_again()

    def _learn_again(self) -> None:
        """Make the sums anew from the rows kept, as rows have changed."""
        self.statistics, self.weights = self._no_sums(), {}
        if not self._kept:
            return
        features = self.features
        if features is not None and self.rows.fixed and len(self._kept["y"]) >= SAMPLE:
            features.fit(self.rows.encode(self._kept))
        self.add_rows(self._kept["ids"], self._encode(self._kept), self._kept["y"])
        self._solve()
        if self._settled:
            self._kept = {}

    def _solve(self) -> None:
        counts = self.statistics.counts
        self.schedule.solved(counts)
        self.weights = self.fit() if counts.any() else {}
        if self.weights and self.schema.task == "classification":
            self.weights["seen"] = counts > 0

    def unlearn(self, batch: Batch) -> None:
        assert batch.y is not None
        self._require_fixed_scale("unlearn")
        y = batch.y
        if self.schema.task == "classification":
            y = codes_of(batch.classes, self.classes)[y]
        else:
            y = self._clipped(y)
        if len(y):
            self.statistics.subtract(self._encoded(batch), y)
            self._changed()

    def forget_class(self, name: ClassName) -> None:
        if not self.forgets_classes:
            return super().forget_class(name)
        self._require_fixed_scale("forget_class")
        self.statistics.drop_class(int(codes_of((name,), self.classes)[0]))
        return self._changed()

    def merge(self, other: Learner) -> None:
        if not self.merges:
            return super().merge(other)
        if other is self:
            raise LearnerError("a learner does not merge with itself: its events would count twice")
        if not isinstance(other, type(self)) or other.config != self.config:
            raise LearnerError(
                f"learner {self.kind!r} merges only with a learner of the same kind and settings"
            )
        ours, theirs = self.schema, other.schema
        if (ours.features, ours.task) != (theirs.features, theirs.task):
            raise LearnerError(
                f"learner {self.kind!r} merges only with a learner of the same columns and label"
            )
        self._require_fixed_scale("merge")
        if not self.rows.same_scale(other.rows):
            raise LearnerError(
                f"learner {self.kind!r} merges only with a learner of the same scale: let both "
                "start from one state that has seen warm_up events, or set scale to false"
            )
        if self._features_state() != other._features_state():
            raise LearnerError(
                f"learner {self.kind!r} merges only with a learner of the same random features: "
                "let both start from one state, or with one seed and a stated bandwidth"
            )
        codes = np.zeros(0, np.int64)
        if self.schema.task == "classification":
            new = [name for name in other.classes if name not in self.classes]
            self._check_class_count(len(self.classes) + len(new))
            self.classes = (*self.classes, *new)
            self._grow()
            codes = codes_of(other.classes, self.classes)
        self.statistics.merge(other.statistics, codes)
        self.version += other.version
        return self._solve()

    def join_classes(self, codes: Ints, names: tuple[ClassName, ...]) -> None:
        """Let class i be class ``codes[i]``, with the rows of all classes of this code. Its name is
        that in ``names``. The learner ``merges``."""
        self.classes, old = names, self.statistics
        self.statistics = self._no_sums()
        self.statistics.merge(old, codes)
        if self._kept:
            self._kept["y"] = codes[self._kept["y"]]
        self.weights = {}  # fit may reuse what it finds there
        self._solve()

    def _require_fixed_scale(self, what: str) -> None:
        if not self._settled:
            raise LearnerError(
                f"{what} needs a scale that stays: learner {self.kind!r} fixes it once it has seen "
                f"{self.config.warm_up} events (learner.warm_up)"
            )

    def _changed(self) -> None:
        self.version += 1
        self._solve()

    def encodings(self) -> dict[str, Encoding]:
        return self.rows.encodings()

    def warnings(self, classes: tuple[ClassName, ...]) -> tuple[str, ...]:
        return unseen_classes(self.config, classes)

    def metrics(self) -> dict[str, float]:
        return {"solves": float(self.schedule.solves)}

    def verify(self) -> None:
        for part in (self.statistics.state(), self.weights):
            for path, leaf in leaves(part):
                if isinstance(leaf, np.ndarray) and not np.isfinite(leaf).all():
                    raise NotFiniteError(
                        f"learner {self.kind!r}: {path!r} is no longer finite: {self.remedy}"
                    )

    def state(self) -> State:
        kept = {"kept": dict(self._kept)} if self._kept else {}
        weights = {"weights": dict(self.weights)} if self.lazy else {}
        return {
            **self.common_state(),
            "rows": self.rows.state(),
            "features": self._features_state(),
            "targets": self.targets.state(),
            "statistics": self.statistics.state(),
            "schedule": self.schedule.state(),
            "class_outputs": self.class_outputs.state(),
            **weights,
            **kept,
        }

    def _features_state(self) -> State:
        """Return what random features are drawn from, without the features."""
        return {} if self.features is None else {"seed": self.seed, **self.features.state()}

    def load(self, state: State) -> None:
        self._load_served(state)
        self.targets.load(state["targets"])
        self.statistics.load(state["statistics"])
        self._kept = copied(state.get("kept", {}))
        if not self.lazy:
            self._solve()
        self.schedule.load(state["schedule"])

    def servable(self) -> State:
        return {
            **self.common_state(),
            "rows": self.rows.state(),
            "features": self._features_state(),
            "weights": dict(self.weights),
            "class_outputs": self.class_outputs.servable(),
        }

    def load_servable(self, state: State) -> None:
        if "statistics" in state:
            self.load(state)
        else:
            self._load_served(state)

    def _load_served(self, state: State) -> None:
        self.load_common(state)
        self.rows.load(state["rows"])
        if state["features"]:
            self.seed, self.features = state["features"]["seed"], None
        self.statistics = self._no_sums()
        if self.features is not None:
            self.features.load(state["features"])
        self.weights = copied(state.get("weights", {}))
        self.class_outputs.load(state["class_outputs"], self.classes)
